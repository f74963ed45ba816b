"""clips.csv: every clip of a run, what it is and what was found in it. Written by prepare, read by all stages.

Also what the rows of one run tell about each other: the classes, and what training and test clips share.
"""

import csv
import io
import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

SUBSETS = ("train", "holdout", "test")

# The label of a test clip whose list says none, as in UG2+.
UNLABELLED = -1

# What may spoil a test, and how it is said of one test clip and of several.
LEAK_KINDS = {
    "same_clip": ("is a training clip as well", "are training clips as well"),
    "same_content": (
        "has the content of a training clip of another name",
        "have the content of a training clip of another name",
    ),
    "same_scene": ("shares its source with a training clip", "share their source with a training clip"),
    "same_name": ("has a copy in train under another class name", "have a copy in train under another class name"),
}

MAX_EXAMPLES = 10

# Digits of ASCII alone, as the writer gives them: int() and float() read more.
NUMBERS: dict[Any, re.Pattern[str]] = {
    int: re.compile(r"-?[0-9]{1,18}"),
    float: re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?(e[-+]?[0-9]{1,3})?"),
}

# Lowest and highest value of a field: what the columns of the logit store and checksums can hold.
BOUNDS = {
    "label": (UNLABELLED, 2**31 - 1),
    "num_frames": (1, 2**31 - 1),
    "fps": (0, math.inf),
    "width": (0, 2**31 - 1),
    "height": (0, 2**31 - 1),
    "mean_luma": (0, 255),
    "dark_share": (0, 1),
    "luma_crc32": (0, 2**32 - 1),
}


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A labelled video; one row of clips.csv."""

    id: str
    """Its path relative to the videos' root as listed, with the suffix found on disk."""
    label: int
    """Class index, 0-based; -1 for a test clip whose list gives no label."""
    class_name: str
    """The class's text; empty without a label."""
    subset: str
    """train, holdout (training scenes set aside) or test."""
    scene: str
    """Where it was filmed, from the id; the id itself where nothing says."""
    num_frames: int
    """Frames that decode."""
    fps: float
    """Average frame rate, frames a second; 0 where the file does not say."""
    width: int
    """Pixels after orientation."""
    height: int
    """Pixels after orientation."""
    rotation: int
    """Counter-clockwise degrees that orient the coded picture."""
    pix_fmt: str
    """FFmpeg's pixel format."""
    colour_range: str
    """As tagged."""
    mean_luma: float
    """Mean luma code, 0 to 255."""
    dark_share: float
    """Share of luma codes below 16."""
    luma_crc32: int
    """crc32 of all decoded luma planes."""
    sha256: str
    """Of the file's bytes."""


def leaves_root(path: str) -> bool:
    """Whether a listed path, joined to the videos' root, would name a file outside of it, or none."""
    parts = PurePosixPath(path)
    return parts.is_absolute() or ".." in parts.parts or "\\" in path or "\0" in path


def clips_to_text(clips: Sequence[Clip]) -> str:
    """The text of clips.csv, sorted as given."""
    buffer = io.StringIO()
    names = [field.name for field in fields(Clip)]
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    for clip in clips:
        writer.writerow({name: _text(getattr(clip, name)) for name in names})
    return buffer.getvalue()


def read_clips(path: Path) -> list[Clip]:
    """Read clips.csv.

    Raises:
        ValueError: missing, no csv in UTF-8, another header, a mistyped field, one out of its range or a doubled
            id; names file, line and field.
        OSError: the file cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run `dlkdd prepare` (or `dvc repro`) first")
    names = [field.name for field in fields(Clip)]
    kinds = {field.name: field.type for field in fields(Clip)}
    clips = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            # Strict: a quote that is never closed would take all that follows for one field.
            reader = csv.DictReader(file, strict=True)
            if reader.fieldnames != names:
                found = str(reader.fieldnames)[:1000]
                raise ValueError(f"{path}: found the columns {found}, wanted {names}; run prepare again")
            for row in reader:
                clips.append(_clip(path, reader.line_num, row, kinds))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no csv in UTF-8 ({error}); run prepare again") from error
    # A clip may be in train and test where leaks are only reported, but never twice in one of them.
    counts = Counter((clip.id, clip.subset == "test") for clip in clips)
    doubled = [clip_id for (clip_id, _), count in counts.items() if count > 1]
    if doubled:
        raise ValueError(f"{path}: clip {doubled[0][:200]} stands twice; run prepare again")
    return clips


def of_subset(clips: Sequence[Clip], subset: str) -> list[Clip]:
    """The clips of a subset, in the order of their ids."""
    return sorted((clip for clip in clips if clip.subset == subset), key=lambda clip: clip.id)


def class_names_in(clips: Sequence[Clip]) -> tuple[str, ...]:
    """Class names by label, as the rows carry them; test clips without a label say nothing.

    Raises:
        ValueError: a label without a training clip, or two names for one label.
    """
    names: dict[int, str] = {}
    for clip in clips:
        if clip.label == UNLABELLED:
            continue
        if names.setdefault(clip.label, clip.class_name) != clip.class_name:
            raise ValueError(f"class {clip.label} is called '{names[clip.label]}' and '{clip.class_name}'; run prepare")
    trained = {clip.label for clip in clips if clip.subset == "train"}
    for label in range(max(names, default=-1) + 1):
        if label not in trained:
            raise ValueError(
                f"class {label} ({names.get(label, 'no name')}) has no training clip; add some or take the class out"
            )
    if not names:
        raise ValueError("there is no clip with a label; run prepare again")
    return tuple(names[label] for label in sorted(names))


def find_leaks(clips: Sequence[Clip]) -> dict[str, Any]:
    """What the test clips share with the training clips, held-out ones included.

    Returns:
        For each of `LEAK_KINDS` the number of test clips it holds of, and `examples`: at most ten pairs in words.
        A scene counts where the id told one. A file name counts under two classes of one scene, so that
        `a/001.mp4` and `b/001.mp4` of a data set without scenes are no leak.
    """
    train = sorted((clip for clip in clips if clip.subset != "test"), key=lambda clip: clip.id)
    found: dict[str, list[str]] = {}
    for kind in LEAK_KINDS:
        by_key: dict[Hashable, list[Clip]] = defaultdict(list)
        for clip in train:
            by_key[_leak_key(kind, clip)].append(clip)
        pairs = [
            (next((twin for twin in by_key.get(_leak_key(kind, clip), []) if _is_leak(kind, twin, clip)), None), clip)
            for clip in of_subset(clips, "test")
        ]
        found[kind] = [
            f"{kind.replace('_', ' ')}: {_described(twin)}, {_described(clip)}" for twin, clip in pairs if twin
        ]
    # In turns, so that a frequent kind does not hide the others.
    in_turns = [text for row in zip_longest(*found.values()) for text in row if text]
    return {kind: len(texts) for kind, texts in found.items()} | {"examples": in_turns[:MAX_EXAMPLES]}


def find_doubled(clips: Sequence[Clip]) -> list[str]:
    """Contents that train or test holds under several names, in words."""
    same: dict[tuple[str, bool], list[Clip]] = defaultdict(list)
    for clip in clips:
        same[clip.sha256, clip.subset == "test"].append(clip)
    groups = [group for group in same.values() if len(group) > 1]
    return [f"same content: {', '.join(_described(clip) for clip in group)}" for group in groups]


def leak_note(leaks: Mapping[str, Any], num_test: int) -> str:
    """The leaks as a footnote of a table; empty where there are none.

    Args:
        leaks: counts by kind, as `find_leaks` gives them.
        num_test: test clips in all.
    """
    parts = [
        (count, one if count == 1 else several)
        for kind, (one, several) in LEAK_KINDS.items()
        if (count := leaks.get(kind, 0))
    ]
    return "; ".join(
        f"{count} of {num_test} test clips {said}" if position == 0 else f"{count} {said}"
        for position, (count, said) in enumerate(parts)
    )


def _leak_key(kind: str, clip: Clip) -> Hashable:
    if kind == "same_name":
        return clip.scene, PurePosixPath(clip.id).name
    return {"same_clip": clip.id, "same_content": clip.sha256, "same_scene": clip.scene}[kind]


def _is_leak(kind: str, train: Clip, test: Clip) -> bool:
    if kind == "same_content":
        return train.id != test.id
    if kind == "same_scene":
        return test.scene != test.id
    if kind == "same_name":
        return train.id != test.id and test.label not in (train.label, UNLABELLED)
    return True


def _described(clip: Clip) -> str:
    return f"{clip.id} ({clip.subset}, {clip.class_name or 'no label'})"


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _clip(path: Path, number: int, row: Mapping[Any, Any], kinds: Mapping[str, Any]) -> Clip:
    if None in row or None in row.values():  # DictReader's way to tell that there are too many or too few
        raise ValueError(f"{path}:{number}: found another number of fields, wanted {len(kinds)}; run prepare again")
    values: dict[str, object] = {}
    for name, kind in kinds.items():
        text = row[name]
        if kind not in (int, float):
            values[name] = text
            continue
        if NUMBERS[kind].fullmatch(text) is None or not math.isfinite(float(text)):
            raise ValueError(f"{path}:{number}: field {name}: found {text[:80]!r}, wanted a number")
        values[name] = kind(text)
    clip = Clip(**values)  # type: ignore[arg-type]
    lowest = UNLABELLED if clip.subset == "test" else 0
    if clip.subset not in SUBSETS or clip.num_frames < 1 or clip.label < lowest:
        raise ValueError(
            f"{path}:{number}: found subset '{clip.subset[:80]}', label {clip.label}, {clip.num_frames} frames; "
            f"wanted one of {', '.join(SUBSETS)}, a label of at least 0 (-1, none, in test alone) and at least 1 frame"
        )
    for name, (least, most) in BOUNDS.items():
        if not least <= getattr(clip, name) <= most:
            raise ValueError(f"{path}:{number}: field {name}: found {row[name][:80]}, wanted {least} to {most}")
    if not clip.id or leaves_root(clip.id):
        raise ValueError(f"{path}:{number}: field id: found {clip.id[:200]!r}, wanted a path below the videos' root")
    return clip

"""clips.csv: every clip of a run, what it is and what was found in it. Written by prepare, read by all stages."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

SUBSETS = ("train", "holdout", "test")


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A labelled video; one row of clips.csv."""

    id: str
    """Its path relative to the videos' root as listed, with the suffix found on disk."""
    label: int
    """Class index, 0-based."""
    class_name: str
    """The class's text."""
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
        ValueError: missing, another header, a mistyped field or a doubled id; names file, line and field.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run `dlkdd prepare` (or `dvc repro`) first")
    names = [field.name for field in fields(Clip)]
    kinds = {field.name: field.type for field in fields(Clip)}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != names:
            raise ValueError(f"{path}: found the columns {reader.fieldnames}, wanted {names}; run prepare again")
        clips = [_clip(path, number, row, kinds) for number, row in enumerate(reader, start=2)]
    # A clip may be in train and test where leaks are only reported, but never twice in one of them.
    counts = Counter((clip.id, clip.subset == "test") for clip in clips)
    doubled = [clip_id for (clip_id, _), count in counts.items() if count > 1]
    if doubled:
        raise ValueError(f"{path}: clip {doubled[0]} stands twice; run prepare again")
    return clips


def of_subset(clips: Sequence[Clip], subset: str) -> list[Clip]:
    """The clips of a subset, in the order of their ids."""
    return sorted((clip for clip in clips if clip.subset == subset), key=lambda clip: clip.id)


def class_names_in(clips: Sequence[Clip]) -> tuple[str, ...]:
    """Class names by label, as the rows carry them.

    Raises:
        ValueError: a label without a training clip, or two names for one label.
    """
    names: dict[int, str] = {}
    for clip in clips:
        if names.setdefault(clip.label, clip.class_name) != clip.class_name:
            raise ValueError(f"class {clip.label} is called '{names[clip.label]}' and '{clip.class_name}'; run prepare")
    trained = {clip.label for clip in clips if clip.subset == "train"}
    for label in range(max(names, default=-1) + 1):
        if label not in trained:
            raise ValueError(
                f"class {label} ({names.get(label, 'no name')}) has no training clip; add some or take the class out"
            )
    if not names:
        raise ValueError("there is no clip at all; run prepare again")
    return tuple(names[label] for label in sorted(names))


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _clip(path: Path, number: int, row: dict[str, str], kinds: dict[str, object]) -> Clip:
    values: dict[str, object] = {}
    for name, kind in kinds.items():
        text = row[name]
        try:
            values[name] = kind(text) if kind in (int, float) else text
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}:{number}: field {name}: found {text!r}, wanted a number") from error
    clip = Clip(**values)  # type: ignore[arg-type]
    if clip.subset not in SUBSETS or clip.num_frames < 1 or clip.label < 0:
        raise ValueError(
            f"{path}:{number}: found subset '{clip.subset}', label {clip.label}, {clip.num_frames} frames; "
            f"wanted one of {', '.join(SUBSETS)}, a label of at least 0 and at least 1 frame"
        )
    return clip

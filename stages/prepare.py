"""List a run's clips, look into every video, and refuse what would spoil the results."""

import csv
import dataclasses
import io
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.clips.clip_index import Clip, clips_to_text
from pipeline.clips.files import replacing, sha256_of
from pipeline.clips.lists import Listed, choose_scenes, find_video, label_of, read_list, scene_of
from pipeline.clips.video import VideoInfo, probe
from pipeline.config import PrepareConfig, plain
from pipeline.training.work_folder import work_folder

Entry = tuple[Listed, str]
"""A line of a list and its subset."""


def run(
    videos: Path,
    train_list: Path,
    test_list: Path,
    clip_index: Path,
    statistics: Path,
    quarantine: Path,
    *,
    class_names: Sequence[str],
    config: PrepareConfig,
    colour_range: str,
    fresh: bool = False,
) -> None:
    """Write clips.csv, the training frames' statistics and the list of bad videos.

    Raises:
        ValueError: a bad list, more bad videos than allowed (all are named), a leak between train and test, a
            class without training clips.
    """
    entries = read_subsets(train_list, test_list, videos=videos, config=config)
    labels = [label_of(line, class_names) for line, _ in entries]
    settings = {"prepare": plain(config), "colour_range": colour_range, "classes": list(class_names)}
    inputs = [path for path in (train_list, test_list) if path.is_file()]
    with work_folder("prepare", out=clip_index, settings=settings, inputs=inputs, fresh=fresh) as work:
        probed, bad = probe_all(entries, videos=videos, colour_range=colour_range, journal=work / "probed.jsonl")
        check_bad(bad, config.max_bad)
        check_doubled(entries)
        clips = [
            _clip(subset, label, class_names[label], probed[line.path], config.scene_pattern)
            for (line, subset), label in zip(entries, labels, strict=True)
            if line.path in probed
        ]
        leaks, doubled = find_same(clips)
        if leaks and config.on_leak == "error":
            raise ValueError(
                f"{train_list} and {test_list}: {len(leaks)} leaks: {'; '.join(leaks[:10])}; take the clips out of "
                "one list, or set prepare.on_leak: report"
            )
        clips = sorted(hold_out(clips, config), key=lambda clip: clip.id)
        check_subsets(clips, class_names)
        _write(statistics, json.dumps(describe(clips, probed, leaks, doubled), indent=1, sort_keys=True) + "\n")
        _write(quarantine, _as_csv(bad, videos))
        _write(clip_index, clips_to_text(clips))
    counts = Counter(clip.subset for clip in clips)
    print(f"{len(clips)} clips: " + ", ".join(f"{count} {subset}" for subset, count in sorted(counts.items())))
    for kind, found in (("leak between train and test", leaks), ("doubled", doubled)):
        for line in found:
            print(f"warning: {kind}: {line}")


def read_subsets(train_list: Path, test_list: Path, *, videos: Path, config: PrepareConfig) -> list[Entry]:
    """All lines with their subset; one list that serves as both is split by whole scenes."""
    train = read_list(train_list, videos=videos)
    if train_list != test_list:
        return [(line, "train") for line in train] + [(line, "test") for line in read_list(test_list, videos=videos)]
    scenes = [scene_of(line.path, config.scene_pattern) for line in train]
    order = _shuffled(scenes, config.seed)
    labels = [line.class_name or line.label for line in train]
    count = max(1, round(config.test_share * len(order)))
    chosen = choose_scenes(scenes, labels, order=order, count=count, parameter="prepare.test_share")
    return [(line, "test" if scene in chosen else "train") for line, scene in zip(train, scenes, strict=True)]


def probe_all(
    entries: Sequence[Entry], *, videos: Path, colour_range: str, journal: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Look into every listed video; what was found before a stop is read from the journal.

    Returns:
        What was found by listed path, and the reason for each path that cannot be used.
    """
    known = _read_journal(journal)
    probed: dict[str, dict[str, Any]] = {}
    bad: dict[str, str] = {}
    with journal.open("a", encoding="utf-8") as kept:
        for listed in tqdm(dict.fromkeys(line.path for line, _ in entries), desc="prepare", unit="clip", disable=None):
            try:
                clip_id = find_video(videos, listed)
                state = (videos / clip_id).stat()
                stamp = [clip_id, state.st_size, state.st_mtime_ns]
                if listed not in known or known[listed]["stamp"] != stamp:
                    info = dataclasses.asdict(probe(videos / clip_id, colour_range=colour_range))
                    known[listed] = {"stamp": stamp, "id": clip_id, "sha256": sha256_of(videos / clip_id), **info}
                    kept.write(json.dumps({"listed": listed, **known[listed]}) + "\n")
                    kept.flush()
                probed[listed] = known[listed]
            except ValueError as error:
                bad[listed] = str(error)
    return probed, bad


def check_bad(bad: Mapping[str, str], allowed: int) -> None:
    """Refuse more bad videos than allowed, naming them all."""
    if len(bad) > allowed:
        reasons = "\n".join(f"  {reason}" for reason in bad.values())
        raise ValueError(
            f"{len(bad)} bad videos, prepare.max_bad allows {allowed}:\n{reasons}\nmend them, take them out of the "
            "lists, or raise prepare.max_bad to leave them out"
        )


def check_doubled(entries: Sequence[Entry]) -> None:
    """Refuse a clip that one subset lists twice."""
    places: dict[tuple[str, str], str] = {}
    for line, subset in entries:
        first = places.setdefault((line.path, subset), line.place)
        if first is not line.place:
            raise ValueError(f"{line.place}: {line.path} stands already at {first}; list every clip once")


def check_subsets(clips: Sequence[Clip], class_names: Sequence[str]) -> None:
    """Refuse a class without a training clip, and a run without a test clip."""
    trained = {clip.label for clip in clips if clip.subset == "train"}
    for label, name in enumerate(class_names):
        if label not in trained:
            raise ValueError(f"class {label} ({name}) has no training clip; add some or take the class out")
    if not any(clip.subset == "test" for clip in clips):
        raise ValueError("no test clip is left; mend the test list, or raise prepare.test_share")


def find_same(clips: Sequence[Clip]) -> tuple[list[str], list[str]]:
    """Clips or contents that stand in train and test, and contents that one side holds twice."""
    leaks: list[str] = []
    doubled: list[str] = []
    for name in ("id", "sha256"):
        same: dict[str, list[Clip]] = defaultdict(list)
        for clip in clips:
            same[getattr(clip, name)].append(clip)
        for group in same.values():
            ids = {clip.id for clip in group}
            if len(group) > 1 and (name == "id" or len(ids) > 1):
                places = ", ".join(f"{clip.id} ({clip.subset}, {clip.class_name})" for clip in group)
                found = leaks if len({clip.subset for clip in group}) > 1 else doubled
                found.append(f"same {'clip' if name == 'id' else 'content'}: {places}")
    return leaks, doubled


def hold_out(clips: Sequence[Clip], config: PrepareConfig) -> list[Clip]:
    """Set whole training scenes aside."""
    train = [clip for clip in clips if clip.subset == "train"]
    scenes = [clip.scene for clip in train]
    order = _shuffled(scenes, config.seed)
    chosen = choose_scenes(
        scenes, [clip.label for clip in train], order=order, count=config.holdout, parameter="prepare.holdout"
    )
    return [
        dataclasses.replace(clip, subset="holdout") if clip.subset == "train" and clip.scene in chosen else clip
        for clip in clips
    ]


def describe(
    clips: Sequence[Clip], probed: Mapping[str, Mapping[str, Any]], leaks: Sequence[str], doubled: Sequence[str]
) -> dict[str, Any]:
    """Mean and std of R, G, B over the training clips (each clip weighs the same), counts and leaks."""
    train = {clip.id for clip in clips if clip.subset == "train"}
    found = [info for info in probed.values() if info["id"] in train]
    mean = np.mean([info["rgb_mean"] for info in found], axis=0)
    square = np.mean([info["rgb_square_mean"] for info in found], axis=0)
    counts = Counter((clip.subset, clip.class_name) for clip in clips)
    return {
        "mean": [float(value) for value in mean],
        # A wholly black dataset would have no spread to divide by.
        "std": [float(value) for value in np.sqrt(np.maximum(square - np.square(mean), 1e-6))],
        "mean_luma": float(np.mean([clip.mean_luma for clip in clips])),
        "dark_share": float(np.mean([clip.dark_share for clip in clips])),
        "clips": {
            subset: {name: count for (s, name), count in sorted(counts.items()) if s == subset}
            for subset in sorted({subset for subset, _ in counts})
        },
        "leaks": list(leaks),
        "doubled": list(doubled),
    }


def _clip(subset: str, label: int, class_name: str, info: Mapping[str, Any], scene_pattern: str) -> Clip:
    names = {field.name for field in dataclasses.fields(Clip)} & {field.name for field in dataclasses.fields(VideoInfo)}
    return Clip(
        id=info["id"],
        label=label,
        class_name=class_name,
        subset=subset,
        scene=scene_of(info["id"], scene_pattern),
        sha256=info["sha256"],
        **{name: info[name] for name in names},
    )


def _shuffled(scenes: Sequence[str], seed: int) -> list[str]:
    order = sorted(set(scenes))
    np.random.Generator(np.random.Philox(key=seed)).shuffle(order)
    return order


def _read_journal(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    whole, _, torn = text.rpartition("\n")
    if torn:
        # A stop in mid-write leaves a torn last line: cut it off before more is added behind it.
        with replacing(path) as partial:
            partial.write_text(whole + "\n" if whole else "", encoding="utf-8")
    lines = [json.loads(line) for line in whole.splitlines() if line]
    return {line.pop("listed"): line for line in lines}


def _as_csv(bad: Mapping[str, str], videos: Path) -> str:
    """Bad videos and reasons, without the root: an out must not depend on where a user keeps things."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["path", "reason"])
    writer.writerows((path, reason.replace(f"{videos}/", "")) for path, reason in bad.items())
    return buffer.getvalue()


def _write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")

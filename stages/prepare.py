"""List a run's clips, look into every video, and refuse what would spoil the results."""

import csv
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.clips.clip_index import LEAK_KINDS, UNLABELLED, Clip, clips_to_text, find_doubled, find_leaks, leak_note
from pipeline.clips.files import replacing, sha256_of, telling_full_disk
from pipeline.clips.lists import (
    Listed,
    check_labelled,
    choose_scenes,
    find_video,
    has_video_suffix,
    label_of,
    read_list,
    scene_of,
)
from pipeline.clips.plain_text import cell, one_line
from pipeline.clips.probe_apart import Prober
from pipeline.clips.video import VideoInfo
from pipeline.clips.video_files import refuse_links
from pipeline.config import PrepareConfig, plain
from pipeline.training.work_folder import work_folder

Entry = tuple[Listed, str]
"""A line of a list and its subset."""
Found = dict[str, Any]
"""What was found of a listed video: `stamp`, `id`, `sha256` and the fields of VideoInfo."""


def run(
    videos: Path,
    train_list: Path,
    test_list: Path,
    clip_index: Path,
    statistics: Path,
    quarantine: Path,
    *,
    class_names: Sequence[str],
    class_ids: Sequence[int],
    config: PrepareConfig,
    colour_range: str,
    fresh: bool = False,
) -> None:
    """Write clips.csv, the training frames' statistics and the list of bad videos.

    Args:
        videos: root that the lists' paths are relative to.
        train_list: list, or folder of class folders.
        test_list: the same; its clips may be unlabelled.
        clip_index: clips.csv.
        statistics: figures of the training frames, counts and leaks, json.
        quarantine: bad videos with reasons, csv.
        class_names: by class index.
        class_ids: what lists with numbers call those classes.
        config: the section of params.yaml.
        colour_range: auto (as tagged), limited or full.
        fresh: start over instead of going on with unfinished work.

    Raises:
        ValueError: a bad list, more bad videos than allowed (all are named), a leak between train and test, a
            class without training clips, a training clip without a label.
    """
    entries = read_subsets(train_list, test_list, videos=videos, config=config)
    labels = [label_of(line, class_names, class_ids) for line, _ in entries]
    # A video's limits decide whether it is used, not what is found in it.
    rules = {name: value for name, value in plain(config).items() if name not in ("max_memory_mb", "max_seconds")}
    settings: dict[str, Any] = {"prepare": rules, "colour_range": colour_range}
    settings |= {"classes": list(class_names), "class_ids": list(class_ids)}
    inputs = [path for path in (train_list, test_list) if path.is_file()]
    with work_folder("prepare", out=clip_index, settings=settings, inputs=inputs, fresh=fresh) as work:
        with Prober(memory_mb=config.max_memory_mb, seconds=config.max_seconds) as prober:
            look = partial(look_into, videos, links=config.links, prober=prober, colour_range=colour_range)
            probed, bad = probe_all(entries, look=look, journal=work / "probed.jsonl")
        if not probed:
            raise ValueError(
                f"{videos}: none of the {len(bad)} listed videos can be read there, the first: "
                f"{next(iter(bad.values()))}; is it the root that the lists' paths are relative to?"
            )
        check_bad(bad, config.max_bad)
        check_doubled(entries, probed)
        clips = [
            _clip(subset, label, class_names, probed[line.path], config.scene_pattern)
            for (line, subset), label in zip(entries, labels, strict=True)
            if line.path in probed
        ]
        leaks, doubled = find_leaks(clips), find_doubled(clips)
        if config.on_leak == "error":
            check_leaks(leaks, clips, f"{train_list} and {test_list}")
        clips = sorted(hold_out(clips, config), key=lambda clip: clip.id)
        check_subsets(clips, class_names)
        _write(statistics, json.dumps(describe(clips, probed, leaks, doubled), indent=1, sort_keys=True) + "\n")
        _write(quarantine, _as_csv(bad, videos))
        _write(clip_index, clips_to_text(clips))
    _report(clips, leaks, doubled, compare_frame_counts(entries, probed))


def read_subsets(train_list: Path, test_list: Path, *, videos: Path, config: PrepareConfig) -> list[Entry]:
    """All lines with their subset; one list that serves as both is split by whole scenes.

    Raises:
        ValueError: a bad list, or a line without a label outside a test list.
    """
    train = read_list(train_list, videos=videos)
    check_labelled(train)
    if train_list != test_list:
        return [(line, "train") for line in train] + [(line, "test") for line in read_list(test_list, videos=videos)]
    # The pattern is one of clip ids, which have a suffix where a frame list has none.
    paths = [line.path if has_video_suffix(line.path) else f"{line.path}.mp4" for line in train]
    scenes = [scene_of(path, config.scene_pattern) for path in paths]
    order = _shuffled(scenes, config.seed)
    labels = [line.class_name or line.label for line in train]
    count = max(1, round(config.test_share * len(order)))
    chosen = choose_scenes(scenes, labels, order=order, count=count, parameter="prepare.test_share")
    return [(line, "test" if scene in chosen else "train") for line, scene in zip(train, scenes, strict=True)]


def probe_all(
    entries: Sequence[Entry], *, look: Callable[[str, Found | None], Found], journal: Path
) -> tuple[dict[str, Found], dict[str, str]]:
    """Look into every listed video; what was found before a stop is read from the journal.

    Args:
        entries: lines of the lists.
        look: gives what is found of a listed path, with what was found before where there is such.
        journal: kept beside the work, a line of json a video.

    Returns:
        What was found by listed path, and the reason for each path that cannot be used.
    """
    known = _read_journal(journal)
    probed: dict[str, Found] = {}
    bad: dict[str, str] = {}
    with telling_full_disk(journal), journal.open("a", encoding="utf-8") as kept:
        for listed in tqdm(dict.fromkeys(line.path for line, _ in entries), desc="prepare", unit="clip", disable=None):
            try:
                probed[listed] = look(listed, known.get(listed))
            except ValueError as error:
                bad[listed] = str(error)
                continue
            if probed[listed] is not known.get(listed):
                kept.write(json.dumps({"listed": listed, **probed[listed]}) + "\n")
                kept.flush()
    return probed, bad


def look_into(
    videos: Path, listed: str, known: Found | None, *, links: bool, prober: Prober, colour_range: str
) -> Found:
    """Find a listed video and probe it, unless the very file was probed before.

    Raises:
        ValueError: it is not there, no video, damaged, behind a link where those are refused, or too large.
    """
    clip_id = find_video(videos, listed)
    if not links:
        refuse_links(videos, clip_id)
    state = (videos / clip_id).stat()
    stamp = [clip_id, state.st_size, state.st_mtime_ns]
    if known is not None and known["stamp"] == stamp:
        return known
    info = dataclasses.asdict(prober(videos / clip_id, colour_range=colour_range))
    return {"stamp": stamp, "id": clip_id, "sha256": sha256_of(videos / clip_id), **info}


def check_bad(bad: Mapping[str, str], allowed: int) -> None:
    """Refuse more bad videos than allowed, naming them all."""
    if len(bad) > allowed:
        reasons = "\n".join(f"  {one_line(reason)}" for reason in bad.values())
        raise ValueError(
            f"{len(bad)} bad videos, prepare.max_bad allows {allowed}:\n{reasons}\nmend them, take them out of the "
            "lists, or raise prepare.max_bad to leave them out"
        )


def check_doubled(entries: Sequence[Entry], probed: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a clip that one subset lists twice, be it with two suffixes."""
    places: dict[tuple[str, str], str] = {}
    for line, subset in entries:
        clip_id = probed[line.path]["id"] if line.path in probed else line.path
        first = places.setdefault((clip_id, subset), line.place)
        if first is not line.place:
            raise ValueError(f"{line.place}: {line.path} stands already at {first}; list every clip once")


def check_leaks(leaks: Mapping[str, Any], clips: Sequence[Clip], lists: str) -> None:
    """Refuse test clips that share a file, its content, its scene or its name with a training clip."""
    note = leak_note(leaks, _num_test(clips))
    if note:
        raise ValueError(
            f"{lists}: {note}: {'; '.join(leaks['examples'])}; take the clips out of one list, or set "
            "prepare.on_leak: report. Where the names tell no scenes, set prepare.scene_pattern: ''"
        )


def check_subsets(clips: Sequence[Clip], class_names: Sequence[str]) -> None:
    """Refuse a class without a training clip, and a run without a test clip."""
    trained = {clip.label for clip in clips if clip.subset == "train"}
    for label, name in enumerate(class_names):
        if label not in trained:
            raise ValueError(f"class {label} ({name}) has no training clip; add some or take the class out")
    if not any(clip.subset == "test" for clip in clips):
        raise ValueError("no test clip is left; mend the test list, or raise prepare.test_share")


def compare_frame_counts(entries: Sequence[Entry], probed: Mapping[str, Mapping[str, Any]]) -> str:
    """How far the lists' frame counts are from the decoded ones; empty where they agree or say nothing."""
    told = {line.path: line.num_frames for line, _ in entries if line.num_frames is not None and line.path in probed}
    off = {path: abs(told[path] - probed[path]["num_frames"]) for path in told}
    wrong = [path for path, difference in off.items() if difference]
    if not wrong:
        return ""
    worst = max(wrong, key=lambda path: off[path])
    return (
        f"{len(wrong)} of {len(told)} clips have another number of frames than the list says, by up to {off[worst]} "
        f"({worst}: listed {told[worst]}, decoded {probed[worst]['num_frames']})"
    )


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
    clips: Sequence[Clip], probed: Mapping[str, Mapping[str, Any]], leaks: Mapping[str, Any], doubled: Sequence[str]
) -> dict[str, Any]:
    """Mean and std of R, G, B over the training clips (each clip weighs the same), counts and leaks."""
    train = {clip.id for clip in clips if clip.subset == "train"}
    found = [info for info in probed.values() if info["id"] in train]
    mean = np.mean([info["rgb_mean"] for info in found], axis=0)
    square = np.mean([info["rgb_square_mean"] for info in found], axis=0)
    counts = Counter((clip.subset, clip.class_name or "unlabelled") for clip in clips)
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
        "leaks": dict(leaks),
        "doubled": list(doubled),
    }


def _report(clips: Sequence[Clip], leaks: Mapping[str, Any], doubled: Sequence[str], frame_counts: str) -> None:
    counts = Counter(clip.subset for clip in clips)
    unlabelled = sum(clip.label == UNLABELLED for clip in clips)
    told = [f"{count} {subset}" for subset, count in sorted(counts.items())]
    print(f"{len(clips)} clips: {', '.join(told)}" + (f" ({unlabelled} without a label)" if unlabelled else ""))
    if not unlabelled:
        tested = {clip.class_name for clip in clips if clip.subset == "test"}
        without = sorted({clip.class_name for clip in clips} - tested)
        if without:
            print(f"warning: no test clip of {', '.join(map(one_line, without))}: nothing is measured of them")
    for kind in LEAK_KINDS:
        if leaks[kind]:
            print(f"warning: leak between train and test: {leak_note({kind: leaks[kind]}, _num_test(clips))}")
    for line in doubled:
        print(f"warning: doubled: {one_line(line)}")
    if frame_counts:
        print(f"warning: {one_line(frame_counts)}")


def _num_test(clips: Sequence[Clip]) -> int:
    return sum(clip.subset == "test" for clip in clips)


def _clip(subset: str, label: int, class_names: Sequence[str], info: Mapping[str, Any], scene_pattern: str) -> Clip:
    names = {field.name for field in dataclasses.fields(Clip)} & {field.name for field in dataclasses.fields(VideoInfo)}
    return Clip(
        id=info["id"],
        label=label,
        class_name="" if label == UNLABELLED else class_names[label],
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
    wanted = {"listed", "stamp", "id", "sha256", *(field.name for field in dataclasses.fields(VideoInfo))}
    whole, _, torn = path.read_bytes().rpartition(b"\n")
    if torn:
        # A stop in mid-write leaves a torn last line: cut it off before more is added behind it.
        with replacing(path) as partial:
            partial.write_bytes(whole + b"\n" if whole else b"")
    remedy = "delete it, and the videos are probed again"
    known = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: is no json ({error}); {remedy}") from error
        if not isinstance(entry, dict) or entry.keys() != wanted or not isinstance(entry["listed"], str):
            raise ValueError(f"{path}, line {number}: found no probed video; {remedy}")
        known[entry.pop("listed")] = entry
    return known


def _as_csv(bad: Mapping[str, str], videos: Path) -> str:
    """Bad videos and reasons, without the root: an out must not depend on where a user keeps things."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["path", "reason"])
    writer.writerows((cell(path), cell(reason.replace(f"{videos}/", ""))) for path, reason in bad.items())
    return buffer.getvalue()


def _write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")

"""Darkened copies of a folder of videos."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.clips.files import replacing, sha256_of
from pipeline.clips.low_light import MODEL_VERSION, LowLight, darken, draw_low_light
from pipeline.clips.stream import GUESSED_RATE, read_frames, write_stream
from pipeline.clips.video import VIDEO_SUFFIXES, decode, even_sides, open_video, write_video
from pipeline.clips.video_files import videos_below
from pipeline.clips.video_stream import video_stream
from pipeline.mapping_file import read_json

OFF_BEAT = Fraction(1, 10)
"""Of the time between two frames: the frames of a video of constant rate come no further from their beat."""


def darken_video_folder(
    root: Path,
    out: Path,
    *,
    exposure_ev: float,
    seed: int,
    crf: int = 18,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Darken every video below a folder, keeping relative paths and frames' times; the suffix becomes .mp4.

    A video's camera and noise depend on the seed and its relative path alone. Finished files are kept unless their
    source has changed, so a stopped run goes on; those of an earlier version too. An odd last row or column is cut,
    because H.264 shares colour between pixel pairs. A video is held in memory whole. `out/darken.json` records
    settings, cameras and the sources' sha256.

    Args:
        root: folder of lit videos, searched to any depth.
        out: folder to write; outside root.
        exposure_ev: stops of light added, below 0 for darker.
        seed: >= 0; another seed gives other cameras and noise.
        crf: x264's constant rate factor, 0 to 51.
        progress: called with (videos done, videos in all) after each video.

    Returns:
        The darkened videos' paths relative to out, sorted; those of an earlier run too.

    Raises:
        ValueError: a folder or setting is unfit, or videos do not decode (raised after all others are done).
        OSError: a file cannot be written.
    """
    sources = _find_videos(root, out)
    settings = {"exposure_ev": float(exposure_ev), "seed": seed, "crf": crf, "model_version": MODEL_VERSION}
    cameras = {name: draw_low_light(_path_rng(seed, name, "camera"), exposure_ev) for name in sources}
    hashes = {name: sha256_of(path) for name, path in sources.items()}
    _record_settings(out / "darken.json", settings, cameras, hashes)
    broken = []
    for done, (name, source) in enumerate(sources.items(), start=1):
        if not (out / name).exists():
            try:
                _darken_video(source, out / name, cameras[name], _path_rng(seed, name, "noise"), crf=crf)
            except ValueError as error:
                broken.append(str(error))
        if progress is not None:
            progress(done, len(sources))
    if broken:
        raise ValueError(
            f"{root}: {len(broken)} of {len(sources)} videos do not decode, the others are dark in {out}:\n"
            + "\n".join(broken)
        )
    return list(sources)


def _darken_video(source: Path, target: Path, camera: LowLight, noise: np.random.Generator, *, crf: int) -> None:
    """Write a dark copy, in which every frame has its time and pixels have their shape.

    Raises:
        ValueError: the source does not decode.
        OSError: the copy cannot be written.
    """
    frames, fps = decode(source), frame_rate(source)
    shown = [(frame.time, frame.lasts, frame.pixel_shape) for frame in read_frames(source)]
    dark = darken(even_sides(frames), camera, noise)
    target.parent.mkdir(parents=True, exist_ok=True)
    if all(abs(time * fps - index) < OFF_BEAT for index, (time, *_) in enumerate(shown)):
        write_video(target, dark, fps=fps, crf=crf, pixel_shape=shown[0][2])
        return
    with write_stream(target, crf=crf) as add:
        for pixels, of_frame in zip(dark, shown, strict=True):
            add(pixels, *of_frame)


def _find_videos(root: Path, out: Path) -> dict[str, Path]:
    """Map each darkened video's relative path to its source, sorted by path."""
    if not root.is_dir():
        raise ValueError(f"{root}: is no folder; name the folder that holds the lit videos")
    if out.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{out}: lies inside {root}, so it would be darkened again; write to a folder outside")
    sources: dict[str, Path] = {}
    for path in videos_below(root):
        name = path.relative_to(root).with_suffix(".mp4").as_posix()
        if name in sources:
            raise ValueError(f"{path}: would be written as {name}, as {sources[name]} is; rename one of the two")
        sources[name] = path
    if not sources:
        raise ValueError(f"{root}: holds no video; wanted files with one of {', '.join(sorted(VIDEO_SUFFIXES))}")
    return sources


def _path_rng(seed: int, name: str, purpose: str) -> np.random.Generator:
    # Python's own hash of a string changes with every process.
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def frame_rate(path: Path) -> Fraction:
    """Frames a second of a video, as a fraction that containers can hold; ARID's where the file tells none."""
    with open_video(path) as container:
        told = float(video_stream(container).average_rate or 0)
    # 1001 covers the broadcast rates (30000/1001).
    return Fraction(told).limit_denominator(1001) or GUESSED_RATE


def _record_settings(
    path: Path, settings: dict[str, Any], cameras: dict[str, LowLight], hashes: dict[str, str]
) -> None:
    """Write the settings before the first video, and remove copies of sources that have changed since.

    Raises:
        ValueError: the folder was darkened with other settings.
    """
    before: dict[str, str] = {}
    if path.exists():
        remedy = "use another folder or remove this one"
        kept = read_json(path, remedy=remedy, keys=("settings",))
        if kept["settings"] != settings:
            raise ValueError(
                f"{path}: the folder was darkened with {kept['settings']}, now {settings} are asked for; {remedy}"
            )
        before = kept.get("sources", {})  # not there in folders of earlier versions
        if not isinstance(before, dict):
            raise ValueError(f"{path}: sources: found {type(before).__name__}, wanted a mapping of names; {remedy}")
        for name, found in hashes.items():
            if before.get(name, found) != found:
                (path.parent / name).unlink(missing_ok=True)
    videos = {name: asdict(camera) for name, camera in cameras.items()}
    record = {"settings": settings, "videos": videos, "sources": before | hashes}
    with replacing(path) as partial:
        partial.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8", newline="\n")

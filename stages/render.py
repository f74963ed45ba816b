"""Render dark-action clips, so that a pipeline can run where no dark video is at hand."""

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from pipeline.clips.files import replacing, sync_folder
from pipeline.clips.low_light import MODEL_VERSION, LowLight, darken, draw_low_light
from pipeline.clips.rendered import DARKNESS, RENDER_VERSION, ClipSpec, draw_clip, render_clip
from pipeline.clips.rendered_motion import CLASS_NAMES
from pipeline.clips.video import write_video
from pipeline.config import RenderConfig


def run(out: Path, *, config: RenderConfig, work: Path | None = None) -> None:
    """Render the clips of all classes, with their split lists, into a folder that appears when all is done.

    Written are videos/<Class>/<Class>_<scene>_<number>.mp4, the same below lit/ where twins are asked for,
    train.txt and test.txt (`index TAB class id TAB path below videos`), mapping_table.txt (`id TAB name`) and
    clips.json (what every clip shows). A stopped run goes on from the clips that are finished.

    Args:
        out: folder to write; must not hold anything yet.
        config: how many clips, how long, how dark.
        work: folder for unfinished work on the same file system; `.work/render` beside out where None.

    Raises:
        ValueError: out or work holds something else.
        OSError: a file cannot be written.
    """
    work = out.parent / ".work" / "render" if work is None else work
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists and is not empty; remove it or render into another folder")
    clips = _open_work(work, _key(config))
    counts = {"train": config.train_clips_per_class, "test": config.test_clips_per_class}
    records = {}
    for subset, count in counts.items():
        lines: list[str] = []
        # By number first: a stopped run has clips of every class to look at.
        specs = [draw_clip(config.seed, subset, name, number) for number in range(count) for name in CLASS_NAMES]
        for spec in sorted(specs, key=lambda spec: CLASS_NAMES.index(spec.class_name)):
            lines.append(f"{len(lines)}\t{CLASS_NAMES.index(spec.class_name)}\t{_path(spec)}\n")
        for spec in specs:
            records[_path(spec)] = _write_clip(clips, spec, config)
        _write_text(clips / f"{subset}.txt", "".join(lines))
    _write_text(clips / "mapping_table.txt", "".join(f"{i}\t{name}\n" for i, name in enumerate(CLASS_NAMES)))
    _write_text(clips / "clips.json", json.dumps(records, indent=1, sort_keys=True) + "\n")
    out.parent.mkdir(parents=True, exist_ok=True)
    os.replace(clips, out)
    sync_folder(out.parent)
    shutil.rmtree(work)


def _key(config: RenderConfig) -> str:
    """Name everything that the clips follow from."""
    made_from = {"config": dataclasses.asdict(config), "render": RENDER_VERSION, "low_light": MODEL_VERSION}
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def _open_work(work: Path, key: str) -> Path:
    """Go on with the work of the same key, or start afresh; gives the folder to write clips into."""
    key_file = work / "key"
    if key_file.exists() and key_file.read_text(encoding="utf-8") != key:
        shutil.rmtree(work)
    elif not key_file.exists() and work.exists() and any(not path.name.startswith(".") for path in work.iterdir()):
        raise ValueError(f"{work}: holds files that no render wrote; remove it or name another work folder")
    work.mkdir(parents=True, exist_ok=True)
    _write_text(key_file, key)
    clips = work / "clips"
    clips.mkdir(exist_ok=True)
    return clips


def _path(spec: ClipSpec) -> str:
    return f"{spec.class_name}/{spec.class_name}_{spec.scene}_{spec.number}.mp4"


def _write_clip(clips: Path, spec: ClipSpec, config: RenderConfig) -> dict[str, Any]:
    """Write a clip and its twin unless they are there; gives the clip's line of clips.json."""
    rng = spec.rng(DARKNESS)
    low_light = draw_low_light(rng, config.exposure_ev)
    dark, lit = clips / "videos" / _path(spec), clips / "lit" / _path(spec)
    missing = [path for path in ((dark, lit) if config.lit_twin else (dark,)) if not path.exists()]
    if missing:
        frames = render_clip(spec, num_frames=config.num_frames, frame_size=config.frame_size, fps=config.fps)
        for path in missing:
            path.parent.mkdir(parents=True, exist_ok=True)
            shown = frames if path == lit else darken(frames, low_light, rng)
            write_video(path, shown, fps=config.fps, crf=config.crf)
    return _record(spec, low_light)


def _record(spec: ClipSpec, low_light: LowLight) -> dict[str, Any]:
    return {**dataclasses.asdict(spec), "low_light": dataclasses.asdict(low_light)}


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")

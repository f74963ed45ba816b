"""Render dark-action clips, so that a pipeline can run where no dark video is at hand."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.clips.files import replacing, sync_folder
from pipeline.clips.low_light import LowLight, darken, draw_low_light
from pipeline.clips.rendered import DARKNESS, ClipSpec, draw_clip, render_clip
from pipeline.clips.rendered_motion import CLASS_NAMES
from pipeline.clips.video import write_video
from pipeline.config import RenderConfig, plain
from pipeline.training.work_folder import work_folder


def run(out: Path, *, config: RenderConfig, fresh: bool = False) -> None:
    """Render the clips of all classes, with their split lists, into a folder that appears when all is done.

    Written are videos/<Class>/<Class>_<scene>_<number>.mp4, the same below lit/ where twins are asked for,
    train.txt and test.txt (`index TAB class id TAB path below videos`), mapping_table.txt (`id TAB name`) and
    clips.json (what every clip shows). A stopped run goes on from the clips that are finished.

    Args:
        out: folder to write; must not hold anything yet.
        config: how many clips, how long, how dark.
        fresh: start anew.

    Raises:
        ValueError: out holds something else.
        OSError: a file cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists and is not empty; remove it or render into another folder")
    with work_folder("render", out=out, settings=plain(config), inputs=[], fresh=fresh) as work:
        clips = work / out.name
        records: dict[str, Any] = {}
        for subset, count, scenes in (
            ("train", config.train_clips_per_class, config.train_scenes),
            ("test", config.test_clips_per_class, config.test_scenes),
        ):
            # By number first: a stopped run has clips of every class to look at.
            specs = [
                draw_clip(config.seed, subset, name, number, num_scenes=scenes)
                for number in range(count)
                for name in CLASS_NAMES
            ]
            for spec in tqdm(specs, desc=f"render {subset}", unit="clip", disable=None):
                records[_path(spec)] = _write_clip(clips, spec, config)
            specs.sort(key=lambda spec: CLASS_NAMES.index(spec.class_name))
            lines = [f"{i}\t{CLASS_NAMES.index(spec.class_name)}\t{_path(spec)}\n" for i, spec in enumerate(specs)]
            _write_text(clips / f"{subset}.txt", "".join(lines))
        _write_text(clips / "mapping_table.txt", "".join(f"{i}\t{name}\n" for i, name in enumerate(CLASS_NAMES)))
        _write_text(clips / "clips.json", json.dumps(records, indent=1, sort_keys=True) + "\n")
        _publish(clips, out)


def _publish(clips: Path, out: Path) -> None:
    """Move a finished folder to its name in one step, also from another file system."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if clips.stat().st_dev != out.parent.stat().st_dev:
        beside = out.with_name(f".{out.name}.part")
        shutil.rmtree(beside, ignore_errors=True)
        clips = Path(shutil.copytree(clips, beside))
    replaced = out.with_name(f".{out.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if out.exists() and any(out.iterdir()):
        # A start that this one waited for has finished meanwhile; its folder goes whole, never file by file.
        os.replace(out, replaced)
    os.replace(clips, out)
    sync_folder(out.parent)
    shutil.rmtree(replaced, ignore_errors=True)


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

"""The json beside an exported file: everything between a video file and its input, and where it comes from."""

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.clips.files import sha256_of
from pipeline.clips.video import COLOUR_RANGES, SCALER, av_version
from pipeline.clips.views import ViewRule, centre_view
from pipeline.enhancers.zero_dce import OFFICIAL_SHA256
from pipeline.inference.export_form import INPUT, OUTPUT
from pipeline.inference.parity import Parity, Views
from pipeline.mapping_file import read_json
from pipeline.training.checkpoint import Preprocessing, Record
from pipeline.version import VERSION as PROJECT_VERSION

FORMAT, VERSION = "dl-kdd export", 1
CARD = "MODEL_CARD.md"
IN_THE_GRAPH = ("input", "mean", "std", "dark_mean", "dark_std", "remove_temporal_mean", "enhancer_on", "enhancer")
"""What of the preprocessing the exported file does by itself."""


def sidecar_of(path: Path) -> Path:
    """Where the json of an exported file lies."""
    return path.with_name(path.name + ".json")


def describe(
    record: Record,
    preprocessing: Preprocessing,
    *,
    file: Mapping[str, Any],
    checkpoint: Path,
    views: Views,
    parity: Parity,
    packages: tuple[str, ...],
) -> dict[str, Any]:
    """Everything that a user of the file has to know, as plain values.

    Args:
        record: of the checkpoint.
        preprocessing: of the checkpoint.
        file: name, sha256, bytes and format of the exported file.
        checkpoint: where it comes from.
        views: what parity was measured on.
        parity: what was found.
        packages: whose versions are named beside those of torch and the decoder.
    """
    rule = preprocessing.view_rule
    shape = ["batch", rule.frames, rule.size, rule.size, 3]
    return {
        "format": FORMAT,
        "version": VERSION,
        "file": dict(file),
        "input": {"name": INPUT, "type": "uint8", "shape": shape, "colours": "RGB"},
        "output": {"name": OUTPUT, "type": "float32", "shape": ["batch", len(record.class_names)], "scale": "logits"},
        "classes": list(record.class_names),
        **_test_view(rule),
        "fps": views.fps,
        "rotation": "each frame is turned by its rotation metadata, counter-clockwise, after it is resized",
        **_conversion(preprocessing),
        "in_the_graph": {name: getattr(preprocessing, name) for name in IN_THE_GRAPH},
        "precision": "float32",
        "kind": record.kind,
        "model": dict(record.model),
        "checkpoint": {"name": checkpoint.name, "sha256": (digest := sha256_of(checkpoint))},
        "licence": licence(record),
        "parity": {"on": views.source, "clips": list(views.names), "views": len(views.pixels), **asdict(parity)},
        "model_card": model_card(checkpoint, digest, record.kind),
        "versions": {
            "dl-kdd": PROJECT_VERSION,
            "python": platform.python_version(),
            "av": av_version(),
            **{name: importlib.metadata.version(name) for name in ("torch", "numpy", *packages)},
        },
    }


def licence(record: Record) -> str:
    """What the licence of the weights depends on, as far as the checkpoint knows it."""
    notes = [
        "The code that made this file is Apache-2.0. The weights are under the terms of the clips that they were "
        "trained on"
    ]
    if record.settings.get("weights") is not None:
        notes.append("and of the pretrained file that they started from")
    light = record.settings.get("enhancer") or {}
    if light.get("weights") == OFFICIAL_SHA256:
        notes.append("and hold Zero-DCE's published weights, CC BY-NC 4.0: no commercial use")
    elif record.kind == "student":
        notes.append("and of its teacher's enhancer, which this checkpoint does not name")
    return ", ".join(notes) + "."


def model_card(checkpoint: Path, sha256: str, kind: str) -> dict[str, Any] | None:
    """The model card beside a checkpoint, and the test figures beside it; None where there is no card.

    Args:
        checkpoint: the file.
        sha256: its hash. A card that does not name it is of other weights, and is not joined.
        kind: teacher, student or baseline.

    Raises:
        ValueError: the card is no text, or the figures are no json of a test; names the file.
        OSError: a file cannot be read.
    """
    card, metrics = checkpoint.with_name(CARD), checkpoint.with_name("metrics.json")
    if not card.is_file():
        return None
    try:
        text = card.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{card}: is no UTF-8 text ({error}); evaluate again, or move it away") from error
    if sha256 not in text:
        print(f"{card}: does not name {checkpoint.name}'s sha256, so it is of other weights: not joined", flush=True)
        return None
    return {"name": card.name, "sha256": sha256_of(card), "figures": _figures(metrics, kind)}


def _figures(metrics: Path, kind: str) -> dict[str, Any] | None:
    """What the test found of one kind of classifier, and of how many clips; None where there is none."""
    if not metrics.is_file():
        return None
    remedy = "evaluate again, or move it away"
    figures = read_json(metrics, remedy=remedy)
    if kind not in figures:
        return None
    if not isinstance(figures[kind], dict) or type(figures.get("n")) is not int:
        raise ValueError(f"{metrics}: found no figures of the {kind} with their number n of clips; {remedy}")
    return {"n": figures["n"], **figures[kind]}


def _test_view(rule: ViewRule) -> dict[str, Any]:
    """Which frames of a video and which part of them the file wants: see `centre_view`."""
    crop = centre_view(rule, clip_id="", num_frames=rule.frames * rule.stride).crop
    spread = rule.sampling == "spread"
    return {
        "frames": rule.frames,
        "sampling": rule.sampling,
        # A spread view takes a video shorter than itself frame by frame.
        "stride": 1 if spread else rule.stride,
        "which_frames": (
            "the middle of each of `frames` equal parts; a shorter video frame by frame, starting over at its end"
            if spread
            else "every `stride`-th, in the middle of the video; a shorter video from its start, starting over"
        ),
        "loop": rule.loop,
        "frame_size": list(rule.frame_size),
        "crop": list(crop),
        "size": rule.size,
    }


def _conversion(preprocessing: Preprocessing) -> dict[str, Any]:
    """How swscale makes RGB: arguments of PyAV's VideoReformatter.reformat; the numbers are FFmpeg's own."""
    colours = COLOUR_RANGES[preprocessing.colour_range]
    return {
        "colour_range": preprocessing.colour_range,
        "reformat": {
            "format": "rgb24",
            "interpolation": int(SCALER),
            "src_color_range": None if colours is None else int(colours),
            "threads": 1,
        },
        "interpolation_names": SCALER.name,
        "pixel_path": preprocessing.pixel_path,
    }

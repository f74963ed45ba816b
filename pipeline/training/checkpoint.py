"""Checkpoints: one safetensors file of weights with a json record of classes, preprocessing and settings inside."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pipeline.clips.files import replacing, sha256_of
from pipeline.clips.views import PIXEL_PATH, ViewRule

FORMAT = "dl-kdd checkpoint"
VERSION = 2
KEY = "dl-kdd"


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Everything between a video file and a model's input."""

    view_rule: ViewRule
    """Frames, frame size, crop and how they are drawn; tests use its centre view."""
    colour_range: str
    """auto, limited or full."""
    mean: tuple[float, ...]
    """Of R, G, B in [0, 1], subtracted from the frames that the classifier sees; of the enhanced ones for `both`."""
    std: tuple[float, ...]
    """Of R, G, B in [0, 1]."""
    enhancer_on: str
    """none, frame or view: where the frames are enhanced before the classifier sees them."""
    input: str
    """dark, enhanced, or both: two streams, dark and enhanced."""
    enhancer: Mapping[str, Any] | None = None
    """Arguments that build the enhancer; None for dark input."""
    dark_mean: tuple[float, ...] | None = None
    """Of the dark stream of `both`."""
    dark_std: tuple[float, ...] | None = None
    pixel_path: str = PIXEL_PATH
    """Names the arithmetic that made the pixels."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a checkpoint says of itself."""

    kind: str
    """enhancer, teacher, student or baseline."""
    class_names: tuple[str, ...]
    """By label; empty for an enhancer."""
    model: Mapping[str, Any]
    """Arguments that build the network."""
    preprocessing: Preprocessing | None
    """None for an enhancer."""
    settings: Mapping[str, Any]
    """The stage's section of params.yaml."""
    metrics: Mapping[str, Any]
    """What training ended with."""


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], record: Record) -> None:
    """Write weights and record as one safetensors file, whole or not at all. Same content, same bytes."""
    # One metadata key: with several, safetensors writes them in a random order.
    metadata = {KEY: json.dumps({"format": FORMAT, "version": VERSION, **asdict(record)}, sort_keys=True)}
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    with replacing(path) as partial:
        partial.write_bytes(content)


def load_checkpoint(path: Path, *, kind: str | None = None) -> tuple[dict[str, Tensor], Record]:
    """Read weights and record.

    Args:
        path: the file.
        kind: refuse every other kind.

    Raises:
        ValueError: missing, damaged, of another program, version or kind.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint; run the stage that writes it, or `dvc repro`")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path}: is damaged or no safetensors file ({error}); train again or fetch it") from error
    if KEY not in metadata:
        raise ValueError(f"{path}: holds weights without this project's record; wanted a checkpoint written by a stage")
    content = json.loads(metadata[KEY])
    if content.pop("format") != FORMAT or content.pop("version") != VERSION:
        raise ValueError(f"{path}: is of another version of the format; wanted version {VERSION}: train again")
    record = _record(content)
    if kind is not None and record.kind != kind:
        raise ValueError(f"{path}: is a checkpoint of a {record.kind}, wanted a {kind}")
    return tensors, record


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state of an unfinished training, whole or not at all."""
    # Through an open file: given a path, torch hides a full disk behind a RuntimeError.
    with replacing(path) as partial, partial.open("wb") as file:
        torch.save(dict(state), file)


def load_state(path: Path) -> dict[str, Any] | None:
    """The state of an unfinished training; None where there is none."""
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def file_card(path: Path, record: Record) -> dict[str, Any]:
    """The record and the sha256 of a checkpoint, for a json beside it."""
    return {"sha256": sha256_of(path), **asdict(record)}


def _record(content: dict[str, Any]) -> Record:
    preprocessing = content.pop("preprocessing")
    if preprocessing is not None:
        rule = preprocessing.pop("view_rule")
        rule = {name: tuple(value) if isinstance(value, list) else value for name, value in rule.items()}
        preprocessing = {
            name: tuple(value) if isinstance(value, list) else value for name, value in preprocessing.items()
        }
        preprocessing = Preprocessing(view_rule=ViewRule(**rule), **preprocessing)
    class_names = tuple(content.pop("class_names"))
    return Record(class_names=class_names, preprocessing=preprocessing, **content)

"""Checkpoints: one safetensors file of weights with a json record of classes, preprocessing and settings inside."""

import inspect
import json
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pipeline.clips.files import replacing, sha256_of
from pipeline.clips.video import COLOUR_RANGES
from pipeline.clips.views import PIXEL_PATH, ViewRule
from pipeline.models.state_dicts import UNREADABLE

FORMAT = "dl-kdd checkpoint"
VERSION = 2
KEY = "dl-kdd"
KINDS = ("enhancer", "teacher", "student", "baseline")
REMEDY = "train again or fetch the file again"

# More of a view than any machine holds: a record that says so is damaged.
MOST_FRAMES, MOST_PIXELS = 2**16, 2**15


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
    remove_temporal_mean: bool = False
    """Each pixel's mean over the view is subtracted from the normalised frames."""
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
        ValueError: missing, damaged, of another program, version or kind, or a record that no stage writes.
        OSError: the file cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint; run the stage that writes it, or `dvc repro`")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if "allocate memory" in str(error):
            raise OSError(f"{path}: cannot be read for want of memory ({str(error)[:200]}); free some") from error
        raise ValueError(
            f"{path}: is damaged or no safetensors file ({str(error)[:500]}); train again or fetch it"
        ) from error
    if KEY not in metadata:
        raise ValueError(f"{path}: holds weights without this project's record; wanted a checkpoint written by a stage")
    record = _record(path, metadata[KEY])
    if kind is not None and record.kind != kind:
        raise ValueError(f"{path}: is a checkpoint of a {record.kind}, wanted a {kind}")
    return tensors, record


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state of an unfinished training, whole or not at all."""
    with replacing(path) as partial, partial.open("wb") as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:
            # torch hides a full disk behind an error of its own
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def load_state(path: Path) -> dict[str, Any] | None:
    """The state of an unfinished training; None where there is none. No code in the file is run.

    Raises:
        ValueError: the file is damaged, or holds something else.
        OSError: the file cannot be read.
    """
    if not path.is_file():
        return None
    wanted = "wanted the state of an unfinished training; delete it, and the training starts over"
    with path.open("rb") as file:
        try:
            state: Any = torch.load(file, map_location="cpu", weights_only=True)
        except OSError as error:  # the disk's, or of a place in the file that is none
            raise OSError(f"{path}: cannot be read ({error}), {wanted}") from error
        except UNREADABLE as error:
            # Without torch's own words: they advise to load the file with code allowed.
            raise ValueError(f"{path}: found {path.stat().st_size} bytes that do not load, {wanted}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path}: found a {type(state).__name__}, {wanted}")
    return state


def file_card(path: Path, record: Record) -> dict[str, Any]:
    """The record and the sha256 of a checkpoint, for a json beside it."""
    return {"sha256": sha256_of(path), **asdict(record)}


def arguments_for(
    build: Callable[..., Any], values: object, *, where: str, given: Collection[str] = ()
) -> dict[str, Any]:
    """Values of a json as the arguments of a function or the fields of a dataclass, lists as tuples.

    Args:
        build: the function or dataclass; its annotations say what is wanted.
        values: by name.
        where: file and place in it, for messages.
        given: arguments that do not come from the file.

    Raises:
        ValueError: an unknown, missing or mistyped value.
    """
    hints = {name: hint for name, hint in typing.get_type_hints(build).items() if name not in (*given, "return")}
    parameters = inspect.signature(build).parameters
    if not isinstance(values, dict):
        raise ValueError(f"{where}: found {type(values).__name__}, wanted values by name; {REMEDY}")
    for name in values:
        if name not in hints:
            raise ValueError(f"{where}: found an unknown {name[:80]!r}, wanted {', '.join(hints)}; {REMEDY}")
    for name in hints:
        if name not in values and parameters[name].default is inspect.Parameter.empty:
            raise ValueError(f"{where}: found no {name}; {REMEDY}")
    return {name: _fitted(value, hints[name], f"{where}.{name}") for name, value in values.items()}


def _fitted(value: Any, wanted: Any, where: str) -> Any:
    """A value of a json as what an annotation says."""
    origin, options = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _fitted(value, options[0], where)
    if origin is tuple and isinstance(value, list):
        if options[-1] is not Ellipsis and len(value) != len(options):
            raise ValueError(f"{where}: found {len(value)} values, wanted {len(options)}; {REMEDY}")
        return tuple(_fitted(item, options[0], where) for item in value)
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, dict):
        return value
    if is_dataclass(wanted) and isinstance(wanted, type):
        return wanted(**arguments_for(wanted, value, where=where))
    if wanted is float and type(value) in (int, float) and abs(value) < 2**63:  # which no nan is
        return float(value)
    if origin is None and wanted is not float and type(value) is wanted and _can_be_stored(value):
        return value
    raise ValueError(f"{where}: found {ascii(value)[:80]}, wanted {getattr(wanted, '__name__', wanted)}; {REMEDY}")


def _can_be_stored(value: object) -> bool:
    """Numbers in 64 bits, and text without halves of characters, as json can write but no file and no screen take."""
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)
    return not isinstance(value, int) or abs(value) < 2**63


def _record(path: Path, text: str) -> Record:
    where = f"{path}: record"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: is no json ({error}); {REMEDY}") from error
    if (
        not isinstance(content, dict)
        or content.pop("format", None) != FORMAT
        or content.pop("version", None) != VERSION
    ):
        raise ValueError(f"{path}: is of another version of the format; wanted version {VERSION}: train again")
    record = Record(**arguments_for(Record, content, where=where))
    if record.kind not in KINDS:
        raise ValueError(f"{where}.kind: found {record.kind[:80]!r}, wanted one of {', '.join(KINDS)}; {REMEDY}")
    if record.preprocessing is not None:
        _check(record.preprocessing, _sound_colours(record.preprocessing), f"{where}.preprocessing")
        rule = record.preprocessing.view_rule
        _check(rule, _sound_rule(rule), f"{where}.preprocessing.view_rule")
    return record


def _check(values: object, sound: Mapping[str, bool], where: str) -> None:
    for name, is_sound in sound.items():
        if not is_sound:
            found = ascii(getattr(values, name))[:80]
            raise ValueError(f"{where}.{name}: found {found}, which no stage writes; {REMEDY}")


def _sound_rule(rule: ViewRule) -> dict[str, bool]:
    return {
        "frames": 1 <= rule.frames <= MOST_FRAMES,
        "sampling": rule.sampling in ("consecutive", "spread"),
        "stride": 1 <= rule.stride <= MOST_FRAMES,
        "jitter": 0 <= rule.jitter <= 1,
        "frame_size": all(1 <= side <= MOST_PIXELS for side in rule.frame_size),
        "size": 1 <= rule.size <= min(rule.frame_size),
        "scales": bool(rule.scales) and all(0 < scale <= 1 for scale in rule.scales),
        "positions": rule.positions in ("random", "fixed"),
    }


def _sound_colours(pixels: Preprocessing) -> dict[str, bool]:
    three = {
        name: values is None or len(values) == 3
        for name, values in (("dark_mean", pixels.dark_mean), ("dark_std", pixels.dark_std), ("mean", pixels.mean))
    }
    return three | {
        "std": len(pixels.std) == 3 and min(pixels.std) > 0,
        "dark_std": pixels.dark_std is None or (len(pixels.dark_std) == 3 and min(pixels.dark_std) > 0),
        "colour_range": pixels.colour_range in COLOUR_RANGES,
        "enhancer_on": pixels.enhancer_on in ("none", "frame", "view"),
        "input": pixels.input in ("dark", "enhanced", "both"),
    }

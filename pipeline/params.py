"""Reading params.yaml into the dataclasses of `pipeline/config.py`; unknown keys are refused."""

import math
import reprlib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pipeline.config import SECTION_TYPES, ClassifierConfig, RunInputs
from pipeline.mapping_file import read_yaml

Section = TypeVar("Section")

TOP_KEYS = ("runs", "rendered", "inputs", *SECTION_TYPES)

MAX_BYTES = 2**18  # dozens of runs of 700 classes; short entries take the reader 50 seconds a megabyte


class _Shortened(reprlib.Repr):
    """Values in messages: written out, a few lines of aliases of aliases would fill the memory."""

    def repr_int(self, x: int, level: int) -> str:
        """Python refuses to write out thousands of digits."""
        return str(x) if abs(x) < 2**64 else f"a number of {x.bit_length()} bits"


SHOWN = _Shortened()
SHOWN.maxlevel, SHOWN.maxstring, SHOWN.maxother = 2, 200, 80
SHOWN.maxlist = SHOWN.maxtuple = SHOWN.maxdict = SHOWN.maxset = 8


def read_params(path: Path) -> dict[str, Any]:
    """The whole of params.yaml, with its top-level keys checked.

    Raises:
        ValueError: no YAML, no mapping, an unknown top-level key, or runs without inputs; names the file.
        OSError: the file cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run `dlkdd use demo` or work in the repository's root")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path}: found {size} bytes, wanted at most {MAX_BYTES}; write it anew with `dlkdd use`")
    params = read_yaml(path, remedy="mend it, or write it anew with `dlkdd use`")
    for key in params:
        if key not in TOP_KEYS:
            raise ValueError(f"{path}: unknown section {SHOWN.repr(key)}; known sections are {', '.join(TOP_KEYS)}")
    _check_runs(path, params)
    return params


def _check_runs(path: Path, params: Mapping[str, Any]) -> None:
    runs, rendered = (params.get(key) or [] for key in ("runs", "rendered"))
    inputs = params.get("inputs") or {}
    if not isinstance(inputs, dict):
        raise ValueError(f"{path}: inputs: found {type(inputs).__name__}, wanted a mapping of runs")
    for key, names in (("runs", runs), ("rendered", rendered), ("inputs", list(inputs))):
        if not isinstance(names, list) or not all(isinstance(name, str) and _is_text(name) for name in names):
            raise ValueError(f"{path}: {key}: found {SHOWN.repr(names)}, wanted names of runs")
    if sorted(runs) != sorted(inputs) or not set(rendered) <= set(runs):
        raise ValueError(
            f"{path}: found runs {SHOWN.repr(runs)}, rendered {SHOWN.repr(rendered)} and inputs of "
            f"{SHOWN.repr(list(inputs))}; wanted inputs of each run and no other, and rendered runs among them"
        )
    if "runs" not in params:
        raise ValueError(f"{path}: found no key runs, wanted the names of the runs; write it anew with `dlkdd use`")


def read_inputs(path: Path, run: str) -> RunInputs:
    """Where a run's clips come from.

    Raises:
        ValueError: no such run, or a mistyped entry.
    """
    inputs = read_params(path).get("inputs") or {}
    if run not in inputs:
        raise ValueError(f"{path}: inputs: no run '{run[:200]}'; known runs are {', '.join(inputs)[:1000]}")
    return parse(RunInputs, inputs[run], where=f"{path}: inputs.{run}")


def read_section(path: Path, kind: type[Section], *, extra: tuple[str, ...] = ()) -> Section:
    """One section of params.yaml as its dataclass.

    Args:
        path: params.yaml.
        kind: the dataclass; its section is its name in lower case without `Config`.
        extra: keys of the section that this reader knows and leaves alone.

    Raises:
        ValueError: see `read_params` and `parse`.
        OSError: the file cannot be read.
    """
    name = kind.section() if issubclass(kind, ClassifierConfig) else kind.__name__.removesuffix("Config").lower()
    params = read_params(path)
    if name not in params:
        raise ValueError(f"{path}: section '{name}' is missing; write the file anew with `dlkdd use`")
    return parse(kind, params[name], where=f"{path}: {name}", extra=extra)


def parse(kind: type[Section], values: Any, *, where: str, extra: tuple[str, ...] = ()) -> Section:
    """Build a config dataclass from plain values; every error names the place, what was found and wanted.

    Raises:
        ValueError: an unknown, missing or mistyped key, or a value out of its range.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: found {type(values).__name__}, wanted a mapping of keys")
    fields = typing.get_type_hints(kind)
    for key in values:
        if key not in fields and key not in extra:
            raise ValueError(f"{where}: unknown key {SHOWN.repr(key)}; known keys are {', '.join(fields)}")
    missing = [key for key in fields if key not in values]
    if missing:
        raise ValueError(f"{where}: key '{missing[0]}' is missing; known keys are {', '.join(fields)}")
    built = {key: _convert(values[key], wanted, f"{where}.{key}") for key, wanted in fields.items()}
    try:
        return kind(**built)
    except ValueError as error:  # it names the key, not the file
        file, separator, _ = where.rpartition(": ")
        raise ValueError(f"{file}{separator}{error}") from error


def _convert(value: Any, wanted: Any, where: str) -> Any:
    origin = typing.get_origin(wanted)
    if origin in (typing.Union, types.UnionType):
        inner = [option for option in typing.get_args(wanted) if option is not type(None)]
        return None if value is None else _convert(value, inner[0], where)
    if origin is tuple:
        arguments = typing.get_args(wanted)
        variable = arguments[-1] is Ellipsis
        if not isinstance(value, (list, tuple)) or (not variable and len(value) != len(arguments)):
            length = "a list" if variable else f"a list of {len(arguments)}"
            raise ValueError(f"{where}: found {SHOWN.repr(value)}, wanted {length}")
        return tuple(_convert(item, arguments[0], where) for item in value)
    # bool is an int to Python, but `epochs: true` is a mistake.
    if wanted is float and type(value) is int and abs(value) < 2**63:
        return float(value)
    if type(value) is not wanted:
        raise ValueError(f"{where}: found {SHOWN.repr(value)} ({type(value).__name__}), wanted {wanted.__name__}")
    if wanted is float and not math.isfinite(value):
        raise ValueError(f"{where}: found {value}, wanted a number")
    if wanted is int and abs(value) >= 2**63:
        raise ValueError(f"{where}: found {SHOWN.repr(value)}, wanted a number of 64 bits")
    if wanted is str and not _is_text(value):
        raise ValueError(f"{where}: found {SHOWN.repr(value)}, wanted text without a zero byte or half a character")
    return value


def _is_text(value: str) -> bool:
    """Whether files and messages can hold it: YAML's escapes can write zero bytes and lone surrogates."""
    return "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)

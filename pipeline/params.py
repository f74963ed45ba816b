"""Reading params.yaml into the dataclasses of `pipeline/config.py`; unknown keys are refused."""

import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.config import SECTION_TYPES, ClassifierConfig, RunInputs

Section = TypeVar("Section")

TOP_KEYS = ("runs", "rendered", "inputs", *SECTION_TYPES)


def read_params(path: Path) -> dict[str, Any]:
    """The whole of params.yaml, with its top-level keys checked.

    Raises:
        ValueError: no mapping, or an unknown top-level key.
        OSError: the file cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run `dlkdd use demo` or work in the repository's root")
    try:
        # YAML 1.2 as DVC reads it: with 1.1, `on` would be a truth value and 1e-3 a string.
        params = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no YAML ({error}); mend it, or write it anew with `dlkdd use`") from error
    if not isinstance(params, dict):
        raise ValueError(f"{path}: found {type(params).__name__}, wanted a mapping of sections")
    for key in params:
        if key not in TOP_KEYS:
            raise ValueError(f"{path}: unknown section '{key}'; known sections are {', '.join(TOP_KEYS)}")
    runs, rendered, inputs = (params.get(key) or [] for key in ("runs", "rendered", "inputs"))
    if sorted(runs) != sorted(inputs) or not set(rendered) <= set(runs):
        raise ValueError(
            f"{path}: found runs {list(runs)}, rendered {list(rendered)} and inputs of {list(inputs)}; wanted inputs "
            "of each run and no other, and rendered runs among them"
        )
    return params


def read_inputs(path: Path, run: str) -> RunInputs:
    """Where a run's clips come from.

    Raises:
        ValueError: no such run, or a mistyped entry.
    """
    inputs = read_params(path).get("inputs") or {}
    if run not in inputs:
        raise ValueError(f"{path}: inputs: no run '{run}'; known runs are {', '.join(inputs)}")
    return parse(RunInputs, inputs[run], where=f"{path}: inputs.{run}")


def read_section(path: Path, kind: type[Section], *, extra: tuple[str, ...] = ()) -> Section:
    """One section of params.yaml as its dataclass.

    Args:
        path: params.yaml.
        kind: the dataclass; its section is its name in lower case without `Config`.
        extra: keys of the section that this reader knows and leaves alone.
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
            raise ValueError(f"{where}: unknown key '{key}'; known keys are {', '.join(fields)}")
    missing = [key for key in fields if key not in values]
    if missing:
        raise ValueError(f"{where}: key '{missing[0]}' is missing; known keys are {', '.join(fields)}")
    built = {key: _convert(values[key], wanted, f"{where}.{key}") for key, wanted in fields.items()}
    return kind(**built)


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
            raise ValueError(f"{where}: found {value!r}, wanted {length}")
        return tuple(_convert(item, arguments[0], where) for item in value)
    # bool is an int to Python, but `epochs: true` is a mistake.
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not wanted:
        raise ValueError(f"{where}: found {value!r} ({type(value).__name__}), wanted {wanted.__name__}")
    if wanted is float and value != value:
        raise ValueError(f"{where}: found nan, wanted a number")
    return value

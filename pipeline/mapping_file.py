"""Small files of values by name, json and YAML, whoever wrote them: each holds a mapping, or the error names it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import YAMLError

MISREAD = (
    YAMLError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What ruamel.yaml raises for text that is no YAML, or whose tags and dates it cannot make."""


MAX_DEPTH = 50  # of brackets; time grows with its square


class _WithoutMerging(SafeConstructor):
    """Of YAML without `<<`: a few lines of merges of merges would fill the memory."""

    def flatten_mapping(self, node: Any) -> Any:
        """Refuse what would be merged."""
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise ConstructorError(None, None, "found `<<`, write the keys out", key.start_mark)
        return super().flatten_mapping(node)


def parse_yaml(text: str) -> Any:
    """What a YAML text says. It is YAML 1.2 as DVC reads it: with 1.1, `on` is a truth value and 1e-3 a string.

    Raises:
        ValueError: it is no YAML.
    """
    depth = 0
    for bracket in re.findall(r"[][{}]", text):
        depth = depth + 1 if bracket in "[{" else max(0, depth - 1)
        if depth > MAX_DEPTH:
            raise ValueError(f"is no YAML (found more than {MAX_DEPTH} open brackets)")
    reader = YAML(typ="safe", pure=True)
    reader.Constructor = _WithoutMerging
    try:
        return reader.load(text)
    except MISREAD as error:
        raise ValueError(f"is no YAML ({str(error)[:500]})") from error


def read_yaml(path: Path, *, remedy: str) -> dict[str, Any]:
    """The mapping that a YAML file holds; an empty one of an empty file.

    Args:
        path: the file, in UTF-8.
        remedy: what to do about a bad one, for messages.

    Raises:
        ValueError: it is no YAML, or holds something else; names the file.
        OSError: it cannot be read.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no YAML ({error}); {remedy}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {remedy}") from error
    if not isinstance(content, dict | None):
        raise ValueError(f"{path}: found {type(content).__name__}, wanted a mapping; {remedy}")
    return content or {}


def read_json(path: Path, *, remedy: str, keys: Sequence[str] = ()) -> dict[str, Any]:
    """The object that a json file holds.

    Args:
        path: the file, in UTF-8.
        remedy: what to do about a bad one, for messages.
        keys: it has to have these.

    Raises:
        ValueError: there is no such file, it is no json, holds something else, or lacks a key; names the file.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {remedy}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no json ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found {type(content).__name__}, wanted an object; {remedy}")
    missing = [key for key in keys if key not in content]
    if missing:
        raise ValueError(f"{path}: found no {', '.join(missing)}; {remedy}")
    return content

"""What dvc.lock says of the finished stages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.mapping_file import read_yaml

REMEDY = "a kill tears it while DVC writes: delete it and run `dvc repro`, which takes what it knows from its cache"


def read_lock(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """Finished stages by name, each with its `deps` and `outs` (objects with a `path`) and its `params` by file.

    Raises:
        ValueError: the file is no dvc.lock; names the file and the stage.
        OSError: it cannot be read.
    """
    stages = read_yaml(path, remedy=REMEDY).get("stages", {})
    if not isinstance(stages, Mapping):
        raise ValueError(f"{path}: stages: found {type(stages).__name__}, wanted a mapping; {REMEDY}")
    for name, stage in stages.items():
        if not isinstance(stage, Mapping) or not _is_whole(stage):
            raise ValueError(f"{path}: {name}: is no finished stage; {REMEDY}")
    return stages


def _is_whole(stage: Mapping[str, Any]) -> bool:
    files, params = [stage.get("deps", []), stage.get("outs", [])], stage.get("params", {})
    return (
        all(isinstance(entries, list) and all(map(_is_entry, entries)) for entries in files)
        and isinstance(params, Mapping)
        and all(isinstance(file, str) and isinstance(values, Mapping) for file, values in params.items())
    )


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, Mapping) and isinstance(entry.get("path"), str) and isinstance(entry.get("md5", ""), str)

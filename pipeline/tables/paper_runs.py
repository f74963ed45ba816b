"""The evaluated runs that the paper's tables are filled from."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any

from pipeline.clips.clip_index import leak_note
from pipeline.mapping_file import read_json
from pipeline.tables.paper_rows import MODELS, PAPER_TABLES

COLUMNS = (1, 2, 3)

FILES = ("metrics", "details", "statistics")

RUN_NAME = re.compile(r"(arid|arid15|dark48|ug2)(?:-([a-z0-9]+))?-([0-9]+)")

PROTOCOL: Mapping[str, type | UnionType] = {
    "teacher_input": str,
    "enhancer": str,
    "enhancer_weights": str | None,
    "model": str,
    "head": str,
    "weights": str | None,
    "frames": int,
    "size": int,
    "frame_size": list,
    "clips": int,
    "crops": str,
    "average": str,
    "epochs": int,
    "kd_weight": int | float,
    "kd_decay": int | float,
    "temperature": int | float,
    "scale_by_temperature_squared": bool,
    "seed": int,
}
"""What details.json must say of how a run was made; whatever else it says must be the same in all splits too."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What one evaluated run brings to the tables."""

    run: str
    """Name of its folder, `<dataset>[-<tag>]-<split>`."""
    dataset: str
    """arid, arid15, dark48 or ug2."""
    tag: str
    """Tells variants of a data set apart; empty for the plain one."""
    split: int
    """1 to 3."""
    n: int
    """Labelled test clips; 0 where the test list has no labels."""
    figures: Mapping[str, Mapping[str, float]]
    """By model: top1, top5 and more, shares from 0 to 1. Empty where n is 0."""
    protocol: Mapping[str, Any]
    """How the run was made and tested: the keys of PROTOCOL, and more."""
    leaks: str
    """What its test clips share with its training clips, in words; empty if nothing."""


def read_runs(data: Path) -> list[RunResult]:
    """All evaluated runs of the paper's data sets below `data`, by data set, tag and split.

    A folder of another name, or without metrics.json, is no such run and is passed over.

    Raises:
        ValueError: a damaged or missing file of an evaluated run, or a split that the tables have no column for.
    """
    if not data.is_dir():
        raise ValueError(f"{data}: no such folder; work in the repository's root, where `dvc repro` wrote data/<run>/")
    results = []
    for folder in data.iterdir():
        match = RUN_NAME.fullmatch(folder.name)
        if match and (folder / "metrics.json").exists():
            results.append(_read_run(folder, *match.groups(default="")))
    return sorted(results, key=lambda result: (result.dataset, result.tag, result.split))


def _read_run(folder: Path, dataset: str, tag: str, split: str) -> RunResult:
    if split not in map(str, COLUMNS):
        raise ValueError(
            f"{folder}: found split {split}, wanted one of {', '.join(map(str, COLUMNS))}; rename the run or move its "
            "folder elsewhere"
        )
    metrics_file, details_file, statistics_file = (folder / f"{name}.json" for name in FILES)
    metrics, details, statistics = (
        read_json(file, remedy="run `dvc repro` again") for file in (metrics_file, details_file, statistics_file)
    )
    n = _part(metrics_file, metrics, ("n",), int)
    if n < 0:
        raise ValueError(f"{metrics_file}: n: found {n}, wanted a number of clips; run `dvc repro` again")
    for key, kind in PROTOCOL.items():
        _part(details_file, details, ("protocol", key), kind)
    leaks = _part(statistics_file, statistics, ("leaks",), dict)
    # Leaks count all test clips, and n only the labelled ones.
    listed = _part(statistics_file, statistics, ("clips", "test"), dict) if "clips" in statistics else {}
    return RunResult(
        run=folder.name,
        dataset=dataset,
        tag=tag,
        split=int(split),
        n=n,
        figures=_read_figures(metrics_file, metrics, dataset) if n else {},
        protocol=details["protocol"],
        leaks=leak_note(leaks, sum(listed.values()) or n),
    )


def _read_figures(path: Path, metrics: Mapping[str, Any], dataset: str) -> dict[str, dict[str, float]]:
    measures = {measure for paper in PAPER_TABLES if paper.dataset == dataset for measure in paper.measures}
    for model in MODELS:
        for measure in sorted(measures):
            share = _part(path, metrics, (model, measure), int | float)
            if not 0 <= share <= 1:
                raise ValueError(f"{path}: {model}.{measure}: found {share}, wanted 0 to 1; run `dvc repro` again")
    return {model: metrics[model] for model in MODELS}


def _part(path: Path, content: Mapping[str, Any], keys: tuple[str, ...], kind: type | UnionType) -> Any:
    """A value at nested keys, checked; a truth value is no number."""
    value: Any = content
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            raise ValueError(f"{path}: {'.'.join(keys)}: missing; run `dvc repro` again")
        value = value[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = getattr(kind, "__name__", str(kind))
        raise ValueError(f"{path}: {'.'.join(keys)}: found {value!r}, wanted {wanted}; run `dvc repro` again")
    return value

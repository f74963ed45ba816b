"""The files of a run, read for its page. Only metrics.json has to be there; what else is missing is left out."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.clips.clip_index import Clip, read_clips
from pipeline.clips.plain_text import from_cell
from pipeline.mapping_file import read_json
from pipeline.tables.paper_rows import MODELS
from pipeline.tables.run_table import TIMINGS, read_metrics

FILES = (
    "metrics.json",
    "details.json",
    "predictions.csv",
    "clips.csv",
    "statistics.json",
    "quarantine.csv",
    "enhancer.json",
    "enhancer.png",
    "enhancer.safetensors",
    "teacher.json",
    *(f"{model}{end}" for model in MODELS for end in (".safetensors", "_curve.csv", "_timings.json")),
    "logits.h5",
)
"""What a whole run holds, in the order of the page's table."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the models say of one test clip."""

    id: str
    class_name: str
    """The label's text; empty without a label."""
    answers: Mapping[str, str]
    """By model."""
    probabilities: Mapping[str, float]
    """Of each model's answer, 0 to 1."""

    def right(self, model: str) -> bool:
        """Whether a model's answer is the label."""
        return self.answers[model] == self.class_name


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """A run as its files tell it."""

    name: str
    folder: Path
    metrics: dict[str, Any]
    details: dict[str, Any]
    """Empty without the file; so are the next five."""
    statistics: dict[str, Any]
    enhancer: dict[str, Any]
    card: dict[str, Any]
    """The teacher's."""
    timings: dict[str, dict[str, Any]]
    """By model."""
    curves: dict[str, list[dict[str, float]]]
    """By model: a row an epoch."""
    answers: tuple[Answer, ...]
    clips: tuple[Clip, ...]
    cost: dict[str, Any]
    """Figures of `dlkdd cost`, where cost.json lies in the folder."""
    missing: tuple[str, ...]
    """Of `FILES`."""


def read_run(folder: Path) -> RunFiles:
    """Read what is there.

    Raises:
        ValueError: no metrics.json, or a file that is not what its stage writes.
    """
    if not (folder / "metrics.json").is_file():
        raise ValueError(f"{folder / 'metrics.json'}: no such file; run `dvc repro` first")
    clips = folder / "clips.csv"
    timings = {model: _json(folder / f"{model}_timings.json", *TIMINGS) for model in MODELS}
    curves = {model: _curve(folder / f"{model}_curve.csv") for model in MODELS}
    return RunFiles(
        name=folder.resolve().name,
        folder=folder,
        metrics=read_metrics(folder / "metrics.json"),
        details=_json(folder / "details.json"),
        statistics=_json(folder / "statistics.json", "mean", "std", "mean_luma", "dark_share"),
        enhancer=_json(
            folder / "enhancer.json", "dark_mean", "enhanced_mean", "move", "colour_cast", "held_out_frames", "origin"
        ),
        card=_json(folder / "teacher.json"),
        timings={model: found for model, found in timings.items() if found},
        curves={model: rows for model, rows in curves.items() if rows},
        answers=tuple(_answers(folder / "predictions.csv")),
        clips=tuple(read_clips(clips)) if clips.is_file() else (),
        cost=_json(folder / "cost.json"),
        missing=tuple(name for name in FILES if not (folder / name).is_file()),
    )


def without_labels(run: RunFiles) -> RunFiles:
    """The same run, of whose answers only those to labelled clips are kept."""
    return dataclasses.replace(run, answers=tuple(answer for answer in run.answers if answer.class_name))


def _json(path: Path, *keys: str) -> dict[str, Any]:
    """An object that has these keys; empty where there is no file."""
    if not path.is_file():
        return {}
    return read_json(path, remedy="run the stage that writes it again", keys=keys)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _curve(path: Path) -> list[dict[str, float]]:
    try:
        return [{name: float(value) for name, value in row.items()} for row in _rows(path)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: found a row without numbers ({error}); train again") from error


def _answers(path: Path) -> Sequence[Answer]:
    try:
        return [
            Answer(
                id=from_cell(row["id"]),
                class_name=from_cell(row["class"]),
                answers={model: from_cell(row[model]) for model in MODELS},
                probabilities={model: float(row[f"{model}_probability"]) for model in MODELS},
            )
            for row in _rows(path)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: a row lacks {error}; wanted id, class, and every model's answer and probability: run evaluate "
            "again"
        ) from error

"""Tables 1 to 4 of the paper with our figures beside its own.

A mean is taken over the splits of one data set and tag, and only where all of them were run by one protocol.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from pipeline.tables.paper_rows import (
    DASH,
    MODELS,
    PAPER_EPOCHS,
    PAPER_PROTOCOL,
    PAPER_TABLES,
    SPLITS,
    STUDENT,
    TEST_CLIPS,
    Ours,
    PaperTable,
)
from pipeline.tables.paper_runs import COLUMNS, RunResult
from pipeline.tables.paper_text import Table

INPUTS = {
    "zero_dce": "ZeroDCE",
    "gamma": "GIC",
    "histogram": "HE",
    "lime": "LIME",
    "retinex": "Retinex",
    "none": "Original",
}
"""Enhancers in the paper's words."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The runs of one data set and tag, all by one protocol."""

    tag: str
    """Empty for the plain one."""
    protocol: Mapping[str, Any]
    """That of every run."""
    runs: tuple[RunResult, ...]
    """By split."""


def build_tables(runs: Sequence[RunResult]) -> list[Table]:
    """The paper's tables with our figures; one of UG2+, which the paper does not have, only where it was run.

    Raises:
        ValueError: splits of one data set and tag were run by different protocols.
    """
    tables = []
    for paper in PAPER_TABLES:
        found = [run for run in runs if run.dataset == paper.dataset]
        if found or paper.rows:
            tables.append(_table(paper, found))
    return tables


def _fits(protocol: Mapping[str, Any], wants: Mapping[str, str]) -> bool:
    return all(protocol[key] == value for key, value in wants.items())


def _groups(runs: Sequence[RunResult]) -> list[Group]:
    """Labelled runs by tag, the plain one first; runs of different protocols are refused."""
    by_tag: dict[str, list[RunResult]] = {}
    for run in sorted(runs, key=lambda each: (each.tag, each.split)):
        if run.n:
            by_tag.setdefault(run.tag, []).append(run)
    for members in by_tag.values():
        for key in sorted({key for run in members for key in run.protocol}):
            values = [run.protocol.get(key) for run in members]
            if any(value != values[0] for value in values):
                found = ", ".join(f"{run.run}: {value}" for run, value in zip(members, values, strict=True))
                raise ValueError(
                    f"protocol.{key}: found {found}; wanted one value, as their figures are averaged; run them again "
                    "with the same parameters, or name them by different tags"
                )
    return [Group(tag=tag, protocol=each[0].protocol, runs=tuple(each)) for tag, each in by_tag.items()]


def _pick(groups: Sequence[Group], ours: Ours | None) -> Group | None:
    """Whose figures stand in a row: the plain runs, else those of the row's network, else the first tag by name."""
    fitting = [
        group
        for group in groups
        if ours is not None
        and _fits(group.protocol, ours.wants)
        and (group.protocol["kd_weight"] > 0 or not ours.distilled)
    ]
    network = None if ours is None else ours.network
    order = sorted(fitting, key=lambda group: (group.tag != "", group.protocol["model"] != network, group.tag))
    return order[0] if order else None


def _table(paper: PaperTable, runs: Sequence[RunResult]) -> Table:
    runs = [run for run in runs if _fits(run.protocol, paper.only)]
    groups = _groups(runs)
    notes: list[str] = []
    rows: list[tuple[str, ...]] = []
    placed: set[tuple[str, str]] = set()
    for row in paper.rows:
        group = _pick(groups, row.ours)
        mark, cells = "", (DASH,) * (len(COLUMNS) + 2)
        if row.ours is not None and group is not None:
            placed.add((group.tag, row.ours.model))
            mark, cells = _mark(notes, group, row.ours.network), _cells(group, row.ours.model, paper)
        rows.append((row.name + mark, *row.lead, row.paper, *cells))
    for group in groups:
        for model in MODELS:
            if (group.tag, model) not in placed:
                name, *inputs = _described(group, model)
                lead = (name + _mark(notes, group, STUDENT.network), *inputs)[: len(paper.lead)]
                rows.append((*lead, DASH, *_cells(group, model, paper)))
    numbered = [f"[{number}] {note}" for number, note in enumerate(notes, start=1)]
    header = (*paper.lead, "Paper", *(f"Ours, split {split}" for split in COLUMNS), "Mean", "Standard deviation")
    footnotes = (*numbered, *_run_notes(runs), *paper.notes)
    return Table(title=paper.title, header=header, rows=tuple(rows), notes=footnotes)


def _cells(group: Group, model: str, paper: PaperTable) -> tuple[str, ...]:
    """Percent of each split with its number of test clips, their mean and their standard deviation (n - 1)."""
    cells = [DASH] * len(COLUMNS)
    for run in group.runs:
        shares = (run.figures[model][measure] for measure in paper.measures)
        cells[COLUMNS.index(run.split)] = f"{_percent(shares)} (n = {run.n})"
    by_measure = [[run.figures[model][measure] for run in group.runs] for measure in paper.measures]
    count, wanted = len(group.runs), SPLITS[paper.dataset]
    fewer = f" ({count} of {wanted} splits)" if count < wanted else ""
    spread = _percent(map(stdev, by_measure)) if count > 1 else DASH
    return (*cells, _percent(map(fmean, by_measure)) + fewer, spread)


def _percent(shares: Iterable[float]) -> str:
    return " / ".join(f"{100 * share:.2f}" for share in shares)


def _described(group: Group, model: str) -> tuple[str, str, str, str]:
    """Name of a row that the paper does not have, and what Table 1 says besides: method and inputs."""
    enhanced = INPUTS.get(group.protocol["enhancer"], group.protocol["enhancer"])
    teacher_input = group.protocol["teacher_input"]
    seen = {"dark": "Original", "both": f"Original + {enhanced}"}.get(teacher_input, enhanced)
    name = {
        "baseline": "backbone only",
        "teacher": f"teacher on {seen} input",
        "student": f"student of a teacher on {seen} input",
    }[model]
    tag = f", runs tagged {group.tag}" if group.tag else ""
    joined, training, inference = {
        "baseline": (DASH, "Original", "Original"),
        "teacher": ("Two-Stream" if teacher_input == "both" else DASH, seen, seen),
        "student": ("KD", seen if seen.startswith("Original") else f"Original + {seen}", "Original"),
    }[model]
    return f"ours: {name}, {group.protocol['model']}{tag}", joined, training, inference


def _mark(notes: list[str], group: Group, network: str) -> str:
    """The numbers of a row's footnotes, such as ` [1, 2]`; new ones are added to `notes`."""
    texts = [_in_words(group)]
    lacks = []
    if group.protocol["model"] != network:
        lacks.append(f"the network is {group.protocol['model']}, not the paper's {network}")
    if group.protocol["weights"] is None:
        lacks.append("it starts from random weights, not from pretrained ones")
    lacks += _other_numbers(group)
    if lacks:
        texts.append(f"Not a reproduction of the paper: {'; '.join(lacks)}.")
    notes += [text for text in texts if text not in notes]
    return f" [{', '.join(str(notes.index(text) + 1) for text in texts)}]"


def _other_numbers(group: Group) -> list[str]:
    """What a group's protocol and test clips differ in from what the paper and the published lists say."""
    said, dataset = group.protocol, group.runs[0].dataset
    wanted = PAPER_PROTOCOL | ({"epochs": PAPER_EPOCHS[dataset]} if dataset in PAPER_EPOCHS else {})
    # Older results do not say all of it.
    found = [f"{key} is {said[key]}, not {value}" for key, value in wanted.items() if said.get(key, value) != value]
    if said["enhancer"] == "zero_dce" and said["teacher_input"] != "dark" and said["enhancer_weights"] is None:
        found.append("Zero-DCE was trained on the run's own frames, not published weights")
    for run in group.runs:
        listed = TEST_CLIPS.get((run.dataset, run.split), run.n)
        if run.n != listed:
            found.append(f"{run.run} was tested on {run.n} clips, the published list has {listed}")
    return found


def _in_words(group: Group) -> str:
    said = group.protocol
    start = "random weights" if said["weights"] is None else f"the weights {said['weights'][:12]}"
    whole = " x ".join(map(str, said["frame_size"]))
    enhancer = said["enhancer"]
    if enhancer == "zero_dce":
        given = said["enhancer_weights"]
        enhancer += " trained on the run's own frames" if given is None else f" with the weights {given[:12]}"
    if enhancer == "gamma":
        enhancer += f" {said.get('enhancer_settings', {}).get('gamma', '')}".rstrip()
    squared = "with" if said["scale_by_temperature_squared"] else "without"
    return (
        f"{', '.join(run.run for run in group.runs)}: {said['model']} with the head {said['head']} from {start}; "
        f"{said['frames']} frames of {said['size']} x {said['size']} pixels, cropped from {whole}; "
        f"teacher's input {said['teacher_input']}, enhancer {enhancer}; {said['epochs']} epochs; soft targets weighted "
        f"{said['kd_weight']:g}, times {said['kd_decay']:g} each epoch, at temperature {said['temperature']:g}, "
        f"{squared} its square as a factor; seed {said['seed']}. Test: {said['clips']} clip(s) a video, crops "
        f"{said['crops']}, average of {said['average']}."
    )


def _run_notes(runs: Sequence[RunResult]) -> list[str]:
    notes = [f"{run.run}: {run.leaks}." for run in runs if run.leaks]
    return notes + [
        f"{run.run}: no labels, so no figures; predictions in data/{run.run}/predictions.csv."
        for run in runs
        if not run.n
    ]

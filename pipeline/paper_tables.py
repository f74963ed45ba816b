"""Tables 1 to 4 of the paper, its figures as printed and ours beside them, as Markdown or LaTeX.

A mean is taken over the splits of one data set and tag, and only where all of them were run by one protocol.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from types import UnionType
from typing import Any

from pipeline.clips.clip_index import leak_note

MODELS = ("baseline", "teacher", "student")
SPLITS = {"arid": 3, "arid15": 1, "dark48": 3, "ug2": 1}
"""Splits that each data set has; ARID v1.5 and UG2+ are published with one."""
COLUMNS = (1, 2, 3)
FILES = ("metrics", "details", "statistics")
RUN_NAME = re.compile(r"(arid|arid15|dark48|ug2)(?:-([a-z0-9]+))?-([0-9]+)")
DASH = "-"

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


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table ready to be printed; all texts plain, not yet escaped."""

    title: str
    """Number, data set and measure."""
    header: tuple[str, ...]
    """Names of the columns."""
    rows: tuple[tuple[str, ...], ...]
    """Cells, as many a row as the header has."""
    notes: tuple[str, ...]
    """Footnotes; a number in brackets is what rows refer to."""


@dataclass(frozen=True, kw_only=True)
class Ours:
    """Which of our results stands beside a row of the paper."""

    model: str
    """baseline, teacher or student."""
    wants: Mapping[str, str]
    """What the protocol of its runs must say."""
    network: str = "r2plus1d_34"
    """The network that the paper's figure belongs to."""


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A row as the paper prints it."""

    name: str
    """Method or model."""
    lead: tuple[str, ...] = ()
    """Table 1 alone: how features are joined, input in training, input at inference."""
    paper: str
    """Accuracy in percent."""
    ours: Ours | None = None
    """None: nothing of ours is comparable."""


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table of the paper."""

    title: str
    """Number, data set and measure."""
    dataset: str
    """Whose runs stand in it."""
    lead: tuple[str, ...] = ("Model",)
    """Columns before the figures."""
    measures: tuple[str, ...] = ("top1",)
    """top1, or top1 and top5, which share the cells."""
    rows: tuple[PaperRow, ...]
    """In the paper's order."""
    only: Mapping[str, str] = field(default_factory=dict)
    """What a run's protocol must say to stand in it at all."""
    notes: tuple[str, ...] = ()
    """What is to be known about the paper's figures."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The runs of one data set and tag, all by one protocol."""

    tag: str
    """Empty for the plain one."""
    protocol: Mapping[str, Any]
    """That of every run."""
    runs: tuple[RunResult, ...]
    """By split."""


DL_KDD = {"teacher_input": "enhanced", "enhancer": "zero_dce", "model": "r2plus1d_34"}
BACKBONE, TEACHER, STUDENT = (Ours(model=model, wants=DL_KDD) for model in MODELS)
DARKLIGHT = Ours(model="teacher", wants={"teacher_input": "both", "enhancer": "gamma"})
SWIN = Ours(model="baseline", wants={"model": "swin3d_b"}, network="swin3d_b")

RAW = (DASH, "Original", "Original")
ZERO_DCE = (DASH, "ZeroDCE", "ZeroDCE")
FLOW = ("Two-Stream", "Original + Optical Flow", "Original + Optical Flow")
GIC = ("Two-Stream", "Original + GIC", "Original + GIC")
KD = ("KD", "Original + ZeroDCE", "Original")

# Reference: the lists hold 823, 859 and 852 test clips of ARID, and 1763 of Dark-48 in each split.
ARID_NOTE = (
    "The paper's 97.64, 95.73 and 92.97 are not attainable as k/823, k/859 or k/852, the test clips of the three "
    "splits, and so must be means over splits (or come from other lists): compare them with our mean, not with one "
    "split."
)
DARK48_NOTE = (
    "The paper's 52.26 and 80.18 are not attainable as k/1763, the test clips of each split, and so must be means over "
    "splits (or come from other lists); 80.18 is no k/5289 either, so at most a mean of rounded figures."
)
ARID15_NOTE = "The lists of ARID v1.5 are not published: that our split is the paper's cannot be shown."
TEST_NOTE = (
    "The paper does not say how many clips and crops of a test video it averages, nor which epoch it reports; how ours "
    "were tested is said with each of them."
)

PAPER_TABLES = (
    PaperTable(
        title="Table 1. ARID, top-1 accuracy (%)",
        dataset="arid",
        lead=("Model", "Method", "Input in training", "Input at inference"),
        rows=(
            PaperRow(name="I3D-RGB", lead=RAW, paper="68.29"),
            PaperRow(name="I3D Two-stream", lead=FLOW, paper="72.78"),
            PaperRow(name="3D-ResNet-101", lead=RAW, paper="71.57"),
            PaperRow(name="3D-ResNext-101", lead=RAW, paper="74.73"),
            PaperRow(name="Video-Swin-B", lead=RAW, paper="89.79", ours=SWIN),
            PaperRow(name="DarkLight", lead=GIC, paper="94.04", ours=DARKLIGHT),
            PaperRow(name="DTCM", lead=ZERO_DCE, paper="96.36"),
            PaperRow(name="R(2+1)D-GCN+BERT", lead=ZERO_DCE, paper="96.60"),
            PaperRow(name="DL-KDD (Ours)", lead=KD, paper="97.64", ours=STUDENT),
        ),
        notes=(ARID_NOTE, TEST_NOTE),
    ),
    PaperTable(
        title="Table 2. ARID v1.5, top-1 accuracy (%)",
        dataset="arid15",
        rows=(
            PaperRow(name="I3D-RGB", paper="48.75"),
            PaperRow(name="I3D Two-stream", paper="51.24"),
            PaperRow(name="DarkLight", paper="84.13", ours=DARKLIGHT),
            PaperRow(name="R(2+1)D-GCN+BERT", paper="86.93"),
            PaperRow(name="DL-KDD (Ours)", paper="88.12", ours=STUDENT),
        ),
        notes=(ARID15_NOTE, TEST_NOTE),
    ),
    PaperTable(
        title="Table 3. Dark-48, top-1 / top-5 accuracy (%)",
        dataset="dark48",
        measures=("top1", "top5"),
        rows=(
            PaperRow(name="I3D-RGB", paper="32.25 / 65.35"),
            PaperRow(name="3D-ResNext-101", paper="37.23 / 68.86"),
            PaperRow(name="DarkLight", paper="42.27 / 70.47", ours=DARKLIGHT),
            PaperRow(name="DTCM", paper="46.68 / 75.92"),
            PaperRow(name="DL-KDD (Ours)", paper="52.26 / 80.18", ours=STUDENT),
        ),
        notes=(DARK48_NOTE, TEST_NOTE),
    ),
    PaperTable(
        title="Table 4. ARID, with and without distillation, top-1 accuracy (%)",
        dataset="arid",
        rows=(
            PaperRow(name="Backbone Only", paper="92.97", ours=BACKBONE),
            PaperRow(name="DL-KDD-Teacher", paper="95.73", ours=TEACHER),
            PaperRow(name="DL-KDD-Student (Ours)", paper="97.64", ours=STUDENT),
        ),
        only=DL_KDD,
        notes=(ARID_NOTE, TEST_NOTE),
    ),
    PaperTable(title="UG2+ (in no table of the paper), top-1 accuracy (%)", dataset="ug2", rows=()),
)


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


def as_markdown(tables: Sequence[Table]) -> str:
    """The tables under headings, each with its footnotes as a list."""
    return "\n\n".join(_markdown(table) for table in tables)


def as_latex(tables: Sequence[Table]) -> str:
    """The tables as `tabular` of a line's width, for the body of a document; no package is needed."""
    return "\n\n".join(_latex(table) for table in tables)


def _read_run(folder: Path, dataset: str, tag: str, split: str) -> RunResult:
    if split not in map(str, COLUMNS):
        raise ValueError(
            f"{folder}: found split {split}, wanted one of {', '.join(map(str, COLUMNS))}; rename the run or move its "
            "folder elsewhere"
        )
    metrics_file, details_file, statistics_file = (folder / f"{name}.json" for name in FILES)
    metrics, details, statistics = (_read(file) for file in (metrics_file, details_file, statistics_file))
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


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file beside metrics.json; run `dvc repro` again")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON ({error}); remove it and run `dvc repro` again") from error
    whole: dict[str, Any] = _part(path, {"content": content}, ("content",), dict)
    return whole


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
    fitting = [group for group in groups if ours is not None and _fits(group.protocol, ours.wants)]
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
    if lacks:
        texts.append(f"Not a reproduction of the paper: {'; '.join(lacks)}.")
    notes += [text for text in texts if text not in notes]
    return f" [{', '.join(str(notes.index(text) + 1) for text in texts)}]"


def _in_words(group: Group) -> str:
    said = group.protocol
    start = "random weights" if said["weights"] is None else f"the weights {said['weights'][:12]}"
    whole = " x ".join(map(str, said["frame_size"]))
    enhancer = said["enhancer"]
    if enhancer == "zero_dce":
        given = said["enhancer_weights"]
        enhancer += " trained on the run's own frames" if given is None else f" with the weights {given[:12]}"
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


def _markdown(table: Table) -> str:
    blocks = [f"### {table.title}"]
    if table.rows:
        lines = [table.header, ("---",) * len(table.header), *table.rows]
        blocks.append("\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines))
    if table.notes:
        blocks.append("\n".join(f"* {note}" for note in table.notes))
    return "\n\n".join(blocks)


def _latex(table: Table) -> str:
    lines = [r"\begin{center}", rf"\textbf{{{_escaped(table.title)}}}\par\medskip"]
    if table.rows:
        body = [" & ".join(map(_latex_cell, line)) + r" \tabularnewline" for line in (table.header, *table.rows)]
        columns = "".join(rf"p{{{width:.3f}\linewidth}}" for width in _widths(table))
        lines += [r"\scriptsize\setlength{\tabcolsep}{2pt}", rf"\begin{{tabular}}{{{columns}}}"]
        lines += [r"\hline", body[0], r"\hline", *body[1:], r"\hline", r"\end{tabular}"]
    lines.append(r"\end{center}")
    # Paragraphs, as the bullets of a list come from a font that a bare LaTeX may lack.
    notes = [rf"{_escaped(note)}\par" for note in table.notes]
    return "\n".join([*lines, r"{\footnotesize\setlength{\parindent}{0pt}", *notes, "}"])


def _widths(table: Table) -> list[float]:
    """Widths of the columns as shares of the line, by their longest word and a little by their longest cell."""
    columns = list(zip(table.header, *table.rows, strict=True))
    needs = [max(map(len, " ".join(cells).split())) + 0.1 * max(map(len, cells)) for cells in columns]
    # The rest is for the gaps between the columns.
    return [0.88 * need / sum(needs) for need in needs]


def _latex_cell(cell: str) -> str:
    return r"\raggedright " + ("--" if cell == DASH else _escaped(cell))


# Brackets too: behind some commands they would open an optional argument.
LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}"}
)


def _escaped(text: str) -> str:
    return text.translate(LATEX)

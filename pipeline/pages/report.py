"""The page of a run: how it turned out, where its models fail, and what it was made with."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.clips.clip_index import leak_note
from pipeline.pages.blocks import Block, Cell, Charts, Facts, Page, Pictures, Row, Section, Table, Text
from pipeline.pages.blocks import Picture as Shown
from pipeline.pages.charts import Interval, interval_chart, line_chart
from pipeline.pages.page import picture_in, write_page
from pipeline.pages.report_answers import calibration, classes, confusion, darkness, disagreements
from pipeline.pages.report_frames import frames
from pipeline.pages.report_origin import origin
from pipeline.pages.run_files import RunFiles, read_run, without_labels
from pipeline.tables.paper_rows import MODELS
from pipeline.tables.run_table import comparison
from pipeline.version import VERSION


def write_report(folder: Path, out: Path, *, videos: Path | None, params: Path, surroundings: bool) -> None:
    """Write a run's page. It holds no clock: the same files give the same page.

    Args:
        folder: of the run, data/<run>.
        out: the page, html.
        videos: root that clip ids are relative to; None leaves frames out.
        params: params.yaml that the run was made with; dvc.lock is looked for beside it.
        surroundings: also show what no stage writes: dvc.lock, all of params.yaml, cost.json.

    Raises:
        ValueError: the run has not been evaluated, or a file is damaged.
        OSError: the page cannot be written.
    """
    run = read_run(folder)
    if not surroundings:
        run = dataclasses.replace(run, cost={})
    try:
        page = report_page(run, videos=videos, params=params, surroundings=surroundings)
    except KeyError as error:
        raise ValueError(
            f"{folder}: metrics.json, details.json, a curve, or cost.json where it is there, lacks {error}; run the "
            "stage that writes it, or `dlkdd cost`, again"
        ) from error
    write_page(out, page)


def report_page(run: RunFiles, *, videos: Path | None, params: Path, surroundings: bool) -> Page:
    """Lay a run out; sections without anything to show are left out."""
    labelled = without_labels(run)
    parts: list[tuple[str, str, Iterator[Block]]] = [
        ("results", "Results", _results(run)),
        ("disagreements", "Teacher against student", disagreements(labelled)),
        ("classes", "By class", classes(run)),
        ("confusion", "Confusion", confusion(run)),
        ("calibration", "Calibration", calibration(labelled)),
        ("darkness", "By darkness", darkness(run)),
        ("curves", "Learning curves", _curves(run)),
        ("frames", "Best and worst clips", frames(labelled, videos)),
        ("enhancer", "Enhancer", _enhancer(run)),
        ("data", "Data", _data(run)),
        ("cost", "Cost", _cost(run)),
        ("origin", "Where it comes from", origin(run, params, surroundings=surroundings)),
    ]
    sections = [Section(id=name, title=title, blocks=list(blocks)) for name, title, blocks in parts]
    return Page(
        title=f"Run {run.name}",
        lead=list(_lead(run)),
        sections=[section for section in sections if section.blocks],
        footer=f"dlkdd report, dl-kdd {VERSION}.",
    )


def _lead(run: RunFiles) -> Iterator[str]:
    metrics = run.metrics
    if metrics["n"] == 0:
        yield f"{len(run.answers)} test clips without labels: predictions, and nothing to measure them by."
        return
    names = run.details.get("class_names", [])
    chance = f" of {len(names)} classes (chance {1 / len(names):.3f})" if names else ""
    yield f"{metrics['n']} test clips{chance}; intervals are 95 %."
    for other in ("baseline", "teacher"):
        text = comparison(metrics, other)
        yield f"{text[:1].upper()}{text[1:]}."


def _results(run: RunFiles) -> Iterator[Block]:
    metrics = run.metrics
    if metrics["n"] == 0:
        return
    top1 = [_interval(metrics, model, "top1", model, model) for model in MODELS]
    differences = [
        Interval(
            name=f"minus {other}",
            series=other,
            value=metrics[f"student_minus_{other}"]["difference"],
            low=metrics[f"student_minus_{other}"]["difference_low"],
            high=metrics[f"student_minus_{other}"]["difference_high"],
        )
        for other in ("baseline", "teacher")
    ]
    room = max(0.1, *(max(abs(each.low), abs(each.high)) for each in differences))
    yield Charts(
        charts=[
            interval_chart("Top-1", top1, x_label="share of test clips that is right"),
            interval_chart("Student's top-1", differences, x_label="difference", x_range=(-room, room)),
        ]
    )
    most = next(
        (key for key in metrics["student"] if key.startswith("top") and key[3:].isdigit() and key != "top1"), ""
    )
    measures = {
        "top1": "top-1",
        **({most: f"top-{most[3:]}"} if most else {}),
        "calibration_error": "calibration error",
    }
    rows: list[Row] = []
    for model in MODELS:
        row: list[str | Cell] = [model]
        for measure in measures:
            found = _interval(metrics, model, measure, model, model)
            row += [Cell(text=f"{found.value:.3f}", value=found.value), f"{found.low:.3f} - {found.high:.3f}"]
        rows.append(row)
    headers = ["model", *(text for name in measures.values() for text in (name, "95 % interval"))]
    columns = frozenset(range(1, len(headers)))
    yield Table(caption=f"Results on {metrics['n']} test clips", headers=headers, rows=rows, numeric=columns)


def _interval(metrics: Mapping[str, Any], model: str, measure: str, name: str, series: str) -> Interval:
    found = metrics[model]
    return Interval(
        name=name, series=series, value=found[measure], low=found[f"{measure}_low"], high=found[f"{measure}_high"]
    )


def _curves(run: RunFiles) -> Iterator[Block]:
    wanted = {"loss": ("Loss", None), "top1": ("Top-1 in training", (0.0, 1.0)), "lr": ("Learning rate", None)}
    known = [name for name in wanted if any(name in row for rows in run.curves.values() for row in rows)]
    drawn = []
    for name in known:
        title, y_range = wanted[name]
        lines = {
            model: [(row["epoch"], row[name]) for row in rows if name in row] for model, rows in run.curves.items()
        }
        lines = {model: line for model, line in lines.items() if line}
        drawn.append(line_chart(title, lines, x_label="epoch", y_label="", y_range=y_range))
    if drawn:
        yield Text(
            text="Of the training views, as they were drawn. The teacher sees enhanced frames, student and baseline "
            "dark ones; the student's loss holds the soft targets as well, so losses do not compare between models."
        )
        yield Charts(charts=drawn)


def _enhancer(run: RunFiles) -> Iterator[Block]:
    figures = run.enhancer
    if figures:
        yield Facts(
            items=[
                ("mean of dark frames", f"{figures['dark_mean']:.3f}"),
                ("mean enhanced", f"{figures['enhanced_mean']:.3f}"),
                ("way to the target", f"{figures['move']:.0%}"),
                ("colour cast", f"{figures['colour_cast']:.2f} times"),
                ("held-out frames", str(figures["held_out_frames"])),
                ("weights", str(figures["origin"])),
            ]
        )
    sheet = run.folder / "enhancer.png"
    if sheet.is_file():
        alt = "Middle frames of held-out training clips: above as they are, below enhanced."
        shown = Shown(sources=[(picture_in(sheet), alt)], caption=alt, width=720)
        yield Pictures(title="Held-out frames", pictures=[shown])


def _data(run: RunFiles) -> Iterator[Block]:
    statistics = run.statistics
    if not statistics:
        return
    counts = statistics.get("clips", {})
    yield Facts(
        items=[
            *((f"{subset} clips", str(sum(of_class.values()))) for subset, of_class in counts.items()),
            ("mean luma code", f"{statistics['mean_luma']:.1f}"),
            ("codes below 16", f"{statistics['dark_share']:.3%}"),
            ("mean R, G, B", ", ".join(f"{value:.3f}" for value in statistics["mean"])),
            ("std R, G, B", ", ".join(f"{value:.3f}" for value in statistics["std"])),
        ]
    )
    leaks = statistics.get("leaks", {})
    note = leak_note(leaks, sum(counts.get("test", {}).values())) if isinstance(leaks, Mapping) else ""
    if note:
        yield Text(tone="problem", text=f"Leak between train and test: {note}.")
    for doubled in statistics.get("doubled", []):
        yield Text(tone="note", text=f"{doubled}.")
    names = sorted({name for of_class in counts.values() for name in of_class})
    yield Table(
        caption="Clips by class",
        headers=["class", *counts],
        rows=[[name, *(str(of_class.get(name, 0)) for of_class in counts.values())] for name in names],
        numeric=frozenset(range(1, len(counts) + 1)),
        sortable=True,
    )


def _cost(run: RunFiles) -> Iterator[Block]:
    rows = []
    for model, timings in run.timings.items():
        weights = run.folder / f"{model}.safetensors"
        size = f"{weights.stat().st_size / 1e6:.1f} MB" if weights.is_file() else ""
        rows.append([model, f"{timings['seconds']:.0f}", f"{timings['peak_memory_bytes'] / 1e9:.2f} GB", size])
    if rows:
        headers = ["model", "training s", "peak memory", "checkpoint"]
        yield Table(caption="Training", headers=headers, rows=rows, numeric=frozenset({1, 2, 3}))
    methods = run.cost.get("methods", {})
    if methods:
        told = ", ".join(f"{name} {value}" for name, value in run.cost.get("machine", {}).items())
        yield Table(
            caption=f"An answer ({told})",
            headers=["method", "parameters", "GMAC", "seconds", "peak memory"],
            rows=[
                [
                    name,
                    f"{found['parameters'] / 1e6:.2f} M",
                    f"{found['macs'] / 1e9:.2f}",
                    f"{found['latency_sec']:.3f}",
                    f"{found['peak_bytes'] / 1e6:.0f} MB",
                ]
                for name, found in methods.items()
            ],
            numeric=frozenset({1, 2, 3, 4}),
        )

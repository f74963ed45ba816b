"""Where a run's models are right and wrong: by clip, class, confidence and darkness."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.pages.blocks import Block, Cell, Charts, Code, Facts, Folded, Listing, Row, Table, Text
from pipeline.pages.charts import Interval, ReliabilityBin, interval_chart, line_chart, reliability_chart
from pipeline.pages.run_files import Answer, RunFiles
from pipeline.tables.paper_rows import MODELS
from pipeline.training.metrics import wilson_interval

MOST_ROWS = 2000
MOST_CLASSES_DRAWN = 24
MOST_CLASSES_CONFUSED = 40
"""Classes up to which the whole matrix is shown; above it the most frequent mistakes alone."""
MOST_MISTAKES = 15


def disagreements(run: RunFiles) -> Iterator[Block]:
    """How student and teacher differ, and the clips on which they do."""
    answers = run.answers
    if not answers:
        return
    both = (True, False)
    for other in ("teacher", "baseline"):
        counts = [
            [sum((answer.right("student"), answer.right(other)) == (mine, its) for answer in answers) for its in both]
            for mine in both
        ]
        rows = [
            [f"student {word}", *(str(count) for count in row)]
            for word, row in zip(("right", "wrong"), counts, strict=True)
        ]
        headers = ["clips", f"{other} right", f"{other} wrong"]
        yield Table(caption=f"Student and {other}", headers=headers, rows=rows, numeric=frozenset({1, 2}))
    apart = [answer for answer in answers if answer.answers["student"] != answer.answers["teacher"]]
    yield Text(text=f"Student and teacher answer {len(apart)} of {len(answers)} test clips differently.")
    if apart:
        headers = ["clip", "class", "student", "p(student)", "teacher", "p(teacher)", "baseline", "right"]
        yield Table(
            caption="Clips on which student and teacher disagree" + _cut(apart),
            headers=headers,
            rows=[_answer_row(answer) for answer in apart[:MOST_ROWS]],
            numeric=frozenset({3, 5}),
            sortable=True,
        )


def classes(run: RunFiles) -> Iterator[Block]:
    """Precision and recall by class."""
    found = {model: run.details.get(model, {}).get("per_class", {}) for model in MODELS}
    names = list(found["student"])
    if not names:
        return
    drawn = [
        Interval(
            name=name,
            series=model,
            value=found[model][name]["recall"],
            low=found[model][name]["recall_low"],
            high=found[model][name]["recall_high"],
        )
        for name in names[:MOST_CLASSES_DRAWN]
        for model in MODELS
    ]
    yield Charts(charts=[interval_chart("Recall by class", drawn, x_label="recall")])
    rows: list[Row] = []
    for name in names:
        row: list[str | Cell] = [name, str(found["student"][name]["n"])]
        for model in MODELS:
            row += [f"{found[model][name]['precision']:.3f}", f"{found[model][name]['recall']:.3f}"]
        rows.append(row)
    headers = ["class", "n", *(f"{model} {measure}" for model in MODELS for measure in ("precision", "recall"))]
    columns = frozenset(range(1, len(headers)))
    yield Table(caption="Precision and recall by class", headers=headers, rows=rows, numeric=columns, sortable=True)


def confusion(run: RunFiles) -> Iterator[Block]:
    """The student's confusion matrix with the most frequent mistakes, and the others' folded."""
    names = run.details.get("class_names", [])
    matrices = {model: run.details.get(model, {}).get("confusion") for model in MODELS}
    if not names or not matrices["student"]:
        return
    mistakes = sorted(
        (
            (count, names[label], names[answer])
            for label, row in enumerate(matrices["student"])
            for answer, count in enumerate(row)
            if count and label != answer
        ),
        key=lambda mistake: (-mistake[0], mistake[1:]),
    )
    if mistakes:
        yield Text(text="The student's most frequent mistakes:")
        yield Listing(
            items=[f"{count} x {label} taken for {answer}" for count, label, answer in mistakes[:MOST_MISTAKES]]
        )
    if len(names) <= MOST_CLASSES_CONFUSED:
        yield _matrix("student", matrices["student"], names)
        for model in ("teacher", "baseline"):
            if matrices[model]:
                yield Folded(title=f"The {model}'s", blocks=[_matrix(model, matrices[model], names)])


def calibration(run: RunFiles) -> Iterator[Block]:
    """Whether probabilities mean what they say."""
    if not run.answers:
        return
    yield Text(
        text="Test clips by the probability of their answer. A calibrated model is right in 70 % of the answers that "
        "it gives with probability 0.7: its dots lie on the diagonal. Larger dots hold more clips."
    )
    yield Facts(
        items=[
            (f"{model}: calibration error", _with_interval(run.metrics[model], "calibration_error"))
            for model in MODELS
            if "calibration_error" in run.metrics.get(model, {})
        ]
    )
    yield Charts(
        charts=[
            reliability_chart(model.capitalize(), reliability(run.details[model]["reliability"]), series=model)
            for model in MODELS
            if "reliability" in run.details.get(model, {})
        ]
    )


def reliability(found: Sequence[Mapping[str, Any]]) -> list[ReliabilityBin]:
    """What evaluate writes under a model's `reliability`, with 95 % Wilson intervals of the accuracy."""
    bins = []
    for each in found:
        low, high = wilson_interval(round(each["accuracy"] * each["count"]), each["count"])
        told = {key: each[key] for key in ("low", "high", "count", "confidence", "accuracy")}
        bins.append(ReliabilityBin(**told, accuracy_low=low, accuracy_high=high))
    return bins


def darkness(run: RunFiles) -> Iterator[Block]:
    """What evaluate writes under `darkness`: top-1 by luma, and over synthetic exposure.

    `bins` is a list of {low, high, n, <model>: {top1, top1_low, top1_high}} by mean luma code, `stress` one of
    {ev, n, <model>: {...}}. Anything else there is shown as it stands.
    """
    found = run.details.get("darkness")
    if not found:
        return
    charts = []
    if bins := found.get("bins"):
        drawn = [
            _interval_of(each, model, f"{each['low']:.0f} to {each['high']:.0f}, n {each['n']}")
            for each in bins
            for model in MODELS
            if model in each
        ]
        charts.append(interval_chart("Top-1 by mean luma code", drawn, x_label="share that is right"))
    if stress := sorted(found.get("stress", []), key=lambda each: -each["ev"]):
        models = [model for model in MODELS if all(model in each for each in stress)]
        lines = {model: [(-each["ev"], each[model]["top1"]) for each in stress] for model in models}
        charts.append(
            line_chart(
                "Top-1 over synthetic darkening", lines, x_label="stops darker (-EV)", y_label="", y_range=(0, 1)
            )
        )
    if charts:
        yield Charts(charts=charts)
    if stress:
        yield Table(
            caption="Top-1 over synthetic darkening, with 95 % intervals",
            headers=["EV", "clips", *models],
            rows=[
                [f"{each['ev']:g}", str(each["n"]), *(_with_interval(each[model], "top1") for model in models)]
                for each in stress
            ],
            numeric=frozenset(range(1, len(models) + 2)),
        )
    if other := {name: value for name, value in found.items() if name not in ("bins", "stress")}:
        yield Folded(title="More", blocks=[Code(label="Darkness", text=json.dumps(other, indent=1))])


def _matrix(model: str, matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Table:
    rows: list[Row] = []
    for name, counts in zip(names, matrix, strict=True):
        total = max(1, sum(counts))
        cells = [Cell(text=str(count), heat=round(9 * count / total) if count else None) for count in counts]
        rows.append([name, *cells])
    return Table(
        caption=f"The {model}'s answers (columns) by class (rows); shaded by their share of the row",
        headers=["class", *names],
        rows=rows,
        numeric=frozenset(range(1, len(names) + 1)),
    )


def _answer_row(answer: Answer) -> Row:
    right = [model for model in MODELS if answer.right(model)]
    row: list[str | Cell] = [answer.id, answer.class_name]
    for model in ("student", "teacher"):
        row += [answer.answers[model], f"{answer.probabilities[model]:.3f}"]
    return [*row, answer.answers["baseline"], ", ".join(right) or "none"]


def _interval_of(found: Mapping[str, Any], model: str, name: str) -> Interval:
    of_model = found[model]
    return Interval(
        name=name, series=model, value=of_model["top1"], low=of_model["top1_low"], high=of_model["top1_high"]
    )


def _with_interval(found: Mapping[str, Any], measure: str) -> str:
    return f"{found[measure]:.3f} ({found[f'{measure}_low']:.3f} - {found[f'{measure}_high']:.3f})"


def _cut(rows: Sequence[Any]) -> str:
    return f", the first {MOST_ROWS} of {len(rows)}" if len(rows) > MOST_ROWS else ""

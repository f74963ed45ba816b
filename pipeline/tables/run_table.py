"""The results of a run as text: for the terminal, and for docs/."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.clips.clip_index import leak_note
from pipeline.clips.files import replacing
from pipeline.mapping_file import read_json
from pipeline.tables.paper_rows import MODELS

REMEDY = "run `dvc repro` first"
TIMINGS = ("seconds", "peak_memory_bytes")
FIGURES = ("top1", "top1_low", "top1_high", "calibration_error", "calibration_error_low", "calibration_error_high")
DIFFERENCES = ("difference", "difference_low", "difference_high", "p_value", "only_first", "only_second")


def read_metrics(path: Path) -> dict[str, Any]:
    """What metrics.json holds: figures of each model and of their differences, but for test clips without labels.

    Raises:
        ValueError: the file is missing, or lacks a figure; names both.
        OSError: it cannot be read.
    """
    content = read_json(path, remedy=REMEDY, keys=("n",))
    wanted = dict.fromkeys(MODELS, FIGURES) | {f"student_minus_{other}": DIFFERENCES for other in MODELS[:2]}
    for name, keys in wanted.items() if content["n"] else ():
        figures = content.get(name)
        missing = [key for key in keys if not isinstance(figures, Mapping) or key not in figures]
        if missing:
            raise ValueError(f"{path}: {name}: found no {', '.join(missing)}; {REMEDY}")
    return content


def read_results(folder: Path, run: str) -> dict[str, Any]:
    """All figures of a run as one record.

    Raises:
        ValueError: the run has not been evaluated, or was prepared by a version that wrote leaks otherwise.
    """
    timings = {model: read_json(folder / f"{model}_timings.json", remedy=REMEDY, keys=TIMINGS) for model in MODELS}
    metrics, statistics = read_metrics(folder / "metrics.json"), read_json(folder / "statistics.json", remedy=REMEDY)
    leaks = statistics.get("leaks")
    if not isinstance(leaks, Mapping):
        raise ValueError(f"{folder / 'statistics.json'}: leaks: found {leaks!r}, wanted counts by kind; {REMEDY}")
    # Leaks count all test clips, and n only the labelled ones.
    num_test = sum(statistics.get("clips", {}).get("test", {}).values()) or metrics["n"]
    return {"run": run, "metrics": metrics, "timings": timings, "leak_note": leak_note(leaks, num_test)}


def as_text(results: Mapping[str, Any], folder: Path) -> str:
    """What `dlkdd table` prints: the three models, how they stand to each other, where the files lie."""
    metrics = results["metrics"]
    if metrics["n"] == 0:
        lines = [f"{results['run']}: {_without_labels(results)}", *_leaks(results), ""]
    else:
        lines = [
            f"{results['run']}: {metrics['n']} test clips",
            f"{'model':<10}{'top-1':>7}  {'95 % interval':<15}{'n':>5}{'training s':>12}{'peak memory':>14}",
        ]
        for cells in _rows(results):
            model, top1, interval, n, seconds, memory = cells
            lines.append(f"{model:<10}{top1:>7}  {interval:<15}{n:>5}{seconds:>12}{memory:>14}")
        comparisons = (comparison(metrics, other) for other in ("baseline", "teacher"))
        lines += [*_leaks(results), "", *comparisons, ""]
    files = {
        "page of the run": "report.html",
        "logit store": "logits.h5",
        "checkpoints": "{baseline,teacher,student}.safetensors",
        "metrics": "metrics.json",
        "predictions": "predictions.csv",
        "enhanced frames": "enhancer.png",
    }
    lines += [f"{what:<18}{folder / name}" for what, name in files.items()]
    return "\n".join(lines)


def as_markdown(results: Mapping[str, Any]) -> str:
    """The same as a Markdown table, for docs/."""
    leaks = [f"* {note}." for note in _leaks(results)]
    if results["metrics"]["n"] == 0:
        return "\n".join([f"* {_without_labels(results)}", *leaks])
    lines = ["| model | top-1 | 95 % interval | n | training s | peak memory |", "|---|---|---|---|---|---|"]
    lines += ["| " + " | ".join(cells) + " |" for cells in _rows(results)]
    lines += ["", *leaks, *(f"* {comparison(results['metrics'], other)}." for other in ("baseline", "teacher"))]
    return "\n".join(lines)


def write_into(document: Path, results: Mapping[str, Any]) -> None:
    """Replace a run's table in a document, between `<!-- RUN -->` and `<!-- end RUN -->`, and keep its figures beside.

    Raises:
        ValueError: the document holds no such markers.
    """
    run = results["run"]
    write_block(document, run, as_markdown(results))
    with replacing(document.parent / "results" / f"{run}.json") as partial:
        partial.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_block(document: Path, name: str, table: str) -> None:
    """Replace what a document holds between `<!-- NAME -->` and `<!-- end NAME -->`.

    Raises:
        ValueError: the document holds no such markers.
    """
    text = document.read_text(encoding="utf-8")
    block = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL)
    if block.search(text) is None:
        raise ValueError(f"{document}: holds no lines `<!-- {name} -->` and `<!-- end {name} -->`; add them")
    with replacing(document) as partial:
        partial.write_text(block.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text), encoding="utf-8")


def comparison(metrics: Mapping[str, Any], other: str) -> str:
    """One honest line: the difference, its interval, and whether it can be told from chance."""
    found = metrics[f"student_minus_{other}"]
    low, high = found["difference_low"], found["difference_high"]
    chance = f"p = {found['p_value']:.2f}" if found["p_value"] >= 0.005 else "p < 0.005"
    verdict = "told apart" if found["p_value"] < 0.05 else "not told apart"
    return (
        f"student - {other}: {found['difference']:+.3f} ({low:+.3f} to {high:+.3f}); "
        f"only the student right {found['only_first']}, only the {other} right {found['only_second']}; "
        f"sign test {chance}: {verdict} by these {metrics['n']} clips and one seed"
    )


def _without_labels(results: Mapping[str, Any]) -> str:
    return f"no labels: predictions in data/{results['run']}/predictions.csv"


def _leaks(results: Mapping[str, Any]) -> list[str]:
    """The footnote on leaks, if there is one; records written before there were any have no such key."""
    note = results.get("leak_note", "")
    return [note] if note else []


def _rows(results: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for model in MODELS:
        figures, timings = results["metrics"][model], results["timings"][model]
        rows.append(
            [
                model,
                f"{figures['top1']:.3f}",
                f"{figures['top1_low']:.3f} - {figures['top1_high']:.3f}",
                str(results["metrics"]["n"]),
                f"{timings['seconds']:.0f}",
                f"{timings['peak_memory_bytes'] / 1e9:.2f} GB",
            ]
        )
    return rows

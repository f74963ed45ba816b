"""The results of a run as text."""

import json
from pathlib import Path
from typing import Any

MODELS = ("baseline", "teacher", "student")


def results_table(folder: Path, run: str) -> str:
    """What `dlkdd table` prints of a run: the three models, how they stand to each other, where the files lie.

    Raises:
        ValueError: the run has not been evaluated.
    """
    metrics = _read(folder / "metrics.json")
    lines = [
        f"{run}: {metrics['n']} test clips",
        f"{'model':<10}{'top-1':>7}  {'95 % interval':<15}{'n':>5}{'training s':>12}{'peak memory':>14}",
    ]
    for model in MODELS:
        figures, timings = metrics[model], _read(folder / f"{model}_timings.json")
        interval = f"{figures['top1_low']:.3f} - {figures['top1_high']:.3f}"
        memory = f"{timings['peak_memory_bytes'] / 1e9:.2f} GB"
        row = f"{model:<10}{figures['top1']:>7.3f}  {interval:<15}{metrics['n']:>5}"
        lines.append(f"{row}{timings['seconds']:>12.0f}{memory:>14}")
    lines += ["", *(_comparison(metrics, other) for other in ("baseline", "teacher")), ""]
    files = {
        "logit store": "logits.h5",
        "checkpoints": "{baseline,teacher,student}.safetensors",
        "metrics": "metrics.json",
        "predictions": "predictions.csv",
        "enhancer's frames": "enhancer.png",
    }
    lines += [f"{what:<18}{folder / name}" for what, name in files.items()]
    return "\n".join(lines)


def _comparison(metrics: dict[str, Any], other: str) -> str:
    """One honest line: the difference, its interval, and whether it can be told from chance."""
    found = metrics[f"student_minus_{other}"]
    low, high = found["difference_low"], found["difference_high"]
    verdict = "told apart" if found["p_value"] < 0.05 else "not told apart"
    return (
        f"student - {other}: {found['difference']:+.3f} ({low:+.3f} to {high:+.3f}); "
        f"only the student right {found['only_first']}, only the {other} right {found['only_second']}; "
        f"sign test p = {found['p_value']:.2f}: {verdict} by these {metrics['n']} clips and one seed"
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run `dvc repro` first")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content

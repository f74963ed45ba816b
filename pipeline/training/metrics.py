"""Figures of merit and their intervals.

scipy.stats and torchmetrics are imported where they are called: the one takes half as long as importing torch, the
other longer, and most commands that read this module call neither.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def top_k_hits(logits: NDArray[np.float32], labels: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Whether the label is among the k largest logits; (N, K), (N,) -> (N,). Ties count for the lower index."""
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    hits: NDArray[np.bool_] = (order == labels[:, None]).any(axis=1)
    return hits


def wilson_interval(hits: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share of `hits` in `total` independent clips."""
    from scipy.stats import binomtest

    interval = binomtest(hits, total).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def describe(
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    *,
    bins: int,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """All test figures of one model.

    Args:
        logits: (N, K).
        labels: (N,).
        class_names: K names.
        bins: of the expected calibration error.
        resamples: of the bootstrap over clips behind the calibration error's interval.
        seed: of the resamples.

    Returns:
        Plain values: top1, topk with k = min(5, K) under its own name, each with a 95 % Wilson interval; per class;
        confusion[label][prediction]; expected calibration error with a 95 % interval (normal, bootstrap's spread).
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    k = min(5, len(class_names))
    predicted = logits.argmax(axis=1)
    figures: dict[str, Any] = {}
    for name, count in (("top1", 1), (f"top{k}", k)):
        hits = int(top_k_hits(logits, labels, count).sum())
        low, high = wilson_interval(hits, len(labels))
        figures[name] = hits / len(labels)
        figures[f"{name}_low"], figures[f"{name}_high"] = low, high
    figures["calibration_error"], low, high = _calibration(logits, labels, bins, resamples, seed)
    figures["calibration_error_low"], figures["calibration_error_high"] = low, high
    figures["per_class"] = {
        name: _class_figures(predicted, labels, label)
        for label, name in enumerate(class_names)
        if (labels == label).any()
    }
    confusion = multiclass_confusion_matrix(
        torch.from_numpy(predicted), torch.from_numpy(labels), num_classes=len(class_names)
    )
    figures["confusion"] = confusion.tolist()
    return figures


def reliability_bins(
    logits: NDArray[np.float32], labels: NDArray[np.int64], *, bins: int
) -> list[dict[str, float | int]]:
    """How often answers are right by the probability they are given with; what a reliability diagram draws.

    Args:
        logits: (N, K).
        labels: (N,).
        bins: equal parts of 0 to 1, each from `low` on and below `high`; those without an answer are left out. Their
            differences of confidence and accuracy, weighted by count, add up to the expected calibration error.

    Returns:
        For each part low, high, count, confidence (mean probability) and accuracy (share that is right).
    """
    probabilities = torch.from_numpy(logits).softmax(dim=1).numpy()
    confidence, right = probabilities.max(axis=1), logits.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1, dtype=np.float32)
    part_of = np.minimum(np.searchsorted(edges, confidence, side="right") - 1, bins - 1)
    return [
        {
            "low": part / bins,
            "high": (part + 1) / bins,
            "count": int(inside.sum()),
            "confidence": float(confidence[inside].mean(dtype=np.float64)),
            "accuracy": float(right[inside].mean()),
        }
        for part in range(bins)
        if (inside := part_of == part).any()
    ]


def bootstrap_top1(hits: NDArray[np.bool_], *, resamples: int, seed: int) -> dict[str, float]:
    """Top-1 with the 95 % percentile interval of a bootstrap over clips.

    Where all clips are right, or all wrong, every resample is too, and the bootstrap says nothing: there the interval
    is Wilson's.

    Args:
        hits: (N,) whether a model is right, N at least 1.
        resamples: of the N clips.
        seed: of the resamples; models of one seed see the same ones.
    """
    share = float(hits.mean())
    if share in (0.0, 1.0):
        low, high = wilson_interval(int(hits.sum()), len(hits))
    else:
        rng = np.random.default_rng(seed)
        drawn = [hits[rng.integers(len(hits), size=len(hits))].mean() for _ in range(resamples)]
        low, high = (float(value) for value in np.percentile(drawn, (2.5, 97.5)))
    return {"top1": share, "top1_low": low, "top1_high": high}


def compare(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, float]:
    """Two models on the same clips: difference of top-1 and the exact sign test over the clips that differ.

    Args:
        first: (N,) whether the first model is right.
        second: (N,) whether the second is.

    Returns:
        difference (first - second) with a 95 % interval by the paired normal approximation (where no clip differs, as
        far as Wilson's bound of the share of clips that do), only_first and only_second (clips that one alone gets
        right) and p_value of the two-sided sign test.
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    paired = first.astype(float) - second.astype(float)
    differing = only_first + only_second
    if len(paired) == 1:
        error = 1.0
    elif differing == 0:
        # Where no clip differs the approximation has no width; the share of clips that may is Wilson's bound.
        error = wilson_interval(0, len(paired))[1]
    else:
        error = 1.96 * paired.std(ddof=1) / np.sqrt(len(paired))
    return {
        "difference": float(paired.mean()),
        "difference_low": float(paired.mean() - error),
        "difference_high": float(paired.mean() + error),
        "only_first": only_first,
        "only_second": only_second,
        "p_value": float(binomtest(only_first, differing).pvalue) if differing else 1.0,
    }


def agreement(first: NDArray[np.bool_], second: NDArray[np.bool_], *, names: tuple[str, str]) -> dict[str, int]:
    """Clips that two models get right or wrong, (N,) each: both_right, only_<name> of either, both_wrong."""
    return {
        "both_right": int((first & second).sum()),
        f"only_{names[0]}": int((first & ~second).sum()),
        f"only_{names[1]}": int((~first & second).sum()),
        "both_wrong": int((~first & ~second).sum()),
    }


def _class_figures(predicted: NDArray[np.int64], labels: NDArray[np.int64], label: int) -> dict[str, float]:
    of_class, called = labels == label, predicted == label
    right = int((of_class & called).sum())
    low, high = wilson_interval(right, int(of_class.sum()))
    return {
        "n": int(of_class.sum()),
        "recall": right / int(of_class.sum()),
        "recall_low": low,
        "recall_high": high,
        "precision": right / int(called.sum()) if called.any() else 0.0,
    }


def _calibration(
    logits: NDArray[np.float32], labels: NDArray[np.int64], bins: int, resamples: int, seed: int
) -> tuple[float, float, float]:
    from torchmetrics.functional.classification import multiclass_calibration_error

    probabilities, targets = torch.from_numpy(logits).softmax(dim=1), torch.from_numpy(labels)

    def error_of(chosen: torch.Tensor) -> float:
        error = multiclass_calibration_error(
            probabilities[chosen], targets[chosen], num_classes=logits.shape[1], n_bins=bins, validate_args=False
        )
        return float(error)

    rng = np.random.default_rng(seed)
    everything = torch.arange(len(labels))
    drawn = [error_of(torch.from_numpy(rng.integers(len(labels), size=len(labels)))) for _ in range(resamples)]
    # Resampled clips are unevener than clips, so the resampled errors lie too high: their spread is used, not they.
    error, spread = error_of(everything), 1.96 * float(np.std(drawn, ddof=1))
    return error, max(0.0, error - spread), min(1.0, error + spread)

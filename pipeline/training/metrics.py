"""Figures of merit and their intervals."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_confusion_matrix

Floats = NDArray[np.float64]


def top_k_hits(logits: NDArray[np.float32], labels: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Whether the label is among the k largest logits; (N, K), (N,) -> (N,). Ties count for the lower index."""
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    hits: NDArray[np.bool_] = (order == labels[:, None]).any(axis=1)
    return hits


def wilson_interval(hits: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share of `hits` in `total` independent clips."""
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


def compare(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, float]:
    """Two models on the same clips: difference of top-1 and the exact sign test over the clips that differ.

    Args:
        first: (N,) whether the first model is right.
        second: (N,) whether the second is.

    Returns:
        difference (first - second) with a 95 % interval by the paired normal approximation, only_first and
        only_second (clips that one alone gets right) and p_value of the two-sided sign test.
    """
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    paired = first.astype(float) - second.astype(float)
    error = 1.96 * paired.std(ddof=1) / np.sqrt(len(paired)) if len(paired) > 1 else 1.0
    differing = only_first + only_second
    return {
        "difference": float(paired.mean()),
        "difference_low": float(paired.mean() - error),
        "difference_high": float(paired.mean() + error),
        "only_first": only_first,
        "only_second": only_second,
        "p_value": float(binomtest(only_first, differing).pvalue) if differing else 1.0,
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

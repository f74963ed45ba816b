"""How well models answer by how dark the test clips are as they were filmed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.training.metrics import bootstrap_top1


def by_luma(
    luma: NDArray[np.float64], hits: Mapping[str, NDArray[np.bool_]], *, bins: int, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Top-1 of clips in parts of about as many clips each, from dark to light.

    Args:
        luma: (N,) mean luma code of each clip, 0 to 255.
        hits: by model, (N,) whether it is right.
        bins: parts, cut at quantiles. Fewer where clips are few or equally dark: a luma lies in one part alone.
        resamples: of the bootstrap behind the 95 % intervals.
        seed: of the resamples.

    Returns:
        For each part low and high (its ends, in luma codes; it holds `low`, and `high` in the last part only), n, and
        by model top1, top1_low, top1_high.
    """
    edges = np.unique(np.quantile(luma, np.linspace(0, 1, bins + 1)))
    # All clips equally dark: one part of no width.
    edges = edges if len(edges) > 1 else np.repeat(edges, 2)
    part_of = np.clip(np.searchsorted(edges, luma, side="right") - 1, 0, len(edges) - 2)
    return [
        {
            "low": float(edges[part]),
            "high": float(edges[part + 1]),
            "n": int(inside.sum()),
            **{model: bootstrap_top1(right[inside], resamples=resamples, seed=seed) for model, right in hits.items()},
        }
        for part in range(len(edges) - 1)
        if (inside := part_of == part).any()
    ]

"""How sure a mean or a difference is, over the scenes that were filmed and the seeds that were trained."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
DRAWN_AT_ONCE = 1000
"""Resamples in memory: 8 MB for 1,000 clips of unknown scenes."""
KEPT_GROUPS = 256
"""Draws of no more groups are kept, as a row's cells ask for the same: at most 21 MB each of 10,000 resamples."""
Draws = tuple[NDArray[np.int64], NDArray[np.int64]]
"""How often each seed, (R, S), and each group, (R, G), was drawn in R resamples."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its interval."""

    mean: float
    low: float
    """Bound of the 95 % interval: the percentile of the resampled means."""
    high: float
    clips: int
    """Test clips."""
    groups: int
    """What was resampled of them: scenes, or single clips."""
    seeds: int


def bootstrap(values: NDArray[np.float64], groups: Sequence[object], *, resamples: int, seed: int) -> Estimate:
    """Mean of what was found of every clip with every seed, resampled over groups and seeds together.

    Clips of one scene share what makes them easy or hard, and all clips of one training share its luck: drawing whole
    scenes and whole trainings, with replacement, keeps both. For a paired difference, give differences.

    Args:
        values: (S, N) of S seeds and N test clips, such as 1 for a hit, or a hit minus another model's.
        groups: of each clip, what is drawn whole.
        resamples: draws.
        seed: of the draws.

    Raises:
        ValueError: there is no seed or no clip, or as many groups as clips are not given.
    """
    seeds, clips = values.shape
    if min(seeds, clips, resamples) < 1 or len(groups) != clips:
        raise ValueError(
            f"bootstrap: found {seeds} seeds, {clips} clips, {len(groups)} groups and {resamples} resamples; wanted at "
            "least 1 of each, and a group a clip"
        )
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    member = np.zeros((clips, len(numbers)))
    member[np.arange(clips), [numbers[group] for group in groups]] = 1
    sums, sizes = values @ member, member.sum(axis=0)
    draw = _kept_draws if len(numbers) <= KEPT_GROUPS else _draws
    means = np.concatenate([_means(drawn, sums, sizes) for drawn in draw(seeds, len(numbers), resamples, seed)])
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(
        mean=float(values.mean()), low=float(low), high=float(high), clips=clips, groups=len(numbers), seeds=seeds
    )


def _draws(seeds: int, groups: int, resamples: int, seed: int) -> Iterator[Draws]:
    """Draws with replacement, some at a time."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    for done in range(0, resamples, DRAWN_AT_ONCE):
        size = min(DRAWN_AT_ONCE, resamples - done)
        drawn_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=size)
        yield drawn_seeds, rng.multinomial(groups, np.full(groups, 1 / groups), size=size)


@functools.lru_cache(maxsize=4)
def _kept_draws(seeds: int, groups: int, resamples: int, seed: int) -> Iterable[Draws]:
    return tuple(_draws(seeds, groups, resamples, seed))


def _means(drawn: Draws, sums: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of these draws, from the sums (S, G) of each seed and group."""
    drawn_seeds, drawn_groups = drawn
    totals = ((drawn_seeds @ sums) * drawn_groups).sum(axis=1)
    means: NDArray[np.float64] = totals / (len(sums) * (drawn_groups @ sizes))
    return means

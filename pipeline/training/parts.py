"""The batch of a step in parts, which pass the network one by one: in one process, or shared among several.

The rule. `batch_size` is the clips of one optimizer step, whatever the machine. A batch is cut, in its order, into
`micro_batches` parts of batch_size / micro_batches clips. Each part goes forward and back by itself, so batch
normalisation sees each part alone; gradients are added up, weighted by clips, so that the step's gradient is that of
the mean loss over the batch's clips. P processes take equal shares of neighbouring parts, so P has to divide
`micro_batches`. The result depends on the parameters and, but for rounding, not on P.

The last batch of an epoch may be smaller. It is cut into parts of the same size as far as its clips reach: 5 clips of
a batch of 8 in 4 parts become 2, 2 and 1. So at most one part of an epoch is smaller than the others, as at most one
batch is where nothing is cut. One of a single clip is normalised over that clip's own pixels and times; torch refuses
it where a feature map is down to one value, as it refuses a batch of one clip. A process for which no part is left
takes the first one along with weight 0, since all processes have to meet in every step; what it sees counts nowhere.

Dropout. A batch in one part draws on from where its epoch has come; of several parts each draws as a function of
(seed, epoch, step, part), so that the draws depend on `micro_batches`, but not on the number of processes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from pipeline.clips.dataset import Batch, EpochOrder, ViewDataset, load_keys
from pipeline.training.distributed import Ranks


@dataclass(frozen=True, kw_only=True)
class Part:
    """Clips that pass the network together."""

    batch: Batch
    clips: int
    """How many count: all, or none where an idle process takes the part along."""
    seed: int | None
    """Of dropout; None draws on."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which parts of a batch one process computes."""

    count: int
    """Parts of the whole batch."""
    first: int
    """Number of the first one of this process, 0-based."""
    own: int
    """How many this process computes; 0 for one that takes part 0 along."""

    @property
    def later(self) -> int:
        """Parts that processes of higher numbers compute."""
        return self.count - self.first - self.own


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one process does in one step of the optimizer."""

    clips: int
    """Of the whole batch."""
    share: Share
    parts: list[Part]
    """At least one."""


def check_parts(title: str, *, micro_batches: int, processes: int) -> None:
    """Refuse a number of processes that cannot take equal shares of a batch.

    Args:
        title: for the message.
        micro_batches: parts of a batch.
        processes: that train together.

    Raises:
        ValueError: it does not divide the parts.
    """
    if micro_batches % processes:
        fit = ", ".join(str(number) for number in range(1, micro_batches + 1) if micro_batches % number == 0)
        raise ValueError(
            f"{title}: found {processes} processes and micro_batches: {micro_batches}, wanted a number of processes "
            f"that divides it ({fit}); start so many, or set micro_batches to a multiple of {processes}, which "
            "changes the result: batch normalisation sees each part alone"
        )


def share_of(clips: int, *, part_size: int, ranks: Ranks) -> Share:
    """Which parts of a batch of so many clips this process computes."""
    count = -(-clips // part_size)
    first, end = (count * number // ranks.size for number in (ranks.rank, ranks.rank + 1))
    return Share(count=count, first=first, own=end - first)


class Steps:
    """The steps of training, epoch by epoch, as one process sees them; iterate `of_epoch(t)`."""

    def __init__(
        self,
        dataset: ViewDataset,
        *,
        batch_size: int,
        micro_batches: int,
        seed: int,
        workers: int,
        ranks: Ranks,
    ) -> None:
        """Set up the loader.

        Args:
            dataset: clips and views.
            batch_size: clips a step; the last one of an epoch may be smaller.
            micro_batches: parts of a full batch; divides batch_size.
            seed: shuffles each epoch, and draws dropout where there are several parts.
            workers: reading processes of this process; 0 reads in this one. Changes no pixel and no order.
            ranks: the processes that share the work.
        """
        self._batches = EpochOrder(len(dataset), batch_size=batch_size, seed=seed)
        self._shares = _Shares(
            clips=len(dataset), batch_size=batch_size, part_size=batch_size // micro_batches, ranks=ranks
        )
        self._order = _PartOrder(self._batches, self._shares)
        self._seed = seed if micro_batches > 1 else None
        self._loader = load_keys(
            dataset, self._order, workers=workers, persistent=True, held=max(1, micro_batches // ranks.size)
        )

    def __len__(self) -> int:
        """Steps an epoch."""
        return len(self._batches)

    def of_epoch(self, epoch: int) -> Iterator[Step]:
        """The steps of one epoch."""
        self._batches.epoch = epoch
        loaded = iter(self._loader)
        for step, (clips, share) in enumerate(self._shares.of_epoch()):
            parts = []
            for number in range(share.first, share.first + max(1, share.own)):
                batch = next(loaded)
                seed = None if self._seed is None else _part_seed(self._seed, epoch, step, number)
                parts.append(Part(batch=batch, clips=len(batch.labels) if share.own else 0, seed=seed))
            yield Step(clips=clips, share=share, parts=parts)


@dataclass(frozen=True, kw_only=True)
class _Shares:
    """What one process computes of every batch of an epoch."""

    clips: int
    batch_size: int
    part_size: int
    ranks: Ranks

    def of_epoch(self) -> Iterator[tuple[int, Share]]:
        """Clips of each batch, and this process' share of it."""
        for start in range(0, self.clips, self.batch_size):
            clips = min(self.batch_size, self.clips - start)
            yield clips, share_of(clips, part_size=self.part_size, ranks=self.ranks)


class _PartOrder(Sampler[list[tuple[int, int]]]):
    """The parts of one process as keys, one part after another."""

    def __init__(self, batches: EpochOrder, shares: _Shares) -> None:
        self._batches = batches
        self._shares = shares

    def __len__(self) -> int:
        return sum(max(1, share.own) for _, share in self._shares.of_epoch())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self._shares.part_size
        for keys, (_, share) in zip(self._batches, self._shares.of_epoch(), strict=True):
            first = share.first if share.own else 0
            for number in range(first, first + max(1, share.own)):
                yield keys[number * size : (number + 1) * size]


def _part_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])

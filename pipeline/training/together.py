"""One model trained by several processes: shared gradients, and batch normalisation's statistics as of one process."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from pipeline.training.distributed import Ranks
from pipeline.training.parts import Share, Step


class Together:
    """The model as one process of several trains it; alone, the model itself."""

    def __init__(self, model: nn.Module, ranks: Ranks | None = None) -> None:
        """Give all processes the weights and buffers of the first one.

        Args:
            model: on its device; its state dict stays that of the model alone.
            ranks: the processes; None for one.
        """
        self.ranks = ranks or Ranks()
        self.model = model
        self._shared: DistributedDataParallel | None = None
        if self.ranks.size > 1:
            with self.ranks.meeting():
                # Buffers are not broadcast step by step: `RunningStatistics` keeps them equal.
                self._shared = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
        self._statistics = RunningStatistics(model) if self.ranks.size > 1 else None

    def __call__(self, pixels: Tensor) -> Tensor:
        """Logits (B, K) of views; see Recogniser."""
        logits: Tensor = (self._shared or self.model)(pixels)
        return logits

    @contextlib.contextmanager
    def step(self, step: Step) -> Iterator[None]:
        """Around the forward and backward passes of a step: afterwards the running statistics are those of all."""
        if self._statistics is None:
            yield
            return
        self._statistics.begin()
        yield
        self._statistics.merge(step.share, self.ranks)

    def part(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Around a part's forward and backward pass: gradients meet those of the others in the last part alone."""
        if self._shared is None or last:
            return contextlib.nullcontext()
        waiting: contextlib.AbstractContextManager[None] = self._shared.no_sync()
        return waiting

    def weight(self, clips: int, step: Step) -> float:
        """What the mean loss of so many clips is multiplied with, so that gradients add up to that of the batch's mean.

        The gradients of several processes are averaged, not added, hence their number.
        """
        return self.ranks.size * clips / step.clips


class RunningStatistics:
    """Batch normalisation's running mean and variance over the parts of all processes, in the parts' order.

    One part changes a statistic r to (1 - m) r + m b, with momentum m and the part's own statistic b. That is linear:
    n parts give (1 - m)^n r + c, and c depends on those parts alone. So what P processes have found apart from the
    same r, each from its n_p neighbouring parts, adds up to what one process would have found one after another:

        r' = (1 - m)^N r + sum_p (1 - m)^(parts after p's) c_p   with c_p = r_p - (1 - m)^n_p r and N = sum_p n_p
    """

    def __init__(self, model: nn.Module) -> None:
        norms = [norm for norm in model.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
        self._values = [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]
        self._counts = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
        if not norms:
            return
        sizes = [2 * norm.num_features for norm in norms]
        device = self._values[0].device
        self._norm_of = torch.repeat_interleave(torch.arange(len(norms)), torch.tensor(sizes)).to(device)
        keep = torch.tensor([1.0 - (norm.momentum or 0.0) for norm in norms], device=device)
        self._keep = keep[self._norm_of]
        """1 - m of each value."""

    @torch.no_grad()
    def begin(self) -> None:
        """Remember where a step starts: the same for all processes."""
        if self._counts:
            self._before, self._counts_before = torch.cat(self._values), torch.stack(self._counts)

    @torch.no_grad()
    def merge(self, share: Share, ranks: Ranks) -> None:
        """Put the statistics after a step in place of this process' own; see the class."""
        if not self._counts:
            return
        # A trunk that sees two streams normalises twice a part; an idle process has seen one part that does not count.
        a_part = (torch.stack(self._counts) - self._counts_before) // max(1, share.own)
        updates = a_part[self._norm_of]
        found = torch.cat(self._values) - self._keep ** (updates * share.own) * self._before
        found = found * self._keep ** (updates * share.later) if share.own else torch.zeros_like(found)
        merged = self._keep ** (updates * share.count) * self._before + ranks.total(found)
        for value, part in zip(self._values, torch.split(merged, [len(value) for value in self._values]), strict=True):
            value.copy_(part)
        for count, total in zip(self._counts, self._counts_before + a_part * share.count, strict=True):
            count.copy_(total)

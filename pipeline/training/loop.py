"""The training loop of teacher, student and baseline alike."""

import math
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from pipeline.clips.dataset import Batch, Batches
from pipeline.training.checkpoint import load_state, save_state
from pipeline.training.distributed import Ranks
from pipeline.training.parts import Step, Steps
from pipeline.training.together import Together

Show = Callable[[Sequence[Mapping[str, float]]], None]
"""Takes the rows of all epochs so far; see `Trained.curve`."""
LossOf = Callable[[Tensor, Batch, int], Tensor]
"""(logits (B, K), batch, epoch) -> scalar loss, the mean over the B clips of a part of a step's batch."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate as a function of the step."""

    lr: float
    """Largest learning rate."""
    shape: str
    """constant, or a cosine that would reach zero one step after the last."""
    warmup_steps: int
    """Steps of the linear rise at the start."""
    total_steps: int
    """Steps of the whole training."""

    def at(self, step: int) -> float:
        """Learning rate of a step, 0-based."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.shape == "constant":
            return self.lr
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training ended with."""

    curve: list[dict[str, float]]
    """One row an epoch: epoch, loss, top1 (training), lr, holdout_top1 where clips are held out."""
    weights: dict[str, Tensor]
    """State dict of the chosen epoch."""
    epoch: int
    """The chosen epoch, 0-based."""
    seconds: float
    """Wall time of all epochs, stops not counted."""
    peak_memory_bytes: int
    """Largest resident memory (CPU) or allocated memory (GPU) while training."""


def train_one_epoch(
    together: Together,
    steps: Iterable[Step],
    loss_of: LossOf,
    optimizer: Optimizer,
    schedule: Schedule,
    *,
    epoch: int,
    first_step: int,
    device: torch.device,
) -> dict[str, float]:
    """One pass over the training clips; how a step's batch is cut and shared is told in `parts`.

    Returns:
        Means over the clips of all processes: loss and top1 (in train mode, while the weights move); and the last lr.
    """
    together.model.train()
    loss_sum, hits = torch.zeros((), device=device), torch.zeros((), device=device)
    count, lr = 0, 0.0
    for number, step in enumerate(steps, start=first_step):
        lr = schedule.at(number)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        with together.step(step):
            for part in step.parts:
                batch = part.batch.to(device)
                if part.seed is not None:
                    torch.manual_seed(part.seed)
                with together.part(last=part is step.parts[-1]):
                    logits = together(batch.pixels)
                    loss = loss_of(logits, batch, epoch)
                    (loss * together.weight(part.clips, step)).backward()  # type: ignore[no-untyped-call]
                # Sums stay on the device: reading them each step would wait for the GPU.
                loss_sum += loss.detach() * part.clips
                if part.clips:
                    hits += (logits.detach().argmax(dim=1) == batch.labels).sum()
                count += part.clips
        optimizer.step()
    loss_total, hits_total, count_total = together.ranks.total(torch.stack([loss_sum, hits, hits.new_tensor(count)]))
    return {"loss": float(loss_total) / float(count_total), "top1": float(hits_total) / float(count_total), "lr": lr}


def fit(
    model: nn.Module,
    steps: Steps,
    loss_of: LossOf,
    optimizer: Optimizer,
    schedule: Schedule,
    *,
    epochs: int,
    seed: int,
    device: torch.device,
    state_file: Path,
    holdout: Batches | None,
    select: str,
    title: str,
    ranks: Ranks,
    show: Show | None = None,
) -> Trained:
    """Train from the last finished epoch on to the end, keeping the state of each finished epoch.

    Of several processes the first one alone keeps the state, and measures the held-out clips.

    Args:
        model: pixels -> logits.
        steps: the training clips.
        loss_of: see LossOf.
        optimizer: holds the model's trainable weights.
        schedule: the learning rate.
        epochs: passes in all.
        seed: dropout of epoch t is a function of (seed, t), so that a resumed run draws the same.
        device: where to train.
        state_file: where the state of the last finished epoch is kept.
        holdout: held-out clips, measured after each epoch.
        select: last, or best on the held-out clips (the earliest of equals).
        title: for the progress bar.
        ranks: the processes that train together.
        show: called in the first process with the curve so far, at the start and after each epoch.

    Raises:
        ValueError: the loss is not finite, or `best` is wanted without held-out clips.
        ConnectionError: another process has ended.
    """
    if select == "best" and holdout is None:
        raise ValueError("select: best needs held-out scenes; set prepare.holdout to 1 or more, or select: last")
    # Read by the first and sent to all: on other machines there is no such file.
    kept = ranks.from_first(load_state(state_file) if ranks.first else None)
    state = kept or {"curve": [], "seconds": 0.0, "peak_memory_bytes": 0, "best": None}
    if "model" in state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    if show is not None and ranks.first:
        show(state["curve"])
    together = Together(model, ranks)
    for epoch in _remaining(len(state["curve"]), epochs, title, ranks):
        started = time.perf_counter()
        torch.manual_seed(seed * 1_000_003 + epoch)
        with ranks.meeting():
            row = {"epoch": float(epoch)} | train_one_epoch(
                together,
                steps.of_epoch(epoch),
                loss_of,
                optimizer,
                schedule,
                epoch=epoch,
                first_step=epoch * len(steps),
                device=device,
            )
        if not math.isfinite(row["loss"]):
            left = (
                f"the state before it is kept in {state_file} until the parameters change" if epoch else "none is kept"
            )
            raise ValueError(
                f"{title}: the loss is {row['loss']} in epoch {epoch}, counted from 0; {left}. Lower {title}.lr or "
                "raise warmup_epochs, and start again"
            )
        if not all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
            raise ValueError(f"{title}: weights are not finite after epoch {epoch}; lower the learning rate")
        if holdout is not None:
            row["holdout_top1"] = ranks.from_first(top1(model, holdout, device=device) if ranks.first else 0.0)
        _keep(state, row, model, optimizer, time.perf_counter() - started, device)
        if ranks.first:
            save_state(state_file, state)
            if show is not None:
                show(state["curve"])
    chosen = state["best"] if select == "best" else {"model": state["model"], "epoch": epochs - 1}
    return Trained(
        curve=state["curve"],
        weights=chosen["model"],
        epoch=chosen["epoch"],
        seconds=state["seconds"],
        peak_memory_bytes=state["peak_memory_bytes"],
    )


@torch.no_grad()
def predict(model: nn.Module, batches: Batches, *, device: torch.device, epoch: int = 0) -> Tensor:
    """Logits of a dataset's epoch in its order, float32 (N, K) on the CPU; batches must not be shuffled."""
    model.eval()
    return torch.cat([model(batch.to(device).pixels).float().cpu() for batch in batches.of_epoch(epoch)])


@torch.no_grad()
def top1(model: nn.Module, batches: Batches, *, device: torch.device) -> float:
    """Share of clips whose largest logit is their label."""
    model.eval()
    hits, count = 0, 0
    for host_batch in batches.of_epoch(0):
        batch = host_batch.to(device)
        hits += int((model(batch.pixels).argmax(dim=1) == batch.labels).sum())
        count += len(batch.labels)
    return hits / count


def peak_memory_bytes(device: torch.device) -> int:
    """Largest allocated GPU memory, or largest resident memory of this process, so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024  # kilobytes on Linux, bytes on macOS


def _remaining(done: int, epochs: int, title: str, ranks: Ranks) -> Iterator[int]:
    if done:
        print(f"{title}: goes on after epoch {done} of {epochs}", flush=True)
    name = title if ranks.size == 1 else f"{title}, process 1 of {ranks.size}"
    disable = None if ranks.first else True
    yield from tqdm(range(done, epochs), desc=name, initial=done, total=epochs, unit="epoch", disable=disable)


def _keep(
    state: dict[str, Any],
    row: dict[str, float],
    model: nn.Module,
    optimizer: Optimizer,
    seconds: float,
    device: torch.device,
) -> None:
    """Add a finished epoch to the state."""
    best = max((old["holdout_top1"] for old in state["curve"] if "holdout_top1" in old), default=-1.0)
    state["curve"].append(row)
    state["seconds"] += seconds
    state["peak_memory_bytes"] = max(state["peak_memory_bytes"], peak_memory_bytes(device))
    # Cloned, since the optimizer goes on to write into the live tensors.
    state["model"] = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    state["optimizer"] = optimizer.state_dict()
    if row.get("holdout_top1", -1.0) > best:
        state["best"] = {"model": state["model"], "epoch": len(state["curve"]) - 1}

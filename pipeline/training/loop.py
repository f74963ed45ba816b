"""The training loop of teacher, student and baseline alike."""

import math
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from pipeline.clips.dataset import Batch, Batches
from pipeline.training.checkpoint import load_state, save_state

LossOf = Callable[[Tensor, Batch, int], Tensor]
"""(logits (B, K), batch, epoch) -> scalar loss."""


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
    model: nn.Module,
    batches: Iterable[Batch],
    loss_of: LossOf,
    optimizer: Optimizer,
    schedule: Schedule,
    *,
    epoch: int,
    first_step: int,
    device: torch.device,
) -> dict[str, float]:
    """One pass over the training clips.

    Returns:
        Means over the clips: loss and top1 (in train mode, while the weights move), and the last lr.
    """
    model.train()
    loss_sum, hits = torch.zeros((), device=device), torch.zeros((), device=device)
    count, lr = 0, 0.0
    for step, host_batch in enumerate(batches, start=first_step):
        batch = host_batch.to(device)
        lr = schedule.at(step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        logits = model(batch.pixels)
        loss = loss_of(logits, batch, epoch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        # Sums stay on the device: reading them each step would wait for the GPU.
        loss_sum += loss.detach() * len(batch.labels)
        hits += (logits.detach().argmax(dim=1) == batch.labels).sum()
        count += len(batch.labels)
    return {"loss": float(loss_sum) / count, "top1": float(hits) / count, "lr": lr}


def fit(
    model: nn.Module,
    batches: Batches,
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
) -> Trained:
    """Train from the last finished epoch on to the end, keeping the state of each finished epoch.

    Args:
        model: pixels -> logits.
        batches: the training clips.
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

    Raises:
        ValueError: the loss is not finite, or `best` is wanted without held-out clips.
    """
    if select == "best" and holdout is None:
        raise ValueError("select: best needs held-out scenes; set prepare.holdout to 1 or more, or select: last")
    state = load_state(state_file) or {"curve": [], "seconds": 0.0, "peak_memory_bytes": 0, "best": None}
    if "model" in state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    for epoch in _remaining(len(state["curve"]), epochs, title):
        started = time.perf_counter()
        torch.manual_seed(seed * 1_000_003 + epoch)
        row = {"epoch": float(epoch)} | train_one_epoch(
            model,
            batches.of_epoch(epoch),
            loss_of,
            optimizer,
            schedule,
            epoch=epoch,
            first_step=epoch * len(batches),
            device=device,
        )
        if not math.isfinite(row["loss"]):
            kept = (
                f"the state before it is kept in {state_file} until the parameters change" if epoch else "none is kept"
            )
            raise ValueError(
                f"{title}: the loss is {row['loss']} in epoch {epoch}, counted from 0; {kept}. Lower {title}.lr or "
                "raise warmup_epochs, and start again"
            )
        if not all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
            raise ValueError(f"{title}: weights are not finite after epoch {epoch}; lower the learning rate")
        if holdout is not None:
            row["holdout_top1"] = top1(model, holdout, device=device)
        _keep(state, row, model, optimizer, time.perf_counter() - started, device)
        save_state(state_file, state)
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


def _remaining(done: int, epochs: int, title: str) -> Iterator[int]:
    if done:
        print(f"{title}: goes on after epoch {done} of {epochs}", flush=True)
    yield from tqdm(range(done, epochs), desc=title, initial=done, total=epochs, unit="epoch", disable=None)


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

"""How fast a machine reads and trains: the figures of `dlkdd bench`, on a user's own clips."""

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.clips.clip_index import Clip
from pipeline.clips.dataset import CachePolicy, DrawnViews, FrameSource, ViewDataset, load_keys, open_dark_frames
from pipeline.clips.files import replacing
from pipeline.clips.views import ViewRule
from pipeline.inference.cost import count
from pipeline.inference.rates import matmul_flops
from pipeline.models.recogniser import NORMALIZATIONS, Recogniser
from pipeline.training.classification import new_classifier

Item = TypeVar("Item")

PASSES_OF_A_STEP = 3
"""A training step's operations in forward passes: one forward, and backward twice as many (to inputs and weights)."""
WARM_UP = 2
"""Batches that are read and trained on before any is timed: workers start, memory is asked for."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is read and trained on."""

    clips: Sequence[Clip]
    """Training clips; as many as the batches need are used, from the first on, over again where there are fewer."""
    videos: Path
    """Root that clip ids are relative to."""
    rule: ViewRule
    colour_range: str
    settings: Mapping[str, Any]
    """The network's section of params.yaml: model, head, batch_size, ..."""
    num_classes: int
    precision: str
    """fp32 or bf16."""
    workers: int
    """Processes that read clips."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Medians over the batches."""

    batch_size: int
    decoding_clips_per_sec: float
    """Read from the video files, with the workers."""
    cached_clips_per_sec: float
    """Read from the decode-once cache, which was written just before, with the workers."""
    synthetic_clips_per_sec: float
    """Trained on pixels that are there already: what reading can at most be good for."""
    step_sec: float
    """A training step on such pixels."""
    waiting_while_decoding: float
    """Share of the time of training that waits for a batch from the video files, 0 to 1."""
    waiting_for_the_cache: float
    """The same from the cache."""
    step_flop: int
    """Operations of a training step, PASSES_OF_A_STEP forward passes."""
    matmul_flop_per_sec: float
    """Operations a second of a large matrix product in the same precision."""

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation: the step's operations a second, as a share of the matrix product's."""
        return self.step_flop / self.step_sec / self.matmul_flop_per_sec


def measure(work: Workload, *, batches: int, device: torch.device, folder: Path) -> Speed:
    """Read and train for some batches, from the files, from the cache, and from pixels that are there already.

    Args:
        work: what to read and train on.
        batches: timed batches of each kind, at least 1; WARM_UP more go before.
        device: where to train.
        folder: where the cache is put for the time of the measurement.

    Raises:
        ValueError: no batch or no clip is given, or a video is bad.
        OSError: the disk has no room for the cache.
    """
    if batches < 1 or not work.clips:
        raise ValueError(f"bench: found {batches} batches and {len(work.clips)} clips, wanted at least 1 of each")
    size = work.settings["batch_size"]
    recogniser = _build(work).to(device)
    step = _trainer(recogniser, device)
    pixels = torch.randint(0, 256, (size, work.rule.frames, work.rule.size, work.rule.size, 3), dtype=torch.uint8)
    labels = torch.arange(size) % work.num_classes
    for _ in range(WARM_UP):
        step(pixels, labels)
    step_sec = statistics.median(_seconds(lambda: step(pixels, labels)) for _ in range(batches))
    used = list(itertools.islice(itertools.cycle(work.clips), (batches + WARM_UP) * size))
    with tempfile.TemporaryDirectory(dir=folder, prefix="bench-") as kept:
        decoded, cached = (_open(work, used, Path(kept), mode) for mode in ("off", "on"))
        for _ in _read(work, used, cached):  # fills the cache
            pass
        read = {name: _reading_rate(work, used, source) for name, source in (("files", decoded), ("cache", cached))}
        waits = {name: _waiting(work, used, source, step) for name, source in (("files", decoded), ("cache", cached))}
    return Speed(
        batch_size=size,
        decoding_clips_per_sec=read["files"],
        cached_clips_per_sec=read["cache"],
        synthetic_clips_per_sec=size / step_sec,
        step_sec=step_sec,
        waiting_while_decoding=waits["files"],
        waiting_for_the_cache=waits["cache"],
        step_flop=PASSES_OF_A_STEP * count(recogniser, pixels.shape).flops,
        matmul_flop_per_sec=matmul_flops(device, work.precision),
    )


def as_text(speed: Speed) -> str:
    """The figures as lines for a terminal."""
    return "\n".join(
        [
            f"reading, from the videos   {speed.decoding_clips_per_sec:10.1f} clips/s",
            f"reading, from the cache    {speed.cached_clips_per_sec:10.1f} clips/s",
            f"training, pixels at hand   {speed.synthetic_clips_per_sec:10.1f} clips/s",
            f"training step              {1e3 * speed.step_sec:10.1f} ms, batch {speed.batch_size}",
            f"waiting while decoding     {100 * speed.waiting_while_decoding:10.1f} % of the time",
            f"waiting for the cache      {100 * speed.waiting_for_the_cache:10.1f} % of the time",
            f"operations of a step       {speed.step_flop / 1e9:10.1f} GFLOP",
            f"matrix product             {speed.matmul_flop_per_sec / 1e9:10.1f} GFLOP/s",
            f"MFU                        {100 * speed.mfu:10.1f} %",
        ]
    )


def write(path: Path, speed: Speed) -> None:
    """Write the figures as JSON."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(asdict(speed) | {"mfu": speed.mfu}, indent=1) + "\n", encoding="utf-8")


def _build(work: Workload) -> Recogniser:
    settings = {**work.settings, "weights": None}  # they change no speed
    classifier, _, _ = new_classifier(settings, num_classes=work.num_classes, num_frames=work.rule.frames)
    mean, std = NORMALIZATIONS["kinetics"]
    return Recogniser(classifier, mean=mean, std=std, precision=work.precision).train()


def _trainer(recogniser: Recogniser, device: torch.device) -> Callable[[Tensor, Tensor], None]:
    optimizer = torch.optim.AdamW(recogniser.parameters(), lr=0.0)  # moves nothing, so that no loss runs away

    def step(pixels: Tensor, labels: Tensor) -> None:
        loss = cross_entropy(recogniser(pixels.to(device, non_blocking=True)), labels.to(device, non_blocking=True))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


def _open(work: Workload, clips: Sequence[Clip], folder: Path, mode: str) -> FrameSource:
    cache = CachePolicy(folder=folder, mode=mode, limit_bytes=float("inf"))
    unique = list({clip.id: clip for clip in clips}.values())
    return open_dark_frames(
        unique, work.videos, frame_size=work.rule.frame_size, colour_range=work.colour_range, cache=cache
    )


def _read(work: Workload, clips: Sequence[Clip], source: FrameSource) -> Iterator[Any]:
    """The batches of one pass over the clips."""
    size = work.settings["batch_size"]
    views = DrawnViews(rule=work.rule, mode="consistent", num_views=None)
    dataset = ViewDataset(clips, source=source, view_of=views, size=work.rule.size)
    keys = [[(0, index) for index in range(start, start + size)] for start in range(0, len(clips), size)]
    return iter(load_keys(dataset, keys, workers=work.workers))


def _reading_rate(work: Workload, clips: Sequence[Clip], source: FrameSource) -> float:
    """Clips a second, the warm-up left out."""
    batches = _read(work, clips, source)
    for _ in range(WARM_UP):
        next(batches)
    started = time.perf_counter()
    timed = sum(1 for _ in batches)
    return timed * int(work.settings["batch_size"]) / (time.perf_counter() - started)


def _waiting(
    work: Workload, clips: Sequence[Clip], source: FrameSource, step: Callable[[Tensor, Tensor], None]
) -> float:
    """Share of the time of training that is spent on waiting for batches, the warm-up left out."""
    batches = _read(work, clips, source)
    waited = trained = 0.0
    for number in itertools.count():
        started = time.perf_counter()
        batch = next(batches, None)
        got = time.perf_counter()
        if batch is None:
            return waited / (waited + trained)
        step(batch.pixels, batch.labels)
        if number >= WARM_UP:
            waited += got - started
            trained += time.perf_counter() - got
    raise AssertionError("the loop above ends by itself")


def _seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started

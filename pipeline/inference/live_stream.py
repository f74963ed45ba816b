"""Answers to a live stream: always for the newest frames, with their age."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from pipeline.inference.live_reader import AlsoSees, LiveReader, SeenFrame
from pipeline.inference.predictor import Answer, Predictor
from pipeline.inference.windows import KeptFrame, Window, WindowRule, window_of


@dataclass(frozen=True, kw_only=True)
class LiveSettings:
    """How a stream is followed."""

    windows: WindowRule
    duration_sec: float | None
    """Ends so long after the first frame; None goes on."""
    timeout_sec: float
    """A sender that is silent for so long is given up."""
    retries: int
    """Tries after one that gave no frame."""


@dataclass(kw_only=True)
class Summary:
    """What following a stream came to."""

    name: str
    seconds: float = 0.0
    frames: int = 0
    connections: int = 0
    damaged: int = 0
    dropped: int = 0
    latencies: list[float] = field(default_factory=list)
    """Milliseconds from the arrival of the newest frame to its answer, each answer's."""

    def __str__(self) -> str:
        told = [f"{self.name}: {len(self.latencies)} answers in {self.seconds:.1f} s from {self.frames} frames"]
        if self.latencies:
            median, most, largest = np.quantile(self.latencies, [0.5, 0.95, 1.0])
            told.append(f"latency {median:.0f} ms in the median, {most:.0f} ms in 95 %, {largest:.0f} ms at most")
        told.append(f"reconnections: {max(0, self.connections - 1)}")
        told += [f"damaged frames left out: {self.damaged}"] * (self.damaged > 0)
        told += [f"packets dropped to catch up: {self.dropped}"] * (self.dropped > 0)
        return "; ".join(told)


OnAnswer = Callable[[Answer, dict[str, Any]], None]
"""(answer, its time and latency) -> nothing."""


def follow(
    source: str,
    predictor: Predictor,
    settings: LiveSettings,
    *,
    stop: threading.Event,
    on_answer: OnAnswer,
    tell: Callable[[str], None],
    also: AlsoSees | None = None,
) -> Summary:
    """Answer a live stream until it ends, `stop` is set or the duration is over.

    Each answer is for the newest frames that have come when the one before is done, so its latency is at most what
    one answer takes, plus the lag of the reading, which drops packets from one second on.

    Args:
        source: see `open_live`.
        predictor: the checkpoint.
        settings: windows, time-outs, tries.
        stop: set it to end.
        on_answer: called with each answer.
        tell: called with what the user should know, from another thread too; with the summary where an error follows.
        also: called in the reading thread with every frame; must not wait.

    Raises:
        ValueError: no picture comes, tries and all.
    """
    windows = settings.windows
    reader = LiveReader(
        source,
        predictor.preprocessing,
        windows.length,
        timeout_sec=settings.timeout_sec,
        retries=settings.retries,
        stop=stop,
        tell=tell,
        also=also,
    )
    summary, began = Summary(name=reader.name), time.monotonic()
    newest: SeenFrame | None = None
    reader.start()
    try:
        while frames := reader.newest_window(newest, windows.stride, until=settings.duration_sec):
            newest = frames[-1]
            window = _window(frames, number=len(summary.latencies))
            for answer in predictor.answers([window], name=reader.name):
                latency = 1000 * (time.monotonic() - newest.arrival + newest.lag)
                summary.latencies.append(latency)
                taken = newest.taken.isoformat(timespec="milliseconds").replace("+00:00", "Z")
                on_answer(answer, {"time": taken, "latency_ms": round(latency, 1)})
    except ValueError:
        tell(str(_counted(summary, reader, began)))
        raise
    finally:
        stop.set()
        reader.join()
    return _counted(summary, reader, began)


def _counted(summary: Summary, reader: LiveReader, began: float) -> Summary:
    counts = reader.counts
    summary.seconds = time.monotonic() - began
    summary.frames, summary.connections = counts.frames, counts.connections
    summary.damaged, summary.dropped = counts.damaged, counts.dropped
    return summary


def _window(frames: list[SeenFrame], *, number: int) -> Window:
    # What the newest frame lasts is unknown until the next one has come: as long as the others did.
    spacing = (frames[-1].time - frames[0].time) / max(1, len(frames) - 1)
    kept = [
        KeptFrame(
            index=frame.number,
            time=Fraction(frame.time).limit_denominator(1_000_000),
            lasts=Fraction(spacing).limit_denominator(1_000_000),
            pixels=frame.pixels,
        )
        for frame in frames
    ]
    return window_of(kept, number=number)

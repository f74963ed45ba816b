"""Windows: the stretches of a video that get an answer each."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline.clips.stream import TimedFrame, measure_length, read_frames
from pipeline.clips.video import FrameConverter, Frames, decode
from pipeline.clips.views import ViewRule
from pipeline.training.checkpoint import Preprocessing

SPREAD_SEC = 4
"""Length of a window where none is given and views spread over whole clips; ARID's clips last 1 to 8 seconds."""

LEAST_SEC, MOST_SPAN = Fraction(1, 1000), 10**9
"""Bounds of a window and a stride: below the first one frame would fill windows without end."""

MOST_BYTES = 1_000_000_000
"""Most bytes of resized frames that a window may hold in memory."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of a video, in seconds or in frames."""

    value: Fraction
    """Above 0; a whole number of frames."""
    unit: str
    """s or f."""

    def __str__(self) -> str:
        return f"{float(self.value):g} s" if self.unit == "s" else f"{self.value} frames"


@dataclass(frozen=True, kw_only=True)
class WindowRule:
    """How windows follow each other."""

    length: Span
    stride: Span
    """From the start of one to the start of the next."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A stretch of a video, ready to be seen."""

    number: int
    """Position among the windows of its video, 0-based."""
    start: float
    """Seconds since the video's first frame."""
    end: float
    """Seconds; where its last frame has gone."""
    num_frames: int
    take: Callable[[Sequence[int]], Frames]
    """Resized frames at positions inside the window: uint8 (T, H, W, 3)."""


@dataclass(frozen=True, kw_only=True)
class KeptFrame:
    """A resized frame that a window may still need."""

    index: int
    """Position in the video."""
    time: Fraction
    """Seconds since the first frame."""
    lasts: Fraction
    """Seconds."""
    pixels: Frames
    """uint8 (H, W, 3)."""


def parse_span(text: str) -> Span:
    """A span from text: `2` or `0.5s` are seconds, `16f` frames.

    Raises:
        ValueError: another form, or nothing above 0.
    """
    number, unit = (text[:-1], text[-1]) if text[-1:] in ("s", "f") else (text, "s")
    try:
        value = Fraction(number)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"found '{text}', wanted seconds as in 2 or 0.5s, or frames as in 16f") from error
    if value <= 0 or (unit == "f" and value.denominator != 1):
        raise ValueError(f"found '{text}', wanted more than 0 seconds, or a whole number of frames")
    if not (LEAST_SEC if unit == "s" else 1) <= value <= MOST_SPAN:
        raise ValueError(f"found '{text[:80]}', wanted {float(LEAST_SEC):g} to {MOST_SPAN} seconds or frames")
    return Span(value=value, unit=unit)


def default_length(rule: ViewRule) -> Span:
    """The stretch that a view covers; where views spread over whole clips, `SPREAD_SEC`."""
    if rule.sampling == "consecutive":
        return Span(value=Fraction((rule.frames - 1) * rule.stride + 1), unit="f")
    return Span(value=Fraction(SPREAD_SEC), unit="s")


def whole_file(
    path: Path, preprocessing: Preprocessing, *, watch: Callable[[Fraction], None] | None = None
) -> Iterator[Window]:
    """The one window that is the whole video, as a test clip is seen; two passes, and no frame kept but those asked.

    Args:
        path: the video.
        preprocessing: size and colour range of the frames.
        watch: called with the time of each frame that is counted.
    """
    length = measure_length(path, watch=watch)
    size, colours = preprocessing.view_rule.frame_size, preprocessing.colour_range

    def take(indices: Sequence[int]) -> Frames:
        count = length.num_frames
        return decode(path, indices=indices, size=size, colour_range=colours, num_frames=count)

    yield Window(number=0, start=0.0, end=float(length.seconds), num_frames=length.num_frames, take=take)


def sliding(
    path: Path,
    preprocessing: Preprocessing,
    rule: WindowRule,
    *,
    watch: Callable[[Fraction], None] | None = None,
) -> Iterator[Window]:
    """Windows over a file of any length, in one pass that keeps no more frames than a window holds; see `slide`.

    Raises:
        ValueError: the file cannot be read, or a window is too long to be kept.
    """
    convert = FrameConverter(size=preprocessing.view_rule.frame_size, colour_range=preprocessing.colour_range)

    def kept(frame: TimedFrame) -> KeptFrame:
        if watch is not None:
            watch(frame.time)
        return KeptFrame(index=frame.index, time=frame.time, lasts=frame.lasts, pixels=convert(frame.picture))

    height, width = preprocessing.view_rule.frame_size
    most = max(1, MOST_BYTES // (height * width * 3))
    yield from slide((kept(frame) for frame in read_frames(path)), rule, most=most, name=str(path))


def slide(frames: Iterable[KeptFrame], rule: WindowRule, *, most: int, name: str) -> Iterator[Window]:
    """Cut frames into windows as they come.

    Window n starts n strides after the first frame. A window in seconds holds the frames that appear in that time,
    so variable frame rates come out right. Every window is whole: where the video ends inside one, the last window
    ends with the video instead. A video shorter than a window is one window.

    Args:
        frames: in order, times growing.
        rule: length and stride.
        most: frames that may be kept at once.
        name: of the video, for messages.

    Raises:
        ValueError: a window needs more frames.
    """
    slider = _Slider(rule)
    for frame in frames:
        yield from slider.add(frame)
        if len(slider.kept) > most:
            raise ValueError(
                f"{name}: a window of {rule.length} holds more than {most} frames, too many to keep in memory; "
                "give a shorter --window"
            )
    yield from slider.finish()


class _Slider:
    """The frames that windows may still need, and where the next window starts."""

    def __init__(self, rule: WindowRule) -> None:
        self.kept: deque[KeptFrame] = deque()
        self._length, self._stride = rule.length, rule.stride
        self._step = 0  # the next window in strides
        self._opening: KeptFrame | None = None  # its first frame, once that has come
        self._number = 0
        self._covered = -1  # index of the last frame in a window

    def add(self, frame: KeptFrame) -> Iterator[Window]:
        """The windows that end with the arrival of a frame."""
        self.kept.append(frame)
        if self._opening is None:
            self._find_opening()
        yield from self._complete(frame.time, frame.index + 1)
        while not self._begun(self.kept[0]) and not self._in_tail(self.kept[0]):
            self.kept.popleft()

    def finish(self) -> Iterator[Window]:
        """The windows that end with the video."""
        if not self.kept:
            return
        last = self.kept[-1]
        yield from self._complete(last.time + last.lasts, last.index + 1)
        if last.index > self._covered and (self._opening is not None or self._number == 0):
            yield self._window([frame for frame in self.kept if self._in_tail(frame)])

    def _complete(self, time: Fraction, count: int) -> Iterator[Window]:
        """The windows that are whole when the video has come so far, in seconds and in frames."""
        while self._opening is not None:
            if self._length.unit == "f":
                end = self._opening.index + self._length.value
                if count < end:
                    return
                inside = [frame for frame in self.kept if self._begun(frame) and frame.index < end]
            else:
                end = self._start_time(self._opening) + self._length.value
                if time < end:
                    return
                inside = [frame for frame in self.kept if self._begun(frame) and frame.time < end]
            yield self._window(inside)
            self._step += 1
            self._find_opening()

    def _find_opening(self) -> None:
        self._opening = next((frame for frame in self.kept if self._begun(frame)), None)
        if self._opening is None or self._length.unit == "f" or self._stride.unit == "f":
            return
        # In a gap of the video there are windows without a frame: on to the first that reaches the frame after it.
        reached = math.floor((self._opening.time - self._length.value) / self._stride.value) + 1
        if reached > self._step:
            self._step = reached
            self._find_opening()

    def _begun(self, frame: KeptFrame) -> bool:
        position = frame.time if self._stride.unit == "s" else frame.index
        return position >= self._step * self._stride.value

    def _start_time(self, opening: KeptFrame) -> Fraction:
        return self._step * self._stride.value if self._stride.unit == "s" else opening.time

    def _in_tail(self, frame: KeptFrame) -> bool:
        """Whether a window that ends with the newest frame holds this one."""
        last = self.kept[-1]
        if self._length.unit == "f":
            return frame.index > last.index - self._length.value
        # The newest in any case: it may have come before a window that is shorter than it stays.
        return frame is last or frame.time >= last.time + last.lasts - self._length.value

    def _window(self, frames: Sequence[KeptFrame]) -> Window:
        self._covered = frames[-1].index
        self._number += 1
        return window_of(frames, number=self._number - 1)


def window_of(frames: Sequence[KeptFrame], *, number: int) -> Window:
    """A window of frames in memory, at least one."""

    def take(indices: Sequence[int]) -> Frames:
        return np.stack([frames[index].pixels for index in indices])

    last = frames[-1]
    end = float(last.time + last.lasts)
    return Window(number=number, start=float(frames[0].time), end=end, num_frames=len(frames), take=take)

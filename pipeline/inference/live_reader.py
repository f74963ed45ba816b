"""A thread that reads a live stream and keeps its newest frames, whatever the rest of the program is busy with."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

from pipeline.clips.live_address import shown_source
from pipeline.clips.stream import LiveFrame, LiveVideo, open_live
from pipeline.clips.video import FrameConverter, Frames
from pipeline.inference.windows import MOST_BYTES, Span
from pipeline.training.checkpoint import Preprocessing

AlsoSees = Callable[[Any, float, Fraction], None]
"""(av.VideoFrame, seconds, width over height of its pixels) -> nothing."""

LONGEST_WAIT_SEC = 30
"""Waits between tries double up to this."""

WAKE_SEC = 0.2
"""How long a waiting thread may miss that it should stop."""


@dataclass(frozen=True, kw_only=True)
class SeenFrame:
    """A frame of a live stream, resized."""

    number: int
    """Frames before it since the start."""
    time: float
    """Seconds since the first frame, by the sender's clock while it is connected and by ours between connections."""
    arrival: float
    """When it was decoded, by time.monotonic()."""
    taken: datetime
    """The same as a date."""
    lag: float
    """Seconds by which reading had fallen behind the sender."""
    pixels: Frames
    """uint8 (H, W, 3)."""


@dataclass(kw_only=True)
class Counts:
    """What became of a stream so far."""

    frames: int = 0
    connections: int = 0
    """That gave a frame."""
    damaged: int = 0
    """Packets and frames that did not decode."""
    dropped: int = 0
    """Packets left undecoded to catch up with the sender."""


class LiveReader:
    """Reads a stream in a thread of its own, connects again when it breaks, and holds one window of newest frames."""

    def __init__(
        self,
        source: str,
        preprocessing: Preprocessing,
        length: Span,
        *,
        timeout_sec: float,
        retries: int,
        stop: threading.Event,
        tell: Callable[[str], None],
        also: AlsoSees | None = None,
    ) -> None:
        """Keep the parts; `start` begins to read.

        Args:
            source: see `open_live`.
            preprocessing: size and colour range of the frames.
            length: of a window.
            timeout_sec: a sender that is silent for so long is given up.
            retries: tries after one that gave no frame; a frame sets the count back.
            stop: ends the reading when it is set.
            tell: called in the thread with what the user should know, a line at a time.
            also: called in the thread with every frame; must not wait.
        """
        self.name = shown_source(source)
        self.counts = Counts()
        self._source, self._length = source, length
        self._timeout_sec, self._retries = timeout_sec, retries
        self._stop, self._tell, self._also = stop, tell, also
        rule = preprocessing.view_rule
        self._convert = FrameConverter(size=rule.frame_size, colour_range=preprocessing.colour_range)
        self._most = max(1, MOST_BYTES // (rule.frame_size[0] * rule.frame_size[1] * 3))
        self._frames: deque[SeenFrame] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._ended = self._whole_file = False
        self._segment: tuple[int, int] | None = None  # connection and segment of the frames that are held
        self._origin = 0.0  # time of the segment's first frame
        self._last_time = 0.0
        self._first_arrival: float | None = None
        # A daemon: blocked inside FFmpeg it must not keep the program from ending.
        self._thread = threading.Thread(target=self._run, name="live-reader", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def join(self) -> None:
        """Wait a moment for the thread to end; it is left behind where the sender is silent."""
        self._thread.join(timeout=1.0)

    def newest_window(self, after: SeenFrame | None, stride: Span, *, until: float | None) -> list[SeenFrame] | None:
        """Wait for a whole window that ends at least a stride after a frame, and give the newest such one.

        Of a file that a server gives and that ends before its first window is whole, give what there is.

        Args:
            after: the newest frame of the window before; None for the first.
            stride: how much later the window has to end.
            until: seconds since the first frame came at which to give up; None for never.

        Returns:
            Its frames in order; None when the stream has ended for good or `stop` is set.

        Raises:
            ValueError: the stream could not be read, tries and all.
        """
        with self._changed:
            while not self._stop.is_set():
                now = time.monotonic()
                if until is not None and self._first_arrival is not None and now - self._first_arrival >= until:
                    return None
                if self._is_whole() and (after is None or self._is_later(after, stride)):
                    return list(self._frames)
                if self._ended:
                    # A file of a server that is shorter than a window is one window, as a local file is.
                    if after is None and self._whole_file and self._error is None and self._frames:
                        return list(self._frames)
                    break
                self._changed.wait(WAKE_SEC)
            if self._error is not None:
                raise self._error
            return None

    def _is_whole(self) -> bool:
        if not self._frames:
            return False
        if self._length.unit == "f":
            return len(self._frames) >= min(int(self._length.value), self._most)
        return self._frames[-1].time - self._origin >= self._length.value

    def _is_later(self, after: SeenFrame, stride: Span) -> bool:
        newest = self._frames[-1]
        passed = newest.time - after.time if stride.unit == "s" else newest.number - after.number
        return passed >= stride.value

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._read_again_and_again()
        except BaseException as raised:  # raised again where the frames are asked for
            error = raised
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify_all()

    def _read_again_and_again(self) -> None:
        tries = 0
        while not self._stop.is_set():
            before = self.counts.frames
            reason = self._read_once()
            if reason is None or self._stop.is_set():
                return
            tries = 0 if self.counts.frames > before else tries
            if tries == self._retries:
                raise ValueError(
                    f"{self.name}: {reason}; given up after {tries + 1} tries; check the sender, the address and the "
                    "firewall, or give more --retries or a longer --timeout"
                )
            wait = min(2**tries, LONGEST_WAIT_SEC)
            tries += 1
            self._tell(f"{self.name}: {reason}; trying again in {wait} s ({tries} of {self._retries})")
            self._stop.wait(wait)

    def _read_once(self) -> str | None:
        """Read one connection to its end; gives why it ended, None where there is nothing more to come."""
        connected = False
        try:
            with open_live(self._source, timeout_sec=self._timeout_sec) as video:
                try:
                    for frame in video.frames():
                        if not connected:
                            connected = True
                            self.counts.connections += 1
                            self._tell(f"{self.name}: connected")
                        self._take(frame, video)
                        if self._stop.is_set():
                            return None
                finally:
                    self.counts.damaged += video.damaged
                    self.counts.dropped += video.catch_up.dropped
                self._whole_file = video.finished_file and connected
                return None if self._whole_file else "the sender has ended the stream"
        except ValueError as error:
            return str(error)

    def _take(self, frame: LiveFrame, video: LiveVideo) -> None:
        segment = (self.counts.connections, frame.segment)
        now = time.monotonic()
        if self._first_arrival is None:
            self._first_arrival = now
        if segment != self._segment:
            # A window must not join what was filmed before a break to what came after.
            with self._changed:
                self._frames.clear()
            # Not before the last frame: a sender's first seconds may come all at once, ahead of our clock.
            self._segment, self._origin = segment, max(now - self._first_arrival, self._last_time)
        time_sec = self._last_time = self._origin + frame.time
        if video.finished_file:
            self._stop.wait(max(0.0, self._first_arrival + time_sec - now))
        if self._also is not None:
            self._also(frame.picture, time_sec, frame.pixel_shape)
        seen = SeenFrame(
            number=self.counts.frames,
            time=time_sec,
            arrival=time.monotonic(),
            taken=datetime.now(UTC),
            lag=frame.lag,
            pixels=self._convert(frame.picture),
        )
        self.counts.frames += 1
        with self._changed:
            self._frames.append(seen)
            while len(self._frames) > 1 and self._is_surplus(self._frames[0], seen):
                self._frames.popleft()
            self._changed.notify_all()

    def _is_surplus(self, oldest: SeenFrame, newest: SeenFrame) -> bool:
        if len(self._frames) > self._most:
            return True
        if self._length.unit == "f":
            return len(self._frames) > self._length.value
        return oldest.time <= newest.time - self._length.value

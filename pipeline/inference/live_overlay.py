"""The video of a live stream with its newest answer drawn in."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.clips.stream import GUESSED_RATE, write_stream
from pipeline.clips.video import FrameConverter
from pipeline.clips.video_stream import SQUARE
from pipeline.inference.overlay import CRF, PRESET, Labelling, draw, prepare
from pipeline.inference.predictor import Answer

WAITING_FRAMES = 32
"""Frames that may wait to be written; more are left out of the video, so that reading never waits for writing."""


class LiveOverlay:
    """Draws and encodes in a thread of its own."""

    def __init__(self, target: Path, labelling: Labelling, *, colour_range: str) -> None:
        self.left_out = 0
        """Frames that came faster than they could be written."""
        self._target, self._labelling, self._colour_range = target, labelling, colour_range
        self._lines: list[tuple[str, float]] = []
        self._waiting: queue.Queue[tuple[Any, float, Fraction] | None] = queue.Queue(WAITING_FRAMES)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="live-overlay", daemon=True)

    def start(self) -> None:
        """Begin to write what comes."""
        self._thread.start()

    def offer(self, picture: Any, time_sec: float, pixel_shape: Fraction = SQUARE) -> None:
        """Hand over an av.VideoFrame; never waits."""
        try:
            self._waiting.put_nowait((picture, time_sec, pixel_shape))
        except queue.Full:
            self.left_out += 1

    def show(self, answer: Answer) -> None:
        """Draw this answer from now on.

        Raises:
            OSError: the video cannot be written any more.
        """
        if self._error is not None:
            raise self._error
        self._lines = self._labelling.lines(answer.probabilities)

    def finish(self) -> None:
        """Write what waits and end the video.

        Raises:
            OSError: the video could not be written.
        """
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._waiting.put(None, timeout=0.2)
                break
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._write()
        except BaseException as error:  # raised again by show or finish
            self._error = error

    def _write(self) -> None:
        convert = FrameConverter(size=None, colour_range=self._colour_range)
        shape: tuple[int, ...] | None = None
        with write_stream(self._target, crf=CRF, preset=PRESET) as add:
            while (item := self._waiting.get()) is not None:
                picture = prepare(convert(item[0]))
                shape = shape or picture.shape
                if picture.shape != shape:
                    # A sender that came back with another picture size; a video has one.
                    picture = np.asarray(cv2.resize(picture, (shape[1], shape[0])), np.uint8)
                time_sec = Fraction(item[1]).limit_denominator(1_000_000)
                add(draw(picture, self._lines), time_sec, 1 / GUESSED_RATE, item[2])


@contextlib.contextmanager
def open_live_overlay(target: Path, labelling: Labelling, *, colour_range: str) -> Iterator[LiveOverlay]:
    """A running overlay; the file takes its name when the block ends."""
    overlay = LiveOverlay(target, labelling, colour_range=colour_range)
    overlay.start()
    try:
        yield overlay
    finally:
        overlay.finish()

"""Videos with their answers drawn in."""

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.clips.stream import read_frames, write_stream
from pipeline.clips.video import FrameConverter, Frames, even_sides
from pipeline.inference.predictor import Answer

FONT = cv2.FONT_HERSHEY_SIMPLEX
SHORT_SIDE = 240
"""Smaller videos are enlarged by a whole factor, so that the text can be read."""

LETTERS = 20
"""Lines of text that would fill the picture from top to bottom."""

CRF, PRESET = 20, "veryfast"  # of x264

WHITE, BAR, UNKNOWN = (255, 255, 255), (70, 150, 90), (230, 190, 60)


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """What is written into the picture."""

    class_names: tuple[str, ...]
    top: int
    """Classes that are named, the best first."""
    threshold: float
    """Probability below which the best class is called unknown."""

    def lines(self, probabilities: NDArray[np.float32]) -> list[tuple[str, float]]:
        """(text, probability) of each line, (K,) -> the best classes."""
        best = np.argsort(-probabilities, kind="stable")[: self.top]
        lines = [(drawable(self.class_names[label], int(label)), float(probabilities[label])) for label in best]
        unknown = lines[0][1] < self.threshold
        return [("unknown", math.nan), *lines] if unknown else lines


def drawable(name: str, label: int) -> str:
    """A class name in the letters that the font has.

    Accents go, other letters become `?`, and a name of hardly anything else becomes the class's number.
    """
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    text = "".join(letter if " " <= letter <= "~" else "?" for letter in plain)
    return f"class {label}" if 2 * text.count("?") > len(text.strip()) else text


def undrawable(class_names: Sequence[str]) -> dict[str, str]:
    """The class names that are drawn otherwise, and how."""
    drawn = {name: drawable(name, label) for label, name in enumerate(class_names)}
    return {name: text for name, text in drawn.items() if name != text}


def prepare(pixels: Frames) -> Frames:
    """A frame as it is drawn on: enlarged where it is small, its sides even; uint8 (H, W, 3)."""
    factor = math.ceil(SHORT_SIDE / min(pixels.shape[:2]))
    if factor > 1:
        pixels = np.asarray(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR), np.uint8)
    return even_sides(pixels)


def draw(picture: Frames, lines: Sequence[tuple[str, float]]) -> Frames:
    """Write lines with bars into the upper left corner of a prepared frame, uint8 (H, W, 3), and give it back."""
    if not lines:
        return picture
    height, width = picture.shape[:2]
    row = max(16, round(min(height, width) / LETTERS))
    scale, margin = _font_scale(row), row // 3
    texts = [_fitted(_text(*line), scale, width - 4 * margin) for line in lines]
    inner = max([_width(text, scale) for text in texts] + [6 * row])
    panel = picture[margin : margin + len(lines) * row + 2 * margin, margin : margin + inner + 2 * margin]
    panel[:] = panel // 4
    for number, (text, (_, probability)) in enumerate(zip(texts, lines, strict=True)):
        top = 2 * margin + number * row
        if math.isfinite(probability):
            picture[top + 1 : top + row - 1, 2 * margin : 2 * margin + round(inner * probability)] = BAR
        colour = WHITE if math.isfinite(probability) else UNKNOWN
        cv2.putText(picture, text, (2 * margin, top + round(0.75 * row)), FONT, scale, colour, 1, cv2.LINE_AA)
    return picture


def write_overlay(
    path: Path,
    target: Path,
    answers: Sequence[Answer],
    labelling: Labelling,
    *,
    colour_range: str,
    watch: Callable[[Fraction], None] | None = None,
) -> None:
    """Write a video with the answers drawn in: H.264, 4:2:0, oriented, every frame at its own time, without sound.

    Each frame shows the answer of the window whose middle is nearest. Decodes frame by frame, and keeps none.

    Args:
        path: the video.
        target: the .mp4 to write.
        answers: of the video's windows, at least one, in order.
        labelling: what is written.
        colour_range: how RGB is made from the video: auto, limited or full.
        watch: called with the time of each frame.

    Raises:
        ValueError: the video cannot be read.
        OSError: the file cannot be written.
    """
    middles = [(answer.start + answer.end) / 2 for answer in answers]
    changes = [(one + other) / 2 for one, other in pairwise(middles)]
    lines = [labelling.lines(answer.probabilities) for answer in answers]
    convert = FrameConverter(size=None, colour_range=colour_range)
    with write_stream(target, crf=CRF, preset=PRESET) as add:
        for frame in read_frames(path):
            if watch is not None:
                watch(frame.time)
            picture = prepare(convert(frame.picture))
            drawn = draw(picture, lines[bisect_right(changes, float(frame.time))])
            add(drawn, frame.time, frame.lasts, frame.pixel_shape)


def _text(name: str, probability: float) -> str:
    return name if math.isnan(probability) else f"{name}  {probability:.2f}"


def _font_scale(row: int) -> float:
    """The font's scale at which a line of text is as high as a row allows."""
    (_, height), _ = cv2.getTextSize("Ag", FONT, 1.0, 1)
    return float(0.55 * row / height)


def _width(text: str, scale: float) -> int:
    return int(cv2.getTextSize(text, FONT, scale, 1)[0][0])


def _fitted(text: str, scale: float, width: int) -> str:
    """The text, its middle left out where it is too wide for the picture."""
    keep = len(text)
    shown = text
    while _width(shown, scale) > width and keep > 8:
        keep -= 1
        shown = f"{text[: keep - 7]}..{text[-6:]}"
    return shown

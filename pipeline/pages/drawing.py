"""The parts that charts are drawn from: where values lie, axes, marks, shapes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 360
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 26, 36
"""Room around a plot, for ticks and labels."""

NAMED = frozenset({"student", "teacher", "baseline"})
SHAPES = ("circle", "square", "triangle", "diamond", "circle", "square")
LABEL_LETTERS = 15
"""Letters of a row's name that a drawing has room for; the table has all."""


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Where values lie in a drawing."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    height: int
    """Of the drawing."""
    left: float = LEFT

    def x(self, value: float) -> float:
        """From a value to the drawing, left to right."""
        low, high = self.x_range
        return self.left + (value - low) / ((high - low) or 1.0) * (WIDTH - RIGHT - self.left)

    def y(self, value: float) -> float:
        """From a value to the drawing, upwards."""
        low, high = self.y_range
        return self.height - BOTTOM - (value - low) / ((high - low) or 1.0) * (self.height - BOTTOM - TOP)


def ticks(low: float, high: float, *, most: int = 5) -> list[float]:
    """Round values between two others, at most `most` steps apart."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def axes(plane: Plane, x_label: str, y_label: str) -> list[Markup]:
    """Grid, ticks and labels of both axes."""
    parts = []
    for value in ticks(*plane.y_range):
        y = plane.y(value)
        parts.append(straight("grid", plane.left, y, WIDTH - RIGHT, y))
        parts.append(
            Markup('<text class="calm end" x="{:.1f}" y="{:.1f}">{:g}</text>').format(plane.left - 5, y + 4, value)
        )
    parts.append(Markup('<text class="calm" x="2" y="10">{}</text>').format(y_label))
    return parts + x_axis(plane, x_label)


def x_axis(plane: Plane, x_label: str) -> list[Markup]:
    """The lower axis with ticks and its label."""
    base = plane.height - BOTTOM
    parts = [straight("grid", plane.left, base, WIDTH - RIGHT, base)]
    for value in ticks(*plane.x_range):
        x = plane.x(value)
        parts.append(straight("grid", x, base, x, base + 4))
        parts.append(Markup('<text class="calm middle" x="{:.1f}" y="{}">{:g}</text>').format(x, base + 16, value))
    parts.append(
        Markup('<text class="calm end" x="{}" y="{}">{}</text>').format(WIDTH - RIGHT, plane.height - 6, x_label)
    )
    return parts


def legend(names: Sequence[str], *, samples: str) -> Markup:
    """Names with their line, shape or box, in the corner above a plot."""
    parts, right = [], float(WIDTH - RIGHT)
    for index, name in reversed(list(enumerate(names[:4]))):
        right -= 6.6 * len(shortened(name)) + 3
        style = style_of(name, index)
        parts.append(Markup('<text x="{:.1f}" y="10">{}</text>').format(right, shortened(name)))
        if samples == "line":
            parts.append(
                Markup('<polyline class="line {}" points="{:.1f},6 {:.1f},6"/>').format(style, right - 23, right - 4)
            )
            right -= 34
        else:
            shape = SHAPES[index % len(SHAPES)] if samples == "shape" else "square"
            parts.append(point(right - 8, 6, style, shape))
            right -= 22
    return joined(parts)


def whisker(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    """A line of an interval."""
    return Markup('<line class="whisker {}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        style, x1, y1, x2, y2
    )


def straight(style: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    """A straight line."""
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(style, x1, y1, x2, y2)


def column(x: float, y: float, width: float, height: float, style: str) -> Markup:
    """A filled rectangle."""
    return Markup('<rect class="fill {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
        style, x, y, width, height
    )


def point(x: float, y: float, style: str, shape: str) -> Markup:
    """A filled shape around a place."""
    if shape == "circle":
        return Markup('<circle class="fill {}" cx="{:.1f}" cy="{:.1f}" r="4"/>').format(style, x, y)
    corners = {
        "square": ((-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)),
        "triangle": ((0, -4.5), (4.5, 3.5), (-4.5, 3.5)),
        "diamond": ((0, -5), (5, 0), (0, 5), (-5, 0)),
    }[shape]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return Markup('<polygon class="fill {}" points="{}"/>').format(style, points)


def style_of(name: str, index: int) -> str:
    """The class that colours a series: by its name, or by its place."""
    return name if name in NAMED else f"s{index % 6}"


def shortened(name: str) -> str:
    """A name as short as a drawing has room for."""
    return name if len(name) <= LABEL_LETTERS else f"{name[: LABEL_LETTERS - 1]}…"


def padded(low: float, high: float) -> tuple[float, float]:
    """A range with some room around its values; never below 0 for values that are not."""
    room = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
    return (max(0.0, low - room) if low >= 0 else low - room, high + room)


def joined(parts: Sequence[Markup]) -> Markup:
    """Parts one after the other."""
    return Markup("").join(parts)

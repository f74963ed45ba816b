"""Drawings as inline SVG, each with a text alternative and its figures as a table.

All are drawn for a width of 360, so that their text stays readable on a phone. Colours and dashes come from the page's
style by class, so that they follow its theme; series differ in dash or shape too, not in colour alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.pages.blocks import Chart, Table
from pipeline.pages.drawing import (
    BOTTOM,
    SHAPES,
    TOP,
    WIDTH,
    Plane,
    axes,
    column,
    joined,
    legend,
    padded,
    point,
    shortened,
    straight,
    style_of,
    whisker,
    x_axis,
)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its interval."""

    name: str
    series: str
    value: float
    low: float
    high: float


def line_chart(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    height: int = 230,
) -> Chart:
    """Lines over a common x, such as learning curves.

    Args:
        title: stands above the drawing.
        series: points by name, each line's in the order of x.
        x_label: what x is.
        y_label: what y is.
        y_range: of the axis; None takes that of the points.
        height: of the drawing.
    """
    points = [point for line in series.values() for point in line]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    plane = Plane(x_range=(min(xs), max(xs)), y_range=y_range or padded(min(ys), max(ys)), height=height)
    parts = [legend(list(series), samples="line"), *axes(plane, x_label, y_label)]
    for index, (name, line) in enumerate(series.items()):
        path = " ".join(f"{plane.x(x):.1f},{plane.y(y):.1f}" for x, y in line)
        parts.append(Markup('<polyline class="line {}" points="{}"/>').format(style_of(name, index), path))
    ends = "; ".join(f"{name} from {line[0][1]:.3g} to {line[-1][1]:.3g}" for name, line in series.items())
    all_x = sorted(set(xs))
    by_x = [dict(line) for line in series.values()]
    rows = [[f"{x:g}", *(f"{line[x]:.4g}" if x in line else "" for line in by_x)] for x in all_x]
    return Chart(
        title=title,
        summary=f"{title}: {y_label} over {x_label}; {ends}.",
        svg=joined(parts),
        height=height,
        table=_table(title, [x_label, *series], rows),
    )


def interval_chart(
    title: str, intervals: Sequence[Interval], *, x_label: str, x_range: tuple[float, float] = (0.0, 1.0)
) -> Chart:
    """Values with their intervals, one row a name; rows of the same name lie together."""
    names = list(dict.fromkeys(interval.name for interval in intervals))
    series = list(dict.fromkeys(interval.series for interval in intervals))
    # Where each series is a row of its own, the rows say which is which.
    alone = len(intervals) == len(names)
    slot = 22 if alone else 12 * len(series) + 8
    top = 4 if alone else TOP
    plane = Plane(x_range=x_range, y_range=(0, 1), height=top + slot * len(names) + BOTTOM, left=112)
    parts = [Markup() if alone else legend(series, samples="shape"), *x_axis(plane, x_label)]
    if x_range[0] < 0 < x_range[1]:
        parts.append(straight("mark", plane.x(0), top, plane.x(0), plane.height - BOTTOM))
    for place, name in enumerate(names):
        middle = top + slot * (place + 0.5)
        parts.append(Markup('<text class="end" x="106" y="{:.1f}">{}</text>').format(middle + 4, shortened(name)))
        for interval in (each for each in intervals if each.name == name):
            index = series.index(interval.series)
            y = middle + (0 if alone else 12 * (index - (len(series) - 1) / 2))
            style = style_of(interval.series, index)
            parts.append(whisker(plane.x(interval.low), y, plane.x(interval.high), y, style))
            parts.append(point(plane.x(interval.value), y, style, SHAPES[index % len(SHAPES)]))
    rows = [[i.name, i.series, f"{i.value:.3f}", f"{i.low:.3f} - {i.high:.3f}"] for i in intervals]
    told = "; ".join(f"{i.name} {i.series} {i.value:.3g}".replace(f"{i.name} {i.name}", i.name) for i in intervals[:6])
    return Chart(
        title=title,
        summary=f"{title}: {x_label}; {told}{' and more' if len(intervals) > 6 else ''}.",
        svg=joined(parts),
        height=plane.height,
        table=_table(title, ["row", "series", x_label, "95 % interval"], rows),
    )


def bar_chart(title: str, bars: Mapping[str, Mapping[str, float]], *, x_label: str) -> Chart:
    """Horizontal bars, each made of parts by series."""
    series = list(dict.fromkeys(name for parts in bars.values() for name in parts))
    most = max((sum(parts.values()) for parts in bars.values()), default=1.0) or 1.0
    top = TOP if len(series) > 1 else 4
    plane = Plane(x_range=(0, most), y_range=(0, 1), height=top + 20 * len(bars) + BOTTOM, left=112)
    parts = [legend(series, samples="box") if len(series) > 1 else Markup(), *x_axis(plane, x_label)]
    for place, (name, values) in enumerate(bars.items()):
        y, start = top + 20 * place, 0.0
        parts.append(Markup('<text class="end" x="106" y="{:.1f}">{}</text>').format(y + 14, shortened(name)))
        for part, value in values.items():
            left, right = plane.x(start), plane.x(start + value)
            style = style_of(part, series.index(part))
            parts.append(column(left, y + 4, right - left, 12, style))
            start += value
    rows = [[name, *(f"{values.get(part, 0):g}" for part in series)] for name, values in bars.items()]
    return Chart(
        title=title,
        summary=f"{title}: {x_label} of {len(bars)} rows, the most {most:g}.",
        svg=joined(parts),
        height=plane.height,
        table=_table(title, ["row", *series], rows),
    )


def histogram(
    title: str,
    edges: Sequence[float],
    counts: Sequence[float],
    *,
    x_label: str,
    y_label: str,
    marks: Mapping[str, float] | None = None,
    height: int = 200,
) -> Chart:
    """Columns between edges, with marks at values of x."""
    plane = Plane(x_range=(edges[0], edges[-1]), y_range=(0, max(counts) or 1.0), height=height)
    parts = list(axes(plane, x_label, y_label))
    base = plane.y(0)
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        left, right = plane.x(low), plane.x(high)
        if count:
            parts.append(column(left, plane.y(count), max(0.5, right - left - 0.5), base - plane.y(count), "s0"))
    for name, value in (marks or {}).items():
        x = plane.x(value)
        near_end = x > WIDTH - 60
        anchor, shift = ("end", -3) if near_end else ("", 3)
        parts.append(Markup('<line class="mark" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2:.1f}"/>').format(x, 14, base))
        parts.append(Markup('<text class="calm {}" x="{:.1f}" y="20">{}</text>').format(anchor, x + shift, name))
    top = max(range(len(counts)), key=lambda index: counts[index])
    rows = [
        [f"{low:g} to {high:g}", f"{count:.4g}"]
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
        if count
    ]
    return Chart(
        title=title,
        summary=f"{title}: {y_label} by {x_label}, most from {edges[top]:g} to {edges[top + 1]:g}.",
        svg=joined(parts),
        height=height,
        table=_table(title, [x_label, y_label], rows),
    )


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Answers whose probability lies in one part of 0 to 1."""

    low: float
    high: float
    count: int
    confidence: float
    """Mean probability that they were given with."""
    accuracy: float
    """Share of them that is right."""
    accuracy_low: float
    accuracy_high: float


def reliability_chart(title: str, bins: Sequence[ReliabilityBin], *, series: str) -> Chart:
    """Accuracy against confidence; on the diagonal the two agree."""
    plane = Plane(x_range=(0, 1), y_range=(0, 1), height=300)
    parts = [
        *axes(plane, "probability of the answer", "share that is right"),
        straight("mark", plane.x(0), plane.y(0), plane.x(1), plane.y(1)),
    ]
    most = max((each.count for each in bins), default=1)
    for each in bins:
        x = plane.x(each.confidence)
        parts.append(whisker(x, plane.y(each.accuracy_low), x, plane.y(each.accuracy_high), series))
        radius = 2.5 + 4.5 * math.sqrt(each.count / most)
        parts.append(
            Markup('<circle class="fill {}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>').format(
                series, x, plane.y(each.accuracy), radius
            )
        )
    rows = [
        [
            f"{each.low:.2f} to {each.high:.2f}",
            str(each.count),
            f"{each.confidence:.3f}",
            f"{each.accuracy:.3f}",
            f"{each.accuracy_low:.3f} - {each.accuracy_high:.3f}",
        ]
        for each in bins
    ]
    headers = ["probability", "clips", "mean probability", "share right", "95 % interval"]
    return Chart(
        title=title,
        summary=f"{title}: share of right answers against their probability in {len(bins)} bins; larger dots hold "
        "more clips, the dashed diagonal is perfect calibration.",
        svg=joined(parts),
        height=300,
        table=_table(title, headers, rows),
    )


def _table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    return Table(caption=title, headers=headers, rows=rows, numeric=frozenset(range(1, len(headers))))

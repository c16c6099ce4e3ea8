"""Charts as SVG text, drawn where the report is made: nothing to load, nothing to run.

Colours are CSS classes of the page (`c1` to `c3`), so that a chart follows the reader's dark mode.
Every chart has a title and a description for who listens to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = [
    "Band",
    "Line",
    "Point",
    "heatmap",
    "histogram",
    "intervals",
    "lines",
    "scatter",
    "tries",
]

WIDTH, HEIGHT = 380, 240
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 12, 40


@dataclass(frozen=True)
class Line:
    """One series of a line chart.

    Args:
        name: what the legend calls it.
        xs: places, rising.
        ys: values.
        dots: whether each value gets a dot.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    dots: bool = False


@dataclass(frozen=True)
class Point:
    """One point of a scatter chart, with what a pointer shows of it."""

    x: float
    y: float
    name: str


@dataclass(frozen=True)
class Band:
    """One interval of an interval chart: `low` to `high` with `middle`, and how it is written."""

    name: str
    low: float
    middle: float
    high: float
    text: str


@dataclass(frozen=True)
class _Axis:
    """A scale from values to places on the page."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (
            (math.log(self.low), math.log(self.high), math.log(max(value, self.low)))
            if self.log
            else (self.low, self.high, value)
        )
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """Round values along the axis."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            decades = range(first, last + 1, max(1, math.ceil((last - first + 1) / count)))
            return [10.0**power for power in decades]
        step = _round_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def lines(
    series: Sequence[Line],
    *,
    title: str,
    description: str,
    x: str,
    y: str,
    log: bool = False,
    mark: tuple[float, float, str] | None = None,
) -> str:
    """A line chart.

    Args:
        series: at most three.
        title: read aloud, and shown by a pointer.
        description: what there is to see, in a sentence.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        log: whether the vertical axis is logarithmic; values must be > 0.
        mark: a place and its words.

    Example:
        >>> from farzi.report.svg import Line, lines
        >>> chart = lines([Line("loss", [0, 1], [2.0, 1.0])], title="Loss", description="It falls.",
        ...     x="step", y="nats")
        >>> chart.count('class="line'), "It falls." in chart
        (1, True)
    """
    xs = [value for line in series for value in line.xs]
    ys = [value for line in series for value in line.ys]
    across = _Axis(*_range(xs, pad=0.0), LEFT, WIDTH - RIGHT)
    up = _Axis(*_range(ys, pad=0.08 if mark is None else 0.2, log=log), HEIGHT - BOTTOM, TOP, log)
    whole = all(value == round(value) for value in xs)
    parts = [_frame(across, up, x, y, whole=whole)]
    for number, line in enumerate(series, start=1):
        places = [(across(a), up(b)) for a, b in zip(line.xs, line.ys, strict=True)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(f'<path class="line c{number}" d="M{path}"/>')
        if line.dots:
            parts += [
                f'<circle class="dot c{number}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>'
                for a, b in places
            ]
    if mark is not None:
        at, value, words = mark
        a, b = across(at), up(value)
        end = a > WIDTH * 0.6
        anchor = "end" if end else "start"
        parts.append(
            f'<circle class="mark" cx="{a:.1f}" cy="{b:.1f}" r="5.5"/>'
            f'<text class="note" text-anchor="{anchor}" x="{a + (6 if end else -6):.1f}" '
            f'y="{b + 22:.1f}">{escape(words)}</text>'
        )
    return _svg(parts, title, description)


def scatter(
    points: Sequence[Point],
    *,
    title: str,
    description: str,
    x: str,
    y: str,
    low: float,
    high: float,
) -> str:
    """Points on two equal logarithmic axes, with the line on which both are the same."""
    across = _Axis(low, high, LEFT, WIDTH - RIGHT, log=True)
    up = _Axis(low, high, HEIGHT - BOTTOM, TOP, log=True)
    parts = [_frame(across, up, x, y, percent=True)]
    parts.append(
        f'<path class="same" d="M{across(low):.1f},{up(low):.1f} '
        f'{across(high):.1f},{up(high):.1f}"/>'
    )
    parts += [
        f'<circle class="point c1" cx="{across(p.x):.1f}" cy="{up(p.y):.1f}" r="2.6">'
        f"<title>{escape(p.name)}</title></circle>"
        for p in points
    ]
    return _svg(parts, title, description)


def tries(
    points: Sequence[Point],
    *,
    title: str,
    description: str,
    x: str,
    y: str,
    log: bool = False,
    names: Sequence[str] = (),
) -> str:
    """What each setting that was tried came to; the lowest stands out.

    Args:
        points: x is the setting, or its place among `names`; y what it came to.
        title: read aloud.
        description: likewise.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        log: whether the horizontal axis is logarithmic; every x must be > 0.
        names: of the places along the horizontal axis, where settings are no numbers.

    Example:
        >>> from farzi.report.svg import Point, tries
        >>> chart = tries([Point(0.1, 2.0, "a"), Point(1.0, 1.0, "b")], title="Loss by lr",
        ...     description="It falls.", x="lr", y="nats", log=True)
        >>> chart.count("<circle"), chart.count('class="mark')
        (3, 1)
    """
    xs = [point.x for point in points]
    ends = (-0.5, len(names) - 0.5) if names else _range(xs, pad=0.06, log=log)
    across = _Axis(*ends, LEFT, WIDTH - RIGHT, log)
    up = _Axis(*_range([point.y for point in points], pad=0.1), HEIGHT - BOTTOM, TOP)
    parts = [_frame(across, up, x, y, ticks=not names)]
    parts += [
        f'<text class="tick" text-anchor="middle" x="{across(place):.1f}" '
        f'y="{HEIGHT - BOTTOM + 17}">{escape(shorten(name, max(4, 48 // len(names))))}</text>'
        for place, name in enumerate(names)
    ]
    lowest = min(points, key=lambda point: point.y)
    for point in points:
        place = f'cx="{across(point.x):.1f}" cy="{up(point.y):.1f}"'
        if point is lowest:
            parts.append(f'<circle class="mark" {place} r="6"/>')
        parts.append(
            f'<circle class="dot c1" {place} r="3"><title>{escape(point.name)}</title></circle>'
        )
    return _svg(parts, title, description)


def histogram(
    groups: Sequence[tuple[str, Sequence[float]]],
    *,
    title: str,
    description: str,
    x: str,
    low: float,
    high: float,
) -> str:
    """Outlines of histograms over the same bins.

    Args:
        groups: name and share of each bin, at most three.
        title: read aloud.
        description: likewise.
        x: label of the horizontal axis.
        low: left end of the first bin.
        high: right end of the last.
    """
    top = max((share for _, shares in groups for share in shares), default=1.0) or 1.0
    across = _Axis(low, high, LEFT, WIDTH - RIGHT)
    up = _Axis(0.0, top * 1.08, HEIGHT - BOTTOM, TOP)
    parts = [_frame(across, up, x, "share of places", percent=True, both=False)]
    for number, (_, shares) in enumerate(groups, start=1):
        width = (high - low) / len(shares)
        corners = [(across(low), up(0.0))]
        for place, share in enumerate(shares):
            corners += [
                (across(low + place * width), up(share)),
                (across(low + (place + 1) * width), up(share)),
            ]
        corners.append((across(high), up(0.0)))
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
        parts.append(f'<path class="area c{number}" d="M{path}Z"/>')
    return _svg(parts, title, description)


def intervals(bands: Sequence[Band], *, title: str, description: str) -> str:
    """Intervals beside each other around zero, best above, each with its words."""
    row, left, words, width = 30, 92, 156, 460
    height = row * len(bands) + 16
    low = min(0.0, *(band.low for band in bands))
    high = max(0.0, *(band.high for band in bands))
    room = 0.06 * (high - low) or 1.0
    across = _Axis(low - room, high + room, left, width - words)
    parts = [f'<path class="zero" d="M{across(0):.1f},4 {across(0):.1f},{height - 8}"/>']
    for number, band in enumerate(bands):
        y = 20 + number * row
        tone = "c1" if band.low > 0 else "c2" if band.high < 0 else "c0"
        parts.append(
            f'<text class="name" x="0" y="{y + 4}">{escape(band.name)}</text>'
            f'<path class="whisker {tone}" d="M{across(band.low):.1f},{y} '
            f'{across(band.high):.1f},{y}"/>'
            f'<circle class="dot {tone}" cx="{across(band.middle):.1f}" cy="{y}" r="4.5"/>'
            f'<text class="value" x="{width}" y="{y + 4}" text-anchor="end">'
            f"{escape(band.text)}</text>"
        )
    return _svg(parts, title, description, width=width, height=height)


def heatmap(
    matrix: Sequence[Sequence[float]],
    names: Sequence[str],
    *,
    title: str,
    description: str,
    highest: float,
) -> str:
    """A square of shares, rows by names.

    Args:
        matrix: shares in [0, 1], rows and columns in the order of `names`.
        names: of rows and columns.
        title: read aloud.
        description: likewise.
        highest: the share that is fully coloured.
    """
    left, size = 116, 14.0
    side = size * len(names)
    parts = []
    for row, (name, shares) in enumerate(zip(names, matrix, strict=True)):
        y = 4 + row * size
        parts.append(
            f'<text class="tick" text-anchor="end" x="{left - 6}" y="{y + size * 0.72:.1f}">'
            f"{escape(shorten(name, 17))}</text>"
        )
        for column, share in enumerate(shares):
            depth = min(1.0, share / highest) if highest else 0.0
            if depth >= 0.02:
                parts.append(
                    f'<rect class="cell" x="{left + column * size:.0f}" y="{y:.0f}" '
                    f'width="{size - 1:.0f}" height="{size - 1:.0f}" opacity="{depth:.2f}">'
                    f"<title>{escape(name)} → {escape(names[column])}: {share:.1%}</title></rect>"
                )
    parts.insert(
        0, f'<rect class="ground" x="{left}" y="4" width="{side - 1:.0f}" height="{side - 1:.0f}"/>'
    )
    return _svg(parts, title, description, width=left + round(side) + 4, height=round(side) + 8)


def shorten(text: str, length: int) -> str:
    """A name of at most `length` characters.

    Example:
        >>> from farzi.report.svg import shorten
        >>> shorten("Raiders of the Lost Ark", 12)
        'Raiders of…'
    """
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _svg(
    parts: Sequence[str],
    title: str,
    description: str,
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
    extra: str = "",
) -> str:
    label = escape(f"{title}. {description}", quote=True)
    return (
        f'<svg class="chart{extra}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{label}">' + "".join(parts) + "</svg>"
    )


def _frame(
    across: _Axis,
    up: _Axis,
    x: str,
    y: str,
    *,
    percent: bool = False,
    both: bool = True,
    whole: bool = False,
    ticks: bool = True,
) -> str:
    """Grid lines, ticks and the names of the axes."""
    parts = []
    for value in up.ticks(5):
        at = up(value)
        parts.append(
            f'<path class="grid" d="M{LEFT},{at:.1f} {WIDTH - RIGHT},{at:.1f}"/>'
            f'<text class="tick" text-anchor="end" x="{LEFT - 7}" y="{at + 4:.1f}">'
            f"{_number(value, percent)}</text>"
        )
    parts += [
        f'<text class="tick" text-anchor="middle" x="{across(value):.1f}" '
        f'y="{HEIGHT - BOTTOM + 17}">{_number(value, percent and both)}</text>'
        for value in (across.ticks(5) if ticks else ())
        if not whole or abs(value - round(value)) < 1e-9
    ]
    parts.append(
        f'<path class="base" d="M{LEFT},{HEIGHT - BOTTOM} {WIDTH - RIGHT},{HEIGHT - BOTTOM}"/>'
        f'<text class="axis" text-anchor="end" x="{WIDTH - RIGHT}" y="{HEIGHT - 6}">'
        f"{escape(x)}</text>"
        f'<text class="axis" x="4" y="{HEIGHT - 6}">↑ {escape(y)}</text>'
    )
    return "".join(parts)


def _range(values: Sequence[float], *, pad: float, log: bool = False) -> tuple[float, float]:
    """The ends of an axis that holds the values, never the same."""
    low, high = min(values), max(values)
    if log:
        return (low / 1.5, high * 1.5)
    if low == high:
        return low - 0.5, high + 0.5
    return low - pad * (high - low), high + pad * (high - low)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough * 0.999)


def _number(value: float, percent: bool) -> str:
    if percent:
        return f"{100 * value:.3g}%"
    if value and (abs(value) < 1e-3 or abs(value) >= 1e5):
        mantissa, power = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(power)}"
    return f"{value:.6g}".replace("-", "−")

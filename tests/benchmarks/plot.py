"""Line charts on logarithmic axes as SVG: text only, no script, nothing loaded from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 800
HEIGHT: Final = 400
LEFT, RIGHT, TOP, BOTTOM = 90, 260, 50, 50
#: Okabe and Ito's colours, which most people can tell apart.
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@dataclass(frozen=True)
class Line:
    """Points (x, y), both above 0. ``dashed``: reckoned or ideal; else measured, with a dot for each."""

    label: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    colour: int = 0


@dataclass(frozen=True)
class Chart:
    """Lines, what the axes are, and where x has ticks."""

    title: str
    x_label: str
    y_label: str
    ticks: Sequence[int]
    lines: Sequence[Line]


class _Scale:
    """From values to pixels: each factor is the same length."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low = math.log10(low)
        self._factor = (end - start) / (math.log10(high) - self._low)
        self._start = start

    def __call__(self, value: float) -> float:
        return round(self._start + (math.log10(value) - self._low) * self._factor, 1)


def svg(charts: Sequence[Chart]) -> str:
    """The charts, one below the other."""
    height = HEIGHT * len(charts)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">'
    )
    lines = [head, f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>']
    for number, chart in enumerate(charts):
        lines += [f'<g transform="translate(0 {number * HEIGHT})">', *_chart(chart), "</g>"]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _chart(chart: Chart) -> Iterator[str]:
    values = [y for line in chart.lines for _, y in line.points]
    low = 10 ** math.floor(math.log10(min(values)))
    high = 10 ** math.ceil(math.log10(max(values)) + 1e-9)
    x = _Scale(min(chart.ticks), max(chart.ticks), LEFT, WIDTH - RIGHT)
    y = _Scale(low, high, HEIGHT - BOTTOM, TOP)
    yield _text(LEFT, 22, chart.title, 'font-size="15" font-weight="bold"')
    yield from _axes(chart, x, y, low, high)
    for number, line in enumerate(chart.lines):
        colour = COLOURS[line.colour % len(COLOURS)]
        points = [(x(a), y(b)) for a, b in line.points]
        yield from _line(points, colour, dashed=line.dashed)
        row = TOP + 12 + 20 * number
        start = WIDTH - RIGHT + 16
        yield from _line([(start, row - 4), (start + 24, row - 4)], colour, dashed=line.dashed)
        yield _text(start + 32, row, line.label)


def _axes(chart: Chart, x: _Scale, y: _Scale, low: float, high: float) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for tick in chart.ticks:
        yield f'<path d="M{x(tick)} {TOP}V{bottom}" stroke="#e0e0e0"/>'
        yield _text(x(tick), bottom + 16, f"{tick:,}", 'text-anchor="middle"')
    value = low
    while value <= high * 1.001:
        yield f'<path d="M{LEFT} {y(value)}H{right}" stroke="#e0e0e0"/>'
        yield _text(LEFT - 8, y(value) + 4, f"{value:,.0f}", 'text-anchor="end"')
        value *= 10
    yield f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#404040"/>'
    yield _text((LEFT + right) / 2, bottom + 38, chart.x_label, 'text-anchor="middle"')
    yield _text(LEFT, TOP - 6, chart.y_label, 'text-anchor="end"')


def _line(points: Sequence[tuple[float, float]], colour: str, *, dashed: bool) -> Iterator[str]:
    path = "L".join(f"{x} {y}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    yield f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
    if not dashed:
        yield from (f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in points)


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x}" y="{y}"{" " if more else ""}{more}>{escape(text)}</text>'

"""
Cost against size as SVG, built of strings: panels side by side, both axes logarithmic, a mark for each point. Pure.

A library that plots is a hundred times the size of this and of everything it would plot.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final, NamedTuple

WIDTH: Final = 420
HEIGHT: Final = 340
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 94
COLOURS: Final = ("#1f6feb", "#8b949e", "#d1242f", "#1a7f37", "#9a6700")
STYLE: Final = "font-family:sans-serif;font-size:11px"


class Series(NamedTuple):
    """A line: its name, and points (size, cost), both above 0."""

    name: str
    points: Sequence[tuple[float, float]]


class Panel(NamedTuple):
    """One diagram; of a series without points there is no line."""

    title: str
    x: str
    y: str
    series: Sequence[Series]


class Axis(NamedTuple):
    """A logarithmic axis from one power of ten to another, and where these are in the picture."""

    low: int
    high: int
    start: float
    end: float

    def place(self, value: float) -> float:
        """Return where a value is."""
        return self.start + (math.log10(value) - self.low) / (self.high - self.low) * (self.end - self.start)


def axis(values: Sequence[float], start: float, end: float) -> Axis:
    """Return the axis that shows values, at least one, all above 0: from the power of ten below to the one above."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return Axis(low, max(high, low + 1), start, end)


def svg(panels: Sequence[Panel]) -> str:
    """Return the picture; panels without a single point are left out."""
    shown = [panel for panel in panels if any(series.points for series in panel.series)]
    width = WIDTH * max(len(shown), 1)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}">']
    parts.append(f'<rect width="{width}" height="{HEIGHT}" fill="#ffffff"/>')
    for number, panel in enumerate(shown):
        parts.append(f'<g transform="translate({number * WIDTH},0)" style="{STYLE}">')
        parts += _panel(panel)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel) -> Iterator[str]:
    points = [point for series in panel.series for point in series.points]
    across = axis([x for x, _ in points], LEFT, WIDTH - RIGHT)
    up = axis([y for _, y in points], HEIGHT - BOTTOM, TOP)
    yield _text(LEFT, 18, panel.title, weight="bold")
    yield _text(WIDTH - RIGHT, HEIGHT - BOTTOM + 32, panel.x, anchor="end")
    yield _text(LEFT, TOP - 4, panel.y)
    for power in range(across.low, across.high + 1):
        x = across.place(10.0**power)
        yield _line(x, TOP, x, HEIGHT - BOTTOM, "#e6e8eb")
        yield _text(x, HEIGHT - BOTTOM + 16, _power(power), anchor="middle")
    for power in range(up.low, up.high + 1):
        y = up.place(10.0**power)
        yield _line(LEFT, y, WIDTH - RIGHT, y, "#e6e8eb")
        yield _text(LEFT - 6, y + 4, _power(power), anchor="end")
    for number, series in enumerate(one for one in panel.series if one.points):
        colour = COLOURS[number % len(COLOURS)]
        placed = [(across.place(x), up.place(y)) for x, y in series.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed)
        column, row = number % 2, number // 2
        x, y = LEFT + column * 170, HEIGHT - 44 + row * 15
        yield f'<rect x="{x}" y="{y - 8}" width="10" height="8" fill="{colour}"/>'
        yield _text(x + 14, y, series.name)


def _power(power: int) -> str:
    """Spell a power of ten."""
    return f"{10**power:,}" if power >= 0 else f"{10.0**power:.{-power}f}"


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, words: str, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'

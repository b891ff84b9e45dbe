# SPDX-License-Identifier: Apache-2.0
"""Charts as inline SVG, without a library: their colours follow the page's, and a phone shows them sharp."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 360, 210  # of the drawing; it is as wide as there is room
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 36  # margins
BINS = 32


@dataclass(frozen=True)
class Series:
    """
    What is drawn in one colour.

    Args:
        label (`str`): Its name in the legend.
        style (`str`): Class of the style sheet: `positive`, `negative` or `single`.
        values (`Sequence[float]`): Of a histogram; or the heights of a curve.
        places (`Sequence[float]`): Of a curve: where the heights are.
    """

    label: str
    style: str
    values: Sequence[float]
    places: Sequence[float] = ()


def histogram(series: Sequence[Series], title: str) -> str:
    """
    Histograms over each other, with the same bins.

    Args:
        series (`Sequence[Series]`): With at least one value in all; values of whole numbers get bins of whole numbers.
        title (`str`): What is counted, for the axis and for readers that cannot see it.
    """
    edges = _edges(np.concatenate([np.asarray(one.values, dtype=float) for one in series]))
    counts = [np.histogram(one.values, bins=edges)[0] for one in series]
    frame = _Frame(edges[0], edges[-1], max(1, max(int(count.max()) for count in counts)))
    bars = []
    for one, count in zip(series, counts, strict=True):
        for low, high, number in zip(edges[:-1], edges[1:], count, strict=True):
            if number:
                left, right, top = frame.x(low), frame.x(high), frame.y(number)
                width = max(right - left - 0.6, 0.6)  # a gap between bars
                bars.append(
                    f'<rect class="bar {one.style}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}"'
                    f' height="{frame.bottom - top:.1f}"><title>{escape(one.label)}: {number:,} from {low:.4g} to '
                    f"{high:.4g}</title></rect>"
                )
    return frame.svg("".join(bars), title, f"Histogram of {title}", series)


def curve(series: Sequence[Series], title: str, total: int) -> str:
    """
    Numbers of rows over a threshold.

    Args:
        series (`Sequence[Series]`): With `places`.
        title (`str`): The quantity that the threshold is of.
        total (`int`): Number of all rows.
    """
    places = [place for one in series for place in one.places]
    frame = _Frame(min(places), max(places), max(total, 1))
    lines = []
    for one in series:
        points = " ".join(
            f"{frame.x(place):.1f},{frame.y(value):.1f}" for place, value in zip(one.places, one.values, strict=True)
        )
        lines.append(f'<polyline class="line {one.style}" points="{points}"/>')
    return frame.svg("".join(lines), title, f"Rows that remain over a threshold of {title}", series)


def _edges(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if np.array_equal(values, np.round(values)) and high - low < 10_000:
        step = max(1, math.ceil((high - low + 1) / BINS))
        return np.arange(low - 0.5, high + step, step)
    if high - low < 1e-6 * max(abs(low), abs(high), 1e-6):
        margin = 0.05 * max(abs(low), 1e-3)
        low, high = low - margin, high + margin
    return np.linspace(low, high, BINS + 1)


def ticks(low: float, high: float, number: int = 5) -> list[float]:
    """About so many round numbers from `low` to `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / number
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.8)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{value:.4g}"


class _Frame:
    """The axes, from `low` to `high` and from 0 to `most`."""

    def __init__(self, low: float, high: float, most: float) -> None:
        if not high > low:
            low, high = low - 0.5, high + 0.5
        self.low, self.high, self.most = low, high, most
        self.bottom = HEIGHT - BOTTOM

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.low) / (self.high - self.low)

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - TOP) * value / self.most

    def svg(self, drawing: str, title: str, label: str, series: Sequence[Series]) -> str:
        grid = []
        for value in ticks(0, self.most, 4):
            if value == int(value):
                y = self.y(value)
                grid.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
                grid.append(f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{_short(value)}</text>')
        for value in ticks(self.low, self.high):
            x = self.x(value)
            grid.append(f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{self.bottom}" y2="{self.bottom + 4}"/>')
            grid.append(f'<text x="{x:.1f}" y="{self.bottom + 15}" text-anchor="middle">{_short(value)}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        grid.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(title)}</text>')
        legend = "".join(f'<span class="key {one.style}">{escape(one.label)}</span>' for one in series)
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
            f"{''.join(grid)}{drawing}</svg>" + (f'<p class="legend">{legend}</p>' if len(series) > 1 else "")
        )

# SPDX-License-Identifier: Apache-2.0
"""Charts by matplotlib, and their SVG for pages, in the page's colours for light and dark mode."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from hf_tripletclip.utils.plots import PALETTE, new_figure, require_plots

INK, RULE, PAPER = "#1c1e21", "#dcdfe3", "#ffffff"  # pages replace these by their own, in light and dark mode
FONT = 10  # points: a phone shows the figure at about its own width
WIDTH = 5.4  # inches
CHANCE = "chance"


@dataclass(frozen=True)
class Bar:
    """A bar: its value, and, if known, its 95 % interval and the value that guessing reaches."""

    value: float
    interval: tuple[float, float] | None = None
    chance: float | None = None


@dataclass(frozen=True)
class Point:
    """A point of a scatter plot. `style` is the number of its colour and shape; 0 is for the models of the report."""

    label: str
    x: float
    y: float
    style: int
    legend: str
    own: bool = True


def _literally(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Draw names of models and categories as they are: a dollar sign does not start a formula."""

    @functools.wraps(draw)
    def drawn(*arguments: Any) -> Any:
        require_plots()
        import matplotlib

        with matplotlib.rc_context({"text.parse_math": False}):
            return draw(*arguments)

    return drawn


@_literally
def draw_bars(rows: Mapping[str, Mapping[str, Bar]], label: str) -> Any:
    """
    Horizontal bars, so many categories and long names also fit on a phone.

    Args:
        rows (`Mapping[str, Mapping[str, Bar]]`): Model -> category -> bar.
        label (`str`): The label of the axis.

    Returns:
        `matplotlib.figure.Figure`.
    """
    categories = list(dict.fromkeys(name for bars in rows.values() for name in bars))
    height = 0.8 / len(rows)
    figure = new_figure(WIDTH, len(categories) * (0.17 * len(rows) + 0.16) + 0.8 + 0.2 * len(rows))
    axes = figure.subplots()
    for index, (name, bars) in enumerate(rows.items()):
        there = [(place, bars[category]) for place, category in enumerate(categories) if category in bars]
        places = [place - 0.4 + height * (index + 0.5) for place, _ in there]
        values = [100 * bar.value for _, bar in there]
        axes.barh(places, values, height * 0.94, color=_colour(index), label=_listed(name))
        for place, (_, bar) in zip(places, there, strict=True):
            if bar.interval:
                axes.plot([100 * edge for edge in bar.interval], [place, place], color=INK, linewidth=1)
    guesses = {place: bar.chance for bars in rows.values() for place, bar in _placed(bars, categories) if bar.chance}
    if guesses:
        axes.vlines(
            [100 * guess for guess in guesses.values()],
            [place - 0.47 for place in guesses],
            [place + 0.47 for place in guesses],
            color=INK,
            linestyle=(0, (2, 1.5)),
            linewidth=1.4,
            label=CHANCE,
        )
    axes.set_yticks(range(len(categories)), categories)
    axes.set_ylim(len(categories) - 0.45, -0.55)
    axes.set(xlim=(0, 100), xlabel=label)
    _legend(figure, axes)
    _plain(axes, "x")
    return figure


def _placed(bars: Mapping[str, Bar], categories: Sequence[str]) -> list[tuple[int, Bar]]:
    return [(place, bars[category]) for place, category in enumerate(categories) if category in bars]


@_literally
def draw_histograms(panels: Mapping[str, Mapping[str, Sequence[float]]], label: str) -> Any:
    """
    Histograms of scores with the same bins, in a panel for each model.

    Args:
        panels (`Mapping[str, Mapping[str, Sequence[float]]]`): Model -> name of the scores -> scores.
        label (`str`): The label of the axis.

    Returns:
        `matplotlib.figure.Figure`.
    """
    import numpy as np

    everything = np.concatenate([np.asarray(values) for series in panels.values() for values in series.values()])
    low, high = float(everything.min()), float(everything.max())
    if high - low < 1e-6:
        low, high = low - 0.01, high + 0.01
    edges = np.linspace(low, high, 41)
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    figure = new_figure(WIDTH, 1.75 * len(panels) + 0.5 + 0.22 * math.ceil(len(names) / 2))
    every = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, series) in zip(every, panels.items(), strict=True):
        for scores, values in series.items():
            colour = _colour(names.index(scores))
            shares = np.full(len(values), 100 / max(1, len(values)))
            axes.hist(values, edges, weights=shares, color=colour, alpha=0.25, label="_")
            axes.hist(
                values, edges, weights=shares, color=colour, histtype="step", linewidth=1.6, label=_listed(scores)
            )
        axes.set_title(name, loc="left", fontsize=FONT)
        axes.set_ylabel("% of rows")
        _plain(axes, "y")
    every[-1].set_xlabel(label)
    _legend(figure, every[0])
    return figure


@_literally
def draw_scatter(points: Sequence[Point], x: str, y: str) -> Any:
    """
    A scatter plot whose labels do not overlap. All models of the report have labels, other points if there is room.

    Args:
        points (`Sequence[Point]`): The points.
        x, y (`str`): The labels of the axes.

    Returns:
        `matplotlib.figure.Figure`.
    """
    figure = new_figure(WIDTH, 5.2)
    axes = figure.subplots()
    for style in dict.fromkeys(point.style for point in points):
        group = [point for point in points if point.style == style]
        own = group[0].own
        axes.scatter(
            [100 * point.x for point in group],
            [100 * point.y for point in group],
            s=90 if own else 26,
            marker="*Dos^vPXd"[0 if own else 1 + style % 8],
            color=_colour(style) if own else "none",
            edgecolors=INK if own else _colour(style),
            linewidths=0.7 if own else 1.4,
            label=_listed(group[0].legend),
            zorder=3 if own else 2,
        )
    axes.set(xlabel=x, ylabel=y)
    axes.margins(0.12)
    _legend(figure, axes)
    _plain(axes, "both")
    _label(figure, axes, sorted(points, key=lambda point: not point.own))
    return figure


def _label(figure: Any, axes: Any, points: Sequence[Point]) -> None:
    """Put labels, in this order, at places where they cover neither a point nor another label."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # the layout is known after this
    centres = axes.transData.transform([(100 * point.x, 100 * point.y) for point in points])
    near = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in centres]
    taken: list[Any] = []
    for place, point in enumerate(points):
        for right, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)):
            text = axes.annotate(
                point.label,
                (100 * point.x, 100 * point.y),
                (right * 6, up * 6),
                textcoords="offset points",
                ha=("right", "center", "left")[right + 1],
                va=("top", "center", "bottom")[up + 1],
                fontsize=FONT - 1 if point.own else FONT - 3,
                fontweight="bold" if point.own else "normal",
                color=INK,
            )
            box = text.get_window_extent()
            others = [*taken, *near[:place], *near[place + 1 :]]
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0
            if inside and box.y1 <= axes.bbox.y1 and not any(box.overlaps(other) for other in others):
                taken.append(box)
                break
            text.remove()
        else:
            if point.own:  # rather an overlap than no label
                offset, style = (6, 0), {"fontsize": FONT - 1, "fontweight": "bold", "color": INK}
                at = (100 * point.x, 100 * point.y)
                taken.append(
                    axes.annotate(point.label, at, offset, textcoords="offset points", **style).get_window_extent()
                )


def _listed(label: str) -> str:
    """A label for a legend: matplotlib hides labels that begin with an underscore."""
    return f"\u200b{label}" if label.startswith("_") else label


def _colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def _plain(axes: Any, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.grid(axis=grid, color=RULE)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=FONT - 1, length=0)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set(color=INK, fontsize=FONT)
    axes.title.set_fontweight("bold")
    axes._left_title.set(color=INK, fontweight="bold")


def _legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    handles, labels = zip(
        *sorted(zip(handles, labels, strict=True), key=lambda entry: entry[1] == CHANCE), strict=True
    )
    if len(labels) > 1:
        columns = max(1, min(len(labels), int(WIDTH / (0.5 + max(map(len, labels)) / 11))))
        figure.legend(
            handles,
            labels,
            frameon=False,
            ncols=columns,
            loc="outside lower center",
            fontsize=FONT - 1,
            labelcolor=INK,
        )


def inline_svg(figure: Any, name: str, alternative: str) -> str:
    """
    A figure as SVG inside a page, in the page's colours: `currentColor`, `--line` and `--c0` to `--c7`.

    Args:
        figure (`matplotlib.figure.Figure`): The figure.
        name (`str`): A prefix of ids, unique in the page.
        alternative (`str`): A description for readers who cannot see the figure.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    drawing = buffer.getvalue().partition("</defs>")[2]  # without the head and the style, which the page has
    for reference in (' id="', 'href="#', "url(#"):
        drawing = drawing.replace(reference, f"{reference}{name}-")
    colours = {colour.lower(): f"var(--c{place})" for place, colour in enumerate(PALETTE)}
    for colour, of_page in {**colours, INK: "currentColor", RULE: "var(--line)", "xlink:href": "href"}.items():
        drawing = drawing.replace(colour, of_page)
    width, height = (f"{72 * inches:g}" for inches in figure.get_size_inches())
    label = f'role="img" aria-label="{escape(alternative)}"'
    return f'<svg class="plot" viewBox="0 0 {width} {height}" {label}>{drawing}'.strip()

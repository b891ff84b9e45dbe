# SPDX-License-Identifier: Apache-2.0
"""The curve of models between a base and a model tuned from it: composition gained, retention lost."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hf_tripletclip.results.metrics import differences
from hf_tripletclip.results.result import EvaluationResult
from hf_tripletclip.utils.markdown import markdown_table
from hf_tripletclip.utils.plots import PALETTE, new_figure

CURVE_FILE = "interpolation.json"


PLOT_FILE = "interpolation.png"


@dataclass
class Point:
    """
    A model of the curve.

    Args:
        alpha (`float`): 0 is the base, 1 the tuned model.
        composition, retention (`float`): The two metrics; higher is better.
        results (`dict[str, EvaluationResult]`): By benchmark.
    """

    alpha: float
    composition: float
    retention: float
    results: dict[str, EvaluationResult] = field(default_factory=dict, repr=False)


@dataclass
class Curve:
    """
    Args:
        composition, retention (`str`): What was measured, such as `triplets group_score`.
        points (`list[Point]`): In order of alpha.
    """

    composition: str
    retention: str
    points: list[Point]

    def choose(self, max_loss: float) -> Point:
        """
        The model with the most composition among the models that lose at most `max_loss` of the base's retention.

        Raises:
            ValueError: There is no such model, or the base (alpha 0) was not measured.
        """
        base = next((point for point in self.points if point.alpha == 0), None)
        if base is None:
            raise ValueError("The loss is measured from the base: let the alphas include 0.")
        allowed = [point for point in self.points if point.retention >= base.retention - max_loss]
        if not allowed:
            raise ValueError(f"No model of the curve loses at most {max_loss} of {self.retention}.")
        return max(allowed, key=lambda point: point.composition)

    def format_table(self, chosen: Point | None = None) -> str:
        """A plain-text table: alpha, composition and retention of each point, with a mark at the chosen one."""
        width = max(len(self.composition), len(self.retention), 9) + 2
        lines = [f"{'alpha':>6}{self.composition:>{width}}{self.retention:>{width}}"]
        for point in self.points:
            mark = "  <- chosen" if point is chosen else ""
            lines.append(f"{point.alpha:6.2f}{point.composition:{width}.3f}{point.retention:{width}.3f}{mark}")
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str], chosen: Point | None = None) -> None:
        """Write the curve as JSON, with the alpha that was chosen."""
        points = [{key: value for key, value in asdict(point).items() if key != "results"} for point in self.points]
        content: dict[str, Any] = {"composition": self.composition, "retention": self.retention, "points": points}
        if chosen is not None:
            content["chosen"] = chosen.alpha
        Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def metric_of(result: EvaluationResult, metric: str | None = None) -> float:
    """
    A metric of a result; by default the primary one.

    Raises:
        ValueError: There is no such metric.
    """
    name = metric or result.primary or ""
    if name not in result.metrics:
        raise ValueError(f"{result.benchmark} has no metric {name!r}; it has {', '.join(result.metrics)}")
    return result.metrics[name]


def plot_curve(curve: Curve, path: str | os.PathLike[str], chosen: Point | None = None) -> None:
    """
    Composition over retention along the curve, as a PNG file.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = new_figure(6.0, 4.4)
    axes = figure.subplots()
    across, up = [point.retention for point in curve.points], [point.composition for point in curve.points]
    axes.plot(across, up, marker="o", color=PALETTE[0])
    for point in curve.points:
        if point.alpha in (curve.points[0].alpha, curve.points[-1].alpha) or point is chosen:
            place = (point.retention, point.composition)
            axes.annotate(f"α = {point.alpha:g}", place, xytext=(6, -12), textcoords="offset points")
    if chosen is not None:
        axes.plot(chosen.retention, chosen.composition, "o", markersize=12, fillstyle="none", color=PALETTE[1])
    axes.set(xlabel=f"retention: {curve.retention}", ylabel=f"composition: {curve.composition}")
    axes.margins(0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def format_gains(curve: Curve, rows: Sequence[tuple[str, Point]]) -> str:
    """
    A Markdown table: composition and retention of each model, and their differences from the first model's on the same
    rows, with the 95 % interval of a paired bootstrap.

    Args:
        curve ([`~hf_tripletclip.results.curve.Curve`]): Says what was measured.
        rows (`Sequence[tuple[str, Point]]`): Name and measurements of each model, the base first.
    """
    base = rows[0][1]
    lines = []
    for index, (name, point) in enumerate(rows):
        cells = [name]
        for measure, value, sign in (
            (curve.composition, point.composition, 1),
            (curve.retention, point.retention, -1),
        ):
            difference = "" if index == 0 else _difference(measure, base, point, sign)
            cells += [f"{value:.3f}", difference]
        lines.append(cells)
    return markdown_table(["model", curve.composition, "gained [95 %]", curve.retention, "lost [95 %]"], lines)


def _difference(measure: str, base: Point, point: Point, sign: int) -> str:
    benchmark, _, metric = measure.partition(" ")
    first, second = _result(base, benchmark), _result(point, benchmark)
    found = differences(first, second).get(metric)
    if found is None:  # the metric is not a mean over rows
        return _signed(sign * (second.metrics[metric] - first.metrics[metric]))
    return f"{_signed(sign * found.value)} [{found.interval(_signed, ', ', sign=sign)}]"


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # no -0.000


def _result(point: Point, benchmark: str) -> EvaluationResult:
    return point.results[benchmark]

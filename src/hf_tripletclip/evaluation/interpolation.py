# SPDX-License-Identifier: Apache-2.0
"""WiSE-FT: models between a base and what was tuned from it, measured on composition and on what was paid for it.

Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", arXiv 2109.01903.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from hf_tripletclip.checkpoints.adapters import merged
from hf_tripletclip.checkpoints.clip_like import load_clip_like
from hf_tripletclip.checkpoints.loading import loading
from hf_tripletclip.checkpoints.merging import check_same_architecture, interpolate
from hf_tripletclip.evaluation.benchmark import Benchmark
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.result import EvaluationResult

CURVE_FILE = "interpolation.json"
PLOT_FILE = "interpolation.png"


@dataclass
class Point:
    """
    A model of the curve.

    Args:
        alpha (`float`): 0 is the base, 1 the tuned model.
        composition, retention (`float`): Their metrics, higher is better.
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
        points (`list[Point]`): By growing alpha.
    """

    composition: str
    retention: str
    points: list[Point]

    def choose(self, max_loss: float) -> Point:
        """
        The model with the most composition among those that lose at most `max_loss` of the base's retention.

        Raises:
            ValueError: There is none, or the base (alpha 0) was not measured.
        """
        base = next((point for point in self.points if point.alpha == 0), None)
        if base is None:
            raise ValueError("The loss is measured from the base: let the alphas include 0.")
        allowed = [point for point in self.points if point.retention >= base.retention - max_loss]
        if not allowed:
            raise ValueError(f"No model of the curve loses at most {max_loss} of {self.retention}.")
        return max(allowed, key=lambda point: point.composition)

    def format_table(self, chosen: Point | None = None) -> str:
        """A plain-text table: alpha, composition and retention of each point, the chosen one marked."""
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


def parse_alphas(text: str) -> list[float]:
    """
    Numbers from `0.0:1.0:0.1` (first, last, step; the last included) or `0,0.3,1`.

    Raises:
        ValueError: It is neither, or the step leads nowhere.
    """
    try:
        if ":" in text:
            first, last, step = (float(part) for part in text.split(":"))
            if step <= 0 or last < first:
                raise ValueError("the step must be positive and the last number not below the first")
            count = int(round((last - first) / step, 6)) + 1
            alphas = [round(first + index * step, 10) for index in range(count)]
        else:
            alphas = [float(part) for part in text.split(",")]
        if not all(0 <= alpha <= 1 for alpha in alphas):
            raise ValueError("0 is the base and 1 the tuned model, there is nothing beyond")
        return alphas
    except ValueError as error:
        raise ValueError(f"`alpha` is {text!r}; give first:last:step (0.0:1.0:0.1), or 0,0.5,1: {error}") from error


def _whole(model: torch.nn.Module) -> torch.nn.Module:
    """The model, in float32 where it is in half precision."""
    half = (torch.float16, torch.bfloat16)
    return model.float() if any(parameter.dtype in half for parameter in model.parameters()) else model


class Interpolation:
    """
    The models between a base and what was tuned from it, in float32 where they are stored in half precision: what was
    learned may be less than half precision tells apart.

    Args:
        base, tuned (`str` or `os.PathLike`): Directories or Hub ids, as `tripletclip evaluate` takes them; the tuned
            one may be a PEFT adapter.

    Raises:
        OSError: A model cannot be loaded.
        ValueError: The two are not of one architecture.
    """

    def __init__(self, base: str | os.PathLike[str], tuned: str | os.PathLike[str]) -> None:
        with loading(os.fspath(base), "a CLIP-like model"):
            self.base, _ = load_clip_like(base)
        with loading(os.fspath(tuned), "a CLIP-like model"):
            model, self.processor = load_clip_like(tuned)
        self.base, self.tuned = (merged(_whole(one)).eval() for one in (self.base, model))
        check_same_architecture(self.base.state_dict(), self.tuned.state_dict())
        self.model = copy.deepcopy(self.base)  # where the mixed weights go

    def at(self, alpha: float) -> Any:
        """The model at `alpha`, until the next call."""
        self.model.load_state_dict(interpolate(self.base, self.tuned, alpha))
        return self.model

    def measure(
        self,
        alphas: Sequence[float],
        composition: tuple[Benchmark, str | None],
        retention: tuple[Benchmark, str | None],
        *,
        known: Sequence[Point] = (),
        **encoder_options: Any,
    ) -> Curve:
        """
        Evaluate the models at the alphas.

        Args:
            alphas (`Sequence[float]`): Where.
            composition, retention (`tuple[Benchmark, str | None]`): A benchmark and its metric; the one that stands
                for it by default.
            known (`Sequence[Point]`): Points that were measured before, such as the base's, are not measured again.
            encoder_options: Of [`Encoder`].

        Raises:
            ValueError: A benchmark has no such metric.
        """
        measured = {point.alpha: point for point in known}
        left = [alpha for alpha in sorted(set(alphas)) if alpha not in measured]
        measured |= {point.alpha: point for point in self._points(left, composition, retention, encoder_options)}
        points = [measured[alpha] for alpha in sorted(set(alphas))]
        first, second = (
            f"{benchmark.name} {metric or points[0].results[benchmark.name].primary}"
            for benchmark, metric in (composition, retention)
        )
        return Curve(first, second, points)

    def _points(
        self,
        alphas: Sequence[float],
        composition: tuple[Benchmark, str | None],
        retention: tuple[Benchmark, str | None],
        encoder_options: Mapping[str, Any],
    ) -> Iterator[Point]:
        for alpha in alphas:
            encoder = Encoder(self.at(alpha), self.processor, name=f"alpha {alpha:g}", **encoder_options)
            values: list[float] = []
            results: dict[str, EvaluationResult] = {}
            for benchmark, metric in (composition, retention):
                result = results.get(benchmark.name) or benchmark(encoder)
                results[benchmark.name] = result
                values.append(metric_of(result, metric))
            yield Point(alpha, values[0], values[1], results)


def metric_of(result: EvaluationResult, metric: str | None = None) -> float:
    """
    A metric of a result; the one that stands for the benchmark by default.

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
    from hf_tripletclip.evaluation.plots import PALETTE, new_figure

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

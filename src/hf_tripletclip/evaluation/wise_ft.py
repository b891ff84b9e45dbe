# SPDX-License-Identifier: Apache-2.0
"""WiSE-FT: models between a base and what was tuned from it, measured on composition and on what was paid for it.

Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", arXiv 2109.01903.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from hf_tripletclip.checkpoints.load import load_clip_like
from hf_tripletclip.checkpoints.merging import check_same_architecture, interpolate, merged
from hf_tripletclip.evaluation.benchmark import Benchmark
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.results.curve import Curve, Point, metric_of
from hf_tripletclip.results.result import EvaluationResult
from hf_tripletclip.utils.devices import loading


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

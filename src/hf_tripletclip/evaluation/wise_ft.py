# SPDX-License-Identifier: Apache-2.0
"""WiSE-FT: the models between a base and a model tuned from it, measured on composition and on retention.

Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", arXiv 2109.01903.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hf_tripletclip.checkpoints.load import load_clip_like
from hf_tripletclip.checkpoints.merging import check_same_architecture, interpolate, merged
from hf_tripletclip.data.scenes.start import model_place
from hf_tripletclip.evaluation.benchmark import Benchmark
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.registry import Places
from hf_tripletclip.evaluation.run import choose
from hf_tripletclip.hub.model_card import Retention, create_model_card
from hf_tripletclip.layouts.adapters import read_base
from hf_tripletclip.layouts.files import Layout, folder_layout
from hf_tripletclip.results.curve import CURVE_FILE, PLOT_FILE, Curve, Point, metric_of, plot_curve
from hf_tripletclip.results.result import EvaluationResult
from hf_tripletclip.utils.devices import loading
from hf_tripletclip.utils.files import CARD_FILE, check_target, whole_directory
from hf_tripletclip.utils.plots import require_plots

DEFAULT_LOSS = 0.01  # of retention


def parse_alphas(text: str) -> list[float]:
    """
    Numbers from `0.0:1.0:0.1` (first, last, step; the last included) or `0,0.3,1`.

    Raises:
        ValueError: The text has neither form, or the step does not lead from the first number to the last.
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
            raise ValueError("each number is from 0, the base, to 1, the tuned model")
        return alphas
    except ValueError as error:
        raise ValueError(f"`alpha` is {text!r}; give first:last:step (0.0:1.0:0.1), or 0,0.5,1: {error}") from error


def _whole(model: torch.nn.Module) -> torch.nn.Module:
    """The model, in float32 if it is in half precision."""
    half = (torch.float16, torch.bfloat16)
    return model.float() if any(parameter.dtype in half for parameter in model.parameters()) else model


class Interpolation:
    """
    The models between a base and a model tuned from it. Half precision is converted to float32, because the change
    of a weight may be smaller than half precision can show.

    Args:
        base, tuned (`str` or `os.PathLike`): Directories or Hub ids, as for `tripletclip evaluate`; the tuned model
            may be a PEFT adapter.

    Raises:
        OSError: A model cannot be loaded.
        ValueError: The two models do not have the same architecture.
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
            alphas (`Sequence[float]`): The places of the models: 0 is the base, 1 the tuned model.
            composition, retention (`tuple[Benchmark, str | None]`): A benchmark and its metric; its primary metric by
                default.
            known (`Sequence[Point]`): Points that were measured before, such as the base's. They are not measured
                again.
            encoder_options: Arguments of [`Encoder`].

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


def named_metric(text: str) -> tuple[str, str | None]:
    """`triplets.group_score` -> benchmark and metric; the metric is `None`, for the primary one, if none is named."""
    benchmark, _, metric = text.partition(".")
    return benchmark, metric or None


def merge(
    base: str | os.PathLike[str],
    tuned: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    alphas: Sequence[float],
    composition: str = "triplets",
    retention: str = "zeroshot",
    data: Places = None,
    images: Places = None,
    options: Mapping[str, Mapping[str, Any] | str] | None = None,
    max_loss: float = DEFAULT_LOSS,
    overwrite: bool = False,
    **encoder_options: Any,
) -> tuple[Curve, Point]:
    """
    Measure the models between a base and a tuned model, and write the best of those that keep what the base knew: a
    standard CLIP directory with its processor, `interpolation.json`, `interpolation.png` and a model card.

    Args:
        base, tuned (`str` or `os.PathLike`): Directories or Hub ids, or `scenes`; the tuned model may be a PEFT
            adapter.
        output (`str` or `os.PathLike`): The directory to write. It appears complete or not at all.
        alphas (`Sequence[float]`): Which models: 0 is the base, 1 the tuned model. If there is only one alpha, its
            model is written.
        composition, retention (`str`): Benchmark, or `benchmark.metric`.
        data, images, options: Data and settings of the benchmarks, as in [`~hf_tripletclip.evaluation.evaluate`].
        max_loss (`float`, defaults to 0.01): How much of the base's retention may be lost.
        overwrite (`bool`, defaults to `False`): Whether to replace an output that exists.
        encoder_options: Arguments of [`~hf_tripletclip.evaluation.Encoder`].

    Returns:
        `tuple[Curve, Point]`: The curve, and the point of the model that was written.

    Raises:
        FileExistsError: The output exists.
        OSError: A model or the data does not exist.
        ValueError: `max_loss` is negative, the output is one of the models, the base is an adapter of the tuned
            model, the two do not have the same architecture, a benchmark or metric is
            unknown, or no model of the curve keeps enough.
        ImportError: matplotlib is not installed.
    """
    base, tuned = model_place(base), model_place(tuned)
    target = Path(output).expanduser().resolve()
    check_target(target, overwrite, [base, tuned])
    if max_loss < 0:
        raise ValueError(f"`max_loss` is {max_loss}: give 0 or more.")
    if folder_layout(Path(base)) is Layout.PEFT and _same(read_base(base)[0], tuned):
        raise ValueError(f"{base} is an adapter of {tuned}: the base comes first, so swap the two.")
    require_plots()
    wanted = [named_metric(composition), named_metric(retention)]
    chosen = choose(list(dict.fromkeys(name for name, _ in wanted)), data=data, images=images, options=options)
    made: dict[str, Benchmark] = {}
    for name, benchmark in chosen.items():
        if isinstance(benchmark, Exception):
            raise benchmark
        made[name] = benchmark
    models = Interpolation(base, tuned)
    one, other = ((made[name], metric) for name, metric in wanted)
    curve = models.measure(alphas, one, other, **encoder_options)
    point = curve.points[0] if len(curve.points) == 1 else curve.choose(max_loss)

    card = create_model_card(
        name=target.name,
        merged=True,
        base_model=os.fspath(base),
        tuned_model=os.fspath(tuned),
        retention=Retention(curve, point.alpha, point, max_loss if len(curve.points) > 1 else None, PLOT_FILE),
        config=models.base.config,
    )
    with whole_directory(target) as new:
        models.at(point.alpha).save_pretrained(new)
        models.processor.save_pretrained(new)
        curve.save(new / CURVE_FILE, point)
        plot_curve(curve, new / PLOT_FILE, point)
        card.save(new / CARD_FILE)
    return curve, point


def _same(one: str, other: str | os.PathLike[str]) -> bool:
    """Whether two names mean the same directory or repository."""
    return one == os.fspath(other) or (os.path.isdir(one) and os.path.isdir(other) and os.path.samefile(one, other))

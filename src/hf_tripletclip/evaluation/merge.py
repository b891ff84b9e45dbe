# SPDX-License-Identifier: Apache-2.0
"""`tripletclip merge BASE TUNED`: the interpolation curve, its picture, and the model that was chosen from it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_tripletclip.evaluation.benchmark import Benchmark
from hf_tripletclip.evaluation.build import Places
from hf_tripletclip.evaluation.run import choose
from hf_tripletclip.evaluation.wise_ft import Interpolation
from hf_tripletclip.layouts.adapters import ADAPTER_CONFIG, read_base
from hf_tripletclip.results.curve import CURVE_FILE, PLOT_FILE, Curve, Point, plot_curve
from hf_tripletclip.utils.plots import require_plots
from hf_tripletclip.utils.writing import check_target, whole_directory

DEFAULT_LOSS = 0.01  # of retention


def named_metric(text: str) -> tuple[str, str | None]:
    """`triplets.group_score` -> benchmark and metric; without a metric, the one that stands for the benchmark."""
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
    Measure the models between a base and a tuned one, and write the best that keeps what the base knew: a standard
    CLIP directory with its processor, `interpolation.json`, `interpolation.png` and a model card.

    Args:
        base, tuned (`str` or `os.PathLike`): Directories or Hub ids; the tuned one may be a PEFT adapter.
        output (`str` or `os.PathLike`): The directory to write. It appears whole or not at all.
        alphas (`Sequence[float]`): Which models: 0 is the base, 1 the tuned one. One alpha alone is written as it is.
        composition, retention (`str`): Benchmark, or `benchmark.metric`.
        data, images, options: Of the benchmarks, as in [`~hf_tripletclip.evaluation.evaluate`].
        max_loss (`float`, defaults to 0.01): How much of the base's retention may be lost.
        overwrite (`bool`, defaults to `False`): Whether to replace an output that exists.
        encoder_options: Of [`~hf_tripletclip.evaluation.Encoder`].

    Returns:
        `tuple[Curve, Point]`: The curve, and what was chosen.

    Raises:
        FileExistsError: The output exists.
        OSError: A model or data is not there.
        ValueError: `max_loss` is negative, the output is one of the models, the base is an adapter of the tuned one,
            the two are not of one architecture, a benchmark or metric is unknown, or no model of the curve keeps
            enough.
        ImportError: matplotlib is not installed.
    """
    target = Path(output).expanduser().resolve()
    check_target(target, overwrite, [base, tuned])
    if max_loss < 0:
        raise ValueError(f"`max_loss` is {max_loss}: give 0 or more.")
    adapter = Path(base, ADAPTER_CONFIG)
    if adapter.is_file() and _same(read_base(base, adapter)[0], tuned):
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

    # Imported here, as the command's last step: cards are made of what was measured, and know evaluation.
    from hf_tripletclip.hub.card_sections import Retention
    from hf_tripletclip.hub.model_card import create_model_card
    from hf_tripletclip.utils.files import CARD_FILE

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
    """Whether two names are of one directory or repository."""
    return one == os.fspath(other) or (os.path.isdir(one) and os.path.isdir(other) and os.path.samefile(one, other))

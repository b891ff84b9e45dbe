# SPDX-License-Identifier: Apache-2.0
"""Benchmarks as part of the trainer's evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.evaluation.benchmark import Benchmark
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.readers.images import ImageRef
from hf_tripletclip.evaluation.registry import BENCHMARKS, build_benchmark
from hf_tripletclip.results.result import EvaluationResult, main_metrics
from hf_tripletclip.training.evaluation import compositional_metric_names

if TYPE_CHECKING:
    from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments


def make_benchmarks(settings: Mapping[str, Any]) -> list[Benchmark]:
    """
    The benchmarks of `eval_benchmarks`, with their data looked at: training must not end at its first evaluation.

    Args:
        settings (`Mapping[str, Any]`): Benchmark -> its settings, or where its data is, or `None`.

    Raises:
        OSError: Data or images are not there.
        ValueError: There is no such benchmark or setting, or the data is not what it should be.
    """
    benchmarks = []
    for name, options in settings.items():
        if not (options is None or isinstance(options, (str, Mapping))):
            raise ValueError(f"`eval_benchmarks` has {options!r} for {name}: give its settings, or where its data is.")
        benchmark = build_benchmark(name, options=options)
        _look_at_data(benchmark)
        benchmarks.append(benchmark)
    return benchmarks


def _look_at_data(benchmark: Benchmark) -> None:
    if type(benchmark).contents is Benchmark.contents:
        return  # it does not tell
    missing = {image for _, images, _ in benchmark.contents() for image in images if not image.exists()}
    if missing and not benchmark.allow_missing:
        raise FileNotFoundError(
            f"{benchmark.title}: {len(missing)} images are missing, such as {min(image.name for image in missing)}: "
            "say where they are (`images`), or leave their rows out with `allow_missing: true`."
        )


def benchmark_metrics(
    benchmarks: list[Benchmark], model: Any, processor: Any, args: TripletCLIPTrainingArguments
) -> dict[str, float]:
    """
    The main metrics of a model in training, `<benchmark>_<metric>`. All processes take part, and get the same.

    Args:
        benchmarks (`list[Benchmark]`): From `make_benchmarks`.
        model ([`TripletCLIPModel`]): It is left in the mode that it was in.
        processor ([`~transformers.ProcessorMixin`]): Its processor.
        args ([`TripletCLIPTrainingArguments`]): For the batch size and the precision.
    """
    encoder = Encoder(
        model,
        processor,
        name="the model in training",
        batch_size=args.per_device_eval_batch_size,
        autocast="bfloat16" if args.bf16 else "float16" if args.fp16 else None,
        num_workers=args.dataloader_num_workers,
        progress=not args.disable_tqdm,
    )
    metrics: dict[str, float] = {}
    for benchmark in benchmarks:
        result = benchmark(encoder)
        metrics |= {f"{benchmark.name}_{name}": result.metrics[name] for name in main_metrics(result)}
    return metrics


class _RandomEmbeddings(Encoder):
    """Looks at no image and no caption."""

    def images(self, images: Sequence[ImageRef]) -> tuple[torch.Tensor, dict[int, str]]:
        return self._draw(len(images)), {}

    def texts(self, captions: Sequence[str]) -> torch.Tensor:
        return self._draw(len(captions))

    @staticmethod
    def _draw(rows: int) -> torch.Tensor:
        drawn = torch.randn(rows, 8, generator=torch.Generator().manual_seed(rows))
        return torch.nn.functional.normalize(drawn, dim=-1)


def blank_result(benchmark: Benchmark, model: Any, processor: Any) -> EvaluationResult:
    """
    A benchmark's result of random embeddings: it has the names of the metrics, and costs no forward pass.

    Args:
        benchmark (`Benchmark`): Its data is read.
        model, processor: As of [`~hf_tripletclip.evaluation.Encoder`].

    Raises:
        OSError: The data is not there.
        ValueError: The data is not what it should be.
    """
    return benchmark(_RandomEmbeddings(model, processor, progress=False))


def check_retention_metric(
    metric: str | None,
    benchmarks: Sequence[Benchmark],
    model: Any,
    processor: Any,
    *,
    flag: str = "retention_metric",
    further: Sequence[str] = (),
) -> None:
    """
    Check before the first evaluation that an evaluation gives `retention_metric`, or what another flag names.

    Args:
        metric (`str`, *optional*): Its name, with or without `eval_`.
        benchmarks (`Sequence[Benchmark]`): From `make_benchmarks`.
        model, processor: As of [`~hf_tripletclip.evaluation.Encoder`].
        flag (`str`, defaults to `"retention_metric"`): Which flag names it.
        further (`Sequence[str]`): Metrics that may be named besides, such as `loss`.

    Raises:
        ValueError: None does.
    """
    if metric is None:
        return
    name = metric.removeprefix("eval_")
    if name in further:
        return
    # `sugarcrepe_pp_...` is of sugarcrepe_pp, not of sugarcrepe
    of = max((known for known in BENCHMARKS if name.startswith(f"{known}_")), key=len, default=None)
    if of is None:
        if name in compositional_metric_names():
            return
        found = [*further]
        found += [known for known in compositional_metric_names() if not known.endswith(NEGATIVE_TYPES)]
        found += [f"{benchmark.name}_..." for benchmark in benchmarks]
        raise ValueError(f"`{flag}` is {metric!r}, which no evaluation gives; there are {', '.join(found)}.")
    benchmark = next((benchmark for benchmark in benchmarks if benchmark.name == of), None)
    if benchmark is None:
        raise ValueError(f"`{flag}` is {metric!r}, but `eval_benchmarks` has no {of}: say there where its data is.")
    found = [f"{of}_{known}" for known in main_metrics(blank_result(benchmark, model, processor))]
    if name not in found:
        raise ValueError(f"`{flag}` is {metric!r}, which {of} does not give; there are {', '.join(found)}.")

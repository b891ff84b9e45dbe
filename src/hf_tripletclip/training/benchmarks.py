# SPDX-License-Identifier: Apache-2.0
"""Benchmarks as part of the trainer's evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hf_tripletclip.evaluation.benchmark import Benchmark
from hf_tripletclip.evaluation.build import build_benchmark
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.result import main_metrics

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

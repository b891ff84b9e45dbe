# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning runs side by side: what each gains in composition and loses of what the model knew."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hf_tripletclip.config_parser import as_mapping
from hf_tripletclip.evaluation.benchmark import Benchmark
from hf_tripletclip.evaluation.build import build_benchmark
from hf_tripletclip.evaluation.interpolation import (
    CURVE_FILE,
    PLOT_FILE,
    Curve,
    Interpolation,
    Point,
    parse_alphas,
    plot_curve,
)
from hf_tripletclip.evaluation.merge import named_metric
from hf_tripletclip.evaluation.report.scores import differences
from hf_tripletclip.evaluation.result import EvaluationResult
from hf_tripletclip.training.pretraining import run_training
from hf_tripletclip.training.script_arguments import parse_arguments

TABLE_FILE = "finetuning.md"
RESULTS_FILE = "finetuning.json"


@dataclass
class FinetuningArguments:
    """What is compared, and how it is measured."""

    variants: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Runs to compare, as JSON: name -> flags that differ. Default: one run, `tuned`."},
    )
    composition: str = field(
        default="triplets", metadata={"help": "Benchmark of composition, or benchmark.metric of another metric."}
    )
    retention: str = field(default="zeroshot", metadata={"help": "The same of what must not be lost."})
    benchmarks: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Benchmark -> its settings, or where its data is, as JSON."}
    )
    alpha: str = field(
        default="0,0.25,0.5,0.75,1", metadata={"help": "Points between base and tuned weights (WiSE-FT)."}
    )
    max_loss: float = field(default=0.01, metadata={"help": "Of retention, what the WiSE-FT choice may lose."})


@dataclass
class Row:
    """A line of the table: a model beside the base."""

    name: str
    composition: EvaluationResult
    retention: EvaluationResult


def main(argv: Sequence[str], default_config: str | Path | None = None) -> list[Row]:
    """
    Fine-tune a model in one or several ways and print what each gains and loses.

    Each run's files are in `output_dir/<name>`, as those of `examples/pretrain.py`, with `interpolation.json` and
    `.png`; beside them `finetuning.md` and `finetuning.json` hold the table.

    Args:
        argv (`Sequence[str]`): Command-line arguments: the flags of `examples/pretrain.py` and those of
            [`FinetuningArguments`].
        default_config (`str` or `Path`, *optional*): YAML file to use without `--config`.

    Returns:
        `list[Row]`: The base first.

    Raises:
        OSError: A model or data is not there, or a path cannot be written.
        ValueError: An argument, the data or a model does not fit.
    """
    model_args, data_args, args, tuning = parse_arguments(
        argv,
        default_config,
        further=(FinetuningArguments,),
        description="Fine-tune a CLIP on hard negative pairs, and measure what it costs.",
    )
    base = model_args.model_name_or_path
    if base is None:
        raise ValueError("Fine-tuning starts from a model: name it with `--model_name_or_path`.")
    if not Path(base).exists() and (base.startswith(("outputs/", ".", "/")) or base.count("/") > 1):
        raise FileNotFoundError(
            f"The model {base} does not exist. For the embedded data make it first: "
            f"accelerate launch examples/pretrain.py --objective clip --output_dir {base}"
        )
    composition, retention = _measures(tuning)
    alphas = [0.0, 1.0, *parse_alphas(tuning.alpha)]
    runs = _runs(tuning, (model_args, data_args, args))
    rows: list[Row] = []
    start: Point | None = None  # the base, which all runs share
    for name, arguments in runs.items():
        run_training(*arguments, last=False)
        folder = arguments[2].output_dir
        curve = Interpolation(base, folder).measure(alphas, composition, retention, known=[start] if start else [])
        start = next(point for point in curve.points if point.alpha == 0)
        rows += _rows(name, folder, curve, tuning.max_loss, (composition, retention), first=not rows)
        PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        table = format_rows(rows, composition, retention)
        _write(Path(str(args.output_dir)), table, rows)
        print(table)
    PartialState().destroy_process_group()
    return rows


Measure = tuple[Benchmark, "str | None"]


def _measures(tuning: FinetuningArguments) -> tuple[Measure, Measure]:
    settings = as_mapping(tuning, "benchmarks")
    found = []
    for text in (tuning.composition, tuning.retention):
        name, metric = named_metric(text)
        found.append((build_benchmark(name, options=settings.get(name)), metric))
    if unused := [name for name in settings if name not in {benchmark.name for benchmark, _ in found}]:
        raise ValueError(f"`benchmarks` has settings of {', '.join(unused)}, which nothing here measures.")
    return found[0], found[1]


def _runs(tuning: FinetuningArguments, given: tuple[Any, Any, Any]) -> dict[str, tuple[Any, Any, Any]]:
    """Name -> the arguments of each run."""
    variants = as_mapping(tuning, "variants") or {"tuned": {}}
    runs = {}
    for name, changes in variants.items():
        if not isinstance(changes, Mapping):
            raise ValueError(f"`variants` has {changes!r} for {name}: give the flags that differ.")
        arguments = tuple(copy.deepcopy(part) for part in given)
        for flag, value in changes.items():
            holder = next((part for part in arguments if _has(part, flag)), None)
            if holder is None:
                raise ValueError(f"`variants`: {name} sets `{flag}`, which is no flag.")
            setattr(holder, flag, value)
        arguments[2].output_dir = str(Path(str(given[2].output_dir)) / name)
        runs[name] = arguments
    return runs


def _has(part: Any, flag: str) -> bool:
    return any(entry.name == flag for entry in dataclasses.fields(part))


def _rows(
    name: str, tuned: str, curve: Curve, max_loss: float, measures: tuple[Measure, Measure], *, first: bool
) -> list[Row]:
    """The base, for the first run; the tuned model; and the WiSE-FT choice between the two. The curve is written."""
    chosen = curve.choose(max_loss)
    if PartialState().is_main_process:
        curve.save(Path(tuned) / CURVE_FILE, chosen)
        plot_curve(curve, Path(tuned) / PLOT_FILE, chosen)

    def row(label: str, point: Point) -> Row:
        return Row(label, *(point.results[benchmark.name] for benchmark, _ in measures))

    ends = {point.alpha: point for point in curve.points}
    base = [row("base", ends[0.0])] if first else []
    return [*base, row(name, ends[1.0]), row(f"{name}, WiSE-FT α = {chosen.alpha:g}", chosen)]


def format_rows(rows: Sequence[Row], composition: Measure, retention: Measure) -> str:
    """
    A Markdown table: each model's composition and retention, and by how much they differ from the base's on the same
    rows, with the 95 % interval of a paired bootstrap.
    """
    names = [f"{b.name} {m or r.primary}" for (b, m), r in _both(composition, retention, rows[0])]
    lines = [
        f"| model | {names[0]} | gained [95 %] | {names[1]} | lost [95 %] |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [row.name]
        for sign, ((_, metric), result), start in zip(
            (1, -1),
            _both(composition, retention, row),
            (rows[0].composition, rows[0].retention),
            strict=True,
        ):
            name = metric or result.primary or ""
            cells.append(f"{result.metrics[name]:.3f}")
            found = None if row is rows[0] else differences(start, result).get(name)
            if found is None:
                cells.append("")
            else:
                low, high = sorted((sign * found.low, sign * found.high))
                cells.append(f"{sign * found.value:+.3f} [{low:+.3f}, {high:+.3f}]")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _both(composition: Measure, retention: Measure, row: Row) -> list[tuple[Measure, EvaluationResult]]:
    return [(composition, row.composition), (retention, row.retention)]


def _write(folder: Path, table: str, rows: Sequence[Row]) -> None:
    (folder / TABLE_FILE).write_text(table + "\n", encoding="utf-8")
    content = {
        row.name: {
            result.benchmark: {"metrics": result.metrics, "intervals": result.intervals}
            for result in (row.composition, row.retention)
        }
        for row in rows
    }
    (folder / RESULTS_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

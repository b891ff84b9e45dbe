# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning runs side by side: how much each gains in composition, and how much it loses of what the model knew."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from hf_tripletclip.checkpoints.load import load_clip_like
from hf_tripletclip.evaluation.benchmark import Benchmark
from hf_tripletclip.evaluation.registry import BENCHMARKS, build_benchmark
from hf_tripletclip.evaluation.wise_ft import Interpolation, named_metric, parse_alphas
from hf_tripletclip.hub.model_card import Retention
from hf_tripletclip.modeling.auto import default_objective
from hf_tripletclip.objectives import get_objective
from hf_tripletclip.results.curve import CURVE_FILE, PLOT_FILE, Point, format_gains, metric_of, plot_curve
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.training.checkpointing import resolve_checkpoint
from hf_tripletclip.training.evaluation import blank_result, check_metric_name, make_benchmarks
from hf_tripletclip.training.launch import launch
from hf_tripletclip.training.locked_towers import check_some_is_locked
from hf_tripletclip.training.output_lock import output_held
from hf_tripletclip.training.record import can_plot, check_push, push_run, write_card
from hf_tripletclip.training.run import hide_bars, require_writable, run_training
from hf_tripletclip.training.run_inputs import CONVERT_FIRST
from hf_tripletclip.training.script_arguments import check_data_is_named, parse_arguments
from hf_tripletclip.training.towers import check_fits, check_lora_is_used, check_no_adapter
from hf_tripletclip.training.variants import check_outputs, make_runs
from hf_tripletclip.utils.cli_arguments import Exclusion, as_mapping
from hf_tripletclip.utils.devices import loading

TABLE_FILE = "finetuning.md"
RESULTS_FILE = "finetuning.json"


@dataclass
class FinetuningArguments:
    """The runs that are compared, and how they are measured."""

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


Row = tuple[str, Point]  # a line of the table: a model, and its measurements
Measure = tuple[Benchmark, "str | None"]


def _measured(given: Mapping[str, Any], config: Mapping[str, Any]) -> set[str]:
    """Names of the benchmarks that the command line and, below it, the configuration ask for."""
    settings = {**asdict(FinetuningArguments()), **config, **given}
    return {named_metric(str(settings[name]))[0] for name in ("composition", "retention")}


# Other benchmarks on the command line have no use for the configuration's settings of its own.
EXCLUSIONS = tuple(Exclusion(flag, ("benchmarks",), keep=_measured) for flag in ("composition", "retention"))


def main(argv: Sequence[str], default_config: str | Path | None = None, *, prog: str | None = None) -> list[Row]:
    """
    Fine-tune a model in one or several ways and print what each gains and loses.

    Each run has the files of `tripletclip train` in `output_dir/<name>`, and `interpolation.json` and `.png`, which
    its card also shows. `finetuning.md` and `finetuning.json` in `output_dir` hold the table. With `push_to_hub` a run
    goes to `hub_model_id`; several runs go to `<hub_model_id>-<name>`.

    Args:
        argv (`Sequence[str]`): Command-line arguments: the flags of `tripletclip train` and those of
            [`FinetuningArguments`].
        default_config (`str` or `Path`, *optional*): Configuration to use without `--config`: a name or a YAML file.
        prog (`str`, *optional*): What `--help` calls the program; defaults to the script's name.

    Returns:
        `list[Row]`: Name and measurements of each model, the base first; empty if `--num_processes` or
            `--accelerate_config` had it done by other processes.

    Raises:
        OSError: A model or data is missing, or a path cannot be written.
        ValueError: An argument, the data or a model does not fit.
    """
    if launch(argv, default_config, prog):
        return []
    parse = functools.partial(
        parse_arguments,
        default_config=default_config,
        further=(FinetuningArguments,),
        exclusions=EXCLUSIONS,
        description="Fine-tune a CLIP on hard negative pairs, and measure what it gains and what it loses.",
        prog=prog,
    )
    model_args, data_args, args, tuning = parse(argv)
    hide_bars(args)
    base = model_args.model_name_or_path
    if base is None:
        raise ValueError("Fine-tuning starts from a model: name it with `--model_name_or_path`.")
    if not Path(base).exists() and (base.startswith(("outputs/", ".", "/")) or base.count("/") > 1):
        raise FileNotFoundError(
            f"The model {base} does not exist. For the built-in data make it first: "
            f"tripletclip train --config scenes_scratch --objective clip --output {base}"
        )
    check_data_is_named(model_args, argv, default_config)
    composition, retention = _measures(tuning)
    alphas = [0.0, 1.0, *parse_alphas(tuning.alpha)]
    runs = make_runs(
        as_mapping(tuning, "variants") or {"tuned": {}},
        (model_args, data_args, args),
        lambda flags: parse([*argv, *flags])[:3],
    )
    if tuning.max_loss < 0:
        raise ValueError(f"`max_loss` is {tuning.max_loss}: give 0 or more.")
    check_no_adapter(base)
    of_architecture = default_objective(base)  # raises if it cannot be trained
    check_outputs(base, str(args.output_dir), runs)
    _name_repositories(runs, args)
    for run_model_args, _, run_args in runs.values():
        run_model_args.check()
        if run_model_args.max_text_length is not None:
            why = "the base is compared with the tuned model, weight by weight"
            raise ValueError(CONVERT_FIRST.format(why, run_model_args.max_text_length))
        check_push(run_args, base, adapter=run_model_args.has_lora)
        objective = get_objective(run_args.objective or of_architecture, **run_args.objective_arguments)
        if run_args.cache_locked_towers is not None:
            check_some_is_locked(run_model_args.modes, objective)
        resolve_checkpoint(run_args.resume_from_checkpoint, run_args.output_dir)
    check_lora_is_used(argv, [run_model_args for run_model_args, _, _ in runs.values()])
    with loading(base, "a CLIP-like model"):
        model, processor = load_clip_like(base)
    for run_model_args, _, run_args in runs.values():
        check_fits(model, run_model_args)
        evaluated = make_benchmarks(run_args.benchmark_settings)
        check_metric_name(run_args.retention_metric, evaluated, model, processor)
    for benchmark, metric in (composition, retention):
        if metric is not None:
            metric_of(blank_result(benchmark, model, processor), metric)
    for _, _, run_args in runs.values():
        require_writable(run_args.output_dir)
    del model  # frees memory for training
    require_writable(args.output_dir)
    with output_held(args):
        return _run_all(base, runs, args, tuning, composition, retention, alphas)


def _run_all(
    base: str,
    runs: Mapping[str, Any],
    args: TripletCLIPTrainingArguments,
    tuning: FinetuningArguments,
    composition: Measure,
    retention: Measure,
    alphas: Sequence[float],
) -> list[Row]:
    encoding: dict[str, Any] = {
        "device": str(args.device),
        "batch_size": args.per_device_eval_batch_size,
        "num_workers": args.dataloader_num_workers,
        "progress": not args.disable_tqdm,
    }

    @functools.cache
    def start() -> Point:
        """The measurements of the base, which is a point of every curve."""
        with torch.random.fork_rng(devices=[]):  # so that the first run draws as it would alone
            return Interpolation(base, base).measure([0.0], composition, retention, **encoding).points[0]

    rows: list[Row] = []
    plots = can_plot()
    for name, arguments in runs.items():
        run = run_training(
            *arguments, last=False, when_checked=start, benchmarks=[measure[0] for measure in (composition, retention)]
        )
        known = [start()]
        curve = Interpolation(base, run.output_dir).measure(alphas, composition, retention, known=known, **encoding)
        chosen = curve.choose(tuning.max_loss)
        run.retention = Retention(
            curve, alpha=1.0, chosen=chosen, max_loss=tuning.max_loss, plot=PLOT_FILE if plots else None
        )
        if PartialState().is_main_process:
            curve.save(run.output_dir / CURVE_FILE, chosen)
            if plots:
                plot_curve(curve, run.output_dir / PLOT_FILE, chosen)
            write_card(run)
        push_run(run)
        PartialState().wait_for_everyone()
        tuned = next(point for point in curve.points if point.alpha == 1)
        rows += [] if rows else [("base", start())]
        rows += [(name, tuned), (f"{name}, WiSE-FT α = {chosen.alpha:g}", chosen)]
    if PartialState().is_main_process:
        table = format_gains(curve, rows)
        _write(Path(str(args.output_dir)), table, rows)
        print(table)
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()
    return rows


def _measures(tuning: FinetuningArguments) -> tuple[Measure, Measure]:
    settings = as_mapping(tuning, "benchmarks")
    found = []
    for text in (tuning.composition, tuning.retention):
        name, metric = named_metric(text)
        try:
            found.append((build_benchmark(name, options=settings.get(name)), metric))
        except ValueError as error:
            if name in settings or name not in BENCHMARKS:
                raise
            raise ValueError(
                f"Fine-tuning measures {text}, and nothing says where the data of {name} is: --benchmarks "
                f'\'{{"{name}": "PATH_OR_HUB_ID"}}\', or another benchmark as `--composition` or `--retention`.'
            ) from error
    if unused := [name for name in settings if name not in {benchmark.name for benchmark, _ in found}]:
        raise ValueError(f"`benchmarks` has settings of {', '.join(unused)}, which nothing here measures.")
    return found[0], found[1]


def _name_repositories(runs: Mapping[str, Any], given: TripletCLIPTrainingArguments) -> None:
    """Name the repository of each run: `Trainer` would take the name of the folder, which may have spaces."""
    name = given.hub_model_id or Path(str(given.output_dir)).resolve().name
    for variant, (_, _, args) in runs.items():
        slug = re.sub(r"[^a-z0-9]+", "-", variant.lower()).strip("-")
        args.hub_model_id = name if len(runs) == 1 else f"{name}-{slug}"


def _write(folder: Path, table: str, rows: Sequence[Row]) -> None:
    (folder / TABLE_FILE).write_text(table + "\n", encoding="utf-8")
    content = {
        name: {
            result.benchmark: {"metrics": result.metrics, "intervals": result.intervals}
            for result in point.results.values()
        }
        for name, point in rows
    }
    (folder / RESULTS_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

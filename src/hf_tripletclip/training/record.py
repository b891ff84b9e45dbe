# SPDX-License-Identifier: Apache-2.0
"""What a finished run writes beside the model (metrics, plots, a page of examples, the card), and its upload."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from transformers import TrainingArguments
from transformers.trainer_utils import has_length, unwrap_peft_model
from transformers.utils import logging

from hf_tripletclip.configuration import TripletCLIPConfig
from hf_tripletclip.evaluation.report import write_examples_page
from hf_tripletclip.hub import push_model
from hf_tripletclip.hub.card import is_ours, is_template
from hf_tripletclip.hub.model_card import EVALUATION_PLOT, LOSS_PLOT, Part, Retention, create_model_card
from hf_tripletclip.hub.model_folder import METRICS_FILE
from hf_tripletclip.hub.repository import HubId, has_id_form, is_repo_id
from hf_tripletclip.layouts.files import LOGIT_SCALE_FILE, Layout
from hf_tripletclip.objectives import get_objective
from hf_tripletclip.results import EvaluationResult
from hf_tripletclip.results.plots import plot_evaluation
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.training.resume_settings import FREE, describe_changes
from hf_tripletclip.training.towers import TowerArguments
from hf_tripletclip.utils.files import CARD_FILE, read_text, replace_text
from hf_tripletclip.utils.plots import plot_loss_curve, require_plots
from hf_tripletclip.version import __version__

logger = logging.get_logger(__name__)

CPU_INFO = Path("/proc/cpuinfo")
GIB = 1024**3


@dataclass
class RunRecord:
    """What is known of a finished run and goes into its files."""

    output_dir: Path
    config: TripletCLIPConfig
    args: TripletCLIPTrainingArguments
    dataset: str
    log_history: list[dict[str, Any]]
    before: EvaluationResult | None
    after: EvaluationResult | None
    test: Any
    base_model: str | None = None
    adapter: bool = False
    license: str | None = None
    towers: str | None = None
    hardware: dict[str, str] = field(default_factory=dict)
    retention: Retention | None = None
    repo_id: str | None = None  # the repository it is pushed to
    trained_on: Part | None = None
    evaluated_on: Part | None = None  # the test data, or else the validation data
    overlap: list[str] = field(default_factory=list)  # sentences on evaluation data that was trained on


def can_plot() -> bool:
    """Whether plots can be drawn; if not, it is said once that a run is described in numbers only."""
    try:
        require_plots()
    except ImportError as error:
        logger.warning_once(f"No picture of this run is drawn: {error}")
        return False
    return True


HYPERPARAMETERS = (
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "mini_batch_size",
    "world_size",
    "negatives_across_devices",
    "key_exchange",
    "optim",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "logit_scale_max",
    "weights_dtype",
    "bf16",
    "fp16",
    "seed",
)
# The card says these elsewhere: in the equation, and in the sentences on the bound.
ELSEWHERE = ("objective", "objective_kwargs", "retention_metric", "max_retention_loss")


def write_run_record(run: RunRecord) -> None:
    """Write metrics, plots, the page of examples and the card into the run's output folder."""
    folder = run.output_dir
    plots = can_plot()
    if plots:
        plot_loss_curve(run.log_history, folder / LOSS_PLOT)
    if run.before is not None:
        run.before.save_json(folder / "evaluation_before.json")
    if run.after is not None:
        run.after.save_json(folder / "evaluation_after.json")
        if run.before is not None and plots:
            plot_evaluation(run.before, run.after, folder / EVALUATION_PLOT)
        if run.after.predictions:
            write_examples_page(folder / "examples.html", run.test, run.after)
    write_card(run)
    # Last, so that whoever finds it finds the rest.
    metrics = {} if run.after is None else run.after.metrics
    replace_text(folder / METRICS_FILE, json.dumps(metrics, indent=1) + "\n")


def write_card(run: RunRecord) -> None:
    """Write the run's card, or write it again when more is known."""
    plots = [name for name in (LOSS_PLOT, EVALUATION_PLOT) if can_plot() and (run.output_dir / name).is_file()]
    card = create_model_card(
        name=run.output_dir.name,
        dataset=run.dataset,
        before=run.before,
        after=run.after,
        retention=run.retention,
        base_model=_base_model(run.args, run.base_model),
        kind=Layout.PEFT if run.adapter else Layout.TRANSFORMERS,
        learned_scale=(run.output_dir / LOGIT_SCALE_FILE).is_file(),
        plots=plots,
        trained_on=run.trained_on,
        evaluated_on=run.evaluated_on,
        overlap=run.overlap,
        validation=_validation(run.log_history) if run.after is None else None,
        license=run.license,
        towers=run.towers,
        hardware=run.hardware,
        **_of_training(run.config, run.args, run.log_history),
    )
    replace_text(run.output_dir / CARD_FILE, card.content)


def write_trainer_card(
    trainer: Any,
    *,
    license: str | None = None,
    tags: Sequence[str] = (),
    name: str | None = None,
    base_model: str | None = None,
    dataset: str | None = None,
) -> None:
    """
    Write a model card into a trainer's output folder, unless a person wrote one.

    Args:
        trainer ([`TripletCLIPTrainer`]): The trainer of the model.
        license (`str`, *optional*): License of the weights.
        tags (`Sequence[str]`): Further tags.
        name (`str`, *optional*): Name of the model; by default that of its repository or its folder.
        base_model (`str`, *optional*): Where training started; by default where the model was loaded from.
        dataset (`str`, *optional*): The training data: a Hub id or another name.
    """
    args, state, folder = trainer.args, trainer.state, Path(str(trainer.args.output_dir))
    there = folder / CARD_FILE
    if there.is_file() and not (is_ours(text := read_text(there)) or is_template(text)):
        return
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    has_plot = any("loss" in entry for entry in state.log_history) and can_plot()
    if has_plot:
        plot_loss_curve(state.log_history, folder / LOSS_PLOT)
    total, trained = (model.num_parameters(only_trainable=only) for only in (False, True))
    seconds = next((entry["train_runtime"] for entry in reversed(state.log_history) if "train_runtime" in entry), None)
    card = create_model_card(
        name=trainer.hub_model_id or name or folder.resolve().name,
        dataset=dataset,
        base_model=_base_model(args, base_model or trainer.core.name_or_path or None),
        learned_scale=(folder / LOGIT_SCALE_FILE).is_file(),
        kind=Layout.TRANSFORMERS if unwrap_peft_model(model) is model else Layout.PEFT,
        plots=[LOSS_PLOT] if has_plot else [],
        trained_on=part_of(trainer.train_dataset),
        evaluated_on=part_of(trainer.eval_dataset),
        overlap=trainer.overlap or [],
        license=license,
        towers=f"{trained:,} of {total:,} parameters were trained.{describe_changes(trainer.resumption.changes)}",
        hardware=describe_hardware(args, seconds),
        validation=_validation(state.log_history),
        **_of_training(trainer.core.config, args, state.log_history),
    )
    data: Any = card.data
    data.tags = list(dict.fromkeys([*data.tags, *tags]))
    replace_text(folder / CARD_FILE, card.content)


def _of_training(
    config: Any, args: TripletCLIPTrainingArguments, log_history: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The arguments of a card that a script's run and a trainer have in common."""
    values = {name: getattr(args, name) for name in HYPERPARAMETERS}
    values |= {"logit_scale_max": config.logit_scale_max}
    own = [field for field in dataclasses.fields(args) if field.name in TripletCLIPTrainingArguments.__annotations__]
    values |= {  # what this package adds to `TrainingArguments`, if it is set and decides the course of a run
        field.name: getattr(args, field.name)
        for field in own
        if field.name not in {*values, *FREE, *ELSEWHERE} and getattr(args, field.name) != field.default
    }
    values.pop("num_train_epochs" if args.max_steps > 0 else "max_steps")
    return {
        "objective": get_objective(config.objective, **(config.objective_kwargs or {})),
        "hyperparameters": {name: getattr(value, "value", value) for name, value in values.items()},  # of enumerations
        "bound": describe_bound(args, log_history),
        "config": config,
    }


def part_of(dataset: Any, split: str | None = None) -> Part | None:
    """What a card says of a dataset; nothing of a dict of datasets, whose metrics have their names."""
    if dataset is None or isinstance(dataset, dict):
        return None
    named = split or getattr(dataset, "split", None)
    return Part(len(dataset) if has_length(dataset) else None, None if named is None else str(named))


def _validation(log_history: Sequence[Mapping[str, Any]]) -> tuple[int, dict[str, float]] | None:
    """Step and metrics of the last evaluation during training."""
    last = next((entry for entry in reversed(log_history) if "eval_loss" in entry), None)
    return None if last is None else (int(last["step"]), _scores(last))


def _scores(entry: Mapping[str, Any]) -> dict[str, float]:
    hidden = ("_runtime", "_per_second", "_timing")
    return {
        name.removeprefix("eval_"): value
        for name, value in entry.items()
        if name.startswith("eval_") and isinstance(value, float) and not name.endswith(hidden)
    }


def describe_bound(args: TripletCLIPTrainingArguments, log_history: Sequence[Mapping[str, Any]]) -> str | None:
    """Sentences on whether the bound on retention held; see `StopAtRetentionLoss`. `None` without a bound."""
    if args.retention_metric is None:
        return None
    name = args.retention_metric.removeprefix("eval_")
    values = [(entry["step"], entry[f"eval_{name}"]) for entry in log_history if f"eval_{name}" in entry]
    if not values:
        return None
    start = values[0][1]
    lost = [(step, value) for step, value in values if value < start - args.max_retention_loss]
    bound = f"Training was to stop if `{name}`, {start:.4f} before it, fell by more than {args.max_retention_loss:g}. "
    if not lost:
        return f"{bound}It did not: at the last evaluation, step {values[-1][0]}, it was {values[-1][1]:.4f}."
    step, value = lost[0]
    return f"{bound}It did so at step {step} ({value:.4f}), and the model went back to weights within the bound."


def check_push(args: TripletCLIPTrainingArguments, base_model: str | None, *, adapter: bool) -> None:
    """
    Check before training that the model can be pushed after it.

    Raises:
        ValueError: `hub_base_model` is no id, or is missing for an adapter of a local model.
    """
    if args.hub_base_model is not None and not has_id_form(args.hub_base_model):
        raise ValueError(
            f"`hub_base_model` is {args.hub_base_model!r}, which is no id of the Hub, such as user/model."
        )
    if args.push_to_hub and adapter and base_model and not is_repo_id(base_model) and args.hub_base_model is None:
        raise ValueError(
            f"An adapter of {base_model}, a local model, would be of no use to others: push that model "
            "(`tripletclip push`), and name its id with `--hub_base_model`."
        )


def push_run(run: RunRecord) -> None:
    """
    Upload the run's folder, if `push_to_hub` asks for it, from the main process; the others wait.

    Raises:
        OSError: The Hub cannot be reached, or refuses the upload.
    """
    args = run.args
    if not args.push_to_hub:
        return
    state = PartialState()
    if state.is_main_process:
        url = push_model(
            run.output_dir,
            run.repo_id or run.output_dir.resolve().name,
            base_model=args.hub_base_model,
            private=args.hub_private_repo,
            revision=args.hub_revision,
            token=args.hub_token,
        )
        print(f"Pushed to {url}")
    state.wait_for_everyone()


def _base_model(args: TripletCLIPTrainingArguments, known: str | None) -> str | None:
    """The model that training started from; by its name on the Hub, if the arguments give it."""
    return known if args.hub_base_model is None else HubId(args.hub_base_model)


def describe_lora(args: TowerArguments) -> str:
    """A sentence on the adapters, empty if there are none."""
    if not args.has_lora:
        return ""
    kinds = [name for name, used in (("DoRA", args.use_dora), ("rsLoRA", args.use_rslora)) if used]
    kinds += ["on weights of 4 bits (QLoRA)"] * args.load_in_4bit
    dropout = f", dropout {args.lora_dropout:g}" if args.lora_dropout else ""
    targets = ", ".join(f"`{target}`" for target in args.lora_target_modules)
    return (
        f" LoRA of rank {args.lora_r}, alpha {args.lora_alpha}{dropout}, on {targets}"
        f"{''.join(f', {kind}' for kind in kinds)}."
    )


def describe_hardware(
    args: TrainingArguments, seconds: float | None = None, *, resumed_from: int | None = None
) -> dict[str, str]:
    """
    Describe the device, the time, the peak memory of a GPU, and the versions, as far as they are known: name -> value.

    Args:
        args ([`~transformers.TrainingArguments`]): The run's arguments: its device and its number of processes.
        seconds (`float`, *optional*): How long training took.
        resumed_from (`int`, *optional*): The step after which that time began.
    """
    found = {"hardware": _device(args)}
    if seconds is not None:
        since = f", from step {resumed_from:,} on" if resumed_from else ""
        found["training time"] = f"{seconds / 60:.1f} minutes{since}"
    if args.device.type == "cuda":
        found["peak GPU memory"] = f"{torch.cuda.max_memory_allocated(args.device) / GIB:.1f} GiB per process"
    found["software"] = (
        f"hf_tripletclip {__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    )
    return found


def _device(args: TrainingArguments) -> str:
    processes = args.world_size
    if args.device.type == "cuda":
        name = torch.cuda.get_device_name(args.device)
        return name if processes == 1 else f"{processes} × {name}"
    several = "" if processes == 1 else f", {processes} processes"
    if args.device.type == "cpu":
        return f"{_cpu()}, {os.cpu_count()} cores{several}"
    return f"{args.device.type}{several}"


def _cpu() -> str:
    """The model of the CPU, or its architecture."""
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "CPU"

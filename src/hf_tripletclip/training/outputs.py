# SPDX-License-Identifier: Apache-2.0
"""What a finished run leaves beside the model: metrics, plots, a page of examples and the model card."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_tripletclip.configuration import TripletCLIPConfig
from hf_tripletclip.evaluation import EvaluationResult
from hf_tripletclip.evaluation.plots import plot_evaluation, plot_loss_curve, require_plots
from hf_tripletclip.evaluation.report import write_examples_page
from hf_tripletclip.hub import create_model_card
from hf_tripletclip.objectives import get_objective
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments


@dataclass
class RunRecord:
    """A finished run, as far as its files tell of it."""

    output_dir: Path
    config: TripletCLIPConfig
    args: TripletCLIPTrainingArguments
    dataset: str
    log_history: list[dict[str, Any]]
    before: EvaluationResult | None
    after: EvaluationResult | None
    test: Any
    train_seconds: float
    base_model: str | None = None
    adapter: bool = False
    license: str | None = None


def require_output_tools() -> None:
    """Raise `ImportError` before training where the plots could not be drawn after it."""
    require_plots()


HYPERPARAMETERS = (
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "mini_batch_size",
    "world_size",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "bf16",
    "fp16",
    "seed",
)


def write_run_record(run: RunRecord) -> None:
    """Write everything that the head of this module names into the run's output folder."""
    folder = run.output_dir
    plots = {"Loss": "loss_curve.png"}
    plot_loss_curve(run.log_history, folder / "loss_curve.png")
    if run.before is not None:
        run.before.save_json(folder / "evaluation_before.json")
    if run.after is not None:
        run.after.save_json(folder / "evaluation_after.json")
        if run.before is not None:
            plot_evaluation(run.before, run.after, folder / "evaluation.png")
            plots["Evaluation before and after training"] = "evaluation.png"
        if run.after.predictions:
            write_examples_page(folder / "examples.html", run.test, run.after)
    card = create_model_card(
        name=folder.name,
        dataset=run.dataset,
        objective=run.config.objective,
        objective_text=describe_objective(run.config.objective),
        hyperparameters={name: _plain(getattr(run.args, name)) for name in HYPERPARAMETERS},
        before=run.before,
        after=run.after,
        base_model=run.base_model,
        adapter=run.adapter,
        license=run.license,
        training_time=f"{run.train_seconds / 60:.1f} minutes on {run.args.world_size} × {run.args.device.type}",
        plots=plots,
    )
    card.save(folder / "README.md")
    # Last, so that whoever finds it finds the rest.
    metrics = {} if run.after is None else run.after.metrics
    staged = folder / "metrics.json.tmp"
    staged.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    os.replace(staged, folder / "metrics.json")


def describe_objective(name: str) -> str:
    """The name and terms of an objective, as Markdown."""
    terms = " + ".join(
        f"{term.weight:g} CE({term.query} → {' ∪ '.join(term.keys)})" for term in get_objective(name).terms
    )
    return f"`{name}` = {terms}".replace("_", " ").replace(f"`{name.replace('_', ' ')}`", f"`{name}`")


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)  # enumerations by their value

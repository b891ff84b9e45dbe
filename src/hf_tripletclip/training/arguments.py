# SPDX-License-Identifier: Apache-2.0
"""`TripletCLIPTrainingArguments`: all that `TrainingArguments` has, and what contrastive training needs beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments


@dataclass
class TripletCLIPTrainingArguments(TrainingArguments):
    r"""
    Arguments of [`TripletCLIPTrainer`].

    Args:
        objective (`str`, *optional*):
            Training objective, one of [`~hf_tripletclip.objectives.available_objectives`]. `None` keeps the one that
            the model's config names.
        objective_kwargs (`dict` or JSON `str`, *optional*):
            Keyword arguments of the objective.
        negatives_across_devices (`bool`, defaults to `True`):
            Whether the rows of all processes are each other's negatives, with gradients. W processes with batches of
            B then train exactly as one process with a batch of W * B.
        mini_batch_size (`int`, *optional*):
            Gradient caching (Gao et al. 2021, arXiv 2101.06983): rows that go through the towers at a time, per
            device. Memory is that of the mini-batch, loss and gradients are those of the whole batch, the towers'
            forward runs twice. It need not divide the batch. `None` turns it off. Note that
            `gradient_accumulation_steps` does *not* enlarge a contrastive batch; this does.
        logit_scale_max (`float`, *optional*):
            Bound on `exp(logit_scale)`, kept after every step; defaults to the model's config's, 100.
        eval_benchmarks (`dict` or JSON `str`, *optional*):
            Benchmarks that each evaluation also runs: name -> its settings, or where its data is, such as
            `{"sugarcrepe": {"annotations": "sugar-crepe/data", "images": "val2017"}, "winoground": "winoground"}`.
            Their main metrics are logged as `eval_<benchmark>_<metric>`, which `metric_for_best_model` may name.
        retention_metric (`str`, *optional*):
            A metric of what the model knew before training, such as `zeroshot_top1` of `eval_benchmarks`: it is also
            measured before the first step, and training stops where it has fallen by more than `max_retention_loss`.
            The model then gets back the weights of the last evaluation within that bound.
        max_retention_loss (`float`, defaults to 0.02): How much of `retention_metric` may be lost.
        hub_base_model (`str`, *optional*):
            Hub id of the model that training starts from, where it starts from a directory: what the model's card
            names, and what an adapter that is pushed is opened with.
        remove_unused_columns (`bool`, defaults to `False`):
            As in `TrainingArguments`, but off: the collator needs the raw columns.
        dataloader_drop_last (`bool`, defaults to `True`):
            As in `TrainingArguments`, but on: a short last batch would have fewer negatives than the others.
        ddp_find_unused_parameters (`bool`, *optional*, defaults to `False`):
            As in `TrainingArguments`, but off: every parameter of a CLIP model takes part in the loss.
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "objective_kwargs", "eval_benchmarks"]  # noqa: RUF012

    objective: str | None = field(
        default=None,
        metadata={
            "help": "Training objective. Default: that of the model's config; in a training script, tripletclip."
        },
    )
    objective_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Keyword arguments of the objective, as JSON."}
    )
    negatives_across_devices: bool = field(
        default=True, metadata={"help": "Let the rows of all processes be each other's negatives, with gradients."}
    )
    mini_batch_size: int | None = field(
        default=None,
        metadata={"help": "Gradient caching: rows per device that go through the towers at a time (less memory)."},
    )
    logit_scale_max: float | None = field(
        default=None, metadata={"help": "Bound on exp(logit_scale) in training. Default: that of the model's config."}
    )
    eval_benchmarks: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Benchmarks that each evaluation runs, as JSON: name -> settings, or where its data is."},
    )
    retention_metric: str | None = field(
        default=None,
        metadata={"help": "Stop where this metric of an evaluation, such as zeroshot_top1, has fallen too far."},
    )
    max_retention_loss: float = field(
        default=0.02, metadata={"help": "How much of `retention_metric` may be lost, in its own unit."}
    )
    hub_base_model: str | None = field(
        default=None,
        metadata={"help": "Hub id of the model that training starts from, where it starts from a directory."},
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Drop columns that `forward` does not name."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Drop the last, short batch of an epoch."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Let DDP search for parameters without a gradient; CLIP has none."}
    )

    @property
    def objective_arguments(self) -> dict[str, Any]:
        """`objective_kwargs` as a dict."""
        return self.objective_kwargs if isinstance(self.objective_kwargs, dict) else {}

    @property
    def benchmark_settings(self) -> dict[str, Any]:
        """`eval_benchmarks` as a dict."""
        return self.eval_benchmarks if isinstance(self.eval_benchmarks, dict) else {}

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except ValueError as error:
            if "bf16/gpu" not in str(error):
                raise
            raise ValueError(
                "`bf16` is set, and there is no GPU that has it: turn it off (`--bf16 false`), or train on the CPU in "
                "bfloat16 (`--use_cpu`)."
            ) from error
        accelerator_config: Any = self.accelerator_config
        if accelerator_config.dispatch_batches is None:
            # Streams: each process reads its own rows, for batches are as long as their longest caption and rank 0
            # could not send out batches of different shapes.
            accelerator_config.dispatch_batches = False
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # torch would warn that there is nothing to pin for
        if self.objective_kwargs is not None and not isinstance(self.objective_kwargs, dict):
            raise ValueError(f"`objective_kwargs` is {self.objective_kwargs!r}: give a JSON object.")
        if self.eval_benchmarks is not None and not isinstance(self.eval_benchmarks, dict):
            raise ValueError(f"`eval_benchmarks` is {self.eval_benchmarks!r}: give a JSON object, name -> settings.")
        if self.retention_metric is not None:
            if self.eval_strategy == "no":
                raise ValueError("`retention_metric` is watched at evaluations: give `eval_strategy`.")
            self.eval_on_start = True  # what may be lost from
        elif self.max_retention_loss != type(self).max_retention_loss:
            raise ValueError("`max_retention_loss` bounds `retention_metric`: name one, such as zeroshot_top1.")
        if self.max_retention_loss < 0:
            raise ValueError(f"`max_retention_loss` is {self.max_retention_loss}: give 0 or more.")
        if self.logit_scale_max is not None and self.logit_scale_max < 1:
            raise ValueError(f"`logit_scale_max` is {self.logit_scale_max}: give at least 1.")
        if self.mini_batch_size is not None and self.mini_batch_size < 1:
            raise ValueError(f"`mini_batch_size` is {self.mini_batch_size}: give at least 1, or None to turn it off.")

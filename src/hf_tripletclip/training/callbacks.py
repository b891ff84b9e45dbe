# SPDX-License-Identifier: Apache-2.0
"""Callbacks of training runs: the bound on `logit_scale`, logs at checkpoints, and the bound on forgetting."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from hf_tripletclip.training import zero
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments

logger = logging.get_logger(__name__)

KEPT_WEIGHTS = "within_retention_bound.safetensors"  # in a checkpoint whose own weights were not evaluated


def callbacks_of(args: TripletCLIPTrainingArguments, config: Any, model: nn.Module) -> list[TrainerCallback]:
    """The callbacks that the arguments of a run and the model's config ask for."""
    found: list[TrainerCallback] = []
    if (maximum := getattr(config, "logit_scale_max", None)) is not None:
        found.append(ClampLogitScale(maximum))
    found.append(LogWhenSaving())
    if args.retention_metric is not None:
        found.append(StopAtRetentionLoss(args.retention_metric, args.max_retention_loss, model=model))
    return found


class ClampLogitScale(TrainerCallback):
    """
    Keeps `exp(logit_scale)` within 1 and `maximum` after every optimizer step (Radford et al. 2021, section 2.5; the
    lower bound is OpenCLIP's).

    Raises:
        ValueError: `maximum` is less than 1 or not finite.
    """

    def __init__(self, maximum: float) -> None:
        if not 1 <= maximum < math.inf:
            raise ValueError(f"`logit_scale_max` is {maximum}: give a finite number of at least 1.")
        self.maximum = math.log(maximum)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model: nn.Module = kwargs["model"]
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.rpartition(".")[2] != "logit_scale":
                    continue
                if getattr(args, "deepspeed_plugin", None) is not None:
                    zero.clamp(parameter, 0.0, self.maximum)
                else:
                    parameter.clamp_(0.0, self.maximum)


class LogWhenSaving(TrainerCallback):
    """
    Logs at every step or epoch that saves. The trainer averages the loss between two logs, and a checkpoint does not
    keep an unfinished average. So a resumed run repeats the exact loss curve only if each checkpoint begins a new one.
    """

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if control.should_save:
            control.should_log = True
        return control

    on_epoch_end = on_step_end


class StopAtRetentionLoss(TrainerCallback, ExportableState):
    """
    Stops training when it has cost too much of what the model knew before, such as `eval_zeroshot_top1`. It compares
    each evaluation with the first one, before the first step (`eval_on_start`). If an evaluation is more than
    `max_loss` below that, training stops, and the model gets back the weights of the last evaluation within the bound.
    It does so at once, so that no checkpoint of that moment is beyond the bound. Several processes stop together, by
    the main process's number.

    Args:
        metric (`str`): Name of the metric, as it is logged; higher is better.
        max_loss (`float`): How much of it may be lost, in the metric's own unit.
        start (`float`, *optional*): The metric before training; measured by default.
        model (`nn.Module`, *optional*): The model before training, to go back to from the first evaluation on.

    Attributes:
        checkpoint (`str`, *optional*): The checkpoint that a resumed run goes on from, with the weights to
            go back to.

    Raises:
        ValueError: `max_loss` is negative.
    """

    def __init__(
        self, metric: str, max_loss: float, start: float | None = None, model: nn.Module | None = None
    ) -> None:
        if max_loss < 0:
            raise ValueError(f"`max_retention_loss` is {max_loss}: give 0 or more.")
        self.metric = metric if metric.startswith("eval_") else f"eval_{metric}"
        self.max_loss = max_loss
        self.start = start
        self.stopped = False
        self.checkpoint: str | None = None
        self._training = False
        self._kept: tuple[int, dict[str, torch.Tensor]] | None = None if model is None else (0, _trained(model))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._training = True
        callbacks: Any = state.stateful_callbacks or {}
        saved = callbacks.get(type(self).__name__)
        if isinstance(saved, list):
            saved = saved[0] if saved else None
        if saved and saved["attributes"]["start"] is not None and state.global_step:
            # A resumed run may lose no more than an uninterrupted one, and one that had stopped does not go on.
            self.start = saved["attributes"]["start"]
            self.stopped = saved["attributes"].get("stopped", False)
            control.should_training_stop |= self.stopped
            self._kept = self._kept_before(saved["attributes"].get("kept"), state, kwargs["model"])

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self._training:  # an evaluation before or after training
            return
        metrics: dict[str, float] = kwargs.get("metrics") or {}
        if self.metric not in metrics:
            known = ", ".join(name for name in metrics if isinstance(metrics[name], float))
            raise ValueError(f"`retention_metric` is {self.metric!r}, which is not evaluated; there are {known}.")
        # One number for all: on different machines the last bit may differ, and then only some would stop.
        value: float = broadcast_object_list([metrics[self.metric]])[0]
        if self.start is None:
            self.start = value
        if value >= self.start - self.max_loss:
            self._kept = state.global_step, _trained(kwargs["model"])
            return
        self.stopped = control.should_training_stop = True
        outcome = "There is no earlier model to go back to."
        if self._kept is not None:
            step, weights = self._kept
            _restore(kwargs["model"], weights)
            outcome = f"The model goes back to {f'step {step}' if step else 'the start'}."
        if state.is_world_process_zero:
            logger.warning(
                f"Training stops after step {state.global_step}: {self.metric} fell from {self.start:.4f} to "
                f"{value:.4f}, more than {self.max_loss:.4f}. {outcome}"
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._training = False
        self._kept = None  # memory

    def _kept_before(
        self, step: int | None, state: TrainerState, model: nn.Module
    ) -> tuple[int, dict[str, torch.Tensor]] | None:
        """The step and weights that the resumed run would go back to; its checkpoint is loaded by now."""
        file = Path(self.checkpoint or "") / KEPT_WEIGHTS
        if step is not None and file.is_file():
            return step, load_file(file)
        return (step, _trained(model)) if step == state.global_step else self._kept

    def save(self, checkpoint: str, step: int) -> None:
        """Write the weights to go back to into the checkpoint of a step, unless they are those of that step."""
        if self._kept is not None and self._kept[0] != step:
            save_file(
                {name: value.contiguous() for name, value in self._kept[1].items()}, f"{checkpoint}/{KEPT_WEIGHTS}"
            )

    def state(self) -> dict[str, Any]:
        """The state that `Trainer` keeps in `trainer_state.json`."""
        return {
            "args": {"metric": self.metric, "max_loss": self.max_loss, "start": self.start},
            "attributes": {
                "start": self.start,
                "stopped": self.stopped,
                "kept": None if self._kept is None else self._kept[0],
            },
        }


def _trained(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy, on the CPU, of the weights that train."""
    return {
        name: value.detach().to("cpu", copy=True) for name, value in model.named_parameters() if value.requires_grad
    }


@torch.no_grad()
def _restore(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    for name, value in model.named_parameters():
        if name in weights:
            value.copy_(weights[name])

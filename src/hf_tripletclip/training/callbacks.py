# SPDX-License-Identifier: Apache-2.0
"""Callbacks that every training run of this package has."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


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
                if name.rpartition(".")[2] == "logit_scale":
                    parameter.clamp_(0.0, self.maximum)


class LogWhenSaving(TrainerCallback):
    """
    Logs at every step or epoch that saves. The trainer averages the loss between logs and a checkpoint does not hold a
    half-filled average, so a resumed run repeats the exact curve only if none is open when it saves.
    """

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if control.should_save:
            control.should_log = True
        return control

    on_epoch_end = on_step_end

# SPDX-License-Identifier: Apache-2.0
"""PEFT adapters: the learned scale beside one, and the plain model that an adapter makes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn
from transformers.trainer_utils import unwrap_peft_model

LOGIT_SCALE = "logit_scale"
LOGIT_SCALE_FILE = "logit_scale.safetensors"  # beside an adapter, which holds modules only


def save_logit_scale(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Write `logit_scale` beside an adapter where it was trained: peft saves modules, and it is a bare parameter."""
    core: Any = unwrap_peft_model(model)
    if core is not model and core.logit_scale.requires_grad:
        save_file({LOGIT_SCALE: core.logit_scale.detach().cpu().clone()}, Path(folder) / LOGIT_SCALE_FILE)


def load_logit_scale(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Read what `save_logit_scale` wrote, where it did."""
    path = Path(folder) / LOGIT_SCALE_FILE
    if path.is_file():
        core: Any = unwrap_peft_model(model)
        core.logit_scale.data.copy_(load_file(path)[LOGIT_SCALE])


def merged(model: Any) -> Any:
    """The plain model that a `PeftModel` computes, its adapters merged into the weights; other models as they are."""
    return model if unwrap_peft_model(model) is model else model.merge_and_unload()

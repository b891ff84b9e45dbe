# SPDX-License-Identifier: Apache-2.0
"""The frozen teacher of distillation: the model as it was before training."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers.trainer_utils import unwrap_peft_model

from hf_tripletclip.evaluation.encoder import evaluation_mode
from hf_tripletclip.modeling import PAIR
from hf_tripletclip.roles import ROLES
from hf_tripletclip.training.gradcache import FIELDS
from hf_tripletclip.training.tower_cache import TowerCache


class Teacher:
    """
    Embeds batches as the model did when this was made. Inside a `PeftModel` that is the model without its adapters,
    which costs no memory; otherwise it is a copy.

    Args:
        model ([`TripletCLIPModel`] or `PeftModel`): The model before training.
        device (`torch.device`): Where to keep a copy.

    Attributes:
        copy (`nn.Module`, *optional*): The copy; `None` inside a `PeftModel`.
        towers ([`TowerCache`], *optional*): What its towers put out, which never changes; by default they run.
    """

    towers: TowerCache | None = None

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.copy: nn.Module | None = None
        if unwrap_peft_model(model) is model:
            self.copy = copy.deepcopy(model).requires_grad_(False).to(device)

    def __call__(self, model: Any, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """
        The teacher's embeddings by role, without gradients.

        Args:
            model ([`TripletCLIPModel`] or `PeftModel`): The model in training, without DDP's wrapper.
            inputs (`dict`): Model inputs. Those that the objective does not compare with it are left out.
        """
        inputs = self._known(_compared(inputs, unwrap_peft_model(model).objective.taught))
        with self.as_before(model):
            return _embed(model if self.copy is None else self.copy, inputs)

    def as_before(self, model: Any) -> contextlib.AbstractContextManager[Any]:
        """A context in which the teacher's towers are as they were before training; `model` as of a call."""
        return contextlib.nullcontext() if self.copy is not None else model.disable_adapter()

    def _known(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs if self.towers is None else self.towers.inputs(inputs)

    def bound_to(self, model: Any) -> Callable[[dict[str, Any]], dict[str, torch.Tensor]]:
        """The same with the model in training given."""
        return lambda inputs: self(model, inputs)


def _compared(inputs: dict[str, Any], roles: Sequence[str]) -> dict[str, Any]:
    """Model inputs of some roles, and of the pair, without which the model does not run."""
    others = [role for role in ROLES.values() if role.name not in (*PAIR, *roles)]
    unused = {name for role in others for name in (*role.model_inputs, role.mask)}
    return {name: value for name, value in inputs.items() if name not in unused}


def _embed(model: Any, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    with evaluation_mode(model):
        output = model(**inputs, return_loss=False, return_logits=False)
    return {role: embeds for role, field in FIELDS.items() if (embeds := output.get(field)) is not None}

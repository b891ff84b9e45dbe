# SPDX-License-Identifier: Apache-2.0
"""The teacher in distillation: the model as it was before training, or a moving average of the model in training."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.func import functional_call
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import unwrap_peft_model

from hf_tripletclip.evaluation.encoder import evaluation_mode
from hf_tripletclip.modeling.forward import PAIR
from hf_tripletclip.roles import ROLES
from hf_tripletclip.training.gradcache import FIELDS
from hf_tripletclip.training.tower_cache import TowerCache

TEACHER_WEIGHTS = "teacher.safetensors"  # in a checkpoint: those of a teacher that moves


class Teacher:
    """
    Embeds batches as the model did when the teacher was made, or as a moving average of the model does.

    A teacher that does not move is a copy of the model. Inside a `PeftModel` it is the model without its adapters,
    which costs no memory. A teacher that moves has a copy of the weights that train, in float32, and shares all others
    with the model. The weights of adapters are averaged themselves, not the products that they add.

    Args:
        model ([`TripletCLIPModel`] or `PeftModel`): The model before training.
        device (`torch.device`): Where to keep the copy.
        decay (`float`, *optional*): How much of the teacher stays at each step; it does not move with `None` or 1.

    Attributes:
        copy (`nn.Module`, *optional*): The copy; `None` inside a `PeftModel`, and for a teacher that moves.
        weights (`dict[str, torch.Tensor]`): The averages of a teacher that moves, by the names of the parameters.
        towers ([`TowerCache`], *optional*): A cache of the outputs of its towers; without one they run each time.
    """

    towers: TowerCache | None = None

    def __init__(self, model: nn.Module, device: torch.device, decay: float | None = None) -> None:
        self.copy: nn.Module | None = None
        self.weights: dict[str, torch.Tensor] = {}
        self.moves = decay not in (None, 1)
        if self.moves:
            self._average: Any = get_ema_multi_avg_fn(float(decay))  # type: ignore[arg-type]
            self.weights = {
                # In half precision an average would not move: a step of it is smaller than the last bit.
                name: value.detach().to(device=device, dtype=torch.float32, copy=True)
                for name, value in model.named_parameters()
                if value.requires_grad
            }
        elif unwrap_peft_model(model) is model:
            self.copy = copy.deepcopy(model).requires_grad_(False).to(device)

    def __call__(self, model: Any, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """
        The teacher's embeddings by role, without gradients.

        Args:
            model ([`TripletCLIPModel`] or `PeftModel`): The model in training, without DDP's wrapper.
            inputs (`dict`): Model inputs. Only what the objective compares with the teacher is embedded.

        Returns:
            `dict[str, torch.Tensor]`: Embeddings of shape `(rows, projection_dim)` by role.
        """
        roles = unwrap_peft_model(model).objective.teacher_roles
        inputs = _compared(inputs, roles)
        if self.moves:
            weights = {name: value.to(model.get_parameter(name).dtype) for name, value in self.weights.items()}
            found = _embed(model, inputs, lambda **given: functional_call(model, weights, kwargs=given))
        else:
            with self.as_before(model):
                teacher = model if self.copy is None else self.copy
                found = _embed(teacher, self._known(inputs), teacher)
        return {role: found[role] for role in roles}

    def as_before(self, model: Any) -> contextlib.AbstractContextManager[Any]:
        """A context in which `model`, or the copy, is as it was before training."""
        return contextlib.nullcontext() if self.copy is not None else model.disable_adapter()

    def _known(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs if self.towers is None else self.towers.inputs(inputs)

    def bound_to(self, model: Any) -> Callable[[dict[str, Any]], dict[str, torch.Tensor]]:
        """This teacher as a function of the inputs alone, for a model in training."""
        return lambda inputs: self(model, inputs)

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """Move one step towards the model, if the teacher moves."""
        if not self.weights:
            return
        found = [model.get_parameter(name).detach().to(value) for name, value in self.weights.items()]
        self._average(list(self.weights.values()), found, None)

    def save(self, checkpoint: str | os.PathLike[str]) -> None:
        """Write the weights of a teacher that moves into a checkpoint folder; does nothing for another."""
        if self.moves:
            save_file(
                {name: value.contiguous() for name, value in self.weights.items()}, Path(checkpoint) / TEACHER_WEIGHTS
            )

    def load(self, checkpoint: str | os.PathLike[str]) -> None:
        """
        Read the weights that `save` wrote.

        Raises:
            ValueError: They are missing, or of another model.
        """
        if not self.moves:
            return
        path = Path(checkpoint) / TEACHER_WEIGHTS
        if not path.is_file():
            raise ValueError(
                f"{checkpoint} has no {TEACHER_WEIGHTS}: the run that wrote it has no teacher that moves "
                "(`teacher_decay`). Resume with its settings, or start another run."
            )
        found = load_file(path)
        if {name: value.shape for name, value in found.items()} != {
            name: value.shape for name, value in self.weights.items()
        }:
            raise ValueError(f"{path} is of a model in which other weights train.")
        for name, value in self.weights.items():
            value.copy_(found[name])


class _Follow(TrainerCallback):
    """Lets a teacher follow the model after each optimizer step."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.trainer.steps.learned:
            self.trainer.teacher.follow(kwargs["model"])


def teacher_of(trainer: Any) -> Teacher | None:
    """
    The teacher of a trainer's objective; `None` if it needs none. A teacher that moves follows from now on.

    Args:
        trainer ([`TripletCLIPTrainer`]): Before it trains, and before a checkpoint is loaded.

    Raises:
        ValueError: It moves, and DeepSpeed holds the weights.
    """
    objective = trainer.core.objective
    if not objective.needs_teacher:
        return None
    if objective.teacher_moves:
        if trainer.is_deepspeed_enabled:
            raise ValueError(
                "A teacher that moves (`teacher_decay`) works in one process and with DDP, not with DeepSpeed, which "
                "may not hold the whole model: freeze it by `--objective_kwargs '{\"teacher_decay\": null}'`."
            )
        trainer.add_callback(_Follow(trainer))
    return Teacher(trainer.model, trainer.args.device, objective.teacher_decay)


def _compared(inputs: dict[str, Any], roles: Sequence[str]) -> dict[str, Any]:
    """The model inputs of some roles, and at least one image and one caption: the model does not run without them."""
    found = dict(inputs)
    for role in ROLES.values():
        if role.name in roles:
            continue
        for name in (*role.model_inputs, *([role.mask] if role.mask else [])):
            value = found.pop(name, None)
            if role.name in PAIR and value is not None:
                found[name] = value[:1]
    return found


def _embed(
    model: nn.Module, inputs: dict[str, Any], forward: Callable[..., dict[str, Any]]
) -> dict[str, torch.Tensor]:
    with evaluation_mode(model):
        output = forward(**inputs, return_loss=False, return_logits=False)
    return {role: embeds for role, field in FIELDS.items() if (embeds := output.get(field)) is not None}

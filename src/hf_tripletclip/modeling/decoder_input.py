# SPDX-License-Identifier: Apache-2.0
"""What a frozen decoder reads of a text: its tower's pooled output through a matrix that trains with the model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

FILE = "decoder_input.safetensors"  # in a checkpoint, beside the optimizer
NAME = "weight"


class DecoderInput(nn.Module):
    """
    The matrix W of [`~hf_tripletclip.objectives.reconstruction.ReconstructionTerm`], as `nn.Linear` starts it, but
    always alike. It is no part of the model that is saved, so its weight is in no state dict: checkpoints keep it
    apart, by [`save_decoder_input`].

    Args:
        hidden_size (`int`): Of the text tower.
        width (`int`): Of the decoder.
    """

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = (2 * torch.rand(width, hidden_size, generator=generator) - 1) / hidden_size**0.5
        self.weight = nn.Parameter(weight)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(pooled, self.weight)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        pass

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        pass


def fit_decoder_input(model: Any, width: int | None) -> None:
    """
    Give a model the matrix that its objective needs, or take it away. One of the right size stays as it is.

    Args:
        model ([`TripletCLIPModel`]): The model.
        width (`int`, *optional*): Of the decoder; `None` if there is none.
    """
    known = getattr(model, "decoder_input", None)
    if width is None:
        model.decoder_input = None
        return
    shape = (width, model.pooled_width("text"))
    if known is None or tuple(known.weight.shape) != shape:
        model.decoder_input = DecoderInput(shape[1], width).to(
            device=next(model.text_model.parameters()).device, dtype=model.logit_scale.dtype
        )
    else:
        known.requires_grad_(True)


def decoder_states(
    model: Any,
    roles: Sequence[str],
    output: BaseModelOutputWithPooling,
    input_ids: torch.Tensor | None,
    numbers: Mapping[str, int],
) -> dict[str, torch.Tensor]:
    """
    What the decoder reads of each text, `(rows, width)` by role.

    Args:
        model ([`TripletCLIPModel`]): The model.
        roles (`Sequence[str]`): Whose are wanted.
        output (`BaseModelOutputWithPooling`): Of the text tower, for all roles together.
        input_ids (`torch.Tensor`): What went into it: token ids, or its pooled output of before.
        numbers (`Mapping[str, int]`): How many texts there are by role, in the order of the output.

    Raises:
        ValueError: The model has no matrix.
    """
    if not roles:
        return {}
    if (matrix := getattr(model, "decoder_input", None)) is None:
        raise ValueError(
            f"The objective {model.objective.name!r} has a decoder, but the model does not know of it yet: call "
            "`model.set_objective` before an optimizer is made, as `TripletCLIPTrainer` does."
        )
    assert input_ids is not None
    pooled = input_ids  # of a tower that has run before
    if not input_ids.is_floating_point():
        hidden = output.last_hidden_state
        assert hidden is not None
        places = model.text_places(input_ids).to(hidden.device)
        pooled = hidden[torch.arange(len(hidden), device=hidden.device), places]
    parts = pooled[: sum(numbers.values())].split(list(numbers.values()))
    return {role: matrix(part) for role, part in zip(numbers, parts, strict=True) if role in roles}


def save_decoder_input(model: Any, checkpoint: str | os.PathLike[str]) -> None:
    """Keep the matrix of a model in a checkpoint, if it has one."""
    if (matrix := getattr(model, "decoder_input", None)) is not None:
        save_file({NAME: matrix.weight.detach().cpu().contiguous()}, Path(checkpoint) / FILE)


def load_decoder_input(model: Any, checkpoint: str | os.PathLike[str] | None) -> None:
    """
    Restore what [`save_decoder_input`] kept, if there is a checkpoint.

    Raises:
        ValueError: The model needs one, and the checkpoint has none.
    """
    if (matrix := getattr(model, "decoder_input", None)) is None or checkpoint is None:
        return
    path = Path(checkpoint) / FILE
    if not path.is_file():
        raise ValueError(f"{checkpoint} has no {FILE}, which the decoder of the objective needs: resume another run.")
    with torch.no_grad():
        matrix.weight.copy_(load_file(path)[NAME])

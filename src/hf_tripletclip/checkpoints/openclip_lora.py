# SPDX-License-Identifier: Apache-2.0
"""LoRA matrices inside an OpenCLIP state dict, as FSC-CLIP, TSVLC and DAC save them, folded into the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch

# `...c_fc.lora_A` changes `...c_fc.weight`, `...in_proj_weight_lora_A` changes `...in_proj_weight`.
LORA = re.compile(r"(.+?)([._])lora_([AB])")


def fold_lora(state: Mapping[str, torch.Tensor], source: Path) -> dict[str, torch.Tensor]:
    """
    A state dict whose weights hold what its LoRA matrices add: `W + B A / rank` (Hu et al. 2021, arXiv 2106.09685,
    with alpha 1, which these code bases leave at its default and do not save). They save weights that are not merged.

    Args:
        state (`Mapping[str, torch.Tensor]`): With names of OpenCLIP's, and `lora_A` and `lora_B` beside weights.
        source (`Path`): For messages.

    Returns:
        `dict[str, torch.Tensor]`: Without LoRA matrices; changed weights are float32. Without any, as it was.

    Raises:
        ValueError: Of a weight and its two matrices one is missing, or their shapes do not fit.
    """
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    folded = {}
    for name, value in state.items():
        if match := LORA.fullmatch(name):
            weight = match[1] if match[2] == "_" else f"{match[1]}.weight"
            pairs.setdefault(weight, {})[match[3]] = value
        else:
            folded[name] = value
    for name, pair in pairs.items():
        if name not in folded:
            raise ValueError(
                f"{source} holds LoRA matrices of {name} without {name} itself: it is an update of another checkpoint."
            )
        if missing := {"A", "B"} - pair.keys():
            raise ValueError(f"{source}: lora_{missing.pop()} of {name} is missing.")
        folded[name] = _changed(name, folded[name].float(), pair["A"].float(), pair["B"].float(), source)
    return folded


def _changed(name: str, weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, source: Path) -> torch.Tensor:
    # A convolution is a matrix of its channels times its kernel's side, and so is its rank.
    if weight.ndim == 2 or (weight.ndim == 4 and weight.shape[2] == weight.shape[3]):
        side = weight.shape[3] if weight.ndim == 4 else 1
        outputs, inputs = (size * side for size in weight.shape[:2])
        rank = len(down) if down.ndim else 0
        if rank and rank % side == 0 and down.shape == (rank, inputs) and up.shape == (outputs, rank):
            return weight + (up @ down).view(weight.shape) * (side / rank)
    raise ValueError(
        f"{source}: lora_B {tuple(up.shape)} and lora_A {tuple(down.shape)} do not make {name} {tuple(weight.shape)}. "
        "Read are (out, rank) and (rank, in) of a linear layer, or both times the kernel's side of a convolution."
    )

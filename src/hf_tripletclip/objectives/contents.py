# SPDX-License-Identifier: Apache-2.0
"""Which rows hold the same picture or the same text: a number for each, made from what the model is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from hf_tripletclip.roles import ROLES

LARGEST = (1 << 62) - 1


def input_contents(inputs: Mapping[str, Any], roles: Iterable[str]) -> dict[str, torch.Tensor]:
    """
    The contents of a batch, as [`~hf_tripletclip.objectives.Embeddings`] takes them.

    Args:
        inputs (`Mapping[str, Any]`): Model inputs.
        roles (`Iterable[str]`): The roles that are wanted.

    Returns:
        `dict[str, torch.Tensor]`: int64 `(rows,)` by role, at least 0: the same number for the same contents.
    """
    given = inputs.get("contents") or {}
    found = {}
    for role in (ROLES[name] for name in roles):
        if role.name in given:
            found[role.name] = given[role.name]
        elif role.is_image:
            found[role.name] = digests(inputs[role.model_input])
        else:
            found[role.name] = digests(inputs[role.model_input], inputs.get(role.attention_mask))
    return found


def digests(values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """
    A number for each row, the same for the same contents, whatever the padding.

    Args:
        values (`torch.Tensor` of shape `(rows, ...)`): Pixels or token ids.
        mask (`torch.Tensor` of shape `(rows, length)`, *optional*): 1 where a token counts.

    Returns:
        `torch.Tensor` of shape `(rows,)`, int64, at least 0.
    """
    if len(values) == 0:
        return torch.zeros(0, dtype=torch.long, device=values.device)
    flat = values.detach().flatten(1)
    if flat.is_floating_point():
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]
        flat = flat.contiguous().view(bits)
    if mask is not None:
        flat = (flat + 1) * mask.to(flat.dtype)
    weights = _weights(flat.shape[1], flat.device)
    # A few rows at a time: in int64 they are twice as large.
    return torch.cat([(part.long() * weights).sum(dim=1) & LARGEST for part in flat.split(16)])


def _weights(number: int, device: torch.device) -> torch.Tensor:
    """Odd numbers that look random (splitmix64), the same first ones for every length; sums wrap around."""
    mixed = torch.arange(1, number + 1, device=device) * -7046029254386353131
    mixed = (mixed ^ (mixed >> 30)) * -4658895280553007687
    return mixed ^ (mixed >> 27) | 1

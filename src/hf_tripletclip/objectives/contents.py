# SPDX-License-Identifier: Apache-2.0
"""Which rows hold the same picture or the same text: a number for each, computed from the model's inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from hf_tripletclip.roles import ROLES

LARGEST = (1 << 62) - 1


def input_contents(inputs: Mapping[str, Any], roles: Iterable[str]) -> dict[str, torch.Tensor]:
    """
    The `contents` of a batch for [`~hf_tripletclip.objectives.Embeddings`].

    Args:
        inputs (`Mapping[str, Any]`): Model inputs. If they hold `contents` of a role, these are used.
        roles (`Iterable[str]`): The roles whose contents are needed.

    Returns:
        `dict[str, torch.Tensor]`: int64 `(rows,)` by role, at least 0: equal numbers for equal contents.
    """
    given = inputs.get("contents") or {}
    contents = {}
    for role in (ROLES[name] for name in roles):
        if role.name in given:
            contents[role.name] = given[role.name]
        elif role.is_image:
            contents[role.name] = digests(inputs[role.model_input])
        else:
            contents[role.name] = digests(inputs[role.model_input], inputs.get(role.attention_mask))
    return contents


def digests(values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """
    A number for each row, equal for equal contents, whatever the padding.

    Args:
        values (`torch.Tensor` of shape `(rows, ...)`): Pixels or token ids.
        mask (`torch.Tensor` of shape `(rows, length)`, *optional*): 1 for tokens that count, 0 for padding.

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
    # A few rows at a time, because int64 takes twice the memory.
    return torch.cat([(part.long() * weights).sum(dim=1) & LARGEST for part in flat.split(16)])


def _weights(number: int, device: torch.device) -> torch.Tensor:
    """Odd pseudo-random numbers (splitmix64); the first ones are the same for every length. Sums wrap around."""
    mixed = torch.arange(1, number + 1, device=device) * -7046029254386353131
    mixed = (mixed ^ (mixed >> 30)) * -4658895280553007687
    return mixed ^ (mixed >> 27) | 1

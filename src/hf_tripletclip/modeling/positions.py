# SPDX-License-Identifier: Apache-2.0
"""Longer captions: the text tower's position embeddings, stretched."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

KEPT = 20  # positions that stay as they are
MOST = 2**15  # tokens of a caption; attention over so many takes gigabytes already


@torch.no_grad()
def stretch_positions(model: Any, length: int, kept: int = KEPT) -> None:
    """
    Let a text tower take longer captions, in place: its first `kept` position embeddings stay, and the others are
    interpolated to as many as are needed (Zhang et al. 2024, "Long-CLIP", arXiv 2403.15378, section 3.1: the first
    positions are trained well, later ones hardly). From 77 to 248, the values are those of Long-CLIP's code. Config
    and weights stay those of an ordinary model.

    Args:
        model ([`TripletCLIPModel`] or another of [`AutoTripletModel`]): Its positions are numbered from 0, as in a
            CLIP or SigLIP.
        length (`int`): Tokens that it takes afterwards, special tokens included.
        kept (`int`, defaults to 20): How many positions stay.

    Raises:
        ValueError: The tower takes more tokens already, the length is more than 32,768, the tower has fewer than
            `kept` positions, or numbers or embeds positions in another way.
    """
    before = model.max_text_length
    if length == before:
        return
    if length < before:
        raise ValueError(
            f"`max_text_length` is {length}, but the text tower takes {before} tokens: positions are stretched, "
            "never cut."
        )
    if length > MOST:
        raise ValueError(f"`max_text_length` is {length}, {MOST:,} tokens are the most.")
    found = [
        (name, module)
        for name, module in model.text_model.named_modules()
        if "position_embedding" in name and isinstance(module, nn.Embedding)
    ]
    if len(found) != 1 or found[0][1].num_embeddings != before:
        raise ValueError(
            f"`max_text_length` is {length}, but the positions of {type(model.text_model).__name__} are not those "
            f"of a CLIP and cannot be stretched: it takes {before} tokens."
        )
    if before <= kept:
        raise ValueError(f"`max_text_length` needs more than {kept} positions to interpolate; there are {before}.")
    name, old = found[0]
    parent = model.text_model.get_submodule(name.rpartition(".")[0])
    new = nn.Embedding(length, old.embedding_dim, device=old.weight.device, dtype=old.weight.dtype)
    new.weight.copy_(stretched(old.weight, length, kept))
    new.weight.requires_grad_(old.weight.requires_grad)
    setattr(parent, name.rpartition(".")[2], new)
    if isinstance(getattr(parent, "position_ids", None), torch.Tensor):
        parent.position_ids = torch.arange(length, device=old.weight.device).expand((1, -1))
    if isinstance(getattr(parent, "token_type_ids", None), torch.Tensor):  # of a BERT
        parent.token_type_ids = torch.zeros_like(parent.position_ids)
    for config in (model.text_model.config, model.config.text_config):
        config.max_position_embeddings = length


def stretched(positions: torch.Tensor, length: int, kept: int = KEPT) -> torch.Tensor:
    """
    Position embeddings, `(before, width)`, for `length` positions: `(length, width)`. Beyond the last position the
    line through the last two goes on.
    """
    before = len(positions)
    step = (before - kept) / (length - kept)
    places = kept + step * torch.arange(length - kept, dtype=torch.float64, device=positions.device)
    left = places.floor().long().clamp(max=before - 2)
    share = (places - left)[:, None].to(torch.promote_types(positions.dtype, torch.float32))
    values = positions.to(share.dtype)
    interpolated = torch.lerp(values[left], values[left + 1], share)
    return torch.cat([positions[:kept], interpolated.to(positions.dtype)])

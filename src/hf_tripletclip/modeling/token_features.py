# SPDX-License-Identifier: Apache-2.0
"""What the towers of a dual encoder put out for patches and words, in the common space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_tripletclip.objectives import Tokens
from hf_tripletclip.roles import ROLES


def token_features(
    model: Any,
    roles: Sequence[str],
    vision_output: BaseModelOutputWithPooling,
    text_output: BaseModelOutputWithPooling,
    inputs: Mapping[str, torch.Tensor | None],
    numbers: Mapping[str, int],
) -> dict[str, Tokens]:
    """
    Patches without the class token, and words; each through the tower's last norm and its projection.

    Args:
        model ([`TripletCLIPModel`]): The model.
        roles (`Sequence[str]`): Whose are wanted.
        vision_output, text_output (`BaseModelOutputWithPooling`): Of the towers, for all roles together.
        inputs (`Mapping[str, torch.Tensor]`): `input_ids` and `attention_mask` that went into the text tower.
        numbers (`Mapping[str, int]`): How many images and texts there are by role, in the order of the outputs.

    Raises:
        ValueError: A tower's kept, pooled output stands in the place of its inputs.
    """
    found = {}
    for output, images in ((vision_output, True), (text_output, False)):
        there = [role for role in numbers if ROLES[role].is_image == images]
        wanted = [role for role in there if role in roles]
        if not wanted:
            continue
        hidden = output.last_hidden_state
        if hidden is None:
            raise ValueError(
                f"The objective looks at {'patches' if images else 'words'}, but the model was given what its "
                f"{'image' if images else 'text'} tower had put out before, which has none: give it "
                f"{'pixels' if images else 'token ids'}."
            )
        words = None if images else _words(model, inputs, hidden.device)
        end = 0
        for role in there:
            part = slice(end, end := end + numbers[role])
            if role not in wanted:
                continue
            if words is None:
                values = model.patches(hidden[part])
                found[role] = Tokens(values, values.new_ones(values.shape[:2], dtype=torch.bool))
            else:  # which have been through the tower's norm
                found[role] = Tokens(model.project_texts(hidden[part]), words[part])
    return found


def _words(model: Any, inputs: Mapping[str, torch.Tensor | None], device: torch.device) -> torch.Tensor:
    """
    Which tokens count, bool `(rows, length)`: those after the first, up to where a text ends. Of a text without any,
    the one that the tower pools.
    """
    ids = inputs["input_ids"]
    assert ids is not None
    places = torch.arange(ids.shape[1], device=device)
    counts = (places > 0) & (places <= model.text_ends(ids).to(device)[:, None])
    if (attention := inputs.get("attention_mask")) is not None:
        counts &= attention.to(device).bool()
    pooled = places == model.text_places(ids).to(device)[:, None]
    return counts | (pooled & ~counts.any(dim=1, keepdim=True))

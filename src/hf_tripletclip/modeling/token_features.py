# SPDX-License-Identifier: Apache-2.0
"""What the towers of a CLIP put out for patches and words, in the common space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_tripletclip.objectives import Tokens
from hf_tripletclip.roles import ROLES

LEGACY_END = 2  # in configs of old: the text tower then pools at the highest id


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
        hidden = hidden[:, 1:] if images else hidden
        mask = hidden.new_ones(hidden.shape[:2], dtype=torch.bool) if images else _words(model, inputs, hidden.device)
        end = 0
        for role in there:
            part = slice(end, end := end + numbers[role])
            if role not in wanted:
                continue
            if images:
                values = model.visual_projection(model.vision_model.post_layernorm(hidden[part]))
            else:
                values = model.text_projection(hidden[part])  # which has been through its norm
            found[role] = Tokens(values, mask[part])
    return found


def pooling_places(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Where the text tower of a model takes the embedding of each text, int64 `(rows,)`."""
    end = model.text_model.eos_token_id
    return (ids if end == LEGACY_END else (ids == end).int()).argmax(dim=-1)


def _words(model: Any, inputs: Mapping[str, torch.Tensor | None], device: torch.device) -> torch.Tensor:
    """Which tokens count, bool `(rows, length)`: those after the first up to where the text tower pools."""
    ids = inputs["input_ids"]
    assert ids is not None
    at = pooling_places(model, ids).to(device)[:, None]
    places = torch.arange(ids.shape[1], device=device)
    counts = (places > 0) & (places <= at)
    if (attention := inputs.get("attention_mask")) is not None:
        counts &= attention.to(device).bool()
    return counts | (places == at)

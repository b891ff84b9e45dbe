# SPDX-License-Identifier: Apache-2.0
"""Text towers of BERT's kind: they read in both directions, and pool the first token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

if TYPE_CHECKING:
    from hf_tripletclip.modeling.forward import TripletMixin

    _Model = TripletMixin
else:
    _Model = object


class FirstTokenMixin(_Model):
    """What [`TripletMixin`] has to know of a CLIP whose text tower is a BERT."""

    text_is_causal = False

    def pooled(self, tower: str, output: BaseModelOutputWithPooling) -> torch.Tensor:
        if tower == "text":  # the tower itself may have no pooling layer
            assert output.last_hidden_state is not None
            return output.last_hidden_state[:, 0]
        return super().pooled(tower, output)

    def text_places(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Where the text tower pools each text, int64 `(rows,)`: at its first token."""
        return torch.zeros(len(input_ids), dtype=torch.int64, device=input_ids.device)

    def text_ends(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The last token of each text that is not padding, int64 `(rows,)`."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        return ((input_ids != self.text_padding) * places).amax(dim=-1)

    @property
    def text_padding(self) -> int:
        return int(self.config.text_config.pad_token_id or 0)

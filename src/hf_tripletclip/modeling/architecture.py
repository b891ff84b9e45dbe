# SPDX-License-Identifier: Apache-2.0
"""What the triplet-aware forward, and training, have to know of an architecture."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_tripletclip.layouts.architectures import architecture_of
from hf_tripletclip.layouts.configs import text_positions


class ArchitectureMixin:
    """
    What differs between architectures, for a dual encoder of transformers. The defaults fit a CLIP.

    Attributes:
        text_is_causal (`bool`): Whether a token sees only those before it, so that padding on the right has no
            influence on the embedding, with or without an attention mask.
        gives_tokens (`bool`): Whether patches and words can be projected into the common space one by one, which some
            objectives need.
        may_leave_weights_unused (`bool`): Whether a tower may have weights that embeddings do not depend on: DDP must
            then look for them at each step.
    """

    text_is_causal: ClassVar[bool] = True
    gives_tokens: ClassVar[bool] = True
    may_leave_weights_unused: ClassVar[bool] = False
    bias_is_idle: bool = False  # whether a trainer has frozen `logit_bias`, of which its objective makes no use

    config_class: Any
    config: Any
    text_model: Any
    vision_model: Any
    text_projection: Any
    visual_projection: Any
    logit_scale: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # transformers renames weights of some types, such as AltCLIP, in files; for a class that is not its own, it
        # has to be told.
        mapping = get_checkpoint_conversion_mapping(getattr(getattr(cls, "config_class", None), "model_type", None))
        if mapping is not None:
            register_checkpoint_conversion_mapping(cls.__name__, mapping, overwrite=True)

    def project_texts(self, pooled: torch.Tensor) -> torch.Tensor:
        """The embeddings, not normalised, of what the text tower pooled: `(rows, width)` to `(rows, dim)`."""
        return self.text_projection(pooled)

    def project_images(self, pooled: torch.Tensor) -> torch.Tensor:
        """The embeddings, not normalised, of what the image tower pooled: `(rows, width)` to `(rows, dim)`."""
        return self.visual_projection(pooled)

    def pooled(self, tower: str, output: BaseModelOutputWithPooling) -> torch.Tensor:
        """What a tower, `text` or `vision`, pooled, `(rows, width)`: it stands in its output before the projection."""
        assert output.pooler_output is not None
        return output.pooler_output

    def pooled_width(self, tower: str) -> int:
        """The width of what a tower, `text` or `vision`, pools."""
        projection: Any = self.text_projection if tower == "text" else self.visual_projection
        return int(projection.in_features)

    def text_places(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Where the text tower pools each text, int64 `(rows,)`: at its first end-of-text token."""
        return (input_ids == self.text_model.eos_token_id).int().argmax(dim=-1)

    def text_ends(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The last token of each text that is not padding, as far as ids tell, int64 `(rows,)`."""
        return self.text_places(input_ids)

    def patches(self, hidden: torch.Tensor) -> torch.Tensor:
        """The image tower's last hidden state, `(rows, length, width)`, as patches in the common space."""
        return self.project_images(self.vision_model.post_layernorm(hidden[:, 1:]))

    @property
    def text_length_is_fixed(self) -> bool:
        """Whether all texts must be padded to one length, because the last position is pooled."""
        known = architecture_of(self.config)
        return known is not None and known.fixed_length

    @property
    def loss_is_clip(self) -> bool:
        """Whether the loss of the class it is mixed into is that of the objective `clip`."""
        known = architecture_of(self.config)
        return known is None or not known.sigmoid

    @property
    def max_text_length(self) -> int:
        """How many tokens the text tower takes, special tokens included."""
        return text_positions(self.text_model, self.config.text_config)

    @property
    def image_size(self) -> int | None:
        """The longer side, in pixels, of the images that the image tower takes; `None` if its config does not say."""
        size = getattr(self.config.vision_config, "image_size", None)
        return max(size) if isinstance(size, (list, tuple)) else size

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings, so that `resize_token_embeddings` works; some classes of transformers name none."""
        found: nn.Module = self.text_model.get_input_embeddings()
        return found

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    def dropout(self, tower: str) -> float:
        """The largest rate of dropout in a tower, `text` or `vision`, adapters included; 0 if there is none."""
        config = getattr(self.config, f"{tower}_config").to_dict()
        # An attention may have a rate without a layer.
        rates = [value for name, value in config.items() if "drop" in name and isinstance(value, (int, float))]
        module = self.text_model if tower == "text" else self.vision_model
        rates += [part.p for part in module.modules() if isinstance(part, nn.Dropout)]
        return float(max(rates, default=0))

    @property
    def text_padding(self) -> int:
        """Id of the token that joined texts of different lengths are padded with."""
        # It never is the end-of-text token, nor the highest id of a caption, at which old checkpoints pool.
        return 0


class FirstTokenMixin(ArchitectureMixin):
    """For a CLIP whose text tower is of BERT's kind: it reads in both directions, and pools the first token."""

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

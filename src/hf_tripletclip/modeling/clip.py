# SPDX-License-Identifier: Apache-2.0
"""`TripletCLIPModel`: transformers' `CLIPModel` with a forward that takes hard negative pairs."""

import torch
from transformers import CLIPModel

from hf_tripletclip.configuration import TripletCLIPConfig
from hf_tripletclip.modeling.forward import TripletMixin

LEGACY_END = 2  # in configs of old: the text tower then pools at the highest id


class TripletCLIPModel(TripletMixin, CLIPModel):
    r"""
    CLIP that can be trained on hard negative pairs (Patel et al. 2024, arXiv 2411.02545).

    Parameters, their names and the outputs without negatives are those of [`~transformers.CLIPModel`], bit for bit.

    Example:

    ```python
    >>> from hf_tripletclip import TripletCLIPModel, load_processor

    >>> model = TripletCLIPModel.from_pretrained("TripletCLIP/CC12M_TripletCLIP_ViTB12")
    >>> processor = load_processor("TripletCLIP/CC12M_TripletCLIP_ViTB12")
    ```"""

    config_class = TripletCLIPConfig
    config: TripletCLIPConfig

    def text_places(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Where the text tower pools each text, int64 `(rows,)`: at its first end-of-text token."""
        if self.text_model.eos_token_id == LEGACY_END:
            return input_ids.argmax(dim=-1)
        return super().text_places(input_ids)

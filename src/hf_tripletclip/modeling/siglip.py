# SPDX-License-Identifier: Apache-2.0
"""`TripletSiglipModel`: transformers' `SiglipModel` with a forward that takes hard negative pairs."""

import torch
from huggingface_hub.dataclasses import strict
from transformers import SiglipConfig, SiglipModel

from hf_tripletclip.configuration import TripletConfigMixin
from hf_tripletclip.modeling.forward import TripletMixin


@strict
class TripletSiglipConfig(TripletConfigMixin, SiglipConfig):
    """
    Configuration of a [`TripletSiglipModel`]: that of [`~transformers.SiglipConfig`], and the fields of
    [`TripletCLIPConfig`]. The objective is `siglip_triplet` by default, and `logit_scale` has no bound: the published
    checkpoints have learned a factor of more than 100.
    """

    objective: str = "siglip_triplet"
    logit_scale_max: float | int | None = None


class TripletSiglipModel(TripletMixin, SiglipModel):
    r"""
    SigLIP (Zhai et al. 2023, arXiv 2303.15343) and SigLIP 2 of fixed resolution (Tschannen et al. 2025,
    arXiv 2502.14786) that can be trained on hard negative pairs.

    Parameters, their names and the outputs without negatives are those of [`~transformers.SiglipModel`], bit for bit.
    Captions are always padded to the length that the text tower takes, 64 tokens, and come without an attention mask:
    the last position is pooled, and the published checkpoints have learned so.

    SigLIP 2 of flexible resolution (NaFlex, `model_type` `siglip2`) is refused: its images have different shapes.

    Example:

    ```python
    >>> from hf_tripletclip import AutoTripletModel, load_processor

    >>> model = AutoTripletModel.from_pretrained("google/siglip2-base-patch16-224")
    >>> processor = load_processor("google/siglip2-base-patch16-224")
    ```"""

    config_class = TripletSiglipConfig
    config: TripletSiglipConfig
    text_is_causal = False
    gives_tokens = False

    def project_texts(self, pooled: torch.Tensor) -> torch.Tensor:
        """As they are: SigLIP has no projections, its towers put out embeddings."""
        return pooled

    def project_images(self, pooled: torch.Tensor) -> torch.Tensor:
        """As they are: SigLIP has no projections, its towers put out embeddings."""
        return pooled

    def pooled_width(self, tower: str) -> int:
        config = self.config.text_config if tower == "text" else self.config.vision_config
        width: int = getattr(config, "projection_size", None) or config.hidden_size  # type: ignore[union-attr]
        return width

# SPDX-License-Identifier: Apache-2.0
"""`TripletDualEncoderModel`: any image tower with any text tower, and a forward that takes hard negative pairs."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import MODEL_MAPPING, PreTrainedModel, VisionTextDualEncoderConfig, VisionTextDualEncoderModel

from hf_tripletclip.configuration import TripletConfigMixin
from hf_tripletclip.modeling.forward import TripletMixin


@strict
class TripletDualEncoderConfig(TripletConfigMixin, VisionTextDualEncoderConfig):
    """
    Configuration of a [`TripletDualEncoderModel`]: that of [`~transformers.VisionTextDualEncoderConfig`], and the
    fields of [`TripletCLIPConfig`].
    """

    tower_types: ClassVar[str | None] = ""


class TripletDualEncoderModel(TripletMixin, VisionTextDualEncoderModel):
    r"""
    An image tower and a text tower of transformers, such as a DINOv2 with a BERT, with a projection behind each, that
    can be trained on hard negative pairs: with the image tower frozen, as in LiT (Zhai et al. 2022,
    arXiv 2111.07991), or in full.

    Parameters, their names and the outputs without negatives are those of
    [`~transformers.VisionTextDualEncoderModel`], bit for bit. Each tower must pool its output (`pooler_output`).

    Example:

    ```python
    >>> from transformers import AutoImageProcessor, AutoTokenizer, VisionTextDualEncoderProcessor
    >>> from hf_tripletclip.modeling import TripletDualEncoderModel

    >>> image, text = "facebook/dinov2-base", "google-bert/bert-base-uncased"
    >>> model = TripletDualEncoderModel.from_vision_text_pretrained(image, text)
    >>> image_processor, tokenizer = AutoImageProcessor.from_pretrained(image), AutoTokenizer.from_pretrained(text)
    >>> model.save_pretrained("dinov2-bert")
    >>> VisionTextDualEncoderProcessor(image_processor, tokenizer).save_pretrained("dinov2-bert")
    ```"""

    config_class = TripletDualEncoderConfig
    config: TripletDualEncoderConfig
    text_is_causal = False
    gives_tokens = False
    may_leave_weights_unused = True  # such as DINOv2's mask token

    def __init__(
        self,
        config: VisionTextDualEncoderConfig | None = None,
        vision_model: PreTrainedModel | None = None,
        text_model: PreTrainedModel | None = None,
    ) -> None:
        if config is None and vision_model is not None and text_model is not None:
            config = VisionTextDualEncoderConfig.from_vision_text_configs(vision_model.config, text_model.config)
        if isinstance(config, VisionTextDualEncoderConfig):
            parts: tuple[Any, ...] = (config.vision_config, config.text_config)
            for part in parts:
                if type(part) not in MODEL_MAPPING:
                    raise ValueError(
                        f"A model of the type {part.model_type!r} cannot be a tower of a dual encoder: `AutoModel` "
                        "does not open it alone, nor what would be saved."
                    )
        super().__init__(config, vision_model, text_model)
        for tower in (self.vision_model, self.text_model):
            tower.register_forward_hook(_check_pooled)

    def forward(self, *args: Any, interpolate_pos_encoding: bool = False, **kwargs: Any) -> Any:
        """
        As [`TripletCLIPModel.forward`], without `interpolate_pos_encoding`, which transformers does not pass to these
        towers.
        """
        if interpolate_pos_encoding:
            raise ValueError(
                "`interpolate_pos_encoding` is not passed to the towers of a VisionTextDualEncoderModel: give images "
                "of the size that the image tower takes."
            )
        return super().forward(*args, **kwargs)


def _check_pooled(tower: nn.Module, inputs: Any, output: Any) -> None:
    """After a tower's forward: its output must be pooled, or there is nothing to put the projection behind."""
    if getattr(output, "pooler_output", None) is None and not isinstance(output, tuple):
        raise ValueError(
            f"{type(tower).__name__} does not pool its output (`pooler_output`), so it cannot be a tower of a dual "
            "encoder: choose one that does, such as a BERT, RoBERTa, ViT or DINOv2."
        )

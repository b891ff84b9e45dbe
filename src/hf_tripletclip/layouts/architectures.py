# SPDX-License-Identifier: Apache-2.0
"""The architectures of transformers that can be trained here: the one table, by `model_type`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """
    A dual encoder of transformers.

    Args:
        model_type (`str`): Its `model_type` in a `config.json`.
        base (`str`): Its class in transformers, which opens what is saved here.
        model (`str`): The class of this package, as `module:Class` in `hf_tripletclip.modeling`.
        family (`str`): Its name in sentences, before "model".
        fixed_length (`bool`, defaults to `False`): Whether captions are always padded to the length that the text
            tower takes: SigLIP pools the last position and has learned without a mask of the padding. Others get
            captions padded to the longest, and a mask.
        sigmoid (`bool`, defaults to `False`): Whether it is trained with a sigmoid: it has a `logit_bias` beside
            `logit_scale`, and the sigmoid of a logit is the score of a pair.
        any_image_size (`bool`, defaults to `False`): Whether images may have another size than the config of the
            image tower says: a tower such as DINOv2 interpolates its positions by itself.
    """

    model_type: str
    base: str
    model: str
    family: str
    fixed_length: bool = False
    sigmoid: bool = False
    any_image_size: bool = False

    @property
    def described(self) -> str:
        """The family with an article, such as "a CLIP model"."""
        return f"{'an' if self.family[0] in 'AEIOU' else 'a'} {self.family} model"


ARCHITECTURES = {
    one.model_type: one
    for one in (
        Architecture("clip", "CLIPModel", "clip:TripletCLIPModel", "CLIP"),
        Architecture("siglip", "SiglipModel", "siglip:TripletSiglipModel", "SigLIP", fixed_length=True, sigmoid=True),
        Architecture("metaclip_2", "MetaClip2Model", "metaclip_2:TripletMetaClip2Model", "MetaCLIP 2"),
        Architecture("chinese_clip", "ChineseCLIPModel", "chinese_clip:TripletChineseCLIPModel", "Chinese-CLIP"),
        Architecture("altclip", "AltCLIPModel", "altclip:TripletAltCLIPModel", "AltCLIP"),
        Architecture(
            *("vision-text-dual-encoder", "VisionTextDualEncoderModel", "dual_encoder:TripletDualEncoderModel"),
            "dual encoder",
            any_image_size=True,
        ),
    )
}


def architecture_of(config: Any) -> Architecture | None:
    """The architecture of a config, or of the content of a `config.json`; `None` if it is none of them."""
    kind = config.get("model_type", "clip") if isinstance(config, Mapping) else getattr(config, "model_type", None)
    return ARCHITECTURES.get(kind) if isinstance(kind, str) else None


def supported() -> str:
    """The model types that can be trained here, for messages."""
    return ", ".join(ARCHITECTURES)

# SPDX-License-Identifier: Apache-2.0
"""`TripletChineseCLIPModel`: transformers' `ChineseCLIPModel` with a forward that takes hard negative pairs."""

from huggingface_hub.dataclasses import strict
from transformers import ChineseCLIPConfig, ChineseCLIPModel

from hf_tripletclip.configuration import TripletConfigMixin
from hf_tripletclip.modeling.architecture import FirstTokenMixin
from hf_tripletclip.modeling.forward import TripletMixin


@strict
class TripletChineseCLIPConfig(TripletConfigMixin, ChineseCLIPConfig):
    """
    Configuration of a [`TripletChineseCLIPModel`]: that of [`~transformers.ChineseCLIPConfig`], and the fields of
    [`TripletCLIPConfig`].
    """


class TripletChineseCLIPModel(FirstTokenMixin, TripletMixin, ChineseCLIPModel):
    """
    Chinese-CLIP (Yang et al. 2022, arXiv 2211.01335), whose text tower is a BERT, that can be trained on hard negative
    pairs.

    Parameters, their names and the outputs without negatives are those of [`~transformers.ChineseCLIPModel`], bit for
    bit.
    """

    config_class = TripletChineseCLIPConfig
    config: TripletChineseCLIPConfig

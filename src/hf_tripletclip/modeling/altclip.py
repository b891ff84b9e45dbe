# SPDX-License-Identifier: Apache-2.0
"""`TripletAltCLIPModel`: transformers' `AltCLIPModel` with a forward that takes hard negative pairs."""

from huggingface_hub.dataclasses import strict
from transformers import AltCLIPConfig, AltCLIPModel

from hf_tripletclip.configuration import TripletConfigMixin
from hf_tripletclip.modeling.architecture import FirstTokenMixin
from hf_tripletclip.modeling.forward import TripletMixin


@strict
class TripletAltCLIPConfig(TripletConfigMixin, AltCLIPConfig):
    """
    Configuration of a [`TripletAltCLIPModel`]: that of [`~transformers.AltCLIPConfig`], and the fields of
    [`TripletCLIPConfig`].
    """


class TripletAltCLIPModel(FirstTokenMixin, TripletMixin, AltCLIPModel):
    """
    AltCLIP (Chen et al. 2022, arXiv 2211.06679), whose text tower is an XLM-RoBERTa, that can be trained on hard
    negative pairs.

    Parameters, their names and the outputs without negatives are those of [`~transformers.AltCLIPModel`], bit for bit.
    """

    config_class = TripletAltCLIPConfig
    config: TripletAltCLIPConfig

# SPDX-License-Identifier: Apache-2.0
"""`TripletMetaClip2Model`: transformers' `MetaClip2Model` with a forward that takes hard negative pairs."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import MetaClip2Config, MetaClip2Model

from hf_tripletclip.configuration import TripletConfigMixin
from hf_tripletclip.modeling.forward import TripletMixin


@strict
class TripletMetaClip2Config(TripletConfigMixin, MetaClip2Config):
    """
    Configuration of a [`TripletMetaClip2Model`]: that of [`~transformers.MetaClip2Config`], and the fields of
    [`TripletCLIPConfig`].
    """

    pools_at_end: ClassVar[bool] = True


class TripletMetaClip2Model(TripletMixin, MetaClip2Model):
    """
    MetaCLIP 2 (Chuang et al. 2025, arXiv 2507.22062), a CLIP for many languages, that can be trained on hard negative
    pairs.

    Parameters, their names and the outputs without negatives are those of [`~transformers.MetaClip2Model`], bit for
    bit.
    """

    config_class = TripletMetaClip2Config
    config: TripletMetaClip2Config

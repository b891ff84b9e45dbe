# SPDX-License-Identifier: Apache-2.0
"""Dual encoders of transformers with a triplet-aware forward: one file per architecture, and how they are loaded."""

from __future__ import annotations

from hf_tripletclip.layouts.architectures import ARCHITECTURES
from hf_tripletclip.modeling.auto import AutoTripletModel
from hf_tripletclip.modeling.clip import TripletCLIPModel
from hf_tripletclip.modeling.forward import TripletCLIPOutput, TripletMixin
from hf_tripletclip.utils.lazy import lazy_exports

__all__ = ["AutoTripletModel", "TripletCLIPModel", "TripletCLIPOutput", "TripletMixin"]

# The classes of other architectures, such as `TripletSiglipModel`, are imported on first use.
_OTHERS = {name: module for module, _, name in (one.model.partition(":") for one in ARCHITECTURES.values())}
__getattr__, __dir__ = lazy_exports(__name__, _OTHERS)

# SPDX-License-Identifier: Apache-2.0
"""The model: CLIP with a triplet-aware forward, and how it is loaded and saved."""

from hf_tripletclip.modeling.model import TripletCLIPModel, TripletCLIPOutput

__all__ = ["TripletCLIPModel", "TripletCLIPOutput"]

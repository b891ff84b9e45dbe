# SPDX-License-Identifier: Apache-2.0
"""Reading CLIP models of any layout, and writing them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tripletclip.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from hf_tripletclip.checkpoints.conversion import convert
    from hf_tripletclip.checkpoints.load import load_clip_like
    from hf_tripletclip.checkpoints.peft_model import TripletCLIPPeftModel

__all__ = ["TripletCLIPPeftModel", "convert", "load_clip_like"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {"TripletCLIPPeftModel": "peft_model", "convert": "conversion", "load_clip_like": "load"},
)

# SPDX-License-Identifier: Apache-2.0
"""Reading and writing the layouts that CLIP checkpoints come in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tripletclip.lazy import lazy_exports

if TYPE_CHECKING:
    from hf_tripletclip.checkpoints.conversion import convert
    from hf_tripletclip.checkpoints.peft_model import TripletCLIPPeftModel
    from hf_tripletclip.checkpoints.processor import load_processor
    from hf_tripletclip.checkpoints.published import PUBLISHED_CHECKPOINTS

__all__ = ["PUBLISHED_CHECKPOINTS", "TripletCLIPPeftModel", "convert", "load_processor"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "PUBLISHED_CHECKPOINTS": "published",
        "TripletCLIPPeftModel": "peft_model",
        "convert": "conversion",
        "load_processor": "processor",
    },
)

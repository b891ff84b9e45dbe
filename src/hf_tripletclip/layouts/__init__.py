# SPDX-License-Identifier: Apache-2.0
"""The layouts that CLIP checkpoints come in: names, configs, weights files, processors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tripletclip.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from hf_tripletclip.layouts.processor import load_processor
    from hf_tripletclip.layouts.published import PUBLISHED_CHECKPOINTS

__all__ = ["PUBLISHED_CHECKPOINTS", "load_processor"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {"PUBLISHED_CHECKPOINTS": "published", "load_processor": "processor"},
)

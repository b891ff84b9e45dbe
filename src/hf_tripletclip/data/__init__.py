# SPDX-License-Identifier: Apache-2.0
"""Data: column names, loading, collating, the built-in dataset `scenes` and its tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tripletclip.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from hf_tripletclip.data.broken_rows import BrokenRows
    from hf_tripletclip.data.collator import TripletCollator
    from hf_tripletclip.data.loading import check_columns, load_tripletdata
    from hf_tripletclip.data.presets import PRESETS
    from hf_tripletclip.data.scenes import load_scenes
    from hf_tripletclip.data.schema import NEGATIVE_TYPES
    from hf_tripletclip.data.streaming import shuffled
    from hf_tripletclip.data.tokenizer import build_processor, train_tokenizer
    from hf_tripletclip.data.validate import ValidationReport

__all__ = [
    "NEGATIVE_TYPES",
    "PRESETS",
    "BrokenRows",
    "TripletCollator",
    "ValidationReport",
    "build_processor",
    "check_columns",
    "load_scenes",
    "load_tripletdata",
    "shuffled",
    "train_tokenizer",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "NEGATIVE_TYPES": "schema",
        "PRESETS": "presets",
        "BrokenRows": "broken_rows",
        "TripletCollator": "collator",
        "ValidationReport": "validate",
        "build_processor": "tokenizer",
        "check_columns": "loading",
        "load_scenes": "scenes",
        "load_tripletdata": "loading",
        "shuffled": "streaming",
        "train_tokenizer": "tokenizer",
    },
)

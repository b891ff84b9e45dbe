# SPDX-License-Identifier: Apache-2.0
"""Mining: the nearest images and captions of a dataset itself as hard negatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tripletclip.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from hf_tripletclip.mining.neighbours import Neighbours
    from hf_tripletclip.mining.run import MiningReport, mine
    from hf_tripletclip.mining.settings import MiningSettings

__all__ = ["MiningReport", "MiningSettings", "Neighbours", "mine"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {"MiningReport": "run", "MiningSettings": "settings", "Neighbours": "neighbours", "mine": "run"},
)

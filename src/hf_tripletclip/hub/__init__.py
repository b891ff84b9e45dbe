# SPDX-License-Identifier: Apache-2.0
"""What a model or a dataset says of itself on the Hub, and how a dataset gets there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tripletclip.lazy import lazy_exports

if TYPE_CHECKING:
    from hf_tripletclip.hub.model_card import create_model_card
    from hf_tripletclip.hub.push import push_dataset

__all__ = ["create_model_card", "push_dataset"]

__getattr__, __dir__ = lazy_exports(__name__, {"create_model_card": "model_card", "push_dataset": "push"})

# SPDX-License-Identifier: Apache-2.0
"""What a model says of itself on the Hub, and how it gets there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tripletclip.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from hf_tripletclip.hub.model_card import create_model_card
    from hf_tripletclip.hub.model_push import push_model

__all__ = ["create_model_card", "push_model"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {"create_model_card": "model_card", "push_model": "model_push"},
)

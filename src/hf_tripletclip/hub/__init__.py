# SPDX-License-Identifier: Apache-2.0
"""What a model or a dataset says of itself on the Hub, and how it gets there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tripletclip.lazy import lazy_exports

if TYPE_CHECKING:
    from hf_tripletclip.hub.dataset_push import push_dataset
    from hf_tripletclip.hub.folder_push import push
    from hf_tripletclip.hub.model_card import create_model_card
    from hf_tripletclip.hub.model_push import push_model

__all__ = ["create_model_card", "push", "push_dataset", "push_model"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "create_model_card": "model_card",
        "push": "folder_push",
        "push_dataset": "dataset_push",
        "push_model": "model_push",
    },
)

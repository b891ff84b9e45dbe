# SPDX-License-Identifier: Apache-2.0
"""A page that shows a triplet dataset: pairs, scores, filters, captions, concepts and what is broken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tripletclip.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from hf_tripletclip.generation.inspect.page import inspect

__all__ = ["inspect"]

__getattr__, __dir__ = lazy_exports(__name__, {"inspect": "page"})

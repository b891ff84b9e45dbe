# SPDX-License-Identifier: Apache-2.0
"""Joins two images and their captions; the negative exchanges a word of the one caption with one of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tripletclip.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from hf_tripletclip.joining.run import join
    from hf_tripletclip.joining.settings import JoinSettings

__all__ = ["JoinSettings", "join"]

__getattr__, __dir__ = lazy_exports(__name__, {"JoinSettings": "settings", "join": "run"})

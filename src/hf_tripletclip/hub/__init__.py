# SPDX-License-Identifier: Apache-2.0
"""What a model says of itself on the Hub."""

from __future__ import annotations

from hf_tripletclip.hub.model_card import create_model_card

__all__ = ["create_model_card"]

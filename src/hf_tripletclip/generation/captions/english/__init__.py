# SPDX-License-Identifier: Apache-2.0
"""The English that the rules need: word lists, a light grammar, and the changes."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """The words of a list that is written as one text."""
    return frozenset(text.split())

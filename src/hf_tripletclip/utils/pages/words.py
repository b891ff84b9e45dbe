# SPDX-License-Identifier: Apache-2.0
"""Captions with marks at the words that differ."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from hf_tripletclip.utils.pages.markup import text

MAX_WORDS = 60  # of a caption that is shown
MAX_CHARACTERS = 400


def differing_words(caption: str, negative: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """The words of both captions, each with whether it differs from the other caption."""
    first, second = _words(caption), _words(negative)
    matcher = difflib.SequenceMatcher(a=_folded(first), b=_folded(second), autojunk=False)
    same_first = {block.a + step for block in matcher.get_matching_blocks() for step in range(block.size)}
    same_second = {block.b + step for block in matcher.get_matching_blocks() for step in range(block.size)}
    return (
        [(word, place not in same_first) for place, word in enumerate(first)],
        [(word, place not in same_second) for place, word in enumerate(second)],
    )


def marked_captions(caption: str, others: Sequence[str]) -> tuple[str, list[str]]:
    """
    A caption and others as HTML. Marks are at the words of the caption that any other changes, and at the words of the
    others that differ from the caption.
    """
    pairs = [differing_words(caption, other) for other in others]
    if not pairs:
        return _marked([(word, False) for word in _words(caption)]), []
    flags = [any(places) for places in zip(*([differs for _, differs in words] for words, _ in pairs), strict=True)]
    own = [(word, differs) for (word, _), differs in zip(pairs[0][0], flags, strict=True)]
    return _marked(own), [_marked(words) for _, words in pairs]


def _words(caption: str) -> list[str]:
    words = caption[:MAX_CHARACTERS].split()
    cut = len(caption) > MAX_CHARACTERS or len(words) > MAX_WORDS
    return [*words[:MAX_WORDS], "…"] if cut else words


def _folded(words: list[str]) -> list[str]:
    """The words as they are compared: without capitals and punctuation around them."""
    return [word.lower().strip(".,;:!?") or word for word in words]


def _marked(words: Sequence[tuple[str, bool]]) -> str:
    """Words as HTML. Neighbouring words that differ share a mark."""
    parts: list[str] = []
    run: list[str] = []
    for word, differs in [*words, ("", False)]:
        if differs:
            run.append(text(word))
            continue
        if run:
            parts.append(f"<mark>{' '.join(run)}</mark>")
            run = []
        if word:
            parts.append(text(word))
    return " ".join(parts)

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from hf_tripletclip.utils.pages.words import differing_words, marked_captions


def marked(words):
    return [word for word, differs in words if differs]


@pytest.mark.parametrize(
    ("caption", "negative", "first", "second"),
    [
        ("a red cat", "a blue cat", ["red"], ["blue"]),
        ("a cat.", "A cat, and a dog", [], ["and", "a", "dog"]),
        ("a dog left of a cat", "a cat left of a dog", ["dog", "cat"], ["cat", "dog"]),
        ("same words", "same words", [], []),
        ("one", "another thing", ["one"], ["another", "thing"]),
    ],
)
def test_differing_words(caption, negative, first, second):
    own, other = differing_words(caption, negative)
    assert (marked(own), marked(other)) == (first, second)
    assert " ".join(word for word, _ in own) == caption


def test_long_captions_are_cut():
    own, other = differing_words("word " * 5000, "w" * 50_000)
    assert own[-1][0] == other[-1][0] == "…"
    assert len(own) <= 100
    assert sum(len(word) for word, _ in other) < 1000


def test_a_caption_with_several_others():
    own, others = marked_captions("a red <cat>", ["a blue <cat>", "a red dog"])
    assert own == "a <mark>red &lt;cat&gt;</mark>"  # what any of them changes
    assert others == ["a <mark>blue</mark> &lt;cat&gt;", "a red <mark>dog</mark>"]
    assert marked_captions("alone & well", []) == ("alone &amp; well", [])

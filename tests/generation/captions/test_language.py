# SPDX-License-Identifier: Apache-2.0
"""Captions in other languages are told from English ones."""

from __future__ import annotations

import pytest

from hf_tripletclip.generation.captions.language import is_english
from hf_tripletclip.generation.captions.rules import RuleCaptions
from tests.generation.needs import needs_wordnet

pytestmark = needs_wordnet

OTHERS = [
    "Un chien noir court dans la neige",
    "Une femme en robe rouge devant une table orange",
    "un chien",
    "Ein Hund läuft über die Straße",
    "Zwei Männer sitzen auf einer Bank",
    "Un perro negro corre por la nieve",
    "Un cane nero corre nella neve",
    "Een hond rent door het gras",
    "Um cachorro preto na praia",
    "En svart hund springer i snön",
    "Czarny pies biegnie po śniegu",
    "Kaksi koiraa juoksee lumessa",
    "собака бежит по снегу",
    "一只狗在雪地里",
    "犬が走る",
    "كلب أسود",
]
ENGLISH = [
    "A dog runs on a beach",
    "two men on a mountain",
    "Red car",
    "dogs playing",
    "No dogs",
    "Las Vegas strip",
    "A man in Los Angeles",
    "El Capitan at night",
    "a die on a table",
    "Paris in Spring",
    "la la land",
    "crème brûlée and café au lait on a table",
    "zzxq",
    "IMG_0123.jpg",
    "1 2 3",
    "...",
]


@pytest.mark.parametrize("caption", OTHERS)
def test_other_languages(caption):
    assert not is_english(caption)
    for many in (1, 3):
        made = RuleCaptions(num_negatives=many)({"id": ["a"], "caption": [caption]})
        assert made["neg_caption"] == [None]
        assert made["error"] == ["English only: this caption is in another language"]


@pytest.mark.parametrize("caption", ENGLISH)
def test_english(caption):
    assert is_english(caption)

# SPDX-License-Identifier: Apache-2.0
"""Tokens, parts of speech, noun phrases and inflection."""

from __future__ import annotations

import pytest

from hf_tripletclip.generation.captions.english import lexicon
from hf_tripletclip.generation.captions.english.grammar import (
    Parsed,
    article,
    in_case_of,
    noun_phrases,
    pieces_of,
    tag,
)
from hf_tripletclip.generation.captions.english.nouns import is_plural, plural
from tests.generation.needs import needs_wordnet

pytestmark = needs_wordnet


@pytest.mark.parametrize("caption", ["A dog's  bowl, <PERSON>!\n", "", "…", "a_b é 3-D", "🐕🐈 “x”"])
def test_pieces_are_the_caption(caption):
    assert "".join(pieces_of(caption)) == caption


def tags(caption: str) -> str:
    return " ".join(token.tag for token in tag(caption)[1])


def test_parts_of_speech():
    assert tags("A man is riding a brown horse.") == "DET NOUN AUX ING DET ADJ NOUN PUNCT"
    assert tags("A cat sits on the bench") == "DET NOUN VERB PREP DET NOUN"
    assert tags("Two dogs sit near his farmhouse sink") == "NUM NOUN VERB PREP POSS NOUN NOUN"
    assert tags("a bird sits and watches the sea") == "DET NOUN VERB CONJ VERB DET NOUN"
    assert tags("a building by a parked car") == "DET NOUN PREP DET ADJ NOUN"
    assert tags("two bears swimming in a river") == "NUM NOUN ING PREP DET NOUN"
    assert tags("a black and white toothbrush") == "DET ADJ CONJ ADJ NOUN"
    assert tags("an orange") == "DET NOUN"


def test_noun_phrases():
    caption = "A small black and white cat in front of two fire trucks"
    found = [(phrase.start, phrase.head, phrase.stop, phrase.noun) for phrase in noun_phrases(tag(caption)[1])]
    assert found == [(0, 5, 6, "cat"), (9, 10, 12, "fire trucks")]
    parsed = Parsed("A bright red fire truck near a kitchen counter")
    assert [(phrase.noun, phrase.nouns) for phrase in parsed.phrases] == [("fire truck", 1), ("counter", 2)]


def test_plurals():
    for noun, many in (("dog", "dogs"), ("bus", "buses"), ("city", "cities"), ("boy", "boys"), ("knife", "knives"),
                       ("woman", "women"), ("sheep", "sheep"), ("fire truck", "fire trucks"), ("person", "people"),
                       ("couch", "couches"), ("fox", "foxes"), ("calf", "calves")):  # fmt: skip
        assert plural(noun) == many
        assert is_plural(many.split()[-1])


@pytest.mark.parametrize(
    ("word", "expected"),
    [("apple", "an"), ("dog", "a"), ("unicorn", "a"), ("umbrella", "an"), ("uniform", "a"), ("hour", "an"),
     ("unripe", "an"), ("used", "a"), ("8", "an"), ("one", "a"), ("European", "a"), ("oven", "an"), ("ukulele", "a"),
     ("unmade", "an"), ("house", "a"), ("utensil", "a"), ("ugly", "an"), ("onion", "an")],
)  # fmt: skip
def test_articles(word, expected):
    assert article(word) == expected


def test_case():
    assert in_case_of("polar bear", "dog", False, False) == "polar bear"
    assert in_case_of("polar bear", "Dog", False, False) == "Polar bear"
    assert in_case_of("polar bear", "DOG", True, False) == "POLAR BEAR"
    assert in_case_of("polar bear", "Dog", False, True) == "Polar Bear"


def test_verbs():
    expected = {
        "run": ("run", "runs", "running", "ran"),
        "push": ("push", "pushes", "pushing", "pushed"),
        "ride": ("ride", "rides", "riding", "rode"),
        "trample": ("trample", "tramples", "trampling", "trampled"),
        "carry": ("carry", "carries", "carrying", "carried"),
        "dance": ("dance", "dances", "dancing", "danced"),
        "crawl": ("crawl", "crawls", "crawling", "crawled"),
    }
    for lemma, forms in expected.items():
        assert lexicon.forms(lemma) == forms
        assert tuple(lexicon.inflect(lemma, form) for form in ("", "s", "ing", "ed")) == forms


def test_render_sets_articles_and_keeps_the_rest():
    parsed = Parsed("An  Elephant, a pear\tand AN apple ")
    pear = parsed.words.index("pear")
    assert parsed.render([(pear, pear + 1, "orange")]) == "An  Elephant, an orange\tand AN apple "
    shouted = Parsed("A PEAR IS HERE")
    assert shouted.render([(1, 2, "apple")]) == "AN APPLE IS HERE"
    assert Parsed("An apple").render([(1, 2, "pear")]) == "A pear"

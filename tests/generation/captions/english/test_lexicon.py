# SPDX-License-Identifier: Apache-2.0
"""The word lists hang together, with each other and with WordNet."""

from __future__ import annotations

import pytest

from hf_tripletclip.generation.captions.english import lexicon, table
from hf_tripletclip.generation.captions.english.nouns import (
    COUNTABLE,
    MASS,
    PLURALS,
    look_up,
    plural,
    related,
    replacements,
)
from hf_tripletclip.generation.wordnet import load_wordnet
from tests.generation.needs import needs_wordnet

pytestmark = needs_wordnet


def test_listed_groups_exist():
    assert len(lexicon.GROUPS) == len(table("nouns"))
    for word, name in lexicon.GROUP_OF.items():
        assert any(word in alike for alike in lexicon.GROUPS[name].sets), (word, name)
    for group in lexicon.GROUPS.values():
        for synset in group.synsets:
            assert load_wordnet().synset(synset).pos() == "n"


def test_every_noun_has_replacements_that_are_not_true_of_it():
    for word, entry in {**COUNTABLE, **MASS}.items():
        found = replacements(word, entry.group.name, entry.alike)
        assert found, word
        assert not set(found) & entry.alike
        if not entry.group.replaced_by:
            assert not [other for other in found if related(other, word)]


def test_a_noun_in_no_list_is_placed_by_wordnet():
    assert look_up("theodolite", "a", False) is None
    parakeet = look_up("lorikeet", "a", False)
    assert parakeet is not None
    assert parakeet.entry.group.name == "birds"
    many = look_up("lorikeets", "", True)
    assert many is not None
    assert many.plural
    assert look_up("chiffonier", "the", False).entry.group.name == "seats"
    assert look_up("idea", "an", False) is None
    assert look_up("women", "a", False) is None


def test_number_and_mass():
    assert look_up("pizza", "a", False).mass is False
    assert look_up("pizza", "", True).mass is True
    assert look_up("grass", "the", False).mass is True
    assert look_up("men", "", True).plural
    assert plural("police officer") in PLURALS


def test_attributes_are_false_of_each_other():
    for word, options in {**lexicon.ATTRIBUTES, **lexicon.COLOURS}.items():
        assert options, word
        assert word not in options
    for colour, others in lexicon.COLOURS.items():
        assert lexicon.LOOK[colour] not in others
        assert set(others) <= set(lexicon.LOOK.values())
    assert not set(lexicon.SET_PHRASES) - set(lexicon.ATTRIBUTES)
    assert not set(lexicon.ALONE) - set(lexicon.ATTRIBUTES)


@pytest.mark.parametrize(("first", "second"), [("bird", "duck"), ("couch", "sofa"), ("car", "taxi"), ("dog", "puppy")])
def test_related(first, second):
    assert related(first, second)
    assert related(second, first)
    assert not related("dog", "cat")

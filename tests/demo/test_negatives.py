# SPDX-License-Identifier: Apache-2.0
"""Hard negatives by rules, and the message if WordNet is missing."""

from __future__ import annotations

import sys

import pytest

from hf_tripletclip.demo.inputs import DemoError, NegativeWriter
from hf_tripletclip.generation.captions.rules import KINDS
from hf_tripletclip.generation.wordnet import load_wordnet
from tests.generation.needs import needs_wordnet

CAPTION = "a red square above a blue circle"


@pytest.fixture
def without_nltk(monkeypatch):
    load_wordnet.cache_clear()
    monkeypatch.setitem(sys.modules, "nltk", None)
    yield
    load_wordnet.cache_clear()


@needs_wordnet
def test_negatives_differ_and_have_kinds():
    writer = NegativeWriter(number=5)
    assert writer.problem is None
    made = writer.write(CAPTION)
    assert len(made) == 5
    assert CAPTION not in made
    assert set(made.values()) <= set(KINDS)
    assert made == writer.write(CAPTION)
    assert list(writer.write(CAPTION, seed=1)) != list(made)


@needs_wordnet
def test_another_language():
    with pytest.raises(DemoError, match="The rules know English only"):
        NegativeWriter().write("Un chien noir court dans la neige")


@needs_wordnet
def test_no_rule_applies():
    with pytest.raises(DemoError, match="No rule applies"):
        NegativeWriter().write("hello")


def test_without_wordnet_the_error_says_what_to_install(without_nltk):
    writer = NegativeWriter()
    with pytest.raises(DemoError, match=r"type some yourself.*pip install"):
        writer.write(CAPTION)

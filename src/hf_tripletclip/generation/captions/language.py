# SPDX-License-Identifier: Apache-2.0
"""Whether a caption is English, plainly: by its small words, its letters, and the words that WordNet knows."""

from __future__ import annotations

import unicodedata

from hf_tripletclip.generation.captions.content import find_words
from hf_tripletclip.generation.captions.english import words
from hf_tripletclip.generation.captions.english.grammar import CLOSED
from hf_tripletclip.generation.wordnet import load_wordnet

FOREIGN = words("foreign")
ENGLISH = frozenset(CLOSED) - FOREIGN
FEW = 4  # words, without small ones; of fewer it does not matter whether WordNet knows them
KNOWN = 0.5  # share of its other words that WordNet knows at least of an English caption


def is_english(caption: str) -> bool:
    """
    Whether a caption may be English. It says no only if that is clear: most letters are of another script, small
    words of other languages outnumber those of English, or WordNet knows few of the words.
    """
    if not caption.isascii():  # else all letters are Latin
        letters = [sign for sign in caption if sign.isalpha()]
        if sum(unicodedata.name(sign, "").startswith("LATIN") for sign in letters) < len(letters) / 2:
            return False
    found = find_words(caption)
    english, foreign = (len(set(found) & small) for small in (ENGLISH, FOREIGN))
    if foreign > max(english, 1):
        return False
    if english >= max(foreign, 1):
        return True
    others = [word for word in found if word not in CLOSED and word not in FOREIGN and word.isalpha()]
    if len(others) < FEW and not foreign:
        return True
    wordnet = load_wordnet()
    return not others or sum(wordnet.morphy(word) is not None for word in others) >= KNOWN * len(others)

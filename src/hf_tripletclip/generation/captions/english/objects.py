# SPDX-License-Identifier: Apache-2.0
"""Replaces objects."""

from __future__ import annotations

from collections.abc import Iterator

from hf_tripletclip.generation.captions.english import grammar, nouns, vocabulary, words
from hf_tripletclip.generation.captions.english.grammar import (
    AUX,
    CONJ,
    ED,
    ING,
    NOUN,
    NUM,
    OTHER,
    PREP,
    PRON,
    PUNCT,
    VERB,
)
from hf_tripletclip.generation.captions.english.parsing import Parsed, Site


def replace_object(parsed: Parsed) -> Iterator[Site]:
    """A noun becomes a co-hyponym: "a dog on a bench" to "a fox on a bench"."""
    for number, (phrase, noun) in enumerate(zip(parsed.phrases, parsed.nouns, strict=True)):
        if noun is None or not _replaceable(parsed, number):
            continue
        options = []
        for word in nouns.replacements(noun.base, noun.entry.group.name, noun.entry.alike):
            if noun.base in vocabulary.HE | vocabulary.SHE and parsed.pronouns and not _same_sex(noun.base, word):
                continue
            if _YOUNG & set(parsed.words[phrase.start : phrase.head]) and word in ("man", "woman"):
                continue
            new = grammar.plural(word) if noun.plural else word
            taken = {word, grammar.plural(word), *word.split(), *grammar.plural(word).split()}
            if taken & set(parsed.words):
                continue
            options.append(((phrase.head, phrase.stop, new),))
        if options:
            yield Site(tuple(options))


_YOUNG = words("little small young baby")


def _same_sex(first: str, second: str) -> bool:
    return (first in vocabulary.HE and second in vocabulary.HE) or (
        first in vocabulary.SHE and second in vocabulary.SHE
    )


def _replaceable(parsed: Parsed, number: int) -> bool:
    phrase, noun = parsed.phrases[number], parsed.nouns[number]
    assert noun is not None
    before, after = parsed.before(phrase.start), parsed.after(phrase.stop)
    if phrase.nouns > 1 or after in ("of", "'", "-", "/") or before in ("-", "/", "'"):
        return False
    if parsed.tag(phrase.stop) in (OTHER, NOUN, NUM) or parsed.tag(phrase.start - 1) == OTHER:
        return False
    forms = {noun.base, grammar.plural(noun.base), phrase.noun}
    if sum(word in forms for word in parsed.words) > 1:
        return False
    allowed = noun.entry.group.after.split()
    group = noun.entry.group.name
    if before in ("in", "into", "inside") and group not in _HOLLOW and not noun.isa("clothing"):
        return False  # "in a chair" is not "in a table"
    if before == "at" and group != "buildings":
        return False
    if before == "on" and noun.isa("device"):
        return False  # "on the phone"
    if noun.base in ("television", "tv") and phrase.head == phrase.start:
        return False
    if noun.base == "orange" and parsed.tag(phrase.stop) not in (PUNCT, PREP, CONJ, AUX):
        return False
    if noun.base in ("sign", "billboard", "flag", "shirt") and parsed.tag(phrase.stop) in (ING, PRON, VERB):
        return False  # "a sign that says"
    if allowed and before not in allowed:
        return False
    if group == "grounds" and phrase.head - phrase.start > (phrase.determiner == "the"):
        return False  # "tall grass"
    if parsed.tag(phrase.stop) == ED and not phrase.determiner and parsed.tag(phrase.stop + 1) == NOUN:
        return False  # "grass covered field"
    if noun.entry.group.name in ("on places", "in places", "rooms") and phrase.determiner not in (
        "a", "an", "the", "one", "two", "three", "some",
    ):  # fmt: skip
        return False
    bare = phrase.head == phrase.start and not noun.plural and not noun.mass
    if bare and before in ("in", "at", "by", "to", "of", "from", "for", "as", "into", "down", "up", "on"):
        return False  # "in bed", "by train", "at home"
    if noun.mass and noun.entry.group.name == "sliced foods" and before != "of":
        return False
    if noun.mass and noun.entry.group.name == "games" and before not in ("playing", "plays", "play", "of"):
        return False
    modifiers = {token.word for token in parsed.tokens[phrase.start : phrase.head]}
    if modifiers & _TELLING:
        return False
    return not modifiers & set(parsed.words[phrase.start : phrase.head]) & vocabulary.PICTURES


# What something can be in.
_HOLLOW = frozenset(
    ("plates", "vases", "bags", "vehicles", "boats", "aircraft", "rooms", "in places", "waters", "grounds", "fixtures",
     "appliances", "buildings")
)  # fmt: skip
# Said before a noun, these fit few others.
_TELLING = words(
    "bearded pregnant shirtless bald topless sliced peeled ripe decker double stuffed cooked baked fried grilled "
    "scrambled mashed electric remote wild tennis baseball male female long-haired"
)

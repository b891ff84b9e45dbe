# SPDX-License-Identifier: Apache-2.0
"""Replaces attributes: colours, sizes, ages, materials, states, numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hf_tripletclip.generation.captions.english import grammar, lexicon, nouns, vocabulary, words
from hf_tripletclip.generation.captions.english.grammar import (
    ADJ,
    AUX,
    CONJ,
    ING,
    NOUN,
    NUM,
    NUMBERS,
    OTHER,
    PREP,
    PUNCT,
    NounPhrase,
)
from hf_tripletclip.generation.captions.english.parsing import Parsed, Site

# Only so much of these can be graded: "very tall", not "very wooden".
DEGREES = words("very too so half more most partially partly almost not")
GRADED = words("large small tall short long wide narrow young clean dirty")
YOUNG = words("child children boy boys girl girls kid kids baby babies toddler toddlers son sons daughter daughters")
SHORTENED = words("hair pants dress table skirt distance fur legs tail")  # what is "long" when it is not "short"
LIT = words("room kitchen bedroom bathroom night day hallway street office house area")  # what is "dark" or "bright"
FILLED = words("glass bowl plate bottle cup basket bucket box refrigerator fridge table shelf")
SQUARED = words("plate table cake clock mirror window box pizza sign")
# These colours are nouns too, so they must stand before one.
ALSO_NOUNS = words("gold silver orange tan navy")
NO_COLOUR = words("medal house light lights wine peppers pepper")  # "red light", "white wine"
HAIR = words("hair fur beard mane bear coat")
# Other words that say how many, which would no longer fit.
COUNTING = words("both other another one pair couple each third second together")
UNCOUNTED = words("story stories years feet way ways hands")


def replace_attribute(parsed: Parsed) -> Iterator[Site]:
    """An attribute or a number becomes another: "a red bus" to "a green bus"."""
    present = set(parsed.words)
    for index, token in enumerate(parsed.tokens):
        if token.word in NUMBERS and token.tag == NUM:
            yield from _other_number(parsed, index)
        if token.tag != ADJ or (token.text[:1].isupper() and index and not parsed.shouted and not parsed.titled):
            continue
        if parsed.before(index) in ("-", "/") or parsed.after(index + 1) in ("-", "/"):
            continue
        number = parsed.phrase_of(index)
        if number is None:
            options = _said_of_subject(parsed, index)
        elif index < parsed.phrases[number].head:
            options = _in_phrase(parsed, index, parsed.phrases[number], parsed.nouns[number])
        else:
            options = ()
        if chosen := tuple(((index, index + 1, new),) for new in options if not set(new.split()) & present):
            yield Site(chosen)


def _said_of_subject(parsed: Parsed, index: int) -> Sequence[str]:
    """What replaces an attribute that stands alone: "is empty", "wearing red"."""
    word, before = parsed.words[index], parsed.before(index)
    if before in DEGREES or before == "being":
        return ()
    if word in lexicon.COLOURS:
        dressed = before in ("wearing", "in") and parsed.tag(index + 1) in (PUNCT, PREP, CONJ, ING)
        if (parsed.tag(index - 1) == AUX or dressed) and word not in ALSO_NOUNS:
            return _other_colours(parsed, index, lexicon.COLOURS[word])
        return ()
    if parsed.tag(index - 1) != AUX or word not in lexicon.ALONE:
        return ()
    return lexicon.ATTRIBUTES[word]


def _in_phrase(parsed: Parsed, index: int, phrase: NounPhrase, noun: nouns.Noun | None) -> Sequence[str]:
    """What replaces an attribute before its noun."""
    word, following, last = parsed.words[index], parsed.after(index + 1), phrase.noun.split()[-1]
    fixed = lexicon.SET_PHRASES.get(word, frozenset())
    if following in fixed or last in fixed or last in vocabulary.PICTURES or nouns.is_compound(word, phrase.noun):
        return ()
    if parsed.before(index) in DEGREES and word not in GRADED:
        return ()
    person = nouns.is_person(last) if noun is None else noun.isa("person")
    animal = noun is not None and noun.isa("animal")
    if word in lexicon.COLOURS:
        black_and_white = {"black", "white"} <= set(parsed.words) and vocabulary.PICTURES & set(parsed.words)
        if person or black_and_white or last in NO_COLOUR or word in ("cream", "olive"):
            return ()
        options = lexicon.COLOURS[word]
        if animal or (last in HAIR and word in lexicon.FUR):
            options = tuple(colour for colour in options if colour in lexicon.FUR)
        elif noun is not None and any(noun.isa(kind) for kind in ("food", "plant", "ground")):
            options = tuple(colour for colour in options if colour in lexicon.NATURE)
        return _other_colours(parsed, index, options)
    if word not in lexicon.ATTRIBUTES:
        return ()
    group = lexicon.CLASS_OF[word]
    if group == "age":
        return _other_age(parsed, index, last, person, animal)
    if word == "short" and last in SHORTENED:
        return ("long",)
    fits = {
        "size": not person,
        "pattern": not animal,
        "mood": person or animal,
        "coat": animal,
        "hair": person or last in HAIR,
        "sex": person or animal,
    }.get(group, True)
    wanted = {
        **dict.fromkeys(("open", "opened", "closed"), lexicon.OPENED),
        **dict.fromkeys(("dark", "bright"), LIT),
        "full": FILLED,
        "square": SQUARED,
    }.get(word)
    if not fits or (wanted is not None and last not in wanted) or (following in lexicon.COLOURS and wanted is LIT):
        return ()
    if (word == "tall" and last == "ceiling") or (word == "busy" and (person or animal)):
        return ()
    return lexicon.ATTRIBUTES[word]


def _other_age(parsed: Parsed, index: int, last: str, person: bool, animal: bool) -> Sequence[str]:
    word = parsed.words[index]
    if word in ("baby", "adult"):
        return lexicon.ATTRIBUTES[word] if animal else ()
    if person or animal:
        aged = {"old": ("young",), "young": ("elderly",), "elderly": ("young",), "older": ("younger",),
                "younger": ("older",)}  # fmt: skip
        return () if last in YOUNG else aged.get(word, ())
    if word in ("young", "elderly", "older", "younger") or parsed.before(index) in ("year", "years", "-"):
        return ()
    return lexicon.ATTRIBUTES[word]


def _other_colours(parsed: Parsed, index: int, options: Sequence[str]) -> Sequence[str]:
    """Those of the colours that the caption does not have yet, and that may be light or dark if it says so."""
    said = {lexicon.LOOK[word] for word in parsed.words if word in lexicon.LOOK}
    tinted = parsed.before(index) in ("dark", "light", "bright", "deep", "pale")
    return [colour for colour in options if colour not in said and (colour in lexicon.TINTS or not tinted)]


def _other_number(parsed: Parsed, index: int) -> Iterator[Site]:
    number = parsed.phrase_of(index)
    before = parsed.before(index)
    if number is None or parsed.phrases[number].start != index or COUNTING & set(parsed.words):
        return
    if before in ("the", "all", "of", "between", "at", "by", "in", "into"):
        return
    phrase = parsed.phrases[number]
    last = phrase.noun.split()[-1]
    if not grammar.is_plural(last) or parsed.tag(phrase.stop) in (NOUN, OTHER) or last in UNCOUNTED:
        return
    value = NUMBERS.index(parsed.words[index])
    near = [word for word in NUMBERS[:5] if 0 < abs(NUMBERS.index(word) - value) <= 2 and word not in parsed.words]
    yield Site(tuple(((index, index + 1, word),) for word in near))

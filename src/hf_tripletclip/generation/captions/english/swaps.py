# SPDX-License-Identifier: Apache-2.0
"""Lets two objects or two attributes change places."""

from __future__ import annotations

from collections.abc import Iterator

from hf_tripletclip.generation.captions.english import grammar, lexicon, nouns, vocabulary, words
from hf_tripletclip.generation.captions.english.grammar import (
    ADJ,
    AUX,
    ING,
    NUM,
    NUMBERS,
    OTHER,
    PREP,
    PUNCT,
    VERB,
    NounPhrase,
)
from hf_tripletclip.generation.captions.english.parsing import Parsed, Site


def swap_objects(parsed: Parsed) -> Iterator[Site]:
    """Two noun phrases change places: "a cat on top of a dog" to "a dog on top of a cat"."""
    for left, (first, noun) in enumerate(zip(parsed.phrases, parsed.nouns, strict=True)):
        if noun is None:
            continue
        for right in range(left + 1, min(left + 4, len(parsed.phrases))):
            second, other = parsed.phrases[right], parsed.nouns[right]
            if other is not None and _swappable(parsed, first, second, noun, other, right - left):
                yield Site((((first.start, first.stop, _text(parsed, second)),
                             (second.start, second.stop, _text(parsed, first))),))  # fmt: skip


def _text(parsed: Parsed, phrase: NounPhrase) -> str:
    text = "".join(parsed.pieces[parsed.tokens[phrase.start].piece : parsed.tokens[phrase.stop - 1].piece + 1])
    return text[:1].lower() + text[1:] if phrase.start == 0 and not parsed.shouted else text


_ABOVE = ("on", "on top of", "under", "underneath", "beneath", "above", "below", "over", "atop")
_DEPTH = ("behind", "in front of")
_SIDE = ("to the left of", "to the right of", "on the left of", "on the right of")
_ASYMMETRIC = words("ride hold carry chase pull push lead feed pet watch lick bite kick follow hit wash walk")
_ASYMMETRIC_FORMS = {form for lemma in _ASYMMETRIC for form in lexicon.forms(lemma)}
# Before a phrase that what follows is said of.
_OPENING = words("holding holds has have shows while .")
_RESTING = words("sitting standing lying laying sleeping resting perched parked leaning walking")


# What these refer to may change with the swap.
REFERRING = words("its their each other which who that")


def _swappable(
    parsed: Parsed, first: NounPhrase, second: NounPhrase, noun: nouns.Noun, other: nouns.Noun, apart: int
) -> bool:
    plain = ("", "a", "an", "the", "some", "several", "many", *NUMBERS)
    if first.determiner not in plain or second.determiner not in plain:
        return False
    if noun.entry.alike & other.entry.alike or first.noun == second.noun or parsed.pronouns:
        return False
    if first.nouns > 1 or second.nouns > 1 or REFERRING & set(parsed.words):
        return False
    if any(parsed.tag(index) == OTHER for index in (first.start - 1, first.stop, second.start - 1, second.stop)):
        return False
    if parsed.after(second.stop) in ("of", "'", "-"):
        return False
    for phrase, one in ((first, noun), (second, other)):
        if phrase.start == phrase.head and not one.plural and not one.mass:
            return False
    between = parsed.words[first.stop : second.start]
    tags = [token.tag for token in parsed.tokens[first.stop : second.start]]
    alive = [one.isa("person") or one.isa("animal") for one in (noun, other)]
    solid = all(
        not one.isa(kind) for one in (noun, other) for kind in ("place", "ground", "game", "drink", "clothing")
    )
    finite = any(tag in (AUX, VERB) for tag in tags)
    if noun.plural != other.plural and (finite or parsed.tag(second.stop) in (AUX, VERB)):
        return False
    # "a man sits while a woman stands"
    joined = parsed.before(second.start) in ("while", "and", "as")
    people = noun.isa("person") and other.isa("person") and noun.plural == other.plural
    if joined and people and parsed.tag(second.stop) in (ING, VERB, AUX):
        doing = [word for word, tag in zip(between, tags, strict=True) if tag in (ING, VERB)]
        done = parsed.after(second.stop) if parsed.tag(second.stop) != AUX else parsed.after(second.stop + 1)
        return bool(doing) and doing[0] != done and tags[0] in (ING, VERB, AUX)
    opens = first.start == 0 or parsed.tag(first.start - 1) == AUX or parsed.before(first.start) in _OPENING
    if apart == 1 and solid and opens:
        if alive[0] != alive[1] and parsed.tag(second.stop) not in (PUNCT, PREP):
            return False
        spoken = [word for word, tag in zip(between, tags, strict=True) if tag != AUX]
        acting = len(spoken) == 1 and spoken[0] in _ASYMMETRIC_FORMS
        if acting:
            return all(alive)
        resting = bool(spoken) and spoken[0] in _RESTING
        relation = " ".join(spoken[1:] if resting else spoken)
        if resting and alive[0] != alive[1]:
            return False
        if relation in _ABOVE or relation in _SIDE:
            return not (relation == "on" and (noun.isa("building") or other.isa("building"))) and not (
                relation == "on" and (other.isa("device") or other.entry.group.name == "barriers")
            )
        return relation in _DEPTH and alive[0] == alive[1]
    return False


def swap_attributes(parsed: Parsed) -> Iterator[Site]:
    """Two attributes of one class change places: "a red bus and a blue car" to "a blue bus and a red car"."""
    groups = list(attribute_groups(parsed))
    for left, (start, stop, kind, number) in enumerate(groups):
        for start2, stop2, kind2, number2 in groups[left + 1 :]:
            first, second = parsed.phrases[number], parsed.phrases[number2]
            texts = " ".join(parsed.words[start:stop]), " ".join(parsed.words[start2:stop2])
            if kind != kind2 or number == number2 or set(texts[0].split()) & set(texts[1].split()) - {"and"}:
                continue
            if first.noun == second.noun or grammar.plural(first.noun) == second.noun:
                continue
            if kind == "colour" and (
                is_unnatural(parsed, number, texts[1]) or is_unnatural(parsed, number2, texts[0])
            ):
                continue
            if is_like(texts[0], texts[1]):
                continue
            yield Site((((start, stop, texts[1]), (start2, stop2, texts[0])),))


def attribute_groups(parsed: Parsed) -> Iterator[tuple[int, int, str, int]]:
    """First and last token, exclusive, class, and noun phrase of each attribute that may change places."""
    for number, phrase in enumerate(parsed.phrases):
        noun, last = parsed.nouns[number], phrase.noun.split()[-1]
        person = nouns.is_person(last) if noun is None else noun.isa("person")
        index = phrase.start
        while index < phrase.head:
            word, tag, stop = parsed.words[index], parsed.tag(index), index + 1
            if tag == ADJ and word in lexicon.COLOURS:  # "black and white" goes as one
                while (
                    parsed.after(stop) == "and"
                    and stop + 1 < phrase.head
                    and parsed.words[stop + 1] in lexicon.COLOURS
                ):
                    stop += 2
            kind = _class_of(parsed, index, stop, phrase, person)
            if kind and last not in lexicon.SET_PHRASES.get(word, ()) and not nouns.is_compound(word, phrase.noun):
                yield index, stop, kind, number
            index = stop


SWAPPED = words("size material pattern height age shape")
TINTS = words("dark light bright and ,") | lexicon.COLOURS.keys()


def _class_of(parsed: Parsed, start: int, stop: int, phrase: NounPhrase, person: bool) -> str | None:
    """The class of an attribute, if it may change places within it."""
    word, tag, last = parsed.words[start], parsed.tag(start), phrase.noun.split()[-1]
    if word in NUMBERS and tag == NUM and start == phrase.start:
        return "number" if parsed.before(start) != "the" and grammar.is_plural(last) else None
    if tag != ADJ:
        return None
    if word in lexicon.COLOURS:
        part = parsed.before(start) in TINTS or parsed.after(stop) in TINTS
        return None if person or part or last in vocabulary.PICTURES else "colour"
    group = lexicon.CLASS_OF.get(word, "")
    if group not in SWAPPED or word in ("baby", "adult") or (group == "size" and person):
        return None
    return f"{group} of {'people' if person else 'things'}" if group == "age" else group


def is_unnatural(parsed: Parsed, number: int, colours: str) -> bool:
    """Whether an animal would get a colour that no animal has."""
    noun = parsed.nouns[number]
    return (
        noun is not None
        and noun.isa("animal")
        and not set(colours.split()) - {"and"} <= set(lexicon.FUR) | {"tan", "grey", "orange"}
    )


def is_like(first: str, second: str) -> bool:
    """Whether two attributes may be true of one thing."""
    if first in lexicon.COLOURS and second in lexicon.COLOURS:
        return not set(lexicon.COLOURS[first]) & {second} and lexicon.COLOURS[first] == lexicon.COLOURS[second]
    small, large = {"small", "little", "tiny", "miniature"}, {"large", "big", "huge", "giant", "enormous"}
    return any({first, second} <= group for group in (small, large, {"metal", "metallic", "steel"}))

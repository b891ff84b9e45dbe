# SPDX-License-Identifier: Apache-2.0
"""The swaps that make a caption false: two objects or two attributes change places."""

from __future__ import annotations

from collections.abc import Iterator

from hf_tripletclip.generation.captions.english import lexicon, words
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
    Parsed,
    Site,
)
from hf_tripletclip.generation.captions.english.nouns import Noun, is_compound, is_person, is_plural, plural


def swap_objects(parsed: Parsed) -> Iterator[Site]:
    """Two noun phrases change places: "a cat on top of a dog" to "a dog on top of a cat"."""
    for left, (first, noun) in enumerate(zip(parsed.phrases, parsed.nouns, strict=True)):
        if noun is None:
            continue
        for right in range(left + 1, min(left + 4, len(parsed.phrases))):
            second, other = parsed.phrases[right], parsed.nouns[right]
            if other is not None and _swappable(parsed, first, second, noun, other, right - left):
                yield Site((((first.start, first.stop, parsed.text_of(second)),
                             (second.start, second.stop, parsed.text_of(first))),))  # fmt: skip


# The relations of which a swap changes the meaning.
PLACED = ("on", "on top of", "under", "underneath", "beneath", "above", "below", "over", "atop", "to the left of",
          "to the right of", "on the left of", "on the right of")  # fmt: skip
ASYMMETRIC = {form for lemma in words("asymmetric verbs") for form in lexicon.forms(lemma)}
PLAIN = ("", "a", "an", "the", "some", "several", "many", *NUMBERS)  # determiners that fit any noun


def _swappable(parsed: Parsed, first: NounPhrase, second: NounPhrase, noun: Noun, other: Noun, apart: int) -> bool:
    """Whether two phrases may change places, which makes the caption false, and leaves it English."""
    phrases, both, tag = (first, second), (noun, other), parsed.tag(second.stop)
    if (
        any(phrase.determiner not in PLAIN or phrase.nouns > 1 for phrase in phrases)
        or noun.entry.alike & other.entry.alike
        or first.noun == second.noun
        or parsed.pronouns
        or words("referring after swap") & set(parsed.words)
        or any(parsed.tag(index) == OTHER for phrase in phrases for index in (phrase.start - 1, phrase.stop))
        or parsed.after(second.stop) in ("of", "'", "-")
        or any(
            phrase.start == phrase.head and not one.plural and not one.mass
            for phrase, one in zip(phrases, both, strict=True)
        )
    ):
        return False
    between = [(token.word, token.tag) for token in parsed.tokens[first.stop : second.start]]
    if noun.plural != other.plural and {AUX, VERB} & {tag, *(tag for _, tag in between)}:
        return False
    # "a man sits while a woman stands"
    joined = parsed.before(second.start) in ("while", "and", "as")
    people = noun.isa("person") and other.isa("person") and noun.plural == other.plural
    if joined and people and tag in (ING, VERB, AUX):
        doing = [word for word, tag in between if tag in (ING, VERB)]
        done = parsed.after(second.stop + (tag == AUX))
        return bool(doing) and doing[0] != done and between[0][1] in (ING, VERB, AUX)
    opens = first.start == 0 or parsed.tag(first.start - 1) == AUX or parsed.before(first.start) in words("opening")
    if apart > 1 or not opens or any(one.isa("place", "ground", "game", "drink", "clothing") for one in both):
        return False
    alive = [one.isa("person", "animal") for one in both]
    if alive[0] != alive[1] and tag not in (PUNCT, PREP):
        return False
    said = [word for word, tag in between if tag != AUX]
    if len(said) == 1 and said[0] in ASYMMETRIC:
        return all(alive)
    if said and said[0] in words("resting"):
        if alive[0] != alive[1]:
            return False
        said = said[1:]
    relation = " ".join(said)
    if relation == "on" and (noun.isa("building") or other.isa("building", "device")):
        return False
    if relation == "on" and other.entry.group.name == "barriers":
        return False
    return relation in PLACED or (relation in ("behind", "in front of") and alive[0] == alive[1])


def swap_attributes(parsed: Parsed) -> Iterator[Site]:
    """Two attributes of one class change places: "a red bus and a blue car" to "a blue bus and a red car"."""
    groups = list(attribute_groups(parsed))
    for left, (start, stop, kind, number) in enumerate(groups):
        for start2, stop2, kind2, number2 in groups[left + 1 :]:
            first, second = parsed.phrases[number], parsed.phrases[number2]
            texts = " ".join(parsed.words[start:stop]), " ".join(parsed.words[start2:stop2])
            if kind != kind2 or number == number2 or set(texts[0].split()) & set(texts[1].split()) - {"and"}:
                continue
            if first.noun == second.noun or plural(first.noun) == second.noun:
                continue
            unnatural = is_unnatural(parsed, number, texts[1]) or is_unnatural(parsed, number2, texts[0])
            if not (kind == "colour" and unnatural) and not is_like(*texts):
                yield Site((((start, stop, texts[1]), (start2, stop2, texts[0])),))


def attribute_groups(parsed: Parsed) -> Iterator[tuple[int, int, str, int]]:
    """First and last token, exclusive, class, and noun phrase of each attribute that may change places."""
    for number, phrase in enumerate(parsed.phrases):
        noun, last = parsed.nouns[number], phrase.noun.split()[-1]
        person = is_person(last) if noun is None else noun.isa("person")
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
            if kind and last not in lexicon.SET_PHRASES.get(word, ()) and not is_compound(word, phrase.noun):
                yield index, stop, kind, number
            index = stop


TINTED = words("tinted") | lexicon.COLOURS.keys()  # beside a colour: it is part of a longer colour


def _class_of(parsed: Parsed, start: int, stop: int, phrase: NounPhrase, person: bool) -> str | None:
    """The class of an attribute, if it may change places within it."""
    word, tag, last = parsed.words[start], parsed.tag(start), phrase.noun.split()[-1]
    if word in NUMBERS and tag == NUM and start == phrase.start:
        return "number" if parsed.before(start) != "the" and is_plural(last) else None
    if tag != ADJ:
        return None
    if word in lexicon.COLOURS:
        part = parsed.before(start) in TINTED or parsed.after(stop) in TINTED
        return None if person or part or last in words("pictures") else "colour"
    group = lexicon.CLASS_OF.get(word, "")
    if group not in words("swapped classes") or word in ("baby", "adult") or (group == "size" and person):
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

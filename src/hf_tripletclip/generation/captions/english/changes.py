# SPDX-License-Identifier: Apache-2.0
"""The changes that make a caption false: an object, an attribute, a relation or an action is replaced."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from hf_tripletclip.generation.captions.english import lexicon, words
from hf_tripletclip.generation.captions.english.grammar import (
    ADJ,
    ADV,
    AUX,
    CONJ,
    ED,
    ING,
    NOUN,
    NUM,
    NUMBERS,
    OTHER,
    PREP,
    PRON,
    PUNCT,
    VERB,
    NounPhrase,
    Parsed,
    Site,
)
from hf_tripletclip.generation.captions.english.nouns import (
    NEVER,
    Noun,
    is_compound,
    is_person,
    is_plural,
    plural,
    replacements,
)

PICTURES, HAIR = words("pictures"), words("hair")
# Groups of what something can be in.
HOLLOW = frozenset(
    ("plates", "vases", "bags", "vehicles", "boats", "aircraft", "rooms", "in places", "waters", "grounds", "fixtures",
     "appliances", "buildings")
)  # fmt: skip
# attribute -> the list of the nouns that it is replaced before
ONLY_BEFORE = {
    **dict.fromkeys(("open", "opened", "closed"), "opened"),
    **dict.fromkeys(("dark", "bright"), "lit places"),
    "full": "filled things",
    "square": "square things",
}
AGES = {"old": ("young",), "young": ("elderly",), "elderly": ("young",), "older": ("younger",), "younger": ("older",)}
# Of what a verb is done to, the class that decides what else can be done to it; the first that it has.
DECIDING = ("kite", "board", "vehicle", "animal", "person", "clothing", "food", "device")


def replace_object(parsed: Parsed) -> Iterator[Site]:
    """A noun becomes a co-hyponym: "a dog on a bench" to "a fox on a bench"."""
    present = set(parsed.words)
    for number, (phrase, noun) in enumerate(zip(parsed.phrases, parsed.nouns, strict=True)):
        if noun is None or not _replaceable(parsed, number):
            continue
        sexes = [sex for sex in (words("men"), words("women")) if parsed.pronouns and noun.base in sex]
        young = not words("young").isdisjoint(parsed.words[phrase.start : phrase.head])
        options = []
        for word in replacements(noun.base, noun.entry.group.name, noun.entry.alike):
            if sexes and not any(word in sex for sex in sexes):
                continue
            if young and word in ("man", "woman"):
                continue
            if _words_of(word).isdisjoint(present):
                options.append(((phrase.head, phrase.stop, plural(word) if noun.plural else word),))
        if options:
            yield Site(tuple(options))


@functools.lru_cache(maxsize=1 << 14)
def _words_of(noun: str) -> frozenset[str]:
    """A noun or compound and its plural, whole and word by word."""
    many = plural(noun)
    return frozenset((noun, many, *noun.split(), *many.split()))


def _replaceable(parsed: Parsed, number: int) -> bool:
    """Whether another noun fits where the noun of a phrase stands."""
    phrase, noun = parsed.phrases[number], parsed.nouns[number]
    assert noun is not None
    before, after = parsed.before(phrase.start), parsed.after(phrase.stop)
    tag, group = parsed.tag(phrase.stop), noun.entry.group.name
    forms = {noun.base, plural(noun.base), phrase.noun}
    alone = phrase.head == phrase.start
    modifiers = set(parsed.words[phrase.start : phrase.head])
    return not (
        phrase.nouns > 1
        or after in ("of", "'", "-", "/")
        or before in ("-", "/", "'")
        or tag in (OTHER, NOUN, NUM)
        or parsed.tag(phrase.start - 1) == OTHER
        or sum(word in forms for word in parsed.words) > 1
        # "in a chair" is not "in a table"
        or (before in ("in", "into", "inside") and group not in HOLLOW and not noun.isa("clothing"))
        or (before == "at" and group != "buildings")
        or (before == "on" and noun.isa("device"))  # "on the phone"
        or (noun.base in ("television", "tv") and alone)
        or (noun.base == "orange" and tag not in (PUNCT, PREP, CONJ, AUX))
        # "a sign that says"
        or (noun.base in ("sign", "billboard", "flag", "shirt") and tag in (ING, PRON, VERB))
        or (noun.entry.group.after and before not in noun.entry.group.after)
        or (group == "grounds" and phrase.head - phrase.start > (phrase.determiner == "the"))  # "tall grass"
        # "grass covered field"
        or (tag == ED and not phrase.determiner and parsed.tag(phrase.stop + 1) == NOUN)
        or (group in ("on places", "in places", "rooms") and phrase.determiner not in words("before a place"))
        # "in bed", "by train", "at home"
        or (alone and not noun.plural and not noun.mass and before in words("before a bare noun"))
        or (noun.mass and group == "sliced foods" and before != "of")
        or (noun.mass and group == "games" and before not in ("playing", "plays", "play", "of"))
        or modifiers & (words("telling") | PICTURES)
    )


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
    if before in words("degrees") or before == "being":
        return ()
    if word in lexicon.COLOURS:
        dressed = before in ("wearing", "in") and parsed.tag(index + 1) in (PUNCT, PREP, CONJ, ING)
        if (parsed.tag(index - 1) == AUX or dressed) and word not in words("colours and nouns"):
            return _other_colours(parsed, index, lexicon.COLOURS[word])
        return ()
    if parsed.tag(index - 1) != AUX or word not in lexicon.ALONE:
        return ()
    return lexicon.ATTRIBUTES[word]


def _in_phrase(parsed: Parsed, index: int, phrase: NounPhrase, noun: Noun | None) -> Sequence[str]:
    """What replaces an attribute before its noun."""
    word, following, last = parsed.words[index], parsed.after(index + 1), phrase.noun.split()[-1]
    fixed = lexicon.SET_PHRASES.get(word, frozenset())
    if following in fixed or last in fixed or last in PICTURES or is_compound(word, phrase.noun):
        return ()
    if parsed.before(index) in words("degrees") and word not in words("graded"):
        return ()
    person = is_person(last) if noun is None else noun.isa("person")
    animal = noun is not None and noun.isa("animal")
    if word in lexicon.COLOURS:
        black_and_white = {"black", "white"} <= set(parsed.words) and PICTURES & set(parsed.words)
        if person or black_and_white or last in words("no colour") or word in ("cream", "olive"):
            return ()
        options = lexicon.COLOURS[word]
        if animal or (last in HAIR and word in lexicon.FUR):
            options = tuple(colour for colour in options if colour in lexicon.FUR)
        elif noun is not None and noun.isa("food", "plant", "ground"):
            options = tuple(colour for colour in options if colour in lexicon.NATURE)
        return _other_colours(parsed, index, options)
    if word not in lexicon.ATTRIBUTES:
        return ()
    group = lexicon.CLASS_OF[word]
    if group == "age":
        return _other_age(parsed, index, last, person, animal)
    if word == "short" and last in words("long things"):
        return ("long",)
    fits = {
        "size": not person,
        "pattern": not animal,
        "mood": person or animal,
        "coat": animal,
        "hair": person or last in HAIR,
        "sex": person or animal,
    }
    if not fits.get(group, True) or (word == "tall" and last == "ceiling") or (word == "busy" and (person or animal)):
        return ()
    if word in ONLY_BEFORE and last not in words(ONLY_BEFORE[word]):
        return ()
    if word in ("dark", "bright") and following in lexicon.COLOURS:
        return ()
    return lexicon.ATTRIBUTES[word]


def _other_age(parsed: Parsed, index: int, last: str, person: bool, animal: bool) -> Sequence[str]:
    word = parsed.words[index]
    if word in ("baby", "adult"):
        return lexicon.ATTRIBUTES[word] if animal else ()
    if person or animal:
        return () if last in words("young people") else AGES.get(word, ())
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
    if number is None or parsed.phrases[number].start != index or words("counting") & set(parsed.words):
        return
    if before in ("the", "all", "of", "between", "at", "by", "in", "into"):
        return
    phrase = parsed.phrases[number]
    last = phrase.noun.split()[-1]
    if not is_plural(last) or parsed.tag(phrase.stop) in (NOUN, OTHER) or last in words("uncounted"):
        return
    value = NUMBERS.index(parsed.words[index])
    near = [word for word in NUMBERS[:5] if 0 < abs(NUMBERS.index(word) - value) <= 2 and word not in parsed.words]
    yield Site(tuple(((index, index + 1, word),) for word in near))


def replace_relation(parsed: Parsed) -> Iterator[Site]:
    """A preposition becomes another: "under a table" to "on top of a table"."""
    taken: set[int] = set()
    places: dict[str, list[int]] = {}
    for index, word in enumerate(parsed.words):
        places.setdefault(word, []).append(index)
    for relation, wants, options in lexicon.RELATIONS:
        for start in places.get(relation[0], ()):
            stop = start + len(relation)
            if tuple(parsed.words[start:stop]) != relation or taken & set(range(start, stop)):
                continue
            if _relation_fits(parsed, start, stop, wants):
                taken |= set(range(start, stop))
                yield Site(tuple(((start, stop, new),) for new in options if not _said(parsed, new)))


def _said(parsed: Parsed, phrase: str) -> bool:
    return f" {phrase} " in f" {' '.join(parsed.words)} "


def _relation_fits(parsed: Parsed, start: int, stop: int, wants: str) -> bool:
    """Whether the relation of these tokens is one, and what it wants follows it."""
    relation, before, after = " ".join(parsed.words[start:stop]), parsed.before(start), parsed.after(stop)
    tag = parsed.tag(start - 1)
    if start == 0 or before in words("not before relation"):
        return False
    if tag not in (NOUN, ING, VERB, AUX, ED, ADV, PREP) and before != ",":
        return False
    if wants == "none":
        return after in ("", ".", ",", "and", "while", "with")
    if wants == "other":
        return after == "each" and parsed.after(stop + 1) == "other"
    number = parsed.phrase_at(stop)
    if number is None:
        return False
    phrase, noun = parsed.phrases[number], parsed.nouns[number]
    last, alone = phrase.noun.split()[-1], phrase.head == phrase.start
    if parsed.after(phrase.stop) == "of" and relation in ("in", "on", "at", "up", "down"):
        return False
    if last in NEVER or last in ("background", "distance", "night", "phone", "display", "other", "world"):
        return False
    if wants == "slope":
        return last in words("slopes")
    if wants == "table":
        return last in words("tables") and before not in ("looking", "look", "looks", "eating", "eats", "dinner")
    if wants == "any":
        if relation in ("behind", "in front of"):
            return last not in words("not behind") and phrase.determiner != "its"
        return relation != "above" or parsed.tag(stop) != NUM
    if relation in ("into", "out of") and before not in words("moving"):
        return False
    placed = tag not in (ING, VERB, ED) or before in words("placed")
    if wants == "box":
        boxed = noun is not None and noun.isa("box", "vehicle") and (not alone or noun.plural)
        return boxed and (relation != "in" or placed) and before not in words("not before in")
    # a solid thing
    if noun is None or noun.isa("place", "ground", "game", "drink"):
        return False
    if relation in ("on", "in", "over", "under", "near") and alone and not noun.plural:
        return relation == "near"
    if relation in ("on", "over", "atop"):
        if noun.isa("person", "clothing", "device", "building", "food", "board") or not placed:
            return False
        if noun.entry.group.name == "barriers" or before in words("not before on"):
            return False
        if relation == "over":
            return before in words("over")
        return phrase.determiner in ("a", "an", "the", "two", "three", "some", "another")
    return relation != "under" or before not in ("covered", "wrapped")


def replace_action(parsed: Parsed) -> Iterator[Site]:
    """A verb becomes another in the same form: "riding a horse" to "leading a horse"."""
    for index, token in enumerate(parsed.tokens):
        entry = lexicon.VERB_FORMS.get(token.word)
        if entry is None or token.tag not in (ING, VERB, ED):
            if token.word == "parked" and token.tag == ED:
                yield from _driving(parsed, index)
            continue
        lemma, form = entry
        if token.tag == ED and parsed.tag(index - 1) == AUX:
            continue  # a passive
        if parsed.before(index) in ("-", "to", "for", "of", "from", "by"):
            continue
        if form == "ed" and lemma in ("lie", "lay"):
            continue
        chosen = [lexicon.inflect(option, form) for option in _other_actions(parsed, index, lemma)]
        if site := tuple(((index, index + 1, word),) for word in chosen if word not in parsed.words):
            yield Site(site)


def _other_actions(parsed: Parsed, index: int, lemma: str) -> Sequence[str]:
    """The verbs, in their base form, that replace one."""
    number = parsed.subject_of(index)
    subject = None if number is None else parsed.nouns[number]
    after, following = parsed.after(index + 1), parsed.tag(index + 1)
    beings = subject is not None and subject.isa("person", "animal")
    if number is not None and not beings:
        beings = parsed.phrases[number].noun.split()[-1] in words("beings")
    person = beings and not (subject is not None and subject.isa("animal"))
    if after in words("ways"):
        moves = beings and parsed.tag(index + 2) not in (PUNCT, CONJ)
        return lexicon.MOTIONS.get(lemma, ()) if moves else ()
    if lemma in lexicon.POSTURES and (following in (PREP, CONJ, PUNCT) or after in ("next", "together", "outside")):
        if not beings or after in words("not after posture"):
            return ()
        if lemma in ("smile", "laugh", "rest", "pose") and after == "at":
            return ()
        if after in ("in", "on") and parsed.after(index + 2) in ("bed", "water"):
            return ()
        options = lexicon.POSTURES[lemma]
        if after == "at":
            options = tuple(option for option in options if option in ("stand", "sit", "sleep"))
        if not person:
            options = tuple(option for option in options if option not in ("dance", "kneel", "cry", "frown"))
        return options
    target = parsed.phrase_at(index + 1)
    noun = None if target is None else parsed.nouns[target]
    if lemma not in lexicon.ACTIONS or target is None or noun is None:
        return ()
    stop, name = parsed.phrases[target].stop, noun.entry.group.name
    if (
        parsed.after(stop) in ("of", "'")
        or parsed.tag(stop) in (NOUN, OTHER)
        or (number is not None and not beings)
        or (lemma == "eat" and not person)
        or name in ("grounds", "buildings")
        or (name == "seats" and lemma in ("hold", "throw", "kick"))
    ):
        return ()
    kinds = (*noun.entry.group.classes, *(["kite"] if noun.base == "kite" else []))
    by_kind = lexicon.ACTIONS[lemma]
    options = next((by_kind[kind] for kind in (*DECIDING, *kinds) if kind in kinds and kind in by_kind), ())
    if not person:
        options = tuple(option for option in options if option in ("chase", "drop", "kick"))
    if parsed.after(stop) in ("in", "on", "to", "over", "up", "out"):
        options = tuple(option for option in options if option not in ("throw", "drop", "kick", "pour"))
    return options


def _driving(parsed: Parsed, index: int) -> Iterator[Site]:
    """ "a car parked on the street" to "a car driving on the street"."""
    number = parsed.subject_of(index)
    noun = None if number is None else parsed.nouns[number]
    if noun is None or noun.entry.group.name != "vehicles" or parsed.tag(index + 1) != PREP:
        return
    if noun.isa("vehicle") and parsed.after(index + 1) in ("on", "in"):
        yield Site((((index, index + 1, "driving"),),))

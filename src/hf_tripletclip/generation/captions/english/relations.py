# SPDX-License-Identifier: Apache-2.0
"""Replaces relations: prepositions and verbs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hf_tripletclip.generation.captions.english import lexicon, vocabulary
from hf_tripletclip.generation.captions.english.grammar import (
    ADV,
    AUX,
    CONJ,
    ED,
    ING,
    NOUN,
    NUM,
    OTHER,
    PREP,
    PUNCT,
    VERB,
)
from hf_tripletclip.generation.captions.english.parsing import Parsed, Site


def replace_relation(parsed: Parsed) -> Iterator[Site]:
    """A preposition becomes another: "under a table" to "on top of a table"."""
    taken: set[int] = set()
    for relation, wants, options in _RELATIONS:
        size = len(relation)
        for start in range(len(parsed.words) - size + 1):
            stop = start + size
            if tuple(parsed.words[start:stop]) != relation or taken & set(range(start, stop)):
                continue
            if _relation_fits(parsed, start, stop, wants):
                taken |= set(range(start, stop))
                yield Site(tuple(((start, stop, new),) for new in options if not _said(parsed, new)))


_RELATIONS = tuple((tuple(relation.split()), wants, options) for relation, wants, options in lexicon.RELATIONS)


def _said(parsed: Parsed, phrase: str) -> bool:
    return f" {phrase} " in f" {' '.join(parsed.words)} "


def _relation_fits(parsed: Parsed, start: int, stop: int, wants: str) -> bool:
    words = parsed.words
    relation = " ".join(words[start:stop])
    before, after = parsed.before(start), parsed.after(stop)
    if start == 0 or before in (
        "right",
        "left",
        "just",
        "from",
        "up",
        "out",
        "down",
        "off",
        "in",
        "on",
        "way",
        "-",
        "over",
    ):
        return False
    if parsed.tag(start - 1) not in (NOUN, ING, VERB, AUX, ED, ADV, PREP) and before not in (",",):
        return False
    if wants == "none":
        return after in ("", ".", ",", "and", "while", "with")
    if wants == "other":
        return after == "each" and parsed.after(stop + 1) == "other"
    number = parsed.phrase_at(stop)
    if number is None:
        return False
    phrase, noun = parsed.phrases[number], parsed.nouns[number]
    last = phrase.noun.split()[-1]
    if parsed.after(phrase.stop) == "of" and relation in ("in", "on", "at", "up", "down"):
        return False
    if last in vocabulary.NEVER or last in ("background", "distance", "night", "phone", "display", "other", "world"):
        return False
    if wants == "slope":
        return last in lexicon.SLOPES
    if wants == "table":
        return last in lexicon.TABLES and before not in ("looking", "look", "looks", "eating", "eats", "dinner")
    if wants == "box":
        if relation == "out of" and before not in lexicon.MOVING:
            return False
        if relation == "in" and parsed.tag(start - 1) in (ING, VERB, ED) and before not in lexicon.PLACED:
            return False
        if (
            noun is None
            or not (noun.isa("box") or noun.isa("vehicle"))
            or (phrase.head == phrase.start and not noun.plural)
        ):
            return False
        return before not in (
            "putting",
            "put",
            "placed",
            "standing",
            "dressed",
            "riding",
            "ride",
            "rides",
            "interested",
        )
    if wants == "any":
        if relation == "behind" or relation == "in front of":
            return last not in ("wheel", "scenes", "bars", "back", "home", "plate") and phrase.determiner not in (
                "its",
            )
        if relation == "above":
            return not _numeral(parsed, stop)
        return True
    if relation in ("into", "out of") and before not in lexicon.MOVING:
        return False
    # a solid thing
    if noun is None or noun.isa("place") or noun.isa("ground") or noun.isa("game") or noun.isa("drink"):
        return False
    if relation in ("on", "in", "over", "under", "near") and phrase.head == phrase.start and not noun.plural:
        return relation == "near"
    if relation in ("on", "over", "atop"):
        if noun.isa("person") or noun.isa("clothing") or noun.isa("device") or noun.entry.group.name == "barriers":
            return False
        if parsed.tag(start - 1) in (ING, VERB, ED) and before not in lexicon.PLACED:
            return False
        if before in lexicon.ON_NOT_AFTER or noun.isa("building") or noun.isa("food") or noun.isa("board"):
            return False
        if relation == "over":
            return before in ("jumping", "flying", "jumps", "flies", "leaping", "hanging", "bridge", "jump", "fly")
        return phrase.determiner in ("a", "an", "the", "two", "three", "some", "another")
    if relation == "under":
        return before not in ("covered", "wrapped")
    return True


def _numeral(parsed: Parsed, index: int) -> bool:
    return parsed.tag(index) == NUM


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
        options = _other_actions(parsed, index, lemma)
        if form == "ed" and lemma in ("lie", "lay"):
            continue
        chosen = [lexicon.inflect(option, form) for option in options]
        present = set(parsed.words)
        if site := tuple(((index, index + 1, word),) for word in chosen if word not in present):
            yield Site(site)


def _other_actions(parsed: Parsed, index: int, lemma: str) -> Sequence[str]:
    number = parsed.subject_of(index)
    subject = None if number is None else parsed.nouns[number]
    after, following = parsed.after(index + 1), parsed.tag(index + 1)
    beings = subject is not None and (subject.isa("person") or subject.isa("animal"))
    if number is not None and not beings:
        beings = parsed.phrases[number].noun.split()[-1] in (
            "people",
            "group",
            "crowd",
            "couple",
            "team",
            "family",
            "herd",
        )
    person = beings and not (subject is not None and subject.isa("animal"))
    if after in lexicon.WAYS:
        if lemma in lexicon.MOTIONS and parsed.tag(index + 2) not in (PUNCT, CONJ) and beings:
            return lexicon.MOTIONS[lemma]
        return ()
    if lemma in lexicon.POSTURES and (following in (PREP, CONJ, PUNCT) or after in ("next", "together", "outside")):
        if not beings or after in ("for", "about", "of", "by", "like", "against", "off", "with", "-", "'", "before"):
            return ()
        if lemma in ("smile", "laugh", "rest", "pose") and after == "at":
            return ()
        options = lexicon.POSTURES[lemma]
        if after == "at":
            options = tuple(option for option in options if option in ("stand", "sit", "sleep"))
        if not person:
            options = tuple(option for option in options if option not in ("dance", "kneel", "cry", "frown"))
        if after in ("in", "on") and parsed.after(index + 2) in ("bed", "water"):
            return ()
        return options
    if lemma not in lexicon.ACTIONS:
        return ()
    target = parsed.phrase_at(index + 1)
    if target is None or parsed.nouns[target] is None:
        return ()
    noun = parsed.nouns[target]
    assert noun is not None
    phrase = parsed.phrases[target]
    if parsed.after(phrase.stop) in ("of", "'") or parsed.tag(phrase.stop) in (NOUN, OTHER):
        return ()
    if number is not None and not beings:
        return ()
    name = noun.entry.group.name
    kinds = noun.entry.group.classes.split()
    if name == "grounds" or (lemma == "eat" and not person):
        return ()
    if name == "buildings" or (name == "seats" and lemma in ("hold", "throw", "kick")):
        return ()
    if noun.base == "kite":
        kinds = [*kinds, "kite"]
    for kind in ("kite", "board", "vehicle", "animal", "person", "clothing", "food", "device", *kinds):
        if kind in kinds and kind in lexicon.ACTIONS[lemma]:
            options = lexicon.ACTIONS[lemma][kind]
            if not person:
                options = tuple(option for option in options if option in ("chase", "drop", "kick"))
            if parsed.after(phrase.stop) in ("in", "on", "to", "over", "up", "out"):
                options = tuple(option for option in options if option not in ("throw", "drop", "kick", "pour"))
            return options
    return ()


def _driving(parsed: Parsed, index: int) -> Iterator[Site]:
    number = parsed.subject_of(index)
    if number is None or parsed.nouns[number] is None or parsed.tag(index + 1) != PREP:
        return
    noun = parsed.nouns[number]
    assert noun is not None
    if noun.isa("vehicle") and parsed.after(index + 1) in ("on", "in") and noun.entry.group.name == "vehicles":
        yield Site((((index, index + 1, "driving"),),))

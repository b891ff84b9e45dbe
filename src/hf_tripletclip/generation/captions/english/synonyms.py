# SPDX-License-Identifier: Apache-2.0
"""
Words that say the same in captions, and where one may take the other's place.

WordNet alone will not do: it puts a dog beside a frank, and a plane beside a carpenter's tool. So the words are listed
here, those that stand in one synset of WordNet in the sense that captions mean; relations are not in WordNet.
"""

from __future__ import annotations

from collections.abc import Iterator

from hf_tripletclip.generation.captions.english import grammar, lexicon, nouns, words
from hf_tripletclip.generation.captions.english.grammar import ADJ, ING, NOUN, NUM, NUMBERS, OTHER, PREP, PUNCT, VERB
from hf_tripletclip.generation.captions.english.parsing import Parsed, Site

# Nouns by WordNet synset: each may be said for each other one, but for those after a bar, which are only replaced: a
# bicycle is a bike, and a bike may have a motor.
NOUNS = {
    "sofa.n.01": "couch, sofa",
    "bicycle.n.01": "bike | bicycle",
    "airplane.n.01": "airplane, plane",
    "television_receiver.n.01": "television, tv",
    "car.n.01": "car, automobile",
    "child.n.01": "child, kid",
    "doughnut.n.02": "doughnut, donut",
    "forest.n.01": "forest, woods",
    "cab.n.03": "cab | taxi",
    "bag.n.04": "purse, handbag",
    "ashcan.n.01": "trash can, garbage can",
    "baby.n.01": "baby, infant",
    "fireman.n.04": "firefighter | fireman",
    "policeman.n.01": "police officer | policeman",
    "hamburger.n.01": "hamburger, burger",
    "cellular_telephone.n.01": "cell phone, cellphone, mobile phone",
    "racket.n.04": "racket, racquet",
    "bathtub.n.01": "tub | bathtub",
    "shop.n.01": "store, shop",
    "hot_dog.n.02": "hot dog, hotdog",
    "spectacles.n.01": "glasses, eyeglasses",
    "sunglasses.n.01": "sunglasses, dark glasses",
    "sailboat.n.01": "sailboat, sailing boat",
    "hand_blower.n.01": "hair dryer, blow dryer",
}
ADJECTIVES = {
    "large.a.01": "large, big",
    "small.a.01": "small | little",
    "gray.s.01": "gray, grey",
}
VERBS = {"jump.v.01": "jump, leap", "talk.v.02": "talk, speak"}
# Relations, and what may stand for them.
RELATIONS = {
    ("next", "to"): ("beside",),
    ("beside",): ("next to",),
    ("near",): ("close to",),
    ("close", "to"): ("near",),
    ("underneath",): ("under", "beneath"),
    ("beneath",): ("under", "underneath"),
    ("inside", "of"): ("inside",),
    ("outside", "of"): ("outside",),
    ("on", "top", "of"): ("atop",),
    ("atop",): ("on top of",),
    ("toward",): ("towards",),
    ("towards",): ("toward",),
    ("in", "back", "of"): ("behind",),
}
# Before a relation that something more is said of.
MEASURED = words("right very so just really too and or from up -")
PLURAL_ONLY = words("glasses eyeglasses sunglasses woods")
# Beside these a word means something else, or is part of a name.
BESIDE = {
    "car": "train cable street toy police sports race racing subway dining",
    "plane": "tail wing fighter",
    "shop": "coffee pet barber gift repair tattoo",
    "store": "grocery department convenience book liquor",
    "child": "youngest only",
    "baby": "grand seal elephant giraffe zebra bear",
    "tv": "screen",
    "television": "screen",
}
OF_PEOPLE = words("boy boys girl girls child children kid kids man men woman women person people baby lady guy")
OUT_OF_PLACE = words("toy model stuffed plastic toilet lego miniature")
VERB_ENDS = {
    "jumping": "leaping",
    "leaping": "jumping",
    "jumps": "leaps",
    "leaps": "jumps",
    "jump": "leap",
    "leap": "jump",
    "talking": "speaking",
    "talks": "speaks",
}


def members(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Words that are said for others, and those that are only replaced."""
    said, _, replaced = text.partition("|")
    split = [tuple(word.strip() for word in part.split(",") if word.strip()) for part in (said, replaced)]
    return split[0], split[1]


def _table(synsets: dict[str, str]) -> dict[str, tuple[str, ...]]:
    found = {}
    for text in synsets.values():
        said, replaced = members(text)
        for word in (*said, *replaced):
            found[word] = tuple(other for other in said if other != word)
    return found


_NOUN_TABLE, _ADJECTIVE_TABLE = _table(NOUNS), _table(ADJECTIVES)


def other_noun(parsed: Parsed) -> Iterator[Site]:
    """A noun becomes another of its synset: "on a couch" to "on a sofa"."""
    for phrase in parsed.phrases:
        before, last = set(parsed.words[phrase.start : phrase.head]), phrase.noun
        singular = last if last in _NOUN_TABLE else None
        plural = None if singular else next((word for word in _NOUN_TABLE if grammar.plural(word) == last), None)
        word = singular or plural
        if word is None or parsed._named(phrase) or phrase.nouns > 1 or before & OUT_OF_PLACE:
            continue
        if sum(other.noun in (word, grammar.plural(word)) for other in parsed.phrases) > 1:
            continue  # "a child and another child" are of one kind
        near = set(BESIDE.get(word, "").split())
        if near & (before | {parsed.before(phrase.start), parsed.after(phrase.stop)}):
            continue
        if not plural and parsed.tag(phrase.stop) == VERB and not parsed.after(phrase.stop).endswith("s"):
            continue  # "a baby swing"
        if parsed.tag(phrase.stop) in (NOUN, OTHER) or parsed.after(phrase.stop) in ("-", "'", "/"):
            continue
        if phrase.head == phrase.start and not plural and word not in PLURAL_ONLY:
            continue  # "by bike", "on tv"
        if word == "glasses" and parsed.before(phrase.start) not in ("wearing", "wears", "in", "with"):
            continue
        if word == "glasses" and before - {"a", "the", "his", "her", "black", "red", "blue"}:
            continue  # "wine glasses"
        if word in ("forest", "woods") and phrase.determiner != "the":
            continue  # "a woods"
        if word in ("baby", "infant") and any(noun is not None and noun.isa("animal") for noun in parsed.nouns):
            continue
        options = [other if not plural else grammar.plural(other) for other in _NOUN_TABLE[word]]
        options = [other for other in options if not set(other.split()) & set(parsed.words)]
        if options:
            yield Site(tuple(((phrase.head, phrase.stop, other),) for other in options))


def other_adjective(parsed: Parsed) -> Iterator[Site]:
    """An attribute becomes another of its synset: "a large bus" to "a big bus"."""
    for index, token in enumerate(parsed.tokens):
        others = _ADJECTIVE_TABLE.get(token.word)
        number = parsed.phrase_of(index)
        if others is None or token.tag != ADJ or number is None or index >= parsed.phrases[number].head:
            continue
        phrase = parsed.phrases[number]
        last, following = phrase.noun.split()[-1], parsed.after(index + 1)
        fixed = lexicon.SET_PHRASES.get(token.word, frozenset()) | words("number amount part variety ben apple top")
        if (
            {last, following} & fixed
            or nouns.is_compound(token.word, phrase.noun)
            or parsed.before(index) in ("-", ",")
        ):
            continue
        size = token.word in ("large", "big", "small", "little")
        if size and ({last, following} & OF_PEOPLE or (parsed.nouns[number] is None and last not in nouns.PLURALS)):
            continue  # "little" is young, "big" is grown up or fat
        if parsed._named(phrase) or parsed.tag(index - 1) == ADJ or {parsed.before(index), following} & {"-", ","}:
            continue
        options = [other for other in others if other not in parsed.words]
        if options:
            yield Site(tuple(((index, index + 1, other),) for other in options))


def other_verb(parsed: Parsed) -> Iterator[Site]:
    """A verb becomes another of its synset: "jumping over a fence" to "leaping over a fence"."""
    for index, token in enumerate(parsed.tokens):
        other = VERB_ENDS.get(token.word)
        if other is None or token.tag not in (ING, VERB) or other in parsed.words or index == 0:
            continue
        following, before = parsed.after(index + 1), parsed.before(index)
        leaping = other.startswith(("leap", "jump"))
        if leaping and following not in ("over", "across", "off", "into", "through", "toward", "towards"):
            continue
        if not leaping and following not in ("on", "to", "with", "into"):
            continue
        if before in ("-", "ski", "rope", "bungee", "show", "long", "high") or {"ski", "rope", "horse"} & set(
            parsed.words
        ):
            continue
        yield Site((((index, index + 1, other),),))


def other_relation(parsed: Parsed) -> Iterator[Site]:
    """A relation in other words: "next to a chair" to "beside a chair"."""
    for relation, others in RELATIONS.items():
        for start in range(1, len(parsed.words) - len(relation)):
            stop = start + len(relation)
            if tuple(parsed.words[start:stop]) != relation:
                continue
            if parsed.before(start) in (
                "right",
                "very",
                "so",
                "just",
                "really",
                "too",
                "and",
                "or",
                "from",
                "up",
                "-",
            ):
                continue
            if parsed.tag(start - 1) in (OTHER, PUNCT, PREP):
                continue
            each = parsed.words[stop : stop + 2] == ["each", "other"]
            number = parsed.phrase_at(stop)
            if not each and number is None:
                continue
            if (
                number is not None
                and parsed.phrases[number].determiner == ""
                and relation in (("near",), ("inside", "of"))
            ):
                continue  # "near death"
            yield Site(tuple(((start, stop, other),) for other in others))


def number_in_words(parsed: Parsed) -> Iterator[Site]:
    """A digit becomes a word: "2 dogs" to "two dogs"."""
    for index, token in enumerate(parsed.tokens):
        if token.tag != NUM or not token.word.isdigit() or not 2 <= int(token.word) <= 10:
            continue
        number = parsed.phrase_of(index)
        if number is None or parsed.phrases[number].start != index or parsed.tag(index - 1) in (NUM, OTHER, NOUN):
            continue
        if not grammar.is_plural(parsed.phrases[number].noun.split()[-1]) or parsed.before(index) in ("at", "-", "/"):
            continue
        yield Site((((index, index + 1, NUMBERS[int(token.word) - 2]),),))


LEXICAL = (other_noun, other_adjective, other_verb, other_relation, number_in_words)

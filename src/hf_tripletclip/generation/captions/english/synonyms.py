# SPDX-License-Identifier: Apache-2.0
"""
Replaces words by others that say the same.

WordNet alone does not suffice: it lists "dog" beside "frank", and "plane" beside a carpenter's tool. So the words are
listed in `words/synonyms.tsv`: words of one WordNet synset, in the sense that captions mean, and relations.
"""

from __future__ import annotations

from collections.abc import Iterator

from hf_tripletclip.generation.captions.english import lexicon, split, table, words
from hf_tripletclip.generation.captions.english.grammar import (
    ADJ,
    ING,
    NOUN,
    NUM,
    NUMBERS,
    OTHER,
    PREP,
    PUNCT,
    VERB,
    Parsed,
    Site,
)
from hf_tripletclip.generation.captions.english.nouns import PLURALS, is_compound, is_plural, plural

SYNONYMS: dict[str, dict[str, tuple[str, ...]]] = {}  # part of speech -> word -> words that can stand for it
for _row in table("synonyms"):
    _said, _replaced = split(_row["said"]), split(_row["only replaced"])
    for _word in _replaced if _row["part"] == "relation" else (*_said, *_replaced):
        SYNONYMS.setdefault(_row["part"], {})[_word] = tuple(other for other in _said if other != _word)
# Beside these a noun means something else, or is part of a name.
NOT_BESIDE = {row["noun"]: frozenset(row["beside"].split()) for row in table("not_beside")}


def other_noun(parsed: Parsed) -> Iterator[Site]:
    """A noun becomes another of its synset: "on a couch" to "on a sofa"."""
    for phrase in parsed.phrases:
        before, last = set(parsed.words[phrase.start : phrase.head]), phrase.noun
        many = last not in SYNONYMS["noun"]
        word = next((noun for noun in SYNONYMS["noun"] if plural(noun) == last), None) if many else last
        if word is None or parsed.is_named(phrase) or phrase.nouns > 1 or before & words("toys"):
            continue
        if sum(other.noun in (word, plural(word)) for other in parsed.phrases) > 1:
            continue  # "a child and another child" are of one kind
        if NOT_BESIDE.get(word, frozenset()) & (before | {parsed.before(phrase.start), parsed.after(phrase.stop)}):
            continue
        if not many and parsed.tag(phrase.stop) == VERB and not parsed.after(phrase.stop).endswith("s"):
            continue  # "a baby swing"
        if parsed.tag(phrase.stop) in (NOUN, OTHER) or parsed.after(phrase.stop) in ("-", "'", "/"):
            continue
        if phrase.head == phrase.start and not many and word not in words("plural only"):
            continue  # "by bike", "on tv"
        if word == "glasses" and parsed.before(phrase.start) not in ("wearing", "wears", "in", "with"):
            continue
        if word == "glasses" and before - {"a", "the", "his", "her", "black", "red", "blue"}:
            continue  # "wine glasses"
        if word in ("forest", "woods") and phrase.determiner != "the":
            continue  # "a woods"
        if word in ("baby", "infant") and any(noun is not None and noun.isa("animal") for noun in parsed.nouns):
            continue
        options = [other if not many else plural(other) for other in SYNONYMS["noun"][word]]
        options = [other for other in options if not set(other.split()) & set(parsed.words)]
        if options:
            yield Site(tuple(((phrase.head, phrase.stop, other),) for other in options))


def other_adjective(parsed: Parsed) -> Iterator[Site]:
    """An attribute becomes another of its synset: "a large bus" to "a big bus"."""
    for index, token in enumerate(parsed.tokens):
        others = SYNONYMS["adjective"].get(token.word)
        number = parsed.phrase_of(index)
        if others is None or token.tag != ADJ or number is None or index >= parsed.phrases[number].head:
            continue
        phrase = parsed.phrases[number]
        last, following = phrase.noun.split()[-1], parsed.after(index + 1)
        fixed = lexicon.SET_PHRASES.get(token.word, frozenset()) | words("not large")
        if {last, following} & fixed or is_compound(token.word, phrase.noun) or parsed.before(index) in ("-", ","):
            continue
        size = token.word in ("large", "big", "small", "little")
        if size and ({last, following} & words("people") or (parsed.nouns[number] is None and last not in PLURALS)):
            continue  # "little" is young, "big" is grown up or fat
        if parsed.is_named(phrase) or parsed.tag(index - 1) == ADJ or {parsed.before(index), following} & {"-", ","}:
            continue
        options = [other for other in others if other not in parsed.words]
        if options:
            yield Site(tuple(((index, index + 1, other),) for other in options))


def other_verb(parsed: Parsed) -> Iterator[Site]:
    """A verb becomes another of its synset: "jumping over a fence" to "leaping over a fence"."""
    for index, token in enumerate(parsed.tokens):
        others = SYNONYMS["verb"].get(token.word)
        if not others or token.tag not in (ING, VERB) or others[0] in parsed.words or index == 0:
            continue
        leaping = others[0].startswith(("leap", "jump"))
        if parsed.after(index + 1) not in words("after jumping" if leaping else "after talking"):
            continue
        if parsed.before(index) in words("kinds of jump") or {"ski", "rope", "horse"} & set(parsed.words):
            continue
        yield Site((((index, index + 1, others[0]),),))


def other_relation(parsed: Parsed) -> Iterator[Site]:
    """A relation in other words: "next to a chair" to "beside a chair"."""
    for name, others in SYNONYMS["relation"].items():
        relation = name.split()
        for start in range(1, len(parsed.words) - len(relation)):
            stop = start + len(relation)
            if parsed.words[start:stop] != relation or parsed.before(start) in words("measured"):
                continue
            if parsed.tag(start - 1) in (OTHER, PUNCT, PREP):
                continue
            number = parsed.phrase_at(stop)
            if number is None and parsed.words[stop : stop + 2] != ["each", "other"]:
                continue
            if number is not None and not parsed.phrases[number].determiner and name in ("near", "inside of"):
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
        if not is_plural(parsed.phrases[number].noun.split()[-1]) or parsed.before(index) in ("at", "-", "/"):
            continue
        yield Site((((index, index + 1, NUMBERS[int(token.word) - 2]),),))


LEXICAL = (other_noun, other_adjective, other_verb, other_relation, number_in_words)

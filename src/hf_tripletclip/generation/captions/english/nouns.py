# SPDX-License-Identifier: Apache-2.0
"""What is known of nouns: their number, their group in the word lists or WordNet, and which can replace which."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from hf_tripletclip.generation.captions.english import words
from hf_tripletclip.generation.captions.english.lexicon import GROUP_OF, GROUPS, IRREGULAR_PLURALS, Group
from hf_tripletclip.generation.wordnet import load_wordnet


@functools.lru_cache(maxsize=1 << 16)
def is_plural(word: str) -> bool:
    """Whether a noun is in the plural."""
    if word in IRREGULAR_PLURALS.values():
        return True
    base = load_wordnet().morphy(word, "n")
    if base is None:
        return word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return base != word or word in ("people", "cattle", "police", "pants", "jeans", "shorts", "scissors", "glasses")


@functools.lru_cache(maxsize=1 << 14)
def plural(noun: str) -> str:
    """The plural of a noun or compound."""
    *modifiers, head = noun.split(" ")
    if head in IRREGULAR_PLURALS:
        head = IRREGULAR_PLURALS[head]
    elif head.endswith(("s", "x", "z", "ch", "sh")):
        head += "es"
    elif head.endswith("y") and head[-2] not in "aeiou":
        head = head[:-1] + "ies"
    else:
        head += "s"
    return " ".join((*modifiers, head))


NEVER = words("never replaced")


@dataclass(frozen=True)
class Entry:
    """A noun in a group."""

    group: Group
    alike: frozenset[str]  # the words that may be true of the same thing


def _index() -> tuple[dict[str, Entry], dict[str, Entry]]:
    countable: dict[str, Entry] = {}
    mass: dict[str, Entry] = {}
    for group in GROUPS.values():
        for alike in group.sets:
            for word in alike:
                entry = Entry(group, frozenset(alike))
                if group.mass:
                    mass.setdefault(word, entry)
                elif word not in NEVER and GROUP_OF.get(word, group.name) == group.name:
                    countable.setdefault(word, entry)
    return countable, mass


COUNTABLE, MASS = _index()
PLURALS = {plural(word): word for word in COUNTABLE}
PLURALS["people"] = "person"
PLURALS["cattle"] = "cow"
COMPOUNDS = frozenset(word for word in (*COUNTABLE, *MASS, *PLURALS) if " " in word)


@dataclass(frozen=True)
class Noun:
    """What is known of a noun phrase's noun: the listed word or WordNet's base form, its group, its number."""

    base: str
    entry: Entry
    plural: bool
    mass: bool

    def isa(self, *kinds: str) -> bool:
        """Whether it is of one of some classes, such as `person`; see `words/nouns.tsv`."""
        return any(kind in self.entry.group.classes for kind in kinds)


@functools.lru_cache(maxsize=1 << 16)
def look_up(noun: str, determiner: str, bare: bool) -> Noun | None:
    """
    What a noun is.

    Args:
        noun (`str`): The noun or compound, lower case.
        determiner (`str`): The word the phrase begins with.
        bare (`bool`): Whether it has no determiner.
    """
    counted = determiner in ("a", "an", "one", "each", "every", "another")
    if noun in NEVER:
        return None
    if noun in PLURALS and noun not in COUNTABLE:
        if counted:
            return None  # a slip: "a women"
        return Noun(PLURALS[noun], COUNTABLE[PLURALS[noun]], True, False)
    if noun in MASS and not counted and (noun not in COUNTABLE or bare):
        return Noun(noun, MASS[noun], False, True)
    if noun in COUNTABLE:
        return Noun(noun, COUNTABLE[noun], noun in ("sheep", "deer", "fish") and not counted, False)
    wordnet = load_wordnet()
    base = wordnet.morphy(noun.replace(" ", "_"), "n")
    if base is None:
        return None
    many = is_plural(noun) if " " not in noun else base != noun.replace(" ", "_")
    if not counted and not many and bare:
        return None  # perhaps a mass noun; WordNet does not say
    name = base.replace("_", " ")
    if name in NEVER:
        return None
    if name in COUNTABLE:
        return Noun(name, COUNTABLE[name], many, False)
    group = _anchored(base)
    return Noun(name, Entry(group, frozenset({name})), many, False) if group else None


def _anchored(base: str) -> Group | None:
    """The group of the nearest anchor above a noun's first sense, if that is its usual one."""
    wordnet = load_wordnet()
    senses = wordnet.synsets(base, "n")
    counted = [sum(lemma.count() for lemma in sense.lemmas() if lemma.name().lower() == base) for sense in senses]
    if len(senses) > 1 and counted[0] <= sum(counted[1:]):
        return None
    anchors = _anchors()
    level = [senses[0]]
    while level:
        for synset in level:
            if synset.name() in anchors:
                return anchors[synset.name()]
        level = [above for synset in level for above in synset.hypernyms()]
    return None


@functools.lru_cache(maxsize=1)
def _anchors() -> dict[str, Group]:
    return {synset: group for group in GROUPS.values() for synset in group.synsets}


@functools.lru_cache(maxsize=1 << 14)
def _related(word: str) -> frozenset[str]:
    """Names of the synsets of a noun's first two senses and of all above them."""
    senses = load_wordnet().synsets(word.replace(" ", "_"), "n")[:2]
    return frozenset(
        name
        for sense in senses
        for name in (sense.name(), *(above.name() for above in sense.closure(lambda synset: synset.hypernyms())))
    )


@functools.lru_cache(maxsize=1 << 14)
def _senses(word: str) -> frozenset[str]:
    return frozenset(sense.name() for sense in load_wordnet().synsets(word.replace(" ", "_"), "n")[:2])


def related(first: str, second: str) -> bool:
    """Whether one noun may be true of what the other names: synonyms, or one the hypernym of the other."""
    return bool(_senses(first) & _related(second) or _senses(second) & _related(first))


@functools.lru_cache(maxsize=1 << 14)
def replacements(base: str, group: str, alike: frozenset[str]) -> tuple[str, ...]:
    """The nouns, in the singular, that replace a noun of a group."""
    if others := GROUPS[group].replaced_by:
        found = (GROUPS[name].sets[0][0] if name in GROUPS else name for name in others)
        return tuple(word for word in found if word not in alike)
    return tuple(
        members[0] for members in GROUPS[group].sets if not set(members) & alike and not related(members[0], base)
    )


def is_person(word: str) -> bool:
    """Whether a word names people."""
    noun = look_up(word, "a", False) or look_up(word, "", False)
    return noun is not None and noun.isa("person")


@functools.lru_cache(maxsize=1 << 16)
def is_compound(word: str, noun: str) -> bool:
    """Whether WordNet lists the attribute with the noun, and captions mean that: "black bear", "green beans"."""
    if noun in words("literal"):
        return False
    return load_wordnet().morphy(f"{word} {noun}".replace(" ", "_"), "n") is not None

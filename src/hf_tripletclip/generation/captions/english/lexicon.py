# SPDX-License-Identifier: Apache-2.0
"""
The words that the rules know how to change: nouns, attributes, relations, actions. The tables are in `words/`.

A word is replaced only by one that is false of what it is true of: "tall" by "short", not by "large".
"""

from __future__ import annotations

from dataclasses import dataclass

from hf_tripletclip.generation.captions.english import split, table


@dataclass(frozen=True)
class Group:
    """
    Nouns of a kind; `words/nouns.tsv` says more.

    Args:
        name (`str`): The kind.
        sets (`tuple[tuple[str, ...], ...]`): The nouns; nouns of one set may be true of the same thing.
        synsets (`tuple[str, ...]`): The WordNet synsets under which nouns that are not listed belong here.
        classes (`tuple[str, ...]`): What can be done with the things: `thing`, `person`, `animal`, `box`, `food`, ...
        mass (`bool`): Whether the nouns take no "a" and no plural.
        after (`tuple[str, ...]`): The prepositions after which they may be replaced; after all if there is none.
        replaced_by (`tuple[str, ...]`): Groups, or nouns, that replace the nouns, if not the other sets do.
    """

    name: str
    sets: tuple[tuple[str, ...], ...]
    synsets: tuple[str, ...]
    classes: tuple[str, ...]
    mass: bool
    after: tuple[str, ...]
    replaced_by: tuple[str, ...]


_NOUNS = table("nouns")
GROUPS = {
    row["group"]: Group(
        row["group"],
        tuple(split(alike, "/") for alike in split(row["nouns"])),
        tuple(row["synsets"].split()),
        tuple(row["classes"].split()),
        row["mass"] == "yes",
        tuple(row["after"].split()),
        split(row["replaced by"]),
    )
    for row in _NOUNS
}
# noun of several groups -> the name of the group whose nouns replace it
GROUP_OF = {noun: row["group"] for row in _NOUNS for noun in split(row["here"])}

IRREGULAR_PLURALS = {row["singular"]: row["plural"] for row in table("plurals")}

_COLOURS = {row["colour"]: row for row in table("colours")}
# word for a colour -> the plain colour that it looks like
LOOK = {word: colour for colour, row in _COLOURS.items() for word in (colour, *row["more"].split())}
# word for a colour -> the plain colours that nobody would call it
COLOURS = {
    word: tuple(colour for colour in _COLOURS if colour != look and colour not in _COLOURS[look]["close"].split())
    for word, look in LOOK.items()
}
FUR, NATURE, TINTS = (
    frozenset(colour for colour, row in _COLOURS.items() if of in row["of"].split())
    for of in ("fur", "nature", "tint")
)

_ATTRIBUTES = {row["attribute"]: row for row in table("attributes")}
ATTRIBUTES = {word: split(row["replaced by"]) for word, row in _ATTRIBUTES.items()}
CLASS_OF = {word: row["class"] for word, row in _ATTRIBUTES.items()}
ALONE = frozenset(word for word, row in _ATTRIBUTES.items() if row["alone"])  # they may be said with "is"
# attribute -> nouns with which it is part of a name, or has no opposite
SET_PHRASES = {word: frozenset(row["not before"].split()) for word, row in _ATTRIBUTES.items() if row["not before"]}

# The words of a relation, what must follow them, and what replaces them; longer relations first.
RELATIONS = tuple(
    (tuple(row["relation"].split()), row["before"], split(row["replaced by"])) for row in table("relations")
)

POSTURES: dict[str, tuple[str, ...]] = {}  # verb -> what replaces it
MOTIONS: dict[str, tuple[str, ...]] = {}  # the same along a way: "walking down", not "sitting down"
ACTIONS: dict[str, dict[str, tuple[str, ...]]] = {}  # verb -> class of what it is done to -> what replaces it
for _row in table("actions"):
    _options = tuple(_row["replaced by"].split())
    if _row["kind"] == "action":
        ACTIONS.setdefault(_row["verb"], {})[_row["of"]] = _options
    else:
        (POSTURES if _row["kind"] == "posture" else MOTIONS)[_row["verb"]] = _options

_IRREGULAR = {row["verb"]: (row["third person"], row["participle"], row["past"]) for row in table("verb_forms")}


def forms(lemma: str) -> tuple[str, str, str, str]:
    """Base, third person, participle and past of a verb."""
    if lemma in _IRREGULAR:
        return (lemma, *_IRREGULAR[lemma])
    third = lemma + ("es" if lemma.endswith(("s", "x", "z", "ch", "sh")) else "s")
    if lemma.endswith("e"):
        return lemma, third, lemma[:-1] + "ing", lemma + "d"
    if lemma in ("sled", "jog", "slip"):
        return lemma, third, lemma + lemma[-1] + "ing", lemma + lemma[-1] + "ed"
    return lemma, third, lemma + "ing", lemma + "ed"


KINDS_OF_FORM = ("", "s", "ing", "ed")
# inflected verb -> its base and its form, for the verbs that are replaced
VERB_FORMS = {
    text: (lemma, form)
    for lemma in (*POSTURES, *MOTIONS, *ACTIONS)
    for text, form in zip(forms(lemma), KINDS_OF_FORM, strict=True)
}
VERB_FORMS |= {"lay": ("lay", ""), "laying": ("lay", "ing"), "lying": ("lie", "ing")}


def inflect(lemma: str, form: str) -> str:
    """A verb in a form: "" is the base, "s", "ing" or "ed"."""
    return forms(lemma)[KINDS_OF_FORM.index(form)]

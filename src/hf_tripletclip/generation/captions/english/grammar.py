# SPDX-License-Identifier: Apache-2.0
"""
A light English grammar for captions: tokens, parts of speech, noun phrases, inflection.

Parts of speech come from lists of the closed classes and, for other words, from what WordNet knows the word as, how
often it is each in WordNet's own counts, and the word before and after. It is right where captions are plain; where it
is not sure it says `OTHER`, and the rules leave that part of the caption alone.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hf_tripletclip.generation.captions.english import words
from hf_tripletclip.generation.captions.english.lexicon import ATTRIBUTES, COLOURS, IRREGULAR_PLURALS, VERB_FORMS
from hf_tripletclip.generation.captions.english.vocabulary import GROUPS
from hf_tripletclip.generation.wordnet import load_wordnet

TOKEN = re.compile(r"<[^>\s]*>|[^\W_]+(?:['’-][^\W_]+)*|\s+|[^\w\s]|_+")

DET, POSS, NUM, PREP, CONJ, PRON, AUX, ADV = "DET", "POSS", "NUM", "PREP", "CONJ", "PRON", "AUX", "ADV"
NOUN, ADJ, VERB, ING, ED, PUNCT, OTHER, START = "NOUN", "ADJ", "VERB", "ING", "ED", "PUNCT", "OTHER", "START"

NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
CLOSED: dict[str, str] = {}
for _tag, _words in (
    (DET, "a an the this these those some any each every another no both all several many few various multiple other"),
    (POSS, "his her their its my your our whose"),
    (NUM, "one eleven twelve dozens " + " ".join(NUMBERS)),
    (
        PREP,
        "about above across against along alongside amid among amongst around at atop before behind below beneath "
        "beside besides between beyond by during for from in inside into near nearby of off on onto opposite "
        "outside over past through throughout toward towards under underneath until up upon via with within "
        "without to down out like",
    ),
    (CONJ, "and or but while as when where because so than if nor plus & whilst"),
    (PRON, "he she it they him them who which that what himself herself itself themselves someone somebody something "
           "there here everyone nothing i you we us me theirs hers mine yours each"),
    (AUX, "is are was were be been being am has have had having do does did can could will would should may might "
          "must gets get getting got isn't aren't"),
    (ADV, "not very too also just only still together away back upside apart outdoors indoors ahead almost nearly "
          "partly really quite extremely fully brightly highly slightly currently already both right left next"),
):  # fmt: skip
    for _word in _words.split():
        CLOSED.setdefault(_word, _tag)

LISTED = 30.0  # added to the count of a noun that captions often have
MOSTLY_VERBS = words("watch top fly light coast stage pick")

# What a word that may be several things mostly is in captions.
USUAL = {
    **dict.fromkeys(
        words(
            "building buildings ceiling clothing evening morning wedding railing painting paintings living dining "
            "lightning frosting icing topping toppings stuffing siding awning king ring string spring wing thing "
            "things something anything everything nothing being beings dressing bedding drawing drawings carving "
            "clearing opening intersection inning pudding stocking"
        ),
        NOUN,
    ),
    **dict.fromkeys(words("interesting amazing charming exciting stunning"), ADJ),
    **dict.fromkeys(
        words("shows show contains contain features feature appears appear looks look stands sits"),
        VERB,
    ),
}


@dataclass(frozen=True)
class Token:
    """A word or a mark, and the index of its text in the pieces of the caption."""

    text: str
    tag: str
    piece: int

    @property
    def word(self) -> str:
        return self.text.lower().replace("’", "'")


@dataclass(frozen=True)
class NounPhrase:
    """Tokens `start` to `stop`, exclusive; `head` is the first token of the noun or compound that ends it."""

    start: int
    head: int
    stop: int
    noun: str  # the words of head to stop, lower case
    determiner: str  # the lower-case word it starts with, if that is one; else empty
    nouns: int  # how many nouns stand before the end


def pieces_of(caption: str) -> list[str]:
    """Words, marks and spaces, that together are the caption."""
    return TOKEN.findall(caption)


@functools.lru_cache(maxsize=1)
def _nouns() -> frozenset[str]:
    """The single words that are listed as nouns, or end a listed compound, and their plurals."""
    words = {word.split()[-1] for group in GROUPS for alike in group.sets for word in alike} - MOSTLY_VERBS
    return frozenset(words | {plural(word) for word in words})


@functools.lru_cache(maxsize=1 << 16)
def counts(word: str) -> tuple[float, float, float, float]:
    """How often WordNet counted a word as noun, verb, adjective and adverb; 0.5 where it is one but was not "
    "counted."""
    wordnet = load_wordnet()
    found = []
    for part in ("n", "v", "a", "r"):
        base = wordnet.morphy(word, part)
        if base is None:
            found.append(0.0)
            continue
        lemmas = [lemma for synset in wordnet.synsets(base, part) for lemma in synset.lemmas()]
        found.append(0.5 + sum(lemma.count() for lemma in lemmas if lemma.name().lower() == base))
    if word in _nouns() and found[0]:
        found[0] += LISTED
    if not any(found) and "-" in word:  # "self-made"; a joined word is mostly an adjective
        return (0.0, 0.0, 0.5, 0.0)
    return (found[0], found[1], found[2], found[3])


@functools.lru_cache(maxsize=1 << 16)
def is_plural(word: str) -> bool:
    """Whether a noun is in the plural."""
    if word in IRREGULAR_PLURALS.values():
        return True
    base = load_wordnet().morphy(word, "n")
    if base is None:
        return word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return base != word or word in ("people", "cattle", "police", "pants", "jeans", "shorts", "scissors", "glasses")


def tag(caption: str) -> tuple[list[str], list[Token]]:
    """The pieces of a caption, and its words and marks with their parts of speech."""
    pieces = pieces_of(caption)
    where = [index for index, piece in enumerate(pieces) if not piece.isspace()]
    tokens: list[Token] = []
    for number, index in enumerate(where):
        text = pieces[index]
        following = pieces[where[number + 1]].lower() if number + 1 < len(where) else ""
        tokens.append(Token(text, _tag_of(text.lower().replace("’", "'"), tokens, following), index))
    return pieces, tokens


def _tag_of(word: str, before: Sequence[Token], following: str) -> str:
    previous = before[-1].tag if before else START
    if not word[0].isalnum():
        return OTHER if len(word) > 1 else PUNCT
    if word.isdigit():
        return NUM
    if word.endswith("'s"):
        return POSS if counts(following)[0] or counts(following)[2] else OTHER
    if word == "left" and previous == POSS:
        return ADJ
    if word == "right" and previous in (POSS, DET):
        return ADJ
    if word in ("top", "front") and following == "of" and before and before[-1].word in ("on", "in"):
        return PREP
    if word in CLOSED:
        return CLOSED[word]
    if word in USUAL and not (USUAL[word] == VERB and previous in (DET, ADJ, POSS, NUM)):
        return USUAL[word]
    noun, verb, adjective, adverb = counts(word)
    nominal_follows = _may_be_nominal(following)
    in_phrase = previous in (DET, POSS, NUM, ADJ)
    if word.endswith("ing") and verb and len(word) > 4:
        if in_phrase and before[-1].word not in ("other", "each", "all", "both"):
            return ADJ if nominal_follows else (NOUN if noun else OTHER)
        return ING
    if word in COLOURS and following in ("and", "&"):
        return ADJ
    if word in ATTRIBUTES or word in COLOURS:
        if nominal_follows or previous == AUX or not noun:
            return ADJ
        return ADJ if previous == ADJ and not in_phrase else NOUN if noun else ADJ
    form = VERB_FORMS.get(word)
    if form and form[1] == "s" and CLOSED.get(following) in (DET, POSS) and not in_phrase:
        return VERB
    if form and form[1] == "s":  # "sits", "rides", also "watches", "flies"
        if previous in (NOUN, PRON) and not in_phrase and not _plural_before(before):
            return VERB
        return NOUN if noun else VERB
    if word.endswith("ed") and verb and load_wordnet().morphy(word, "v") != word:
        return ADJ if in_phrase and nominal_follows else ED
    if in_phrase:
        if nominal_follows and adjective and adjective >= noun:
            return ADJ
        if noun:
            return NOUN
        return ADJ if adjective else ADV if adverb else OTHER
    if previous == NOUN and verb and (verb > noun or form):
        plural = _plural_before(before)
        inflected = load_wordnet().morphy(word, "v") != word
        if (plural and not inflected) or (not plural and inflected and word.endswith("s")):
            return VERB
        if inflected and not word.endswith("s"):
            return ED  # "taken", "sat"
        if noun and not inflected and not plural:
            return NOUN  # "a farmhouse sink"
    if previous in (PRON, ADV) and verb > noun:
        return VERB
    if adjective and (adjective >= noun or previous == AUX) and adjective >= verb:
        return ADJ if nominal_follows or previous == AUX or not noun else ADJ if adjective > 2 * noun else NOUN
    if noun and noun >= verb / 4:
        return NOUN
    if verb:
        return VERB
    return ADJ if adjective else ADV if adverb else OTHER


def _may_be_nominal(word: str) -> bool:
    """Whether a noun phrase may go on with the word."""
    if not word or not word[0].isalnum() or word in CLOSED:
        return False
    if word in USUAL:
        return USUAL[word] != VERB
    form = VERB_FORMS.get(word)
    if form and form[1] in ("ing", "s") and not counts(word)[0] > 5:
        return False
    noun, verb, adjective, _ = counts(word)
    return bool(noun or adjective) and not (verb > 4 * (noun + adjective))


def _plural_before(before: Sequence[Token]) -> bool:
    if not before or before[-1].tag != NOUN:
        return False
    if is_plural(before[-1].word):
        return True
    # "a cat and a dog sit"; "a man and woman ride"
    return any(token.word == "and" for token in before[-4:-1])


def noun_phrases(tokens: Sequence[Token]) -> list[NounPhrase]:
    """The noun phrases, without the ones that follow with "of" or "with"."""
    phrases = []
    index = 0
    while index < len(tokens):
        start = index
        determiner = ""
        while index < len(tokens) and tokens[index].tag in (DET, POSS, NUM):
            determiner = determiner or tokens[index].word
            index += 1
        while index < len(tokens) and (
            tokens[index].tag == ADJ
            or (
                tokens[index].word in ("and", ",")
                and tokens[index - 1].tag == ADJ
                and index + 1 < len(tokens)
                and tokens[index + 1].tag == ADJ
            )
        ):
            index += 1
        first = index
        while index < len(tokens) and tokens[index].tag == NOUN:
            index += 1
        if index > first:
            words = [token.word for token in tokens[first:index]]
            phrases.append(NounPhrase(start, first, index, " ".join(words), determiner, index - first))
        elif index == start:
            index += 1
    return phrases


def article(word: str) -> str:
    """ "a" or "an", by how a word sounds."""
    word = word.lower()
    if re.match(r"(uni([^nm]|$)|unic|us[aeiu]|eu|one|once|ukulele|ut[ei])", word):
        return "a"
    if re.match(r"(hour|honest|honou?r|heir)", word):
        return "an"
    return "an" if word[:1] in tuple("aeiou") or word[:1] == "8" else "a"


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


def in_case_of(new: str, old: str, shouted: bool, titled: bool) -> str:
    """New words in the case of the old ones: capitals throughout, of each word, of the first, or none."""
    if shouted:
        return new.upper()
    if titled:
        return " ".join(word[:1].upper() + word[1:] for word in new.split(" "))
    return new[:1].upper() + new[1:] if old[:1].isupper() else new

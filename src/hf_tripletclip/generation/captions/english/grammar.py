# SPDX-License-Identifier: Apache-2.0
"""
A light English grammar for captions: tokens, parts of speech, noun phrases, and the caption with all of them.

Parts of speech come from lists of the closed classes and, for other words, from what WordNet knows the word as, how
often it is each in WordNet's own counts, and the word before and after. It is right if captions are plain. If it
is not sure it says `OTHER`, and the rules leave that part of the caption alone.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hf_tripletclip.generation.captions.english import table, words
from hf_tripletclip.generation.captions.english.lexicon import ATTRIBUTES, COLOURS, GROUPS, VERB_FORMS
from hf_tripletclip.generation.captions.english.nouns import COMPOUNDS, Noun, is_plural, look_up, plural
from hf_tripletclip.generation.wordnet import load_wordnet

TOKEN = re.compile(r"<[^>\s]*>|[^\W_]+(?:['’-][^\W_]+)*|\s+|[^\w\s]|_+")

DET, POSS, NUM, PREP, CONJ, PRON, AUX, ADV = "DET", "POSS", "NUM", "PREP", "CONJ", "PRON", "AUX", "ADV"
NOUN, ADJ, VERB, ING, ED, PUNCT, OTHER, START = "NOUN", "ADJ", "VERB", "ING", "ED", "PUNCT", "OTHER", "START"

NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
CLOSED: dict[str, str] = {}  # word of a closed class -> its part of speech
USUAL: dict[str, str] = {}  # word that may be several parts of speech -> what it mostly is in captions
for _row in table("parts_of_speech"):
    CLOSED |= {word: _row["part"] for word in _row["closed"].split() if word not in CLOSED}
    USUAL |= dict.fromkeys(_row["usual"].split(), _row["part"])

LISTED = 30.0  # is added to the count of a noun that captions often have


@dataclass(frozen=True)
class Token:
    """A word or a mark, the index of its text in the pieces of the caption, and the text in small letters."""

    text: str
    tag: str
    piece: int
    word: str


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
    found = {word.split()[-1] for group in GROUPS.values() for alike in group.sets for word in alike}
    found -= words("mostly verbs")
    return frozenset(found | {plural(word) for word in found})


@functools.lru_cache(maxsize=1 << 16)
def counts(word: str) -> tuple[float, float, float, float]:
    """How often WordNet counted a word as noun, verb, adjective and adverb; 0.5 if it is one but was not counted."""
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


def tag(caption: str) -> tuple[list[str], list[Token]]:
    """The pieces of a caption, and its words and marks with their parts of speech."""
    pieces = pieces_of(caption)
    where = [index for index, piece in enumerate(pieces) if not piece.isspace()]
    tokens: list[Token] = []
    for number, index in enumerate(where):
        text = pieces[index]
        following = pieces[where[number + 1]].lower() if number + 1 < len(where) else ""
        word = text.lower().replace("’", "'")
        tokens.append(Token(text, _tag_of(word, tokens, following), index, word))
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


@functools.lru_cache(maxsize=1 << 16)
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


def in_case_of(new: str, old: str, shouted: bool, titled: bool) -> str:
    """New words in the case of the old ones: capitals throughout, of each word, of the first, or none."""
    if shouted:
        return new.upper()
    if titled:
        return " ".join(word[:1].upper() + word[1:] for word in new.split(" "))
    return new[:1].upper() + new[1:] if old[:1].isupper() else new


Span = tuple[int, int, str]  # tokens from, to (exclusive), and the words that replace them


@dataclass(frozen=True)
class Site:
    """A place of the caption that can be changed, and the ways to change it: each a tuple of replaced spans."""

    options: tuple[tuple[Span, ...], ...]


class Parsed:
    """A caption with its tokens, noun phrases and what their nouns are."""

    def __init__(self, caption: str) -> None:
        self.caption = caption
        self.pieces, self.tokens = tag(caption)
        self.words = [token.word for token in self.tokens]
        self.phrases: list[NounPhrase] = []
        self.nouns: list[Noun | None] = []
        for phrase in noun_phrases(self.tokens):
            phrase = self._compound(phrase)
            bare = not phrase.determiner
            self.phrases.append(phrase)
            self.nouns.append(None if self.is_named(phrase) else look_up(phrase.noun, phrase.determiner, bare))
        letters = [token.text for token in self.tokens if token.text[0].isalpha()]
        self.shouted = len(letters) > 1 and all(text.isupper() for text in letters)
        self.titled = len(letters) > 3 and sum(text[:1].isupper() for text in letters) > 0.7 * len(letters)
        self.pronouns = frozenset(self.words) & words("person pronouns")

    def _compound(self, phrase: NounPhrase) -> NounPhrase:
        """The phrase with the longest known compound as its head."""
        low = max(phrase.start, phrase.stop - 4)
        for head in range(low, phrase.stop):
            text = " ".join(self.words[head : phrase.stop])
            if head == phrase.stop - 1 or text in COMPOUNDS:
                known = head < phrase.stop - 1
                return NounPhrase(phrase.start, head if known else phrase.head, phrase.stop, text, phrase.determiner,
                                  1 if known and head <= phrase.head else phrase.nouns)  # fmt: skip
        return phrase

    def is_named(self, phrase: NounPhrase) -> bool:
        """Whether it is, or has, a proper name: a capital inside the caption."""
        if all(token.text[:1].isupper() or not token.text[0].isalpha() for token in self.tokens):
            return False
        inside = self.tokens[max(phrase.head, 1) : phrase.stop]
        return any(token.text[:1].isupper() for token in inside)

    def before(self, index: int) -> str:
        return self.words[index - 1] if index > 0 else ""

    def after(self, index: int) -> str:
        return self.words[index] if index < len(self.words) else ""

    def tag(self, index: int) -> str:
        return self.tokens[index].tag if 0 <= index < len(self.tokens) else PUNCT

    def phrase_at(self, start: int) -> int | None:
        """The number of the noun phrase that starts at a token."""
        return next((number for number, phrase in enumerate(self.phrases) if phrase.start == start), None)

    def phrase_before(self, stop: int) -> int | None:
        """The number of the noun phrase that ends before a token."""
        return next((number for number, phrase in enumerate(self.phrases) if phrase.stop == stop), None)

    def phrase_of(self, index: int) -> int | None:
        """The number of the noun phrase that a token is in."""
        return next((i for i, phrase in enumerate(self.phrases) if phrase.start <= index < phrase.stop), None)

    def subject_of(self, index: int) -> int | None:
        """The noun phrase whose verb is at a token: right before it, but for "is" and an adverb."""
        while index and (self.tokens[index - 1].tag in (AUX, ADV) or self.before(index) in ("who", "that", "which")):
            index -= 1
        return self.phrase_before(index)

    def text_of(self, phrase: NounPhrase) -> str:
        """The text of a noun phrase, as it stands inside a sentence."""
        text = "".join(self.pieces[self.tokens[phrase.start].piece : self.tokens[phrase.stop - 1].piece + 1])
        return text[:1].lower() + text[1:] if phrase.start == 0 and not self.shouted else text

    def render(self, spans: Sequence[Span]) -> str:
        """The caption with spans replaced: case kept, "a" or "an" set right."""
        pieces = list(self.pieces)
        for start, stop, new in spans:
            tokens = self.tokens[start:stop]
            first = tokens[0].piece
            pieces[first] = in_case_of(new, tokens[0].text, self.shouted, self.titled)
            for piece in range(first + 1, tokens[-1].piece + 1):
                pieces[piece] = ""
            if start > 0 and self.words[start - 1] in ("a", "an"):
                place = self.tokens[start - 1].piece
                pieces[place] = in_case_of(article(new), pieces[place], self.shouted, self.titled)
        return "".join(pieces)

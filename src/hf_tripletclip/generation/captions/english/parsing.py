# SPDX-License-Identifier: Apache-2.0
"""A caption with its noun phrases and what their nouns are, and the changes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hf_tripletclip.generation.captions.english import grammar, nouns, words
from hf_tripletclip.generation.captions.english.grammar import ADV, AUX, PUNCT, NounPhrase

PRONOUNS = words("he him his himself she her herself hers")
RELATIVES = words("who that which")

Span = tuple[int, int, str]  # tokens from, to (exclusive), and the words that replace them


@dataclass(frozen=True)
class Site:
    """A place of the caption that can be changed, and the ways to change it: each a tuple of replaced spans."""

    options: tuple[tuple[Span, ...], ...]


class Parsed:
    """A caption with its tokens, noun phrases and what their nouns are."""

    def __init__(self, caption: str) -> None:
        self.caption = caption
        self.pieces, self.tokens = grammar.tag(caption)
        self.words = [token.word for token in self.tokens]
        self.phrases: list[NounPhrase] = []
        self.nouns: list[nouns.Noun | None] = []
        for phrase in grammar.noun_phrases(self.tokens):
            phrase = self._compound(phrase)
            bare = not phrase.determiner
            self.phrases.append(phrase)
            self.nouns.append(None if self._named(phrase) else nouns.look_up(phrase.noun, phrase.determiner, bare))
        letters = [token.text for token in self.tokens if token.text[0].isalpha()]
        self.shouted = len(letters) > 1 and all(text.isupper() for text in letters)
        self.titled = len(letters) > 3 and sum(text[:1].isupper() for text in letters) > 0.7 * len(letters)
        self.pronouns = frozenset(self.words) & PRONOUNS

    def _compound(self, phrase: NounPhrase) -> NounPhrase:
        """The phrase with the longest known compound as its head."""
        low = max(phrase.start, phrase.stop - 4)
        for head in range(low, phrase.stop):
            text = " ".join(self.words[head : phrase.stop])
            if head == phrase.stop - 1 or text in nouns.COMPOUNDS:
                known = head < phrase.stop - 1
                return NounPhrase(phrase.start, head if known else phrase.head, phrase.stop, text, phrase.determiner,
                                  1 if known and head <= phrase.head else phrase.nouns)  # fmt: skip
        return phrase

    def _named(self, phrase: NounPhrase) -> bool:
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
        while index and (self.tokens[index - 1].tag in (AUX, ADV) or self.before(index) in RELATIVES):
            index -= 1
        return self.phrase_before(index)

    def render(self, spans: Sequence[Span]) -> str:
        """The caption with spans replaced: case kept, "a" or "an" set right."""
        pieces = list(self.pieces)
        for start, stop, new in spans:
            tokens = self.tokens[start:stop]
            first = tokens[0].piece
            pieces[first] = grammar.in_case_of(new, tokens[0].text, self.shouted, self.titled)
            for piece in range(first + 1, tokens[-1].piece + 1):
                pieces[piece] = ""
            if start > 0 and self.words[start - 1] in ("a", "an"):
                place = self.tokens[start - 1].piece
                pieces[place] = grammar.in_case_of(grammar.article(new), pieces[place], self.shouted, self.titled)
        return "".join(pieces)

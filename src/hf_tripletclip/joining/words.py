# SPDX-License-Identifier: Apache-2.0
"""
Two captions joined, and the negative of that: a word of the one is exchanged with one of the other (Peleg et al.
2025, arXiv 2505.24424, section 3). The paper takes any two words of one part of speech, by a tagger. Here they are two
objects, two attributes or two actions of one kind that the rules know, so that the negative is English and false.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hf_tripletclip.generation.captions.content import LEFT_OUT, SAME, content_problem, same_word, word_stems
from hf_tripletclip.generation.captions.english import lexicon
from hf_tripletclip.generation.captions.english.grammar import ED, ING, VERB, Parsed, Span
from hf_tripletclip.generation.captions.english.nouns import Noun, plural, related
from hf_tripletclip.generation.captions.english.swaps import attribute_groups, is_like, is_unnatural
from hf_tripletclip.generation.captions.language import is_english
from hf_tripletclip.generation.stage import in_random_order

ENDS = (".", "!", "?", '."', ".'", "…")
ALIVE = frozenset({"person", "animal"})


@dataclass(frozen=True)
class Exchanged:
    """Two captions after a word of each has taken the other's place."""

    first: str
    second: str
    kind: str  # by SugarCrepe's names


def joined(first: str, second: str) -> str:
    """Two captions as two sentences."""
    return " ".join(text if text.endswith(ENDS) else f"{text}." for text in (first.strip(), second.strip()))


@functools.lru_cache(maxsize=1 << 14)
def parse(caption: str) -> Parsed | None:
    """A caption with its words; `None` if it is in another language than English."""
    return Parsed(caption) if is_english(caption) else None


def stems_of(captions: Iterable[str]) -> frozenset[str]:
    """The base forms of the words of all captions of one image."""
    return frozenset().union(*(stems for caption in captions for stems in word_stems(caption)))


def exchange(
    first: str,
    second: str,
    rng: random.Random,
    said: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset()),
) -> Exchanged | None:
    """
    Two captions with a word exchanged, so that the two together are false of the two pictures; `None` if there are no
    two words that the rules may exchange. Each kind that is possible is equally likely.

    Args:
        first, second (`str`): The captions.
        rng (`random.Random`): Draws the words.
        said (`tuple[frozenset[str], frozenset[str]]`): What all captions of each picture say, from [`stems_of`]: a
            word of it may be true of the picture, and is not put into its caption.
    """
    one, other = parse(first), parse(second)
    if one is None or other is None:
        return None
    found = {kind: list(sites(one, other)) for kind, sites in KINDS.items()}
    for kind in in_random_order([kind for kind, spans in found.items() if spans], rng):
        for span, its in in_random_order(found[kind], rng):
            if any(_is_said(text, words) for (_, _, text), words in zip((span, its), said, strict=True)):
                continue
            made = Exchanged(one.render([span]), other.render([its]), kind)
            if not _is_still_true(first, second, made):
                return made
    return None


def _is_said(text: str, said: frozenset[str]) -> bool:
    """Whether captions of a picture have all words of a text: who is "a boy" in one may be "a child" in another."""
    return all(stems & said for stems in word_stems(text))


def _is_still_true(first: str, second: str, made: Exchanged) -> bool:
    """Whether each changed caption says what the other picture's caption says: "a cat" and "a dog" have changed places
    and no more."""
    said = (content_problem(second, made.first), content_problem(first, made.second))
    return all(problem in (SAME, LEFT_OUT) for problem in said)


def _objects(one: Parsed, other: Parsed) -> Iterator[tuple[Span, Span]]:
    for number, noun in _exchangeable(one):
        for its_number, its_noun in _exchangeable(other):
            if (noun.plural, noun.mass) != (its_noun.plural, its_noun.mass) or not _of_one_class(noun, its_noun):
                continue
            if _has(one, its_noun) or _has(other, noun):
                continue
            phrase, its = one.phrases[number], other.phrases[its_number]
            yield (phrase.head, phrase.stop, its.noun), (its.head, its.stop, phrase.noun)


def _exchangeable(parsed: Parsed) -> Iterator[tuple[int, Noun]]:
    """The noun phrases whose noun may be exchanged, and the nouns."""
    for number, (phrase, noun) in enumerate(zip(parsed.phrases, parsed.nouns, strict=True)):
        if noun is None or phrase.nouns > 1 or parsed.after(phrase.stop) in ("of", "'", "-"):
            continue
        if parsed.pronouns and noun.isa("person"):  # "a woman and her dog"
            continue
        yield number, noun


def _of_one_class(noun: Noun, other: Noun) -> bool:
    classes, its = (set(one.entry.group.classes) for one in (noun, other))
    if bool(classes & ALIVE) != bool(its & ALIVE):
        return False
    for one, another in ((noun, other), (other, noun)):  # a girl is a child
        if one.entry.group.replaced_by and another.entry.group.name not in one.entry.group.replaced_by:
            return False
    return noun.entry.group == other.entry.group or bool(classes & its)


def _has(parsed: Parsed, noun: Noun) -> bool:
    """Whether a caption names what a noun may be true of."""
    for phrase, own in zip(parsed.phrases, parsed.nouns, strict=True):
        base, alike = (phrase.noun, frozenset({phrase.noun})) if own is None else (own.base, own.entry.alike)
        if alike & noun.entry.alike or same_word(base, noun.base) or related(base, noun.base):
            return True
    return False


def _attributes(one: Parsed, other: Parsed) -> Iterator[tuple[Span, Span]]:
    for start, stop, kind, number in attribute_groups(one):
        for its_start, its_stop, its_kind, its_number in attribute_groups(other):
            if kind != its_kind:
                continue
            text, its = " ".join(one.words[start:stop]), " ".join(other.words[its_start:its_stop])
            phrase, its_phrase = one.phrases[number], other.phrases[its_number]
            here, there = (set(words.split()) - {"and"} for words in (text, its))
            if here & there or there & set(one.words) or here & set(other.words) or is_like(text, its):
                continue  # "a red and a blue bus" is not false with the colours in other places
            if phrase.noun == its_phrase.noun or plural(phrase.noun) == its_phrase.noun:
                continue
            if phrase.noun == plural(its_phrase.noun):
                continue
            if kind == "colour" and (is_unnatural(one, number, its) or is_unnatural(other, its_number, text)):
                continue
            yield (start, stop, its), (its_start, its_stop, text)


def _actions(one: Parsed, other: Parsed) -> Iterator[tuple[Span, Span]]:
    for place, lemma, form in _verbs(one):
        for its_place, its_lemma, its_form in _verbs(other):
            if form != its_form or not (its_lemma in _INSTEAD[lemma] and lemma in _INSTEAD[its_lemma]):
                continue
            if any(known == its_lemma for _, known, _ in _verbs(one)):
                continue
            if any(known == lemma for _, known, _ in _verbs(other)):
                continue
            yield (place, place + 1, other.words[its_place]), (its_place, its_place + 1, one.words[place])


_INSTEAD = {lemma: (*lexicon.POSTURES.get(lemma, ()), *lexicon.MOTIONS.get(lemma, ()))
            for lemma in (*lexicon.POSTURES, *lexicon.MOTIONS)}  # fmt: skip


def _verbs(parsed: Parsed) -> Iterator[tuple[int, str, str]]:
    """The verbs of posture and motion: token, base form, form."""
    for place, token in enumerate(parsed.tokens):
        lemma, form = lexicon.VERB_FORMS.get(token.word, ("", ""))
        if lemma in _INSTEAD and token.tag in (ING, VERB, ED):
            yield place, lemma, form


KINDS = {"swap_obj": _objects, "swap_att": _attributes, "replace_rel": _actions}

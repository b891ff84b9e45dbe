# SPDX-License-Identifier: Apache-2.0
"""
Whether a negative caption says anything other than its caption, by their content words.

A caption that only has other articles, spelling or inflection is true of the same picture, and so is one that only
leaves words out; one that only adds words does not make the caption false. No part of speech is looked up: English
suffixes and a list of irregular forms are the same on every machine.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from hf_tripletclip.generation.captions.english import table, words
from hf_tripletclip.generation.captions.english.lexicon import IRREGULAR_PLURALS

SAME, LEFT_OUT = "same words as the caption", "words of the caption left out"
ADDED = "words added to the caption"

# A word; each character of a script that writes no spaces counts as one.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+(?:['’\-][^\W_]+)*")

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
FUNCTION = words("function")  # words that may come and go
MANY = frozenset(NUMBERS[2:]) | words("many")  # they make a plural of what they count

_VARIANTS = {row["word"]: row["stands for"] for row in table("spellings")}
_BASES = {form: row["verb"] for row in table("past_forms") for form in row["past forms"].split()}
_BASES |= {plural: singular for singular, plural in IRREGULAR_PLURALS.items()}

_SPELLINGS = (
    (re.compile(r"our(?=s?$|ed$|ing$|ful$|less$)"), "or"),
    (re.compile(r"is(?=(?:e|ed|es|ing|ation|er)$)"), "iz"),
    (re.compile(r"yse"), "yze"),
    (re.compile(r"ogue(?=s?$)"), "og"),
    (re.compile(r"ck(?=s$|ing$|ed$)"), "c"),
    (re.compile(r"([b-df-hj-np-tv-z])\1"), r"\1"),
)


def find_words(text: str) -> list[str]:
    """The words of a caption, in small letters."""
    return [word.casefold().replace("’", "'") for word in WORD.findall(text)]


def content_words(text: str) -> list[str]:
    """The words of a caption that say what is in the picture; "isn't" says "not"."""
    found = []
    for word in find_words(text):
        if word.endswith("n't"):
            found.append("not")
            continue
        word = word.removesuffix("'s").rstrip("'")
        if word in ("bike", "bikes") and found and found[-1] in words("motored"):
            found[-1] += word
        elif word and word not in FUNCTION:
            found.append(NUMBERS[int(word)] if word.isdecimal() and int(word) < len(NUMBERS) else word)
    return found


def same_word(first: str, second: str) -> bool:
    """Whether two words are spellings or inflections of one: "frolicks" and "frolics", "ran" and "running"."""
    return first == second or bool(_stems(first) & _stems(second))


def word_stems(text: str) -> list[frozenset[str]]:
    """Of each content word of a caption, what it shares with other spellings and inflections of it."""
    return [_stems(word) for word in content_words(text)]


def content_problem(caption: str, negative: str) -> str | None:
    """
    Why a negative caption is none: what it says is what its caption says, or a part of it, or all of it and more.

    A word that is replaced, a negation, a number or another order make it a negative: "one dog" and "two dogs", "a
    dog" and "three dogs", "under" and "on", "a dog and a cat chase" and "a cat and a dog chase".

    Args:
        caption (`str`): The caption.
        negative (`str`): Its negative.

    Returns:
        `str` or `None`: `same words as the caption`, `words of the caption left out` or `words added to the caption`;
        `None` if it says something else.
    """
    before, now = content_words(caption), content_words(negative)
    if not before or not now:
        return None
    before, now = _joined(before, now), _joined(now, before)
    if len(before) == len(now) and all(map(same_word, before, now)):
        return None if _changes_number(caption, negative) else SAME
    if (left_out := _added(now, before)) is not None:
        return None if _turns([before[place] for place in left_out]) else LEFT_OUT
    added = _added(before, now)
    if added is None or _turns([now[place] for place in added]) or _recounts(caption, now, added):
        return None
    return ADDED


def _turns(changed: Sequence[str]) -> bool:
    """Whether words that came or went turn the meaning round: "not", and "by" alone, which makes a passive."""
    return list(changed) == ["by"] or not words("negations").isdisjoint(changed)


def _joined(found: list[str], others: list[str]) -> list[str]:
    """Words of which two that the other caption writes as one are one: "entry way" beside "entryway"."""
    joined: list[str] = []
    known = {word.replace("-", "").rstrip("s") for word in others}
    for word in found:
        one = f"{joined[-1]}{word}".replace("-", "") if joined else ""
        if joined and one.rstrip("s") in known and not {joined[-1], word} <= set(others):
            joined[-1] = one
        else:
            joined.append(word)
    return joined


def _added(part: Sequence[str], whole: Sequence[str]) -> list[int] | None:
    """The places of the words of `whole` that are not in `part`; `None` if `part` has others or another order."""
    added, place = [], 0
    for number, word in enumerate(whole):
        if place < len(part) and same_word(part[place], word):
            place += 1
        else:
            added.append(number)
    return added if place == len(part) else None


def _changes_number(caption: str, negative: str) -> bool:
    """Whether "a dog" became "some dogs", or the other way round: the word and what determines it."""
    # Words that were joined are no reason to fail; such captions have no pairs to compare then.
    for (word, one), (other, many) in zip(_determined(caption), _determined(negative), strict=False):
        if word != other and one is not None and many is not None and one != many:
            return True
    return False


def _determined(text: str) -> list[tuple[str, bool | None]]:
    """The content words, and whether "a" or "some" stands before each or before the words right before it."""
    found: list[tuple[str, bool | None]] = []
    plural: bool | None = None
    for word in find_words(text):
        said = content_words(word)
        found += [(part, plural) for part in said]
        if word in words("singular") | words("plural"):
            plural = word in words("plural")
        elif not said:
            plural = None
    return found


def _recounts(caption: str, now: Sequence[str], added: Sequence[int]) -> bool:
    """Whether an added number makes several of what the caption has one of: "a dog" and "two dogs"."""
    known = set(find_words(caption))
    for place in added:
        if now[place] in MANY or (now[place].isdecimal() and int(now[place]) > 1):
            counted = next((word for word in now[place + 1 : place + 4] if word not in known), None)
            if counted is not None and any(same_word(counted, word) for word in known):
                return True
    return False


@functools.lru_cache(maxsize=1 << 15)
def _stems(word: str) -> frozenset[str]:
    """The base forms that a word may be a form of, in one spelling."""
    word = word.replace("-", "")
    bases = {word}
    word = _VARIANTS.get(word, word)
    bases |= {word, _BASES.get(word, word)}
    if word in words("plural with other meaning"):
        pass
    elif word.endswith("ies") and len(word) > 4:
        bases |= {word[:-3] + "y", word[:-1]}
    elif word.endswith("ves"):
        bases |= {word[:-3] + "f", word[:-3] + "fe", word[:-1]}
    elif word.endswith("es") and len(word) > 3:
        bases |= {word[:-2], word[:-1]}
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        bases.add(word[:-1])
    if word.endswith("ied"):
        bases.add(word[:-3] + "y")
    elif word.endswith("ed") and len(word) > 4:
        bases |= _verb(word[:-2])
    elif word.endswith("ing") and len(word) > 5:
        bases |= _verb(word[:-3])
    return frozenset(_spelled(_VARIANTS.get(base, base)) for base in bases)


def _verb(stem: str) -> set[str]:
    """What "-ed" and "-ing" may have been put to: "chas" of "chase", "runn" of "run", "play"."""
    doubled = len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "aeiouls"
    return {stem, stem + "e", *({stem[:-1]} if doubled else ())}


def _spelled(word: str) -> str:
    if len(word) >= 6 and word not in ("dessert", "dinner"):  # a desert, a diner
        for pattern, new in _SPELLINGS:
            word = pattern.sub(new, word)
    return word

# SPDX-License-Identifier: Apache-2.0
"""
How many concepts captions speak of: WordNet synsets, as in table 2 of the TripletCLIP paper.

A caption is read as lower-case words: runs of letters and digits, joined by hyphens and apostrophes. Every word
counts, function words too ("a" and "in" have noun senses), as often as it occurs. It stands for **all** synsets, of
every part of speech, of all base forms that WordNet's morphology finds for it: "parked" for those of the verb "park",
"leaves" for those of "leaf" and of "leave". A joined word that WordNet lacks is read in parts; compounds of several
words ("fire truck") are read as their words. No sense is chosen. The paper does not say how it counts; this gives 80
synsets a caption on MS-COCO's captions, and the paper's 231 M for the 2.9 M captions of CC3M are 80 a caption.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np
from datasets import Dataset

from hf_tripletclip.data.schema import CAPTION
from hf_tripletclip.generation.wordnet import load_wordnet
from hf_tripletclip.utils.markdown import markdown_table

WORD = re.compile(r"[a-z0-9]+(?:['’-][a-z0-9]+)*")
PARTS = re.compile(r"['’-]")

Order = Literal["growing", "widest"]
Caption = str | Sequence[str] | None  # a list of captions counts as one text; `None` and broken rows as an empty one


def words_of(caption: Caption) -> list[str]:
    """The words of a caption."""
    if isinstance(caption, str):
        return WORD.findall(caption.lower())
    if isinstance(caption, list | tuple):
        return [word for text in caption for word in words_of(text)]
    return []


@functools.cache
def synsets_of(word: str) -> frozenset[str]:
    """All synsets of a lower-case word, as WordNet's offset and part of speech, such as `02084071n`."""
    wordnet = load_wordnet()
    found = wordnet.synsets(word)
    if not found:
        found = [synset for part in PARTS.split(word)[:8] if part != word for synset in wordnet.synsets(part)]
    return frozenset(f"{synset.offset():08d}{synset.pos()}" for synset in found)


@dataclass(frozen=True)
class Coverage:
    """
    The concepts of a column of captions.

    Args:
        captions (`int`): Number of captions.
        total (`int`): Synsets of all words of all captions, as often as they occur.
        synsets (`frozenset[str]`): The different ones.
    """

    captions: int
    total: int
    synsets: frozenset[str] = field(repr=False)

    @property
    def unique(self) -> int:
        """Number of different synsets."""
        return len(self.synsets)


@dataclass(frozen=True)
class CoverageTable:
    """The concepts of positive and negative captions beside each other."""

    positive: Coverage
    negative: Coverage

    @property
    def union(self) -> int:
        """Synsets of either."""
        return len(self.positive.synsets | self.negative.synsets)

    @property
    def intersection(self) -> int:
        """Synsets of both."""
        return len(self.positive.synsets & self.negative.synsets)

    def rows(self) -> list[dict[str, Any]]:
        """The lines of the paper's table 2: unique and total synsets."""
        total = self.positive.total + self.negative.total
        return [
            {"captions": "positive", "unique": self.positive.unique, "total": self.positive.total},
            {"captions": "negative", "unique": self.negative.unique, "total": self.negative.total},
            {"captions": "union", "unique": self.union, "total": total},
            {"captions": "intersection", "unique": self.intersection, "total": None},
        ]

    def __str__(self) -> str:
        """The same as a Markdown table."""
        return markdown_table(["captions", "unique synsets", "synsets in all"], (row.values() for row in self.rows()))


def concept_coverage(captions: Iterable[Caption] | Dataset, column: str = CAPTION) -> Coverage:
    """
    Counts the concepts of captions, in one pass that keeps only the different words.

    Args:
        captions (`Iterable` or `Dataset`): Captions; a row may be a list of them, or `None`.
        column (`str`, defaults to `"caption"`): The column of a dataset.

    Raises:
        ImportError, FileNotFoundError: NLTK or WordNet is not installed.
    """
    counts: Counter[str] = Counter()
    number = 0
    for caption in _captions(captions, column):
        counts.update(words_of(caption))
        number += 1
    synsets: set[str] = set()
    total = 0
    for word, count in counts.items():
        of_word = synsets_of(word)
        synsets |= of_word
        total += count * len(of_word)
    return Coverage(number, total, frozenset(synsets))


def coverage_table(positive: Iterable[Caption], negative: Iterable[Caption]) -> CoverageTable:
    """Unique and total synsets of positive and of negative captions, their union and their intersection."""
    return CoverageTable(concept_coverage(positive), concept_coverage(negative))


@overload
def select_by_coverage(
    captions: Sequence[Caption] | Dataset, size: int, *, order: Order = ..., seed: int = ..., column: str = ...
) -> np.ndarray: ...
@overload
def select_by_coverage(
    captions: Sequence[Caption] | Dataset,
    size: Sequence[int],
    *,
    order: Order = ...,
    seed: int = ...,
    column: str = ...,
) -> list[np.ndarray]: ...
def select_by_coverage(
    captions: Sequence[Caption] | Dataset,
    size: int | Sequence[int],
    *,
    order: Order = "growing",
    seed: int = 0,
    column: str = CAPTION,
) -> np.ndarray | list[np.ndarray]:
    """
    Chooses rows by the concepts of their captions. Of two sizes the smaller subset is part of the larger one.

    `"growing"` gives the subsets of increasing coverage that the paper trains on: rows are ordered by their rarest
    synset, common ones first, so that a subset of `n` rows speaks of the commonest concepts only and each larger
    one of more. `"widest"` covers as much as it can at every size: rows that bring a new synset when the captions
    are read in turn come first, those that bring many before those that bring few, then the others at random.

    It makes two passes at most and keeps the different words and 24 bytes a row, so ten million rows take minutes.

    Args:
        captions (`Sequence` or `Dataset`): Captions; a row may be a list of them, or `None`.
        size (`int` or a sequence of `int`): Number of rows, or of each of several subsets.
        order (`"growing"` or `"widest"`, defaults to `"growing"`): Which rows come first.
        seed (`int`, defaults to 0): Of the order among rows that are equal in this.
        column (`str`, defaults to `"caption"`): The column of a dataset.

    Returns:
        `np.ndarray`, or a list of them: Indices in rising order, for `Dataset.select`.

    Raises:
        ValueError: A size is negative or more than there are captions, or the order is unknown.
        ImportError, FileNotFoundError: NLTK or WordNet is not installed.
    """
    if order not in ("growing", "widest"):
        raise ValueError(f"`order` is {order!r}; give 'growing' or 'widest'")
    number = len(captions)
    sizes = [size] if isinstance(size, int) else list(size)
    if bad := [wanted for wanted in sizes if not 0 <= wanted <= number]:
        raise ValueError(f"`size` is {bad[0]}; there are {number} captions")
    merit = _commonness(captions, column) if order == "growing" else _news(captions, column)
    chance = np.random.RandomState(seed).permutation(number)  # the one stream that numpy promises to keep
    ranked = np.lexsort((chance, -merit))
    chosen = [np.sort(ranked[:wanted]) for wanted in sizes]
    return chosen[0] if isinstance(size, int) else chosen


def _captions(captions: Iterable[Caption] | Dataset, column: str) -> Iterator[Caption]:
    if isinstance(captions, Dataset):
        if column not in captions.column_names:
            raise ValueError(f"the dataset has no column {column!r}; it has {', '.join(captions.column_names)}")
        for batch in captions.select_columns([column]).iter(batch_size=1000):
            yield from batch[column]
    else:
        yield from captions


def _commonness(captions: Sequence[Caption] | Dataset, column: str) -> np.ndarray:
    """How often the rarest synset of each caption occurs in all of them."""
    words: Counter[str] = Counter()
    for caption in _captions(captions, column):
        words.update(words_of(caption))
    synsets: Counter[str] = Counter()
    for word, count in words.items():
        for synset in synsets_of(word):
            synsets[synset] += count
    rarest = {word: min(map(synsets.__getitem__, of_word)) for word in words if (of_word := synsets_of(word))}
    merit = np.zeros(len(captions), dtype=np.int64)  # captions without a synset come last
    for row, caption in enumerate(_captions(captions, column)):
        counts = [rarest[word] for word in words_of(caption) if word in rarest]
        if counts:
            merit[row] = min(counts)
    return merit


def _news(captions: Sequence[Caption] | Dataset, column: str) -> np.ndarray:
    """How many synsets each caption has that none before it has."""
    merit = np.zeros(len(captions), dtype=np.int64)
    seen_words: set[str] = set()
    seen: set[str] = set()
    for row, caption in enumerate(_captions(captions, column)):
        for word in words_of(caption):
            if word not in seen_words:
                seen_words.add(word)
                new = synsets_of(word) - seen
                seen |= new
                merit[row] += len(new)
    return merit

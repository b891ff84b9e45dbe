# SPDX-License-Identifier: Apache-2.0
"""`Item`, a question of a compositional benchmark, and its prediction: scores of pairs, right or wrong, ties."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from hf_tripletclip.evaluation.images import ImageRef
from hf_tripletclip.evaluation.readers.annotations import ImageFinder
from hf_tripletclip.results.scoring import CLUSTER, TIE, cosines, wins

# A pair is named by its two places: "i0c1" is the first image with the second caption, "c0c2" are two captions.
# In a comparison the score of the first pair must be strictly greater than that of the second.
Comparison = tuple[str, str]
Comparisons = Mapping[str, tuple[Comparison, ...]]  # outcome -> all of these must hold

PAIR = re.compile(r"([ic])(\d+)([ic])(\d+)")

CHOOSE_CAPTION = (("i0c0", "i0c1"), ("i1c1", "i1c0"))  # each image chooses its caption
CHOOSE_IMAGE = (("i0c0", "i1c0"), ("i1c1", "i0c1"))  # each caption chooses its image
# Thrush et al. 2022, "Winoground", arXiv 2204.03162
WINOGROUND: Comparisons = {
    "text_score": CHOOSE_CAPTION,
    "image_score": CHOOSE_IMAGE,
    "group_score": CHOOSE_CAPTION + CHOOSE_IMAGE,
}
CHANCE = {"text_score": 1 / 4, "image_score": 1 / 4, "group_score": 1 / 6}

CATEGORY = "category"  # columns of predictions
KEY = "key"
SCORE = "score_"  # the start of a column's name; the pair's name follows: score_i0c1
CHUNK = 65_536  # pairs that are scored at a time


def choice(captions: int, outcome: str = "accuracy") -> Comparisons:
    """The first of this many captions must beat each of the others on the only image. Chance is 1 / `captions`."""
    return {outcome: tuple(("i0c0", f"i0c{other}") for other in range(1, captions))}


@functools.cache
def places(pair: str) -> tuple[tuple[str, int], tuple[str, int]]:
    """
    The two places of a pair: "i0c1" -> (("i", 0), ("c", 1)).

    Raises:
        ValueError: This is not the name of a pair.
    """
    if not (match := PAIR.fullmatch(pair)):
        raise ValueError(f"{pair!r} is not the name of a pair; pairs have names like i0c1, or c0c1 for two captions.")
    return (match[1], int(match[2])), (match[3], int(match[4]))


@dataclass(frozen=True)
class Item:
    """
    Args:
        key (`str`): Its name in the predictions, unique in the benchmark.
        images (`tuple[ImageRef, ...]`): Its images.
        captions (`tuple[str, ...]`): Its captions. The first one is true of the first image.
        comparisons (`Comparisons`): Outcome -> the comparisons that must all hold. All items of a benchmark have the
            same outcomes.
        category (`str`, *optional*): For metrics per category.
        columns (`Mapping[str, Any]`): More columns of the predictions, with the same names in all items.
    """

    key: str
    images: tuple[ImageRef, ...]
    captions: tuple[str, ...]
    comparisons: Comparisons
    category: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    def pairs(self) -> list[str]:
        """The pairs whose scores are compared, each once."""
        return list(dict.fromkeys(pair for wins in self.comparisons.values() for both in wins for pair in both))


def settled(items: Sequence[Item], find: ImageFinder) -> list[Item]:
    """The items after [`ImageFinder.settle`] has checked each image; call it when all images have been looked up."""
    return [replace(item, images=tuple(map(find.settle, item.images))) for item in items]


def images_of(items: Sequence[Item]) -> list[ImageRef]:
    """The images of the items, each once."""
    return list(dict.fromkeys(image for item in items for image in item.images))


def predict(
    items: Sequence[Item],
    images: Mapping[ImageRef, torch.Tensor],
    texts: Mapping[str, torch.Tensor],
    official: Any = None,
) -> dict[str, list[Any]]:
    """
    The predictions: `key`, `category`, `cluster`, the items' own columns, a column `score_<pair>` for each pair that
    is compared (`None` for items that do not have the pair), the outcomes, and `tie`.

    Args:
        items (`Sequence[Item]`): The questions.
        images, texts (`Mapping`): The embedding, of shape `(dim,)`, of each image and caption.
        official (`Callable`, *optional*): Item and scores -> outcomes, instead of the strict ones.
    """
    scores = score(items, images, texts)
    names = list(dict.fromkeys(pair for found in scores for pair in found))
    outcomes = [(official or outcomes_of)(item, found) for item, found in zip(items, scores, strict=True)]
    extra = list(dict.fromkeys(column for item in items for column in item.columns))
    return {
        KEY: [item.key for item in items],
        CATEGORY: [item.category for item in items],
        CLUSTER: _clusters(items),
        **{column: [item.columns.get(column) for item in items] for column in extra},
        **{f"{SCORE}{name}": [found.get(name) for found in scores] for name in names},
        **{outcome: [row[outcome] for row in outcomes] for outcome in items[0].comparisons},
        TIE: [is_tie(item, found) for item, found in zip(items, scores, strict=True)],
    }


def _clusters(items: Sequence[Item]) -> list[int]:
    """
    Rows with the same first image, or with parts of it, are not independent. Without images: rows with the same first
    caption.
    """
    known: dict[Any, int] = {}
    firsts = ((*item.images, *item.captions)[0] for item in items)
    whole = (getattr(first, "path", None) or getattr(first, "digest", first) for first in firsts)
    return [known.setdefault(first, len(known)) for first in whole]


def score(
    items: Sequence[Item], images: Mapping[ImageRef, torch.Tensor], texts: Mapping[str, torch.Tensor]
) -> list[dict[str, float]]:
    """For each item, the score of each of its pairs."""
    firsts, seconds, owners = [], [], []
    for index, item in enumerate(items):
        for pair in item.pairs():
            one, other = (
                images[item.images[place]] if kind == "i" else texts[item.captions[place]]
                for kind, place in places(pair)
            )
            firsts.append(one)
            seconds.append(other)
            owners.append((index, pair))
    found: list[dict[str, float]] = [{} for _ in items]
    for start in range(0, len(owners), CHUNK):
        stop = start + CHUNK
        values = cosines(torch.stack(firsts[start:stop]), torch.stack(seconds[start:stop])).tolist()
        for (index, pair), value in zip(owners[start:stop], values, strict=True):
            found[index][pair] = value
    return found


def outcomes_of(item: Item, scores: Mapping[str, float]) -> dict[str, bool]:
    """Outcome -> whether the first score of each of its comparisons is strictly greater."""
    return {name: wins(comparisons, scores) for name, comparisons in item.comparisons.items()}


def is_tie(item: Item, scores: Mapping[str, float]) -> bool:
    """Whether two scores that are compared are equal."""
    return any(scores[one] == scores[other] for both in item.comparisons.values() for one, other in both)


def fingerprint(items: Sequence[Item]) -> str:
    """A digest of the questions: keys, categories, captions, images and comparisons."""
    digest = hashlib.sha256()
    for item in items:
        images = [image.identity for image in item.images]
        comparisons = {name: list(pairs) for name, pairs in item.comparisons.items()}
        line = json.dumps([item.key, item.category, images, list(item.captions), comparisons])
        digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:16]

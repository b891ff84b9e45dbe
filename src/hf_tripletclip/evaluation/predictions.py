# SPDX-License-Identifier: Apache-2.0
"""Predictions of questions: scores of the pairs that are compared, outcomes, ties."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.items import Item, places
from hf_tripletclip.evaluation.readers.images import ImageRef
from hf_tripletclip.results.statistics import CLUSTER, TIE, cosines, wins

CATEGORY = "category"
KEY = "key"
SCORE = "score_"  # before a pair's name, in the predictions: score_i0c1
CHUNK = 65_536  # pairs whose embeddings are side by side at a time


def images_of(items: Sequence[Item]) -> list[ImageRef]:
    """The images of the items, each once."""
    return list(dict.fromkeys(image for item in items for image in item.images))


def encode_images(encoder: Encoder, items: Sequence[Item]) -> tuple[dict[ImageRef, torch.Tensor], dict[ImageRef, str]]:
    """The embedding of each image of the items, and why an image has none."""
    unique = images_of(items)
    embeddings, reasons = encoder.images(unique)
    found = {image: embeddings[index] for index, image in enumerate(unique) if index not in reasons}
    return found, {unique[index]: reason for index, reason in reasons.items()}


def encode_texts(encoder: Encoder, items: Sequence[Item]) -> dict[str, torch.Tensor]:
    """The embedding of each caption of the items."""
    unique = list(dict.fromkeys(caption for item in items for caption in item.captions))
    return dict(zip(unique, encoder.texts(unique), strict=True))


def predict(
    items: Sequence[Item],
    images: Mapping[ImageRef, torch.Tensor],
    texts: Mapping[str, torch.Tensor],
    official: Any = None,
) -> dict[str, list[Any]]:
    """
    The predictions: `key`, `category`, `cluster`, the items' own columns, a column `score_<pair>` for each pair that
    is compared (`None` where an item does not have it), the outcomes, and `tie`.

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
    Rows of the same first image, or of parts of it, are not independent; where there is none, rows of the same first
    caption.
    """
    known: dict[Any, int] = {}
    firsts = ((*item.images, *item.captions)[0] for item in items)
    whole = (getattr(first, "path", None) or getattr(first, "digest", first) for first in firsts)
    return [known.setdefault(first, len(known)) for first in whole]


def score(
    items: Sequence[Item], images: Mapping[ImageRef, torch.Tensor], texts: Mapping[str, torch.Tensor]
) -> list[dict[str, float]]:
    """Of each item, the score of each of its pairs."""
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
    """Outcome -> whether the first of each of its comparisons is strictly greater."""
    return {name: wins(comparisons, scores) for name, comparisons in item.comparisons.items()}


def is_tie(item: Item, scores: Mapping[str, float]) -> bool:
    """Whether two scores that are compared are equal."""
    return any(scores[one] == scores[other] for both in item.comparisons.values() for one, other in both)


def fingerprint(items: Sequence[Item]) -> str:
    """Of the questions: their keys, categories, captions, images and comparisons."""
    digest = hashlib.sha256()
    for item in items:
        images = [image.identity for image in item.images]
        comparisons = {name: list(pairs) for name, pairs in item.comparisons.items()}
        line = json.dumps([item.key, item.category, images, list(item.captions), comparisons])
        digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:16]

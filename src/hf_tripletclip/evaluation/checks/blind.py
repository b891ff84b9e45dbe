# SPDX-License-Identifier: Apache-2.0
"""Blind baselines: the scores that can be reached without looking at the image, by the benchmark's own metrics.

- `longest caption`, `shortest caption`: the caption with the most, or the fewest, words wins.
- `text tower`: the caption wins whose embedding is nearer to the mean of the benchmark's image embeddings, which is
  the same for all questions: the caption that the model expects before it sees an image.

Ties lose here too: if both captions have the same number of words, neither wins by its length. Only outcomes that
compare captions of one image have such a baseline: nobody can choose between two images blind, and a comparison of two
captions with each other does not use an image. An outcome that asks each of two images for its caption has the
baseline 0, because the same caption wins twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hf_tripletclip.evaluation.items import Item, places
from hf_tripletclip.results.result import Mean
from hf_tripletclip.results.scoring import tally, wins

LONGEST, SHORTEST, TEXT_TOWER = "longest caption", "shortest caption", "text tower"


def blind_baselines(
    items: Sequence[Item],
    images: torch.Tensor,
    texts: Mapping[str, torch.Tensor],
    predictions: Mapping[str, Sequence[Any]],
    means: Mapping[str, Mean],
) -> dict[str, dict[str, float]]:
    """
    The values of the metrics that can be reached without looking at the image.

    Args:
        items (`Sequence[Item]`): The questions.
        images (`torch.Tensor` of shape `(N, dim)`): The embedding of each image, without repetitions.
        texts (`Mapping[str, torch.Tensor]`): The embedding, of shape `(dim,)`, of each caption.
        predictions (`Mapping[str, Sequence]`): The model's predictions, with the columns that the metrics use.
        means (`Mapping[str, Mean]`): The metrics. Those whose outcomes need the image are left out.

    Returns:
        `dict[str, dict[str, float]]`: Baseline -> metric -> value; empty if all metrics need the image.
    """
    names = [name for name in items[0].comparisons if all(_is_blind(item, name) for item in items)]
    wanted = {name: mean for name, mean in means.items() if mean.outcome in names}
    if not wanted:
        return {}
    captions = list(dict.fromkeys(caption for item in items for caption in item.captions))
    words = [float(len(caption.split())) for caption in captions]
    found = {LONGEST: words, SHORTEST: [-number for number in words]}
    if len(images):
        found[TEXT_TOWER] = _prior(images, torch.stack([texts[caption] for caption in captions])).tolist()
    return {
        baseline: _metrics(items, names, dict(zip(captions, scores, strict=True)), predictions, wanted)
        for baseline, scores in found.items()
    }


def _is_blind(item: Item, outcome: str) -> bool:
    """Whether all comparisons are between two captions, each with an image."""
    for both in item.comparisons[outcome]:
        (one, first), (other, second) = map(places, both)
        if {one[0], other[0]} != {"i"} or {first[0], second[0]} != {"c"} or first == second:
            return False
    return True


def _prior(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """The cosine of each caption with the mean image, as float32 `(captions,)`."""
    mean = torch.nn.functional.normalize(images.double().mean(dim=0), dim=0)
    return (texts.double() @ mean).float()


def _metrics(
    items: Sequence[Item],
    outcomes: Sequence[str],
    scores: Mapping[str, float],
    predictions: Mapping[str, Sequence[Any]],
    means: Mapping[str, Mean],
) -> dict[str, float]:
    columns: dict[str, list[bool]] = {name: [] for name in outcomes}
    for item in items:
        known = {pair: scores[item.captions[places(pair)[1][1]]] for pair in item.pairs() if _names_caption(pair)}
        for name in outcomes:
            columns[name].append(wins(item.comparisons[name], known))
    values = {name: tally({**predictions, **columns}, mean) for name, mean in means.items()}
    return {name: value for name, value in values.items() if value == value}


def _names_caption(pair: str) -> bool:
    return places(pair)[1][0] == "c"

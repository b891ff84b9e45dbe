# SPDX-License-Identifier: Apache-2.0
"""The metrics of triplets: matches of images and captions in each direction, and retrieval.

With `s(image, caption)` the cosine, `v, t` the positive pair and `v', t'` the hard negative pair of a row:

- accuracy: `s(v,t) > s(v,t')`, SugarCrepe's question (Hsieh et al. 2023, arXiv 2306.14610);
- text score: `s(v,t) > s(v,t')` and `s(v',t') > s(v',t)`, image score: `s(v,t) > s(v',t)` and `s(v',t') > s(v,t')`,
  group score: both (Thrush et al. 2022, "Winoground", arXiv 2204.03162);
- image accuracy, if there are only negative images: `s(v,t) > s(v',t)`;
- recall@k: the share of images of which a caption is among the k best of all captions, and the other way round. Equal
  images are one image and equal captions one caption, and all that belong together in some row are right answers.

Scores are float32, and **strictly greater wins**: a tie is wrong, so a collapsed model scores zero.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch

from hf_tripletclip.data.schema import HELD_OUT, NEGATIVE_TYPES
from hf_tripletclip.evaluation import items
from hf_tripletclip.evaluation.items import Comparisons, choice
from hf_tripletclip.evaluation.recall import RECALL_AT, rank, recall_by_chance
from hf_tripletclip.results.result import Mean
from hf_tripletclip.results.scoring import TIE, cosines, tally

CHANCE = {"accuracy": 1 / 2, **items.CHANCE}
KIND = "category"  # the column of predictions with the kind of negative


def comparisons_of(*, negative_image: bool, negative_text: bool) -> Comparisons:
    """The comparisons of a row with these negatives; i1 is the negative image, c1 the negative caption."""
    if negative_image and negative_text:
        return {**choice(2), **items.WINOGROUND}
    if negative_image:
        return {"image_accuracy": (("i0c0", "i1c0"),)}  # given the caption, choose the image
    return choice(2) if negative_text else {}


def triplet_scores(
    image: torch.Tensor,
    text: torch.Tensor,
    negative_image: torch.Tensor | None = None,
    negative_text: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """
    The cosines of each row by pair: `i0c0` of image and caption, `i0c1` of image and negative caption, `i1c0` of
    negative image and caption, `i1c1` of both negatives; those whose embeddings are given.

    Args:
        image, text, negative_image, negative_text (`torch.Tensor` of shape `(N, dim)`): L2-normalised embeddings.

    Returns:
        `dict[str, torch.Tensor]` of float32 tensors of shape `(N,)`.

    Raises:
        ValueError: An embedding is not finite, there are no rows, or the shapes differ.
    """
    given = {"image": image, "text": text, "negative_image": negative_image, "negative_text": negative_text}
    cpu = {}
    for role, value in given.items():
        if value is not None:
            if value.ndim != 2 or len(value) == 0 or value.shape != image.shape:
                raise ValueError(
                    f"Embeddings are of one shape (N, dim) with at least one row; {role} is {tuple(value.shape)}, "
                    f"image is {tuple(image.shape)}."
                )
            cpu[role] = value.detach().float().cpu()
            bad = (~cpu[role].isfinite().all(dim=1)).nonzero().flatten().tolist()
            if bad:
                raise ValueError(f"{role} embeddings are not finite in rows {bad[:5]}: the model has diverged.")
    return {
        f"i{number}c{other}": cosines(cpu[images], cpu[captions])
        for number, images in enumerate(("image", "negative_image"))
        for other, captions in enumerate(("text", "negative_text"))
        if images in cpu and captions in cpu
    }


def outcomes(scores: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    For each row, whether it is right by each metric that the scores allow; the top of this file defines the metrics.

    Args:
        scores (`Mapping[str, torch.Tensor]`): From `triplet_scores`.

    Returns:
        `dict[str, torch.Tensor]` of boolean tensors of shape `(N,)`; `tie` says whether compared scores are equal.
    """
    asked = comparisons_of(negative_image="i1c0" in scores, negative_text="i0c1" in scores)
    right = {
        name: torch.stack([scores[one] > scores[other] for one, other in wins]).all(dim=0)
        for name, wins in asked.items()
    }
    if asked:
        ties = [scores[one] == scores[other] for wins in asked.values() for one, other in wins]
        right[TIE] = torch.stack(ties).any(dim=0)
    return right


def triplet_means(asked: Iterable[str], kinds: Sequence[str], *, held_out: bool = False) -> dict[str, Mean]:
    """
    How to compute the metrics from the predictions, by name.

    Args:
        asked (`Iterable[str]`): The outcomes, see `comparisons_of`.
        kinds (`Sequence[str]`): The kinds of negatives that occur.
        held_out (`bool`, defaults to `False`): Whether there are held-out rows. They have metrics of their own.
    """
    found: dict[str, Mean] = {}
    for name in (asked := list(asked)):
        found[name] = Mean(name)
        found |= {f"{name}_{kind}": Mean(name, where={KIND: kind}) for kind in kinds}
        if kinds and name == "accuracy":
            found["accuracy_macro"] = Mean(name, by=KIND)
    if held_out:
        for name in (*asked, *([TIE] if asked else [])):
            found[f"{HELD_OUT}_{'tie_rate' if name == TIE else name}"] = Mean(name, where={HELD_OUT: True})
    return found


def triplet_metrics(
    image: torch.Tensor,
    text: torch.Tensor,
    negative_image: torch.Tensor | None = None,
    negative_text: torch.Tensor | None = None,
    negative_types: Sequence[str | None] | None = None,
    *,
    image_ids: Sequence[Hashable] | None = None,
    caption_ids: Sequence[Hashable] | None = None,
) -> dict[str, float]:
    """
    The metrics that the top of this file defines, for the negatives that are given.

    Args:
        image, text (`torch.Tensor` of shape `(N, dim)`): L2-normalised embeddings of the positive pairs.
        negative_image, negative_text (`torch.Tensor` of shape `(N, dim)`, *optional*): L2-normalised embeddings of the
            hard negatives.
        negative_types (`Sequence[str | None]` of length N, *optional*): The kind of each row, for metrics per kind:
            any names, `None` for a row without one.
        image_ids, caption_ids (`Sequence` of length N, *optional*): For recall. Rows with the same id have the same
            image, or the same caption; see [`recalls`]. Without ids each row has its own.

    Returns:
        `dict[str, float]`: Fractions in 0..1: `accuracy`, `accuracy_<kind>`, `accuracy_macro` (the mean over the kinds
        that occur), `text_score`, `image_score`, `group_score` and each of them per kind, `tie_rate` (of rows in which
        any two scores that are compared are equal), `image_to_text_recall@1`, `@5` and `text_to_image_recall@1`, `@5`
        of the positive pairs. With negative captions only: `accuracy`, no scores. With negative images only:
        `image_accuracy`, no scores.

    Raises:
        ValueError: An embedding is not finite, there are no rows, or the shapes or lengths differ.
    """
    for name, column in (
        ("negative_types", negative_types),
        ("image_ids", image_ids),
        ("caption_ids", caption_ids),
    ):
        if column is not None and len(column) != len(image):
            raise ValueError(f"`{name}` has {len(column)} entries for {len(image)} rows.")
    right = outcomes(triplet_scores(image, text, negative_image, negative_text))
    predictions = {KIND: negative_types or [], **{name: values.tolist() for name, values in right.items()}}
    means = triplet_means((name for name in right if name != TIE), kinds_of(negative_types))
    metrics = {name: tally(predictions, mean) for name, mean in means.items()}
    if TIE in right:
        metrics["tie_rate"] = tally(predictions, Mean(TIE))
    return metrics | recalls(image, text, image_ids, caption_ids).metrics


class Recalls(NamedTuple):
    """
    Args:
        metrics (`dict[str, float]`): `image_to_text_recall@1`, ...
        chance (`dict[str, float]`): The values that guessing would reach, by the same names.
    """

    metrics: dict[str, float]
    chance: dict[str, float]


def recalls(
    image: torch.Tensor,
    text: torch.Tensor,
    image_ids: Sequence[Hashable] | None = None,
    caption_ids: Sequence[Hashable] | None = None,
) -> Recalls:
    """
    The recall of N pairs in both directions. Rows with the same id are one image, or one caption, both as a query and
    as a candidate. All candidates that share a row with the query are right. Ties lose.

    Args:
        image, text (`torch.Tensor` of shape `(N, dim)`): L2-normalised embeddings.
        image_ids, caption_ids (`Sequence` of length N, *optional*): By default each row has its own.
    """
    images, image_rows = _numbered(image_ids or range(len(image)))
    captions, caption_rows = _numbered(caption_ids or range(len(text)))
    pairs = set(zip(images, captions, strict=True))
    of_image: list[list[int]] = [[] for _ in image_rows]
    of_caption: list[list[int]] = [[] for _ in caption_rows]
    for one, other in sorted(pairs):
        of_image[one].append(other)
        of_caption[other].append(one)
    image, text = image[image_rows], text[caption_rows]
    metrics, chance = {}, {}
    for direction, queries, candidates, right in (
        ("image_to_text", image, text, of_image),
        ("text_to_image", text, image, of_caption),
    ):
        ranks = rank(queries, candidates, right).rank
        for k in RECALL_AT:
            metrics[f"{direction}_recall@{k}"] = (ranks < k).double().mean().item()
            guesses = [recall_by_chance(len(few), len(candidates), k) for few in right]
            chance[f"{direction}_recall@{k}"] = sum(guesses) / len(guesses)
    return Recalls(metrics, chance)


def _numbered(ids: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """The number of each row's id, and the first row of each number."""
    known: dict[Hashable, int] = {}
    numbers = [known.setdefault(value, len(known)) for value in ids]
    first = {number: row for row, number in reversed(list(enumerate(numbers)))}
    return numbers, [first[number] for number in range(len(known))]


def kinds_of(negative_types: Sequence[str | None] | None) -> list[str]:
    """The kinds that occur: SugarCrepe's in the usual order, then others in order of appearance."""
    occurring = dict.fromkeys(kind for kind in negative_types or () if kind is not None)
    return [kind for kind in NEGATIVE_TYPES if kind in occurring] + [k for k in occurring if k not in NEGATIVE_TYPES]


def chance_of(metrics: Iterable[str], rows: int) -> dict[str, float]:
    """
    The value that guessing would reach, for each metric with a known one. For recall it assumes that no two rows share
    an image or a caption; otherwise see [`recalls`].
    """
    chance = {}
    for name in metrics:
        bare = name.removeprefix("held_out_")
        if "_recall@" in bare:
            if name == bare:
                chance[name] = min(1.0, int(bare.rpartition("@")[2]) / rows)
        else:
            for known, value in {**CHANCE, "image_accuracy": CHANCE["accuracy"]}.items():
                if bare == known or bare.startswith(f"{known}_"):
                    chance[name] = value
    return chance

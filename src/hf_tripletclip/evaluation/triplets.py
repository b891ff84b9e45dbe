# SPDX-License-Identifier: Apache-2.0
"""Evaluation on triplets: which caption belongs to which image, in every direction, and retrieval.

With `s(image, caption)` the cosine, `v, t` the positive pair and `v', t'` the hard negative pair of a row:

- accuracy: `s(v,t) > s(v,t')`, SugarCrepe's question (Hsieh et al. 2023, arXiv 2306.14610);
- text score: `s(v,t) > s(v,t')` and `s(v',t') > s(v',t)`, image score: `s(v,t) > s(v',t)` and `s(v',t') > s(v,t')`,
  group score: both (Thrush et al. 2022, "Winoground", arXiv 2204.03162);
- image accuracy, where there are negative images only: `s(v,t) > s(v',t)`;
- recall@k: the share of images whose caption is among the k best of all captions, and the other way round.

Scores are float32, and **strictly greater wins**: a tie is wrong, so a collapsed model scores zero.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
import transformers

from hf_tripletclip.data.broken import BrokenRows
from hf_tripletclip.data.loading import check_columns
from hf_tripletclip.data.schema import CAPTION, HELD_OUT, IMAGE, NEGATIVE_TYPE, NEGATIVE_TYPES
from hf_tripletclip.evaluation.embedding import embed_triplets
from hf_tripletclip.evaluation.result import EvaluationResult
from hf_tripletclip.version import __version__

CHANCE = {"accuracy": 1 / 2, "text_score": 1 / 4, "image_score": 1 / 4, "group_score": 1 / 6}
RECALL_AT = (1, 5)
CHUNK = 512  # rows of the similarity matrix that exist at a time


def triplet_scores(
    image: torch.Tensor,
    text: torch.Tensor,
    negative_image: torch.Tensor | None = None,
    negative_text: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """
    The cosines of each row: `image_text`, `image_negative_text`, `negative_image_text`,
    `negative_image_negative_text`, those whose embeddings are given.

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
        f"{images}_{captions}": (cpu[images] * cpu[captions]).sum(dim=1)
        for images in ("image", "negative_image")
        for captions in ("text", "negative_text")
        if images in cpu and captions in cpu
    }


def outcomes(scores: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Per row, whether it is right by each metric that the scores allow; see the head of this module.

    Args:
        scores (`dict[str, torch.Tensor]`): From `triplet_scores`.

    Returns:
        `dict[str, torch.Tensor]` of boolean tensors of shape `(N,)`; `tie` where scores that are compared are equal.
    """
    positive, negative = scores["image_text"], scores.get("negative_image_negative_text")
    other_text, other_image = scores.get("image_negative_text"), scores.get("negative_image_text")
    results: dict[str, torch.Tensor] = {}
    ties: list[torch.Tensor] = []
    if other_text is not None:
        results["accuracy"] = positive > other_text
        ties.append(positive == other_text)
    if other_image is not None:
        results["image_accuracy"] = positive > other_image  # given the caption, choose the image
        ties.append(positive == other_image)
    if negative is not None and other_text is not None and other_image is not None:
        results["text_score"] = results["accuracy"] & (negative > other_image)
        results["image_score"] = results["image_accuracy"] & (negative > other_text)
        results["group_score"] = results["text_score"] & results["image_score"]
        ties += [negative == other_image, negative == other_text]
    if ties:
        results["tie"] = torch.stack(ties).any(dim=0)
    return results


def recall(
    queries: torch.Tensor, candidates: torch.Tensor, image_ids: Sequence[Hashable] | None = None
) -> dict[int, float]:
    """
    recall@k, k in `RECALL_AT`, of N queries whose target is the candidate of the same row; ties count against.

    Args:
        queries, candidates (`torch.Tensor` of shape `(N, dim)`): L2-normalised embeddings.
        image_ids (`Sequence`, *optional*): Rows of the same id show the same image, so they are no competitors.
    """
    queries, candidates = queries.detach().double().cpu(), candidates.detach().double().cpu()
    codes = None
    if image_ids is not None:
        known: dict[Hashable, int] = {}
        codes = torch.tensor([known.setdefault(name, len(known)) for name in image_ids])
    better = []
    for start in range(0, len(queries), CHUNK):
        # Equal pairs must have equal scores wherever they stand in the matrix. A float32 product does not see to that:
        # BLAS adds in another order at the edges. Rounding the float64 product to float32 does.
        similarity = (queries[start : start + CHUNK] @ candidates.T).float()
        rows = torch.arange(len(similarity))
        competes = similarity >= similarity[rows, start + rows][:, None]
        if codes is None:
            competes[rows, start + rows] = False  # the target itself
        else:
            competes &= codes[start : start + CHUNK, None] != codes
        better.append(competes.sum(dim=1))
    ranks = torch.cat(better)
    return {k: _share(ranks < k) for k in RECALL_AT}


def _share(values: torch.Tensor) -> float:
    return values.double().mean().item()


def triplet_metrics(
    image: torch.Tensor,
    text: torch.Tensor,
    negative_image: torch.Tensor | None = None,
    negative_text: torch.Tensor | None = None,
    negative_types: Sequence[str | None] | None = None,
    *,
    image_ids: Sequence[Hashable] | None = None,
) -> dict[str, float]:
    """
    The metrics of this module's head, for whatever negatives are given.

    Args:
        image, text (`torch.Tensor` of shape `(N, dim)`): L2-normalised embeddings of the positive pairs.
        negative_image, negative_text (`torch.Tensor` of shape `(N, dim)`, *optional*): Those of the hard negatives.
        negative_types (`Sequence[str | None]` of length N, *optional*): The kind of each row, for metrics per kind:
            any names, `None` for a row without one.
        image_ids (`Sequence` of length N, *optional*): Rows of the same id show the same image, with captions that are
            all true of it: for recall they do not compete. Without it each row has an image of its own.

    Returns:
        `dict[str, float]`: Fractions in 0..1: `accuracy`, `accuracy_<kind>`, `accuracy_macro` (the mean over the kinds
        that occur), `text_score`, `image_score`, `group_score` and each of them per kind, `tie_rate` (of rows where
        any two scores that are compared are equal), `image_to_text_recall@1`, `@5` and `text_to_image_recall@1`, `@5`
        among the N positive pairs. With negative captions only: `accuracy`, no scores. With negative images only:
        `image_accuracy`, no scores.

    Raises:
        ValueError: An embedding is not finite, there are no rows, or the shapes or lengths differ.
    """
    for name, column in (("negative_types", negative_types), ("image_ids", image_ids)):
        if column is not None and len(column) != len(image):
            raise ValueError(f"`{name}` has {len(column)} entries for {len(image)} rows.")
    right = outcomes(triplet_scores(image, text, negative_image, negative_text))
    ties = right.pop("tie", None)
    if "group_score" in right:
        right.pop("image_accuracy", None)  # the image score asks it and its mirror image
    metrics: dict[str, float] = {}
    kinds = kinds_of(negative_types)
    for name, values in right.items():
        metrics[name] = _share(values)
        for kind in kinds:
            mask = torch.tensor([other == kind for other in negative_types or ()])
            metrics[f"{name}_{kind}"] = _share(values[mask])
        if kinds and name == "accuracy":
            metrics["accuracy_macro"] = sum(metrics[f"accuracy_{kind}"] for kind in kinds) / len(kinds)
    if ties is not None:
        metrics["tie_rate"] = _share(ties)
    for direction, queries, candidates in (("image_to_text", image, text), ("text_to_image", text, image)):
        for k, value in recall(queries, candidates, image_ids).items():
            metrics[f"{direction}_recall@{k}"] = value
    return metrics


def kinds_of(negative_types: Sequence[str | None] | None) -> list[str]:
    """The kinds that occur: SugarCrepe's in the usual order, then others as they come."""
    occurring = dict.fromkeys(kind for kind in negative_types or () if kind is not None)
    return [kind for kind in NEGATIVE_TYPES if kind in occurring] + [k for k in occurring if k not in NEGATIVE_TYPES]


def chance_of(metrics: dict[str, float], rows: int) -> dict[str, float]:
    """What guessing would reach, for each metric where that is known."""
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


def evaluate_triplets(
    model: Any,
    processor: Any,
    dataset: Any,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    num_workers: int = 0,
    progress: bool = True,
    broken_rows: BrokenRows | None = None,
) -> EvaluationResult:
    """
    Evaluate a CLIP-like model on a triplet dataset. In a distributed job all processes must call it; they share the
    rows, and each returns the whole result.

    Args:
        model ([`~transformers.CLIPModel`] or ours): It is evaluated in evaluation mode and left in the mode it was in.
        processor ([`~transformers.CLIPProcessor`]): Its processor.
        dataset (`datasets.Dataset`): `image`, `caption` and one or both of `neg_image`, `neg_caption`; with
            `negative_type` there are metrics per kind, with `held_out` also `held_out_...` of those rows alone.
        batch_size (`int`, defaults to 64): Rows at a time.
        device (`torch.device` or `str`, *optional*): Where to evaluate; defaults to where the model is.
        num_workers (`int`, defaults to 0): Processes that decode and preprocess.
        progress (`bool`, defaults to `True`): Whether to show a progress bar.
        broken_rows ([`BrokenRows`], *optional*): Where broken rows are reported. Defaults to a temporary file.

    Returns:
        [`EvaluationResult`] with the metrics of `triplet_metrics` and, per usable row, `row` (its index in the
        dataset), `negative_type` and `held_out` where the dataset has them, the scores of `triplet_scores` and the
        outcomes. `counts["broken"]` is the number of rows left out.

    Raises:
        ValueError: A column is missing, the dataset is empty or has no usable row, or the model has diverged.
    """
    check_columns(dataset, (IMAGE, CAPTION))
    if len(dataset) == 0:
        raise ValueError("There is nothing to evaluate: the dataset is empty.")
    if device is not None:
        model = model.to(device)
    device = next(model.parameters()).device
    embeddings, rows = embed_triplets(
        model,
        processor,
        dataset,
        batch_size=batch_size,
        device=device,
        num_workers=num_workers,
        progress=progress,
        broken_rows=broken_rows,
    )
    given = (
        embeddings["image"],
        embeddings["text"],
        embeddings.get("negative_image"),
        embeddings.get("negative_text"),
    )
    about = {name: dataset[name][rows] for name in (NEGATIVE_TYPE, HELD_OUT) if name in dataset.column_names}
    kinds = about.get(NEGATIVE_TYPE)
    metrics = triplet_metrics(*given, kinds)
    mask = torch.tensor([bool(value) for value in about.get(HELD_OUT, ())])
    if mask.any():
        part = triplet_metrics(*(None if value is None else value[mask] for value in given))  # type: ignore[arg-type]
        metrics |= {f"held_out_{name}": value for name, value in part.items() if "recall" not in name}

    scores = triplet_scores(*given)
    counts = {"rows": len(rows), "broken": len(dataset) - len(rows)}
    if mask.any():
        counts["held_out"] = int(mask.sum())
    counts |= {kind: list(kinds or ()).count(kind) for kind in kinds_of(kinds)}
    return EvaluationResult(
        benchmark="triplets",
        metrics=metrics,
        chance=chance_of(metrics, len(rows)),
        counts=counts,
        settings={
            "model_dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "batch_size": batch_size,
            "scores": "cosine in float32, strictly greater wins",
            "hf_tripletclip": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        predictions={
            "row": rows,
            **about,
            **{name: values.tolist() for name, values in scores.items()},
            **{name: values.tolist() for name, values in outcomes(scores).items()},
        },
    )

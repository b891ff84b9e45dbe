# SPDX-License-Identifier: Apache-2.0
"""Evaluation on triplets: which caption belongs to which image, in every direction, and retrieval.

With `s(image, caption)` the cosine, `v, t` the positive pair and `v', t'` the hard negative pair of a row:

- accuracy: `s(v,t) > s(v,t')`, SugarCrepe's question (Hsieh et al. 2023, arXiv 2306.14610);
- text score: `s(v,t) > s(v,t')` and `s(v',t') > s(v',t)`, image score: `s(v,t) > s(v',t)` and `s(v',t') > s(v,t')`,
  group score: both (Thrush et al. 2022, "Winoground", arXiv 2204.03162);
- recall@k: the share of images whose caption is among the k best of all captions, and the other way round.

Scores are float32, and **strictly greater wins**: a tie is wrong, so a collapsed model scores zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_tripletclip.data.collator import TripletCollator
from hf_tripletclip.data.loading import check_columns, undecoded
from hf_tripletclip.data.schema import COLUMNS, HELD_OUT, NEGATIVE_TYPES
from hf_tripletclip.evaluation.result import EvaluationResult

PRIMARY_METRIC = "group_score"  # greater is better
CHANCE = {"accuracy": 1 / 2, "text_score": 1 / 4, "image_score": 1 / 4, "group_score": 1 / 6}
RECALL_AT = (1, 5)
CHUNK = 1024  # rows of the similarity matrix that exist at a time


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
        ValueError: An embedding is not finite.
    """
    given = {"image": image, "text": text, "negative_image": negative_image, "negative_text": negative_text}
    cpu = {}
    for role, value in given.items():
        if value is not None:
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
        `dict[str, torch.Tensor]` of boolean tensors of shape `(N,)`; `tie` where a decisive pair of scores is equal.
    """
    positive = scores["image_text"]
    results: dict[str, torch.Tensor] = {}
    ties: list[torch.Tensor] = []
    if (other := scores.get("image_negative_text")) is not None:
        results["accuracy"] = positive > other
        ties.append(positive == other)
    if (other := scores.get("negative_image_text")) is not None:
        results["image_accuracy"] = positive > other  # given the caption, choose the image
        ties.append(positive == other)
    if (negative := scores.get("negative_image_negative_text")) is not None:
        results["text_score"] = results["accuracy"] & (negative > scores["negative_image_text"])
        results["image_score"] = results["image_accuracy"] & (negative > scores["image_negative_text"])
        results["group_score"] = results["text_score"] & results["image_score"]
    if ties:
        results["tie"] = torch.stack(ties).any(dim=0)
    return results


def recall(queries: torch.Tensor, candidates: torch.Tensor) -> dict[int, float]:
    """recall@k, k in `RECALL_AT`, of N queries whose target is the candidate of the same row; ties count against."""
    queries, candidates = queries.detach().float().cpu(), candidates.detach().float().cpu()
    better = []
    for start in range(0, len(queries), CHUNK):
        similarity = queries[start : start + CHUNK] @ candidates.T
        rows = torch.arange(len(similarity))
        target = similarity[rows, start + rows]
        # The target itself is among those that are not below it.
        better.append((similarity >= target[:, None]).sum(dim=1) - 1)
    ranks = torch.cat(better)
    return {k: (ranks < k).float().mean().item() for k in RECALL_AT}


def triplet_metrics(
    image: torch.Tensor,
    text: torch.Tensor,
    negative_image: torch.Tensor | None = None,
    negative_text: torch.Tensor | None = None,
    negative_types: Sequence[str | None] | None = None,
) -> dict[str, float]:
    """
    The metrics of this module's head, for whatever negatives are given.

    Args:
        image, text (`torch.Tensor` of shape `(N, dim)`): L2-normalised embeddings of the positive pairs.
        negative_image, negative_text (`torch.Tensor` of shape `(N, dim)`, *optional*): Those of the hard negatives.
        negative_types (`Sequence[str]`, *optional*): The kind of each row, for metrics per kind.

    Returns:
        `dict[str, float]`: Fractions in 0..1: `accuracy`, `accuracy_<kind>`, `accuracy_macro` (the mean over the kinds
        that occur), `text_score`, `image_score`, `group_score` and each of them per kind, `tie_rate`,
        `image_to_text_recall@1`, `@5` and `text_to_image_recall@1`, `@5` among the N positive pairs.

    Raises:
        ValueError: An embedding is not finite.
    """
    right = outcomes(triplet_scores(image, text, negative_image, negative_text))
    ties = right.pop("tie", None)
    if "group_score" in right:
        right.pop("image_accuracy", None)  # the image score asks it and its mirror image
    metrics: dict[str, float] = {}
    kinds = [kind for kind in NEGATIVE_TYPES if negative_types is not None and kind in negative_types]
    for name, values in right.items():
        metrics[name] = values.float().mean().item()
        for kind in kinds:
            mask = torch.tensor([other == kind for other in negative_types or ()])
            metrics[f"{name}_{kind}"] = values[mask].float().mean().item()
        if kinds and name == "accuracy":
            metrics["accuracy_macro"] = sum(metrics[f"accuracy_{kind}"] for kind in kinds) / len(kinds)
    if ties is not None:
        metrics["tie_rate"] = ties.float().mean().item()
    for direction, queries, candidates in (("image_to_text", image, text), ("text_to_image", text, image)):
        for k, value in recall(queries, candidates).items():
            metrics[f"{direction}_recall@{k}"] = value
    return metrics


def chance_of(metrics: dict[str, float], rows: int) -> dict[str, float]:
    """What guessing would reach, for each metric where that is known."""
    chance = {}
    for name in metrics:
        bare = name.removeprefix("held_out_")
        if "_recall@" in bare:
            if name == bare:
                chance[name] = min(1.0, int(bare.rpartition("@")[2]) / rows)
        else:
            for known, value in CHANCE.items():
                if bare == known or bare.startswith(f"{known}_"):
                    chance[name] = value
    return chance


@torch.no_grad()
def embed_triplets(
    model: Any, processor: Any, dataset: Any, *, batch_size: int, device: Any, num_workers: int, progress: bool
) -> tuple[dict[str, torch.Tensor], list[int]]:
    """L2-normalised embeddings by role, and the dataset's rows that they belong to: broken ones are missing."""
    columns = tuple(name for name in COLUMNS if name in dataset.column_names)
    length = model.config.text_config.max_position_embeddings
    collator = TripletCollator(processor, columns=columns, max_length=length)
    rows = _Numbered(undecoded(dataset))
    loader = DataLoader(rows, batch_size, collate_fn=_CollateNumbered(collator), num_workers=num_workers)
    pieces: dict[str, list[torch.Tensor]] = {}
    numbers: list[int] = []
    was_training = model.training
    model.eval()
    try:
        for batch in tqdm(loader, desc="Evaluating", disable=not progress, leave=False):
            numbers.extend(batch.pop("number").tolist())
            batch = {name: value.to(device) for name, value in batch.items()}
            for prefix in ("", "negative_"):
                if (pixels := batch.get(f"{prefix}pixel_values")) is not None:
                    features = model.get_image_features(pixel_values=pixels).pooler_output
                    pieces.setdefault(f"{prefix}image", []).append(features)
                if (ids := batch.get(f"{prefix}input_ids")) is not None:
                    mask = batch[f"{prefix}attention_mask"]
                    features = model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
                    pieces.setdefault(f"{prefix}text", []).append(features)
    finally:
        model.train(was_training)
    embeddings = {
        role: torch.nn.functional.normalize(torch.cat(parts).float(), dim=-1).cpu() for role, parts in pieces.items()
    }
    return embeddings, numbers


class _Numbered(torch.utils.data.Dataset):
    """Rows with their number, so that predictions find their row when broken ones are left out."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.dataset[index], "number": index}


class _CollateNumbered:
    def __init__(self, collator: TripletCollator) -> None:
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch, usable = self.collator.collate(rows)
        return {**batch, "number": torch.tensor([row["number"] for row in usable])}


def evaluate_triplets(
    model: Any,
    processor: Any,
    dataset: Any,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    num_workers: int = 0,
    progress: bool = True,
) -> EvaluationResult:
    """
    Evaluate a CLIP-like model on a triplet dataset.

    Args:
        model ([`~transformers.CLIPModel`] or ours): It is evaluated in evaluation mode and left in the mode it was in.
        processor ([`~transformers.CLIPProcessor`]): Its processor.
        dataset (`datasets.Dataset`): `image`, `caption` and one or both of `neg_image`, `neg_caption`; with
            `negative_type` there are metrics per kind, with `held_out` also `held_out_...` of those rows alone.
        batch_size (`int`, defaults to 64): Rows at a time.
        device (`torch.device` or `str`, *optional*): Where to evaluate; defaults to where the model is.
        num_workers (`int`, defaults to 0): Processes that decode and preprocess.
        progress (`bool`, defaults to `True`): Whether to show a progress bar.

    Returns:
        [`EvaluationResult`] with the metrics of `triplet_metrics` and, per usable row, `row`, the scores of
        `triplet_scores` and the outcomes. `counts["broken"]` is the number of rows left out.

    Raises:
        ValueError: A column is missing, the dataset is empty or the model has diverged.
    """
    check_columns(dataset, ("image", "caption"))
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
    )
    given = (
        embeddings["image"],
        embeddings["text"],
        embeddings.get("negative_image"),
        embeddings.get("negative_text"),
    )
    names = dataset.column_names
    kinds = [dataset["negative_type"][row] for row in rows] if "negative_type" in names else None
    metrics = triplet_metrics(*given, kinds)
    held_out = [dataset[HELD_OUT][row] for row in rows] if HELD_OUT in names else []
    if any(held_out):
        mask = torch.tensor(held_out)
        part = triplet_metrics(*(None if value is None else value[mask] for value in given))  # type: ignore[arg-type]
        metrics |= {f"held_out_{name}": value for name, value in part.items() if "recall" not in name}

    scores = triplet_scores(*given)
    counts = {"rows": len(rows), "broken": len(dataset) - len(rows)}
    if any(held_out):
        counts["held_out"] = sum(held_out)
    counts |= {kind: kinds.count(kind) for kind in NEGATIVE_TYPES if kinds is not None and kind in kinds}
    return EvaluationResult(
        benchmark="triplets",
        metrics=metrics,
        chance=chance_of(metrics, len(rows)),
        counts=counts,
        settings={
            "model_dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "scores": "cosine in float32, strictly greater wins",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        predictions={
            "row": rows,
            **{name: values.tolist() for name, values in scores.items()},
            **{name: values.tolist() for name, values in outcomes(scores).items()},
        },
    )

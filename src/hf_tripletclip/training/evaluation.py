# SPDX-License-Identifier: Apache-2.0
"""Evaluation during training, with broken rows in the data.

Processes must bring equally many rows to each gathering. So a batch keeps a place for each of its rows, broken or not,
and a mask tells which of them count. What is gathered as labels is a tensor `(rows, 3)`: the kind of negative, and
numbers of the picture and of the caption, by which recall knows those that stand in several rows.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import EvalPrediction

from hf_tripletclip.data import TripletCollator
from hf_tripletclip.data.decoding import first_caption
from hf_tripletclip.data.schema import CAPTION, IMAGE, NEGATIVE_TYPE, NEGATIVE_TYPES
from hf_tripletclip.evaluation import triplet_metrics
from hf_tripletclip.evaluation.readers.images import content_digest
from hf_tripletclip.evaluation.triplets import CHANCE
from hf_tripletclip.objectives.contents import input_contents
from hf_tripletclip.training.batches import empty_batch
from hf_tripletclip.training.gradcache import FIELDS

USABLE = "usable"  # in a batch: bool `(rows,)`, False where the row is broken and so not in the other tensors
UNKNOWN, BROKEN = -1, -2  # in the labels, beside the indices into NEGATIVE_TYPES

IDENTITIES = "identities"  # in a batch: int64 `(usable rows, 2)`, equal where the picture or the caption is the same

Metrics = Callable[..., dict[str, float]]  # of an `EvalPrediction`


@dataclass
class EvaluationCollator:
    """
    A [`TripletCollator`] whose batches may be broken in part or as a whole: `USABLE` tells which rows are there, and
    `IDENTITIES` which picture and caption they have.
    """

    collator: TripletCollator

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch, usable = self.collator.collate(rows)
        there = {id(row) for row in usable}
        if not usable:  # all processes run the model and gather: this one stays with the others
            batch = empty_batch(self.collator)
        # First in the batch: `Trainer` takes the number of rows from the first tensor.
        whole = torch.tensor([id(row) in there for row in rows])
        return {USABLE: whole, **batch, IDENTITIES: self._identities(usable, batch)}

    def _identities(self, rows: Sequence[Mapping[str, Any]], batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Equal where the final evaluation finds pictures and captions equal, see `evaluation.images.ImageCell`."""
        found = identities_of_tensors(batch)  # also of an image whose contents nothing else tells, such as an array
        for number, row in enumerate(rows):
            if (digest := content_digest(row[IMAGE])) is not None:
                found[number, 0] = _number(digest)
            caption = first_caption(row[CAPTION]).encode("utf-8", "surrogatepass")
            found[number, 1] = _number(hashlib.sha256(caption).hexdigest())
        return found


def _number(digest: str) -> int:
    return int(digest[:15], 16)  # 60 bits


def identities_of_tensors(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """`IDENTITIES` of a batch of which only the model's inputs are known."""
    contents = input_contents(batch, ("image", "text"))
    return torch.stack([contents["image"], contents["text"]], dim=1)


def labels_of(batch: Mapping[str, torch.Tensor], identities: torch.Tensor) -> torch.Tensor:
    """What is gathered as labels of a batch's rows, int64 `(rows, 3)`."""
    kinds = batch.get(NEGATIVE_TYPE)
    if kinds is None:
        kinds = torch.full((len(identities),), UNKNOWN, device=identities.device)
    return torch.cat([kinds[:, None], identities], dim=1)


def kinds_in(labels: Any) -> Any:
    """The kinds of negatives among labels, which is all that others than `compositional_metrics` see of them."""
    return labels[:, 0]


def spread(values: torch.Tensor, usable: torch.Tensor, fill: int = 0) -> torch.Tensor:
    """One entry per row of the batch, in shape `(rows, ...)`: `values` where usable, `fill` elsewhere."""
    places = values.new_full((len(usable), *values.shape[1:]), fill)
    places[usable] = values
    return places


def without_broken_rows(metrics: Metrics, prediction: EvalPrediction, **kwargs: Any) -> dict[str, float]:
    """`metrics` of the rows that are not broken; none where all are."""
    labels: Any = prediction.label_ids
    there = kinds_in(labels) != BROKEN
    if not there.any():
        return {}
    gathered: Any = prediction.predictions
    beside = {"inputs": prediction.inputs, "losses": prediction.losses}
    if not there.all():
        gathered, labels, beside = {role: values[there] for role, values in gathered.items()}, labels[there], {}
    if metrics is not compositional_metrics:
        labels = kinds_in(labels)
    return metrics(EvalPrediction(predictions=gathered, label_ids=labels, **beside), **kwargs)


def compositional_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """
    [`~hf_tripletclip.evaluation.triplet_metrics`] of what the trainer's evaluation loop gathered; of the kinds the
    accuracy only, to keep the log readable. Recall has several right answers where pictures or captions stand in
    several rows, as in the final evaluation.
    """
    gathered: Any = prediction.predictions
    embeddings = {role: torch.as_tensor(values) for role, values in gathered.items()}
    codes, images, captions = torch.as_tensor(prediction.label_ids).T.tolist()
    kinds = [NEGATIVE_TYPES[code] if code >= 0 else None for code in codes]
    metrics = triplet_metrics(
        embeddings["image"],
        embeddings["text"],
        embeddings.get("negative_image"),
        embeddings.get("negative_text"),
        kinds if any(kinds) else None,
        image_ids=images,
        caption_ids=captions,
    )
    detail = tuple(f"{score}_score_" for score in ("text", "image", "group"))
    metrics = {name: value for name, value in metrics.items() if not name.startswith(detail)}
    return metrics | {f"chance_{name}": value for name, value in CHANCE.items() if name in metrics}


@functools.cache
def compositional_metric_names() -> tuple[str, ...]:
    """What `compositional_metrics` gives of whatever negatives, the higher the better."""
    rows = len(NEGATIVE_TYPES)  # one of each
    labels: Any = torch.arange(rows)[:, None].expand(rows, 3).numpy()
    names: dict[str, None] = {}
    for absent in ("", "negative_text"):
        embeddings: Any = {role: torch.eye(rows).numpy() for role in FIELDS if role != absent}
        names |= dict.fromkeys(compositional_metrics(EvalPrediction(predictions=embeddings, label_ids=labels)))
    return tuple(name for name in names if not name.startswith(("chance_", "tie_rate")))

# SPDX-License-Identifier: Apache-2.0
"""Evaluation during training, with broken rows in the data.

Processes must bring equally many rows to each gathering. So a batch keeps a place for each of its rows, broken or not,
and a mask tells which of them count.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import EvalPrediction

from hf_tripletclip.data import TripletCollator
from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.evaluation import triplet_metrics
from hf_tripletclip.evaluation.triplets import CHANCE
from hf_tripletclip.training.batches import empty_batch
from hf_tripletclip.training.gradcache import FIELDS

USABLE = "usable"  # in a batch: bool `(rows,)`, False where the row is broken and so not in the other tensors
UNKNOWN, BROKEN = -1, -2  # in the labels, beside the indices into NEGATIVE_TYPES

Metrics = Callable[..., dict[str, float]]  # of an `EvalPrediction`


@dataclass
class EvaluationCollator:
    """A [`TripletCollator`] whose batches may be broken in part or as a whole: `USABLE` tells which rows are there."""

    collator: TripletCollator

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch, usable = self.collator.collate(rows)
        there = {id(row) for row in usable}
        if not usable:  # all processes run the model and gather: this one stays with the others
            batch = empty_batch(self.collator)
        # First in the batch: `Trainer` takes the number of rows from the first tensor.
        return {USABLE: torch.tensor([id(row) in there for row in rows]), **batch}


def spread(values: torch.Tensor, usable: torch.Tensor, fill: int = 0) -> torch.Tensor:
    """One entry per row of the batch, in shape `(rows, ...)`: `values` where usable, `fill` elsewhere."""
    places = values.new_full((len(usable), *values.shape[1:]), fill)
    places[usable] = values
    return places


def without_broken_rows(metrics: Metrics, prediction: EvalPrediction, **kwargs: Any) -> dict[str, float]:
    """`metrics` of the rows that are not broken; none where all are."""
    labels: Any = prediction.label_ids
    there = labels != BROKEN
    if there.all():
        return metrics(prediction, **kwargs)
    if not there.any():
        return {}
    gathered: Any = prediction.predictions
    usable: Any = {role: values[there] for role, values in gathered.items()}
    return metrics(EvalPrediction(predictions=usable, label_ids=labels[there]), **kwargs)


def compositional_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """
    [`~hf_tripletclip.evaluation.triplet_metrics`] of what the trainer's evaluation loop gathered; of the kinds the
    accuracy only, to keep the log readable.
    """
    gathered: Any = prediction.predictions
    embeddings = {role: torch.as_tensor(values) for role, values in gathered.items()}
    codes = torch.as_tensor(prediction.label_ids).tolist()
    kinds = [NEGATIVE_TYPES[code] if code >= 0 else None for code in codes]
    metrics = triplet_metrics(
        embeddings["image"],
        embeddings["text"],
        embeddings.get("negative_image"),
        embeddings.get("negative_text"),
        kinds if any(kinds) else None,
    )
    detail = tuple(f"{score}_score_" for score in ("text", "image", "group"))
    metrics = {name: value for name, value in metrics.items() if not name.startswith(detail)}
    return metrics | {f"chance_{name}": value for name, value in CHANCE.items() if name in metrics}


@functools.cache
def compositional_metric_names() -> tuple[str, ...]:
    """What `compositional_metrics` gives of whatever negatives, the higher the better."""
    rows = 2 * len(NEGATIVE_TYPES)
    labels: Any = torch.arange(rows).numpy() % len(NEGATIVE_TYPES)
    names: dict[str, None] = {}
    for absent in ("", "negative_text"):
        embeddings: Any = {role: torch.eye(rows).numpy() for role in FIELDS if role != absent}
        names |= dict.fromkeys(compositional_metrics(EvalPrediction(predictions=embeddings, label_ids=labels)))
    return tuple(name for name in names if not name.startswith(("chance_", "tie_rate")))

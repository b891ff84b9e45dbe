# SPDX-License-Identifier: Apache-2.0
"""Texts of a row that are drawn at random, anew in each pass over the training data."""

from __future__ import annotations

import dataclasses
from typing import Any

from hf_tripletclip.data import TripletCollator
from hf_tripletclip.data.draws import CaptionDraw, Draw, SeveralDraw
from hf_tripletclip.data.loading import is_value
from hf_tripletclip.data.schema import CAPTION, DENSE_CAPTION, NEG_CAPTION, NEG_IMAGE, PARAPHRASE
from hf_tripletclip.objectives import Objective
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.training.training_batches import columns_of

# Argument -> the columns whose values it limits, per row of a batch.
LIMITS = {"max_negatives": (NEG_CAPTION, NEG_IMAGE), "max_positives": (PARAPHRASE, DENSE_CAPTION)}


def unused_limits(objective: Objective) -> list[str]:
    """The arguments of [`LIMITS`] that limit only columns which an objective does not read."""
    read = {*objective.columns, *([PARAPHRASE] if objective.draws_captions else [])}
    return [name for name, columns in LIMITS.items() if not read & set(columns)]


def collator_with_draws(objective: Objective, collator: Any, dataset: Any, args: TripletCLIPTrainingArguments) -> Any:
    """
    The collator, which also draws what the objective and the arguments ask for.

    Args:
        objective ([`~hf_tripletclip.objectives.Objective`]): May draw captions.
        collator (`Callable`): The collator of the training data.
        dataset (`Dataset`, *optional*): The training data.
        args ([`TripletCLIPTrainingArguments`]): With `max_negatives` and `max_positives`.

    Raises:
        ValueError: An argument limits what the objective does not read; something is to be drawn, but the rows are
            tensors already or have one caption each; or both the collator and the arguments say how many.
    """
    limits = {name: number for name in LIMITS if (number := getattr(args, name)) is not None}
    if unused := [name for name in unused_limits(objective) if name in limits]:
        raise ValueError(
            f"`{unused[0]}` bounds the columns {' and '.join(LIMITS[unused[0]])}, which the objective "
            f"{objective.name!r} does not read: leave it out."
        )
    if not objective.draws_captions and not limits:
        return collator
    if not isinstance(collator, TripletCollator):
        what = f"`{next(iter(limits))}`" if limits else f"The objective {objective.name!r}"
        drawn = "some of each row's texts" if limits else "each row's caption"
        raise ValueError(
            f"{what} draws {drawn} anew in each pass: it needs raw rows and a `TripletCollator`, not rows that are "
            "tensors already."
        )
    seed = args.seed if args.data_seed is None else args.data_seed
    if limits:
        if collator.draw_several is not None:
            raise ValueError(
                f"`{next(iter(limits))}` and the collator's `draw_several` both say how many of a row's texts are "
                "drawn: leave one out."
            )
        most = {column: number for name, number in limits.items() for column in LIMITS[name]}
        collator = dataclasses.replace(collator, draw_several=SeveralDraw(most, seed))
    if objective.draws_captions:
        _check_captions(objective, dataset)
        if collator.draw_captions is None:
            collator = dataclasses.replace(collator, draw_captions=CaptionDraw(seed))
    return collator


def draws_of(collator: Any) -> list[Draw]:
    """The draws of a collator."""
    found = (getattr(collator, name, None) for name in ("draw_captions", "draw_several"))
    return [draw for draw in found if draw is not None]


def _check_captions(objective: Objective, dataset: Any) -> None:
    if objective.needs_neighbours:  # its batches matter: one caption of a row is enough
        return
    columns, features = columns_of(dataset), getattr(dataset, "features", None) or {}
    written = is_value(features.get(CAPTION), "string") or CAPTION not in features
    if columns is not None and PARAPHRASE not in columns and written:
        raise ValueError(
            f"The objective {objective.name!r} draws each row's caption from several, but `train_dataset` has one "
            f"`caption` per row and no column `{PARAPHRASE}`; it has {columns}. Add the column, or train with `clip`."
        )

# SPDX-License-Identifier: Apache-2.0
"""Which rows of a finished dataset to keep, by their scores."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from hf_tripletclip.data.schema import CLIP_SCORE, CROSS_CLIP_SCORE, NEG_CLIP_SCORE, NEG_CROSS_CLIP_SCORE, SCORES

MEAN = (CLIP_SCORE, NEG_CLIP_SCORE)
BEST = "best"
# What is made of two columns, their mean or the first less the second.
OF_TWO = {
    "clip_score_mean": MEAN,
    "margin": (CLIP_SCORE, CROSS_CLIP_SCORE),
    "neg_margin": (NEG_CLIP_SCORE, NEG_CROSS_CLIP_SCORE),
}


@dataclasses.dataclass(frozen=True)
class FilterSettings:
    r"""
    Bounds on the scores of a row, all inclusive; `None` is no bound. Without any, all rows are kept.

    Args:
        min_clip_score_mean (`float`, *optional*): Of the mean of `clip_score` and `neg_clip_score`, by which the paper
            filters.
        min_clip_score (`float`, *optional*): Of image and caption.
        min_neg_clip_score (`float`, *optional*): Of negative image and negative caption.
        min_margin (`float`, *optional*): Of `clip_score - cross_clip_score`: by how much the image is closer to its
            caption than to the negative one.
        min_neg_margin (`float`, *optional*): Of `neg_clip_score - neg_cross_clip_score`, the same for the negative
            image.
        min_image_similarity, max_image_similarity (`float`, *optional*): Of the two images.
        min_caption_similarity, max_caption_similarity (`float`, *optional*): Of the two captions.
        min_vqa_score (`float`, *optional*): Share of questions that were answered right.
        best (`int`, *optional*): Of the rows within all bounds, how many with the highest mean of `clip_score` and
            `neg_clip_score` to keep, which is the paper's rule. Of equal ones the earlier row is kept.

    Raises:
        ValueError: A bound is not a number, a minimum is above its maximum or `best` is below 1.
    """

    min_clip_score_mean: float | None = None
    min_clip_score: float | None = None
    min_neg_clip_score: float | None = None
    min_margin: float | None = None
    min_neg_margin: float | None = None
    min_image_similarity: float | None = None
    max_image_similarity: float | None = None
    min_caption_similarity: float | None = None
    max_caption_similarity: float | None = None
    min_vqa_score: float | None = None
    best: int | None = None

    def __post_init__(self) -> None:
        for name, bound in self.bounds().items():
            if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not math.isfinite(bound):
                raise ValueError(f"`{name}` is {bound!r}; give a number.")
        if self.best is not None and (isinstance(self.best, bool) or not isinstance(self.best, int) or self.best < 1):
            raise ValueError(f"`best` is {self.best!r}; give a number of rows, at least 1.")
        for quantity in QUANTITIES:
            low, high = getattr(self, f"min_{quantity}", None), getattr(self, f"max_{quantity}", None)
            if low is not None and high is not None and low > high:
                raise ValueError(f"`min_{quantity}` is {low}, above `max_{quantity}`, {high}: no row is within.")

    def bounds(self) -> dict[str, float]:
        """The bounds that are set, by name, in the order in which they are applied."""
        names = (field.name for field in dataclasses.fields(self) if field.name != BEST)
        return {name: bound for name in names if (bound := getattr(self, name)) is not None}

    def columns(self) -> tuple[str, ...]:
        """The score columns that the settings need."""
        needed = [column for name in self.bounds() for column in QUANTITIES[name[len("min_") :]]]
        return tuple(dict.fromkeys([*needed, *(MEAN if self.best is not None else ())]))


# What the settings bound, in their order -> the columns that it is made of.
QUANTITIES = {
    name: OF_TWO.get(name, (name,))
    for name in dict.fromkeys(field.name[4:] for field in dataclasses.fields(FilterSettings) if field.name != BEST)
}


def filters_of(given: Mapping[str, Any]) -> FilterSettings:
    """
    The settings that a mapping of a configuration names.

    Raises:
        ValueError: It has others, or a bound is none.
    """
    accepted = [field.name for field in dataclasses.fields(FilterSettings)]
    if unknown := [name for name in given if name not in accepted]:
        raise ValueError(f"`filters` takes no {', '.join(unknown)}; it takes {', '.join(accepted)}")
    return FilterSettings(**given)


def checks_of(columns: Iterable[str]) -> list[str]:
    """The checks that make columns of scores, each once."""
    return list(dict.fromkeys(SCORES[name].check for name in columns))


def apply_filters(
    columns: Mapping[str, Sequence[Any]], settings: FilterSettings, rows: int | None = None
) -> tuple[list[int], dict[int, str]]:
    """
    The rows within the bounds of the settings, and why the other rows are not.

    A row is left out for the first reason that applies: `missing COLUMN` if a needed score is `None` or not a
    number, the name of the bound that it violates, or `best`. Bounds and scores are compared in float32, as scores
    are stored, so that a score of 0.7 is not below a minimum of 0.7.

    Args:
        columns (`Mapping[str, Sequence]`): The scores, one value per row; at least `settings.columns()`.
        settings ([`FilterSettings`]): The bounds.
        rows (`int`, *optional*): How many rows there are; needed if there are no columns.

    Returns:
        `tuple[list[int], dict[int, str]]`: The numbers of the rows to keep, ascending, and the reason of each other
        row, so that `Counter(reasons.values())` counts them.

    Raises:
        ValueError: A column is missing, or they are not of one length.
    """
    if missing := [name for name in settings.columns() if name not in columns]:
        raise ValueError(
            f"These filters need the columns {', '.join(missing)}; the rows have {', '.join(columns) or 'no scores'}. "
            f"`--checks {' '.join(checks_of(missing))}` makes them."
        )
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values()) | (set() if rows is None else {rows})) > 1:
        raise ValueError(f"The columns are not of one length: {lengths}" + (f", of {rows} rows" if rows else ""))
    scores = {name: np.asarray(columns[name], dtype=np.float32) for name in settings.columns()}
    kept = np.ones(next(iter(lengths.values()), rows or 0), dtype=bool)
    reasons: dict[int, str] = {}

    def drop(reason: str, bad: np.ndarray) -> None:
        reasons.update(dict.fromkeys(np.flatnonzero(kept & bad).tolist(), reason))
        kept[bad] = False

    for name, values in scores.items():
        drop(f"missing {name}", np.isnan(values))
    for name, bound in settings.bounds().items():
        values, limit = _quantity(name[len("min_") :], scores), np.float32(bound)
        drop(name, values < limit if name.startswith("min_") else values > limit)
    if settings.best is not None:
        left = np.flatnonzero(kept)
        order = np.argsort(-_quantity("clip_score_mean", scores)[left], kind="stable")
        worse = np.zeros_like(kept)
        worse[left[order[settings.best :]]] = True
        drop("best", worse)
    return np.flatnonzero(kept).tolist(), reasons


def _quantity(quantity: str, scores: Mapping[str, np.ndarray]) -> np.ndarray:
    first, *second = (scores[name] for name in QUANTITIES[quantity])
    if not second:
        return first
    exact = (first + second[0].astype(np.float64)) / 2 if quantity == "clip_score_mean" else first - second[0]
    return exact.astype(np.float32)


def filter_dataset(dataset: Dataset, settings: FilterSettings) -> tuple[Dataset, dict[str, int]]:
    """
    The rows of a dataset that are within the settings' bounds, in their order, and how many others there are by
    reason; see [`apply_filters`].
    """
    if not settings.columns():
        return dataset, {}
    present = [name for name in settings.columns() if name in dataset.column_names]
    scores = dataset.select_columns(present).with_format(None)[:] if present else {}
    kept, reasons = apply_filters(scores, settings, len(dataset))
    return dataset.select(kept), dict(Counter(reasons.values()).most_common())

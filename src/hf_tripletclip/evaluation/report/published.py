# SPDX-License-Identifier: Apache-2.0
"""Figures that others have published, as they printed them, each with its source: `published.json`."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_tripletclip.results.result import EvaluationResult


@dataclass(frozen=True)
class Published:
    """
    A model's figures in a publication.

    Args:
        benchmark (`str`): By its name in the registry.
        model (`str`): As the publication calls it.
        training (`str`): On what it was trained.
        metrics (`Mapping[str, float]`): By our names, fractions in 0..1.
        data (`str`): What it was evaluated on; `is_of` says whether a result is of the same rows.
        cite (`str`): Where the figures are, such as "Patel et al. 2024, Table 4".
        reference (`str`): How to find that.
        group (`str`): Figures of the same model, training and group are of the same weights.
        remark (`str`): What to know about them, or nothing.
    """

    benchmark: str
    model: str
    training: str
    metrics: Mapping[str, float]
    data: str
    cite: str
    reference: str
    group: str
    remark: str = ""


@functools.cache
def _file() -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
    return found


@functools.cache
def published() -> tuple[Published, ...]:
    """All figures."""
    return tuple(
        Published(
            benchmark=table["benchmark"],
            model=model,
            training=training,
            metrics={name: round(value / 100, 6) for name, value in zip(table["metrics"], values, strict=True)},
            data=table["data"],
            cite=table["cite"],
            reference=table["reference"],
            group=table["group"],
            remark=table.get("remark", ""),
        )
        for table in _file()["tables"]
        for model, training, *values in table["rows"]
    )


def published_of(benchmark: str) -> list[Published]:
    """The figures on a benchmark."""
    return [figure for figure in published() if figure.benchmark == benchmark]


def published_beside(results: Sequence[EvaluationResult]) -> list[Published]:
    """The figures that are of the same rows as all of these results of a benchmark."""
    figures = published_of(results[0].benchmark)
    same = {data for data in {figure.data for figure in figures} if all(is_of(result, data) for result in results)}
    return [figure for figure in figures if figure.data in same]


def is_of(result: EvaluationResult, data: str) -> bool:
    """
    Whether a result is of the data that published figures are of, as far as its numbers of rows and the name of its
    source tell.

    Args:
        result ([`EvaluationResult`]): Of a benchmark with figures on this data.
        data (`str`): As in [`Published`].
    """
    asked = _file()["data"][data]
    source = str(result.data.get("source", "")).lower()
    return (
        all(result.counts.get(name) in numbers for name, numbers in asked.get("counts", {}).items())
        and re.search(asked.get("source", ""), source) is not None
        and ("not_source" not in asked or re.search(asked["not_source"], source) is None)
    )


def rows_of(data: str) -> str:
    """How many rows the data has, in words."""
    counts = _file()["data"][data].get("counts", {})
    return " and ".join(f"{numbers[0]:,} {name}" for name, numbers in counts.items())

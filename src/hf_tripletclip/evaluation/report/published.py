# SPDX-License-Identifier: Apache-2.0
"""Figures that others have published, as they printed them, each with its source: `published.json`."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Published:
    """
    A model's figures in a publication.

    Args:
        benchmark (`str`): By its name in the registry.
        model (`str`): As the publication calls it.
        training (`str`): On what it was trained.
        metrics (`Mapping[str, float]`): By our names, fractions in 0..1.
        data (`str`): What it was evaluated on.
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
def published() -> tuple[Published, ...]:
    """All figures."""
    tables = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
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
        for table in tables
        for model, training, *values in table["rows"]
    )


def published_of(benchmark: str) -> list[Published]:
    """The figures on a benchmark."""
    return [figure for figure in published() if figure.benchmark == benchmark]

# SPDX-License-Identifier: Apache-2.0
"""What an evaluation found, and tables of it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class EvaluationResult:
    """
    Args:
        benchmark (`str`): What was evaluated.
        metrics (`dict[str, float]`): By name, fractions in 0..1.
        chance (`dict[str, float]`): What guessing would reach, for the metrics where that is known.
        counts (`dict[str, int]`): Rows, and rows per kind.
        settings (`dict[str, Any]`): What else determines the numbers: precision, versions, ...
        predictions (`dict[str, list]`): Columns of per-row scores; not in the JSON form.
    """

    benchmark: str
    metrics: dict[str, float]
    chance: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    predictions: dict[str, list[Any]] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object, without the predictions."""
        return {name: value for name, value in asdict(self).items() if name != "predictions"}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EvaluationResult:
        return cls(**values)

    def save_json(self, path: str | os.PathLike[str]) -> None:
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load_json(cls, path: str | os.PathLike[str]) -> EvaluationResult:
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))


def table_rows(before: EvaluationResult, after: EvaluationResult) -> list[tuple[str, float, float, float | None]]:
    """(metric, before, after, chance) of the metrics that both have."""
    return [
        (name, before.metrics[name], value, after.chance.get(name))
        for name, value in after.metrics.items()
        if name in before.metrics
    ]


# The table of a run shows these of the held-out rows; `metrics.json` has everything.
SHOWN_HELD_OUT = ("held_out_accuracy", "held_out_group_score")


def format_before_after(before: EvaluationResult, after: EvaluationResult) -> str:
    """A plain-text table: the main metrics before and after training, beside chance."""
    lines = [f"{'':30}{'before':>9}{'after':>9}{'chance':>9}"]
    for name, old, new, chance in table_rows(before, after):
        detail = name.startswith(("text_score_", "image_score_", "group_score_"))
        held_out = name.startswith("held_out") and name not in SHOWN_HELD_OUT
        if name == "tie_rate" or detail or held_out:
            continue
        guess = "" if chance is None else f"{chance:9.3f}"
        lines.append(f"{name:30}{old:9.3f}{new:9.3f}{guess}")
    return "\n".join(lines)

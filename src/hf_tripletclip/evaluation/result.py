# SPDX-License-Identifier: Apache-2.0
"""What an evaluation found, and tables of it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
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
        """
        The inverse of `to_dict`.

        Raises:
            ValueError: These are not the fields of a result.
        """
        known = {entry.name for entry in fields(cls)}
        if (unknown := values.keys() - known) or not {"benchmark", "metrics"} <= values.keys():
            raise ValueError(
                f"An evaluation result has `benchmark`, `metrics` and no fields but {sorted(known)}; here are "
                f"{sorted(values)}" + (f", of which {sorted(unknown)} are unknown." if unknown else ".")
            )
        return cls(**values)

    def save_json(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict` to a file."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load_json(cls, path: str | os.PathLike[str]) -> EvaluationResult:
        """Read what `save_json` wrote; raises as `from_dict`."""
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))

    def format_table(self) -> str:
        """A plain-text table: the main metrics, beside chance."""
        return _table(self, {"result": self})


# Tables show these of the held-out rows; `to_dict` has everything.
SHOWN_HELD_OUT = ("held_out_accuracy", "held_out_group_score")


def main_metrics(result: EvaluationResult) -> list[str]:
    """Names of the metrics that tables show: not the tie rate, nor the text, image and group scores of each kind."""
    hidden = ("tie_rate", "held_out_", "text_score_", "image_score_", "group_score_")
    return [name for name in result.metrics if name in SHOWN_HELD_OUT or not name.startswith(hidden)]


def table_rows(before: EvaluationResult, after: EvaluationResult) -> list[tuple[str, float, float, float | None]]:
    """(metric, before, after, chance) of the main metrics that both have."""
    return [
        (name, before.metrics[name], after.metrics[name], after.chance.get(name))
        for name in main_metrics(after)
        if name in before.metrics
    ]


def format_before_after(before: EvaluationResult, after: EvaluationResult) -> str:
    """A plain-text table: the main metrics before and after training, beside chance."""
    return _table(after, {"before": before, "after": after})


def _table(of: EvaluationResult, columns: dict[str, EvaluationResult]) -> str:
    names = [name for name in main_metrics(of) if all(name in result.metrics for result in columns.values())]
    width = max(map(len, ["", *names])) + 1
    lines = [" " * width + "".join(f"{column:>9}" for column in [*columns, "chance"])]
    for name in names:
        guess = f"{of.chance[name]:9.3f}" if name in of.chance else ""
        values = "".join(f"{result.metrics[name]:9.3f}" for result in columns.values())
        lines.append(f"{name:{width}}{values}{guess}")
    return "\n".join(lines)

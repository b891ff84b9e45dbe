# SPDX-License-Identifier: Apache-2.0
"""Models beside the one that they come from: composition gained and retention lost."""

from __future__ import annotations

from collections.abc import Sequence

from hf_tripletclip.evaluation.interpolation import Curve, Point
from hf_tripletclip.evaluation.report.scores import differences
from hf_tripletclip.evaluation.result import EvaluationResult


def format_gains(curve: Curve, rows: Sequence[tuple[str, Point]]) -> str:
    """
    A Markdown table: each model's composition and retention, and by how much they differ from the first one's on the
    same rows, with the 95 % interval of a paired bootstrap.

    Args:
        curve ([`~hf_tripletclip.evaluation.interpolation.Curve`]): Says what was measured.
        rows (`Sequence[tuple[str, Point]]`): Name and measurements, that of the base first.
    """
    lines = [
        f"| model | {curve.composition} | gained [95 %] | {curve.retention} | lost [95 %] |",
        "| --- | --- | --- | --- | --- |",
    ]
    base = rows[0][1]
    for index, (name, point) in enumerate(rows):
        cells = [name]
        for measure, value, sign in (
            (curve.composition, point.composition, 1),
            (curve.retention, point.retention, -1),
        ):
            difference = "" if index == 0 else _difference(measure, base, point, sign)
            cells += [f"{value:.3f}", difference]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _difference(measure: str, base: Point, point: Point, sign: int) -> str:
    benchmark, _, metric = measure.partition(" ")
    first, second = _result(base, benchmark), _result(point, benchmark)
    found = differences(first, second).get(metric)
    if found is None:  # no mean over rows
        return _signed(sign * (second.metrics[metric] - first.metrics[metric]))
    return f"{_signed(sign * found.value)} [{found.interval(_signed, ', ', sign=sign)}]"


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # no -0.000


def _result(point: Point, benchmark: str) -> EvaluationResult:
    return point.results[benchmark]

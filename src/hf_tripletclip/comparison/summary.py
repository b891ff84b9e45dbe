# SPDX-License-Identifier: Apache-2.0
"""Means, deviations and paired tests of runs, and the tables and the figure of an experiment."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hf_tripletclip.comparison.runs import Run
from hf_tripletclip.results.plots import plot_comparison
from hf_tripletclip.utils.extras import optional_imports
from hf_tripletclip.utils.markdown import markdown_table

CONFIDENCE = 0.95
EQUAL = 1e-12  # the largest difference that rounding causes between equal gaps


@dataclass(frozen=True)
class Difference:
    """
    The difference of a metric between an arm and the baseline, over the seeds that both have.

    Args:
        mean (`float`): Mean of the arm minus the baseline.
        low, high (`float`): Its 95 % interval (Student's t); NaN for one seed.
        p (`float`): Two-sided p of a paired t-test; NaN for one seed.
        seeds (`int`): Number of seeds.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: int


@dataclass(frozen=True)
class Cell:
    """
    A metric of an arm.

    Args:
        mean, deviation (`float`): Mean and standard deviation over the seeds; the deviation of one seed is 0.
        seeds (`int`): Number of seeds.
        difference ([`Difference`], *optional*): The difference from the baseline.
    """

    mean: float
    deviation: float
    seeds: int
    difference: Difference | None = None


Summary = dict[str, dict[str, Cell]]  # label -> metric


def paired(values: Sequence[float], baseline: Sequence[float]) -> Difference:
    """
    The paired t-test of two arms, whose values have the same order of seeds (Student 1908).

    Raises:
        ImportError: scipy is not installed.
    """
    gaps = [value - other for value, other in zip(values, baseline, strict=True)]
    mean = statistics.mean(gaps)
    if len(gaps) < 2:
        return Difference(mean, math.nan, math.nan, math.nan, len(gaps))
    with optional_imports():
        from scipy import stats
    error_of_mean = statistics.stdev(gaps) / math.sqrt(len(gaps))
    if error_of_mean < EQUAL:  # the same gap in each seed: a test is neither possible nor needed
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0, len(gaps))
    reach = error_of_mean * float(stats.t.ppf((1 + CONFIDENCE) / 2, len(gaps) - 1))
    p = 2 * float(stats.t.sf(abs(mean) / error_of_mean, len(gaps) - 1))
    return Difference(mean, mean - reach, mean + reach, p, len(gaps))


def summarize(runs: Sequence[Run], columns: Mapping[str, str], baseline: str) -> Summary:
    """
    Summarize the finished runs.

    Args:
        runs (`Sequence[Run]`): All runs of the experiment.
        columns (`Mapping[str, str]`): Metric -> its title. Other metrics are left out.
        baseline (`str`): Label of the arm with which the others are compared, seed by seed.
    """
    measured: dict[str, dict[int, dict[str, float]]] = {}
    for run in runs:
        if run.finished():
            measured.setdefault(run.label, {})[run.seed] = run.metrics()
    summary: Summary = {}
    for label, by_seed in measured.items():
        summary[label] = {}
        for name in columns:
            values = {seed: metrics[name] for seed, metrics in by_seed.items() if name in metrics}
            if not values:
                continue
            others = {seed: metrics[name] for seed, metrics in measured.get(baseline, {}).items() if name in metrics}
            shared = sorted(values.keys() & others.keys())
            compared = label != baseline and bool(shared)
            summary[label][name] = Cell(
                statistics.mean(values.values()),
                statistics.stdev(values.values()) if len(values) > 1 else 0.0,
                len(values),
                paired([values[seed] for seed in shared], [others[seed] for seed in shared]) if compared else None,
            )
    return summary


def table(summary: Summary, columns: Mapping[str, str]) -> str:
    """The Markdown table of means and deviations, with a star if the difference from the baseline has p < 0.05."""
    names = [name for name in columns if any(name in cells for cells in summary.values())]
    lines = []
    for label, cells in summary.items():
        seeds = max((cell.seeds for cell in cells.values()), default=0)
        shown = [_mean(cells[name]) if name in cells else "" for name in names]
        lines.append([label, str(seeds), *shown])
    return markdown_table(["method", "seeds", *(columns[name] for name in names)], lines)


def _mean(cell: Cell) -> str:
    if cell.seeds == 1:  # one run has no deviation
        return f"{cell.mean:.3f}"
    star = "*" if cell.difference is not None and cell.difference.p < 1 - CONFIDENCE else ""
    return f"{cell.mean:.3f} ± {cell.deviation:.3f}{star}"


def differences(summary: Summary, columns: Mapping[str, str], baseline: str) -> str:
    """The Markdown table of differences from the baseline, with their intervals and p."""
    names = [name for name in columns if any(name in cells for cells in summary.values())]
    lines = []
    for label, cells in summary.items():
        if label == baseline:
            continue
        shown = [_difference(cells[name].difference) if name in cells else "" for name in names]
        lines.append([label, *shown])
    return markdown_table([f"method minus {baseline}", *(columns[name] for name in names)], lines)


def _difference(value: Difference | None) -> str:
    if value is None:
        return ""
    if math.isnan(value.p):
        return f"{value.mean:+.3f}"
    return f"{value.mean:+.3f} [{value.low:+.3f}, {value.high:+.3f}], p = {value.p:.2g}"


def write_summary(summary: Summary, columns: Mapping[str, str], baseline: str, folder: Path, head: str) -> str:
    """
    Write `comparison.md`, `comparison.json` and `comparison.png` into a folder.

    Args:
        summary (`Summary`): The result of [`summarize`].
        columns (`Mapping[str, str]`): Metric -> its title.
        baseline (`str`): Label of the baseline.
        folder (`Path`): The folder.
        head (`str`): Text above the tables.

    Returns:
        `str`: The Markdown text.
    """
    tables = [
        head,
        table(summary, columns),
        f"Mean ± standard deviation over seeds; * differs from `{baseline}` with p < 0.05 (paired t-test over seeds, "
        "not corrected for the number of comparisons).",
        differences(summary, columns, baseline),
    ]
    text = "\n\n".join(tables) + "\n"
    content = {label: {name: asdict(cell) for name, cell in cells.items()} for label, cells in summary.items()}
    (folder / "comparison.md").write_text(text, encoding="utf-8")
    (folder / "comparison.json").write_text(json.dumps(content, indent=1).replace("NaN", "null"), encoding="utf-8")
    plot_comparison(
        {
            label: {columns[name]: (cell.mean, cell.deviation) for name, cell in cells.items()}
            for label, cells in summary.items()
        },
        folder / "comparison.png",
    )
    return text

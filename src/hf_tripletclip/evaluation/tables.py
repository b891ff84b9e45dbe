# SPDX-License-Identifier: Apache-2.0
"""A result as text for a terminal: its table, with what is reached without understanding beside it."""

from __future__ import annotations

from hf_tripletclip.evaluation.result import EvaluationResult, main_metrics


def format_result(result: EvaluationResult) -> str:
    """
    The table of a result, with its baselines and the rows of each category as further columns, and below it the
    baselines of other metrics, the tie rate and the rows that were left out.
    """
    shown = main_metrics(result)
    beside = {name: of for name, of in result.baselines.items() if of.keys() & set(shown)}
    lines = result.format_table().splitlines()
    width = max(map(len, lines))
    head, *rows = (line.ljust(width) for line in lines)
    for name in beside:
        head += f"  {name}"
    for place, metric in enumerate(shown):
        for name, values in beside.items():
            value = f"{values[metric]:.3f}" if metric in values else ""
            rows[place] += f"  {value:>{len(name)}}"
    if any(metric in result.counts for metric in shown):  # how many rows a category has says what its metric is worth
        wide = max(map(len, (head, *rows)))
        head = f"{head:{wide}}{'rows':>9}"
        for place, metric in enumerate(shown):
            if metric in result.counts:
                rows[place] = f"{rows[place]:{wide}}{result.counts[metric]:>9,}"
    others = [
        f"{name}: " + ", ".join(f"{metric} {value:.3f}" for metric, value in values.items())
        for name, values in result.baselines.items()
        if name not in beside
    ]
    if columns := result.data.get("columns"):  # which of one's own columns were taken for what
        named = {
            name: value if isinstance(value, str) else ", ".join(value) for name, value in columns.items() if value
        }
        others.append("columns: " + "; ".join(f"{name} {value}" for name, value in named.items()))
    return "\n".join(line.rstrip() for line in (head, *rows, *others, _rows(result)))


def _rows(result: EvaluationResult) -> str:
    parts = [f"{result.counts['rows']:,} rows"] if "rows" in result.counts else []
    parts += [f"{result.counts[name]:,} {name}" for name in ("missing", "broken") if name in result.counts]
    if "tie_rate" in result.metrics:
        parts.append(f"tie rate {result.metrics['tie_rate']:.4f}")
    if result.settings.get("max_rows") is not None:
        parts.append("a sample, because of max_rows")
    if result.settings.get("protocol") == "official":
        parts.append("official protocol")
    return ", ".join(parts)

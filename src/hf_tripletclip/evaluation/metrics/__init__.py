# SPDX-License-Identifier: Apache-2.0
"""Metric modules that `evaluate.load` opens from a folder: `evaluate.load(metric_path("winoground_score"))`."""

from __future__ import annotations

from pathlib import Path

METRICS = ("winoground_score", "pairwise_accuracy", "retrieval_recall")


def metric_path(name: str) -> str:
    """
    The folder of a metric module, for `evaluate.load`.

    Args:
        name (`str`): `winoground_score`, `pairwise_accuracy` or `retrieval_recall`.

    Raises:
        ValueError: There is no such metric.

    Example:

    ```python
    import evaluate

    metric = evaluate.load(metric_path("pairwise_accuracy"))
    metric.compute(predictions=[[0.3, 0.2], [0.1, 0.4]], references=[0, 0])  # {'accuracy': 0.5, 'tie_rate': 0.0}
    ```"""
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}; there are {', '.join(METRICS)}")
    return str(Path(__file__).parent / name)

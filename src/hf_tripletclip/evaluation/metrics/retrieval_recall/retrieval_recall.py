# SPDX-License-Identifier: Apache-2.0
"""How often a right candidate is among the k best of a query; ties count against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

DESCRIPTION = """
recall@k: the share of queries (images, or captions) that have a right candidate among their k best. Scores are
compared in float32. A wrong candidate with the score of the best right one ranks before it, so a collapsed model
finds nothing.
"""
INPUTS = """
Args:
    predictions (`list` of lists of `float`): Of each query, the scores of all candidates.
    references (`list` of lists of `int`): Of each query, the indices of the candidates that are right, at least one.
    k (`int` or `list` of `int`, defaults to (1, 5, 10)): How many of the best count.
Returns:
    recall@1, recall@5, ... (`float`): Shares of the queries.
    tie_rate (`float`): Share of the queries for which a wrong candidate has the score of the best right one.
Examples:
    >>> import evaluate
    >>> from hf_tripletclip.evaluation.metrics import metric_path
    >>> metric = evaluate.load(metric_path("retrieval_recall"))
    >>> metric.compute(predictions=[[0.9, 0.1, 0.3], [0.2, 0.1, 0.7]], references=[[0], [0, 1]], k=[1, 2])
    {'recall@1': 0.5, 'recall@2': 1.0, 'tie_rate': 0.0}
"""


class RetrievalRecall(evaluate.Metric):
    """See `DESCRIPTION`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float32")),
                    "references": datasets.List(datasets.Value("int64")),
                }
            ),
        )

    def _compute(
        self, predictions: list[list[float]], references: list[list[int]], k: int | Sequence[int] = (1, 5, 10)
    ) -> dict[str, Any]:
        if not predictions:
            raise ValueError("retrieval_recall: there are no rows")
        at = [k] if isinstance(k, int) else list(k)
        if not at or min(at) < 1:
            raise ValueError(f"retrieval_recall: `k` is {k}; give numbers of at least 1")
        ranks, ties = [], []
        for query, (row, right) in enumerate(zip(predictions, references, strict=True)):
            scores = np.asarray(row, dtype=np.float32)
            if not len(scores) or not np.isfinite(scores).all():
                raise ValueError(f"retrieval_recall: query {query} has scores that are not finite, or none")
            if not right or min(right) < 0 or max(right) >= len(scores):
                raise ValueError(f"retrieval_recall: query {query} has {len(scores)} candidates; right ones: {right}")
            wrong = np.delete(scores, right)
            best = scores[right].max()
            ranks.append(int((wrong >= best).sum()))
            ties.append(bool((wrong == best).any()))
        found = {f"recall@{number}": float(np.mean([rank < number for rank in ranks])) for number in at}
        return {**found, "tie_rate": float(np.mean(ties))}

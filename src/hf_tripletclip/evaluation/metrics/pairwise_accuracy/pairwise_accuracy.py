# SPDX-License-Identifier: Apache-2.0
"""How often the right candidate, such as a caption among foils, has the highest score; ties are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from hf_tripletclip.results.result import Mean
from hf_tripletclip.results.scoring import tally, wins

DESCRIPTION = """
The share of rows whose right candidate scores strictly higher than every other: SugarCrepe's question with two
captions, ARO's with five. Scores are compared in float32. A tie is wrong, so a collapsed model scores zero.
"""
INPUTS = """
Args:
    predictions (`list` of lists of `float`): Of each row, the scores of its candidates, at least two.
    references (`list` of `int`): Of each row, the index of the right candidate.
    categories (`list`, *optional*): Of each row, its category: then there are also the accuracy of each and their
        mean, `accuracy_macro`. `accuracy` is that of all rows, the micro mean.
Returns:
    accuracy (`float`): Share of the rows.
    tie_rate (`float`): Share of the rows in which another candidate's score is equal to the right one's.
    accuracy_<category>, accuracy_macro (`float`): With `categories`.
Examples:
    >>> import evaluate
    >>> from hf_tripletclip.evaluation.metrics import metric_path
    >>> metric = evaluate.load(metric_path("pairwise_accuracy"))
    >>> metric.compute(predictions=[[0.3, 0.2], [0.1, 0.4], [0.5, 0.5], [0.1, 0.9]], references=[0, 0, 0, 1])
    {'accuracy': 0.5, 'tie_rate': 0.25}
"""
CITATION = """
@inproceedings{hsieh2023sugarcrepe,
  title = {SugarCrepe: Fixing Hackable Benchmarks for Vision-Language Compositionality},
  author = {Hsieh, Cheng-Yu and Zhang, Jieyu and Ma, Zixian and Kembhavi, Aniruddha and Krishna, Ranjay},
  booktitle = {NeurIPS Datasets and Benchmarks},
  year = {2023}
}
"""


class PairwiseAccuracy(evaluate.Metric):
    """See `DESCRIPTION`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float32")), "references": datasets.Value("int64")}
            ),
            reference_urls=["https://arxiv.org/abs/2306.14610"],
        )

    def _compute(
        self, predictions: list[list[float]], references: list[int], categories: Sequence[Any] | None = None
    ) -> dict[str, Any]:
        if not predictions:
            raise ValueError("pairwise_accuracy: there are no rows")
        if categories is not None and len(categories) != len(predictions):
            raise ValueError(f"pairwise_accuracy: {len(categories)} categories for {len(predictions)} rows")
        columns: dict[str, list[Any]] = {"accuracy": [], "tie_rate": [], "category": list(categories or ())}
        for row, (scores, right) in enumerate(zip(predictions, references, strict=True)):
            if len(scores) < 2 or not np.isfinite(scores).all():
                raise ValueError(f"pairwise_accuracy: row {row} is {scores}, not at least two finite scores")
            if not 0 <= right < len(scores):
                raise ValueError(f"pairwise_accuracy: row {row} has {len(scores)} candidates; {right} is none of them")
            by_name = {str(index): score for index, score in enumerate(scores)}
            others = [name for name in by_name if name != str(right)]
            columns["accuracy"].append(wins([(str(right), other) for other in others], by_name))
            columns["tie_rate"].append(any(by_name[other] == scores[right] for other in others))
        means = {name: Mean(name) for name in ("accuracy", "tie_rate")}
        if categories is not None:
            each = dict.fromkeys(category for category in categories if category is not None)
            means |= {f"accuracy_{category}": Mean("accuracy", where={"category": category}) for category in each}
            means["accuracy_macro"] = Mean("accuracy", by="category")
        return {name: tally(columns, mean) for name, mean in means.items()}

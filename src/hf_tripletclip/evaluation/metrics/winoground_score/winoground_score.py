# SPDX-License-Identifier: Apache-2.0
"""Text, image and group score of two images and two captions (Thrush et al. 2022, arXiv 2204.03162)."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import torch

from hf_tripletclip.evaluation.triplets import outcomes

DESCRIPTION = """
Of rows of two images and two captions, the first caption true of the first image and the second of the second:
- text_score: of either image, its caption has the higher score;
- image_score: of either caption, its image has the higher score;
- group_score: both.
Scores are compared in float32. Strictly greater wins: a tie is wrong, so a collapsed model scores zero.
"""
INPUTS = """
Args:
    predictions (`list` of 2 x 2 lists of `float`): Of each row, the score of each image (the outer list) with each
        caption: [[image 0 with caption 0, image 0 with caption 1], [image 1 with caption 0, image 1 with caption 1]].
Returns:
    text_score, image_score, group_score (`float`): Shares of the rows. Chance is 1/4, 1/4 and 1/6.
    tie_rate (`float`): Share of the rows in which two scores that are compared are equal.
Examples:
    >>> import evaluate
    >>> from hf_tripletclip.evaluation.metrics import metric_path
    >>> metric = evaluate.load(metric_path("winoground_score"))
    >>> metric.compute(predictions=[[[0.4, 0.2], [0.3, 0.5]], [[0.4, 0.2], [0.5, 0.6]]])
    {'text_score': 1.0, 'image_score': 0.5, 'group_score': 0.5, 'tie_rate': 0.0}
"""
CITATION = """
@inproceedings{thrush2022winoground,
  title = {Winoground: Probing Vision and Language Models for Visio-Linguistic Compositionality},
  author = {Thrush, Tristan and Jiang, Ryan and Bartolo, Max and Singh, Amanpreet and Williams, Adina and Kiela, Douwe
            and Ross, Candace},
  booktitle = {CVPR},
  year = {2022}
}
"""


class WinogroundScore(evaluate.Metric):
    """See `DESCRIPTION`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.List(datasets.List(datasets.Value("float32")))}),
            reference_urls=["https://arxiv.org/abs/2204.03162"],
        )

    def _compute(self, predictions: list[list[list[float]]]) -> dict[str, Any]:
        if not predictions:
            raise ValueError("winoground_score: there are no rows")
        for row, scores in enumerate(predictions):
            if [len(of_image) for of_image in scores] != [2, 2]:
                raise ValueError(f"winoground_score: row {row} is {scores}, not two images times two captions")
        values = torch.tensor(predictions, dtype=torch.float32)
        if bad := (~values.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist():
            raise ValueError(f"winoground_score: scores are not finite in rows {bad[:5]}")
        right = outcomes({f"i{i}c{c}": values[:, i, c] for i in (0, 1) for c in (0, 1)})
        found = {name: right[name].double().mean().item() for name in ("text_score", "image_score", "group_score")}
        return {**found, "tie_rate": right["tie"].double().mean().item()}

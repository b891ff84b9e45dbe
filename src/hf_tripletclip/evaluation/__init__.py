# SPDX-License-Identifier: Apache-2.0
"""Evaluation: one file per benchmark, one result type, plots and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tripletclip.lazy import lazy_exports

if TYPE_CHECKING:
    from hf_tripletclip.evaluation.result import EvaluationResult, format_before_after
    from hf_tripletclip.evaluation.triplets import evaluate_triplets, triplet_metrics

__all__ = ["EvaluationResult", "evaluate_triplets", "format_before_after", "triplet_metrics"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "EvaluationResult": "result",
        "evaluate_triplets": "triplets",
        "format_before_after": "result",
        "triplet_metrics": "triplets",
    },
)

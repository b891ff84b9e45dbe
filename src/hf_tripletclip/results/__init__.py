# SPDX-License-Identifier: Apache-2.0
"""Results of evaluations: the result itself, its statistics, metrics, plots and the curve of merged models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tripletclip.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from hf_tripletclip.results.result import EvaluationResult, format_before_after

__all__ = ["EvaluationResult", "format_before_after"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {"EvaluationResult": "result", "format_before_after": "result"},
)

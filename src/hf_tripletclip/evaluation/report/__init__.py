# SPDX-License-Identifier: Apache-2.0
"""Reports: models side by side, their differences, published figures, and pages of rows that a model gets wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tripletclip.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from hf_tripletclip.evaluation.report.errors import write_errors_page, write_examples_page
    from hf_tripletclip.evaluation.report.writing import write_report

__all__ = ["write_errors_page", "write_examples_page", "write_report"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {"write_errors_page": "errors", "write_examples_page": "errors", "write_report": "writing"},
)

# SPDX-License-Identifier: Apache-2.0
"""Evaluation: one file per benchmark, one result type, plots and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tripletclip.evaluation.registry import BENCHMARKS, SUITES, get_benchmark
from hf_tripletclip.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from hf_tripletclip.evaluation.benchmarks.triplets import evaluate_triplets
    from hf_tripletclip.evaluation.encoder import Encoder
    from hf_tripletclip.evaluation.run import BenchmarksFailed, evaluate
    from hf_tripletclip.evaluation.triplets import triplet_metrics

__all__ = [
    "BENCHMARKS",
    "SUITES",
    "BenchmarksFailed",
    "Encoder",
    "evaluate",
    "evaluate_triplets",
    "get_benchmark",
    "triplet_metrics",
]

# The classes of the benchmarks are public too; the registry says where each is.
CLASSES = {name: f"benchmarks.{module}" for module, _, name in (value.partition(":") for value in BENCHMARKS.values())}
__all__.extend(CLASSES)

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        **CLASSES,
        "BenchmarksFailed": "run",
        "Encoder": "encoder",
        "evaluate": "run",
        "evaluate_triplets": "benchmarks.triplets",
        "triplet_metrics": "triplets",
    },
)

# SPDX-License-Identifier: Apache-2.0
"""Evaluation: one file per benchmark, one result type, plots and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tripletclip.evaluation.registry import BENCHMARKS, SUITES, get_benchmark
from hf_tripletclip.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from hf_tripletclip.evaluation.benchmarks.aro import ARO
    from hf_tripletclip.evaluation.benchmarks.bivlc import BiVLC
    from hf_tripletclip.evaluation.benchmarks.captions import Captions
    from hf_tripletclip.evaluation.benchmarks.cola import Cola
    from hf_tripletclip.evaluation.benchmarks.colorswap import ColorSwap
    from hf_tripletclip.evaluation.benchmarks.mmvp import MMVP
    from hf_tripletclip.evaluation.benchmarks.negbench import NegBench
    from hf_tripletclip.evaluation.benchmarks.retrieval import Retrieval
    from hf_tripletclip.evaluation.benchmarks.similarity import Similarity
    from hf_tripletclip.evaluation.benchmarks.sugarcrepe import SugarCrepe
    from hf_tripletclip.evaluation.benchmarks.sugarcrepe_pp import SugarCrepePP
    from hf_tripletclip.evaluation.benchmarks.triplets import Triplets, evaluate_triplets
    from hf_tripletclip.evaluation.benchmarks.valse import VALSE
    from hf_tripletclip.evaluation.benchmarks.whatsup import WhatsUp
    from hf_tripletclip.evaluation.benchmarks.winoground import Winoground
    from hf_tripletclip.evaluation.benchmarks.zeroshot import ZeroShot
    from hf_tripletclip.evaluation.encoder import Encoder
    from hf_tripletclip.evaluation.run import BenchmarksFailed, evaluate
    from hf_tripletclip.evaluation.triplets import triplet_metrics

__all__ = [
    "ARO",
    "BENCHMARKS",
    "MMVP",
    "SUITES",
    "VALSE",
    "BenchmarksFailed",
    "BiVLC",
    "Captions",
    "Cola",
    "ColorSwap",
    "Encoder",
    "NegBench",
    "Retrieval",
    "Similarity",
    "SugarCrepe",
    "SugarCrepePP",
    "Triplets",
    "WhatsUp",
    "Winoground",
    "ZeroShot",
    "evaluate",
    "evaluate_triplets",
    "get_benchmark",
    "triplet_metrics",
]

# The registry says where each class is.
CLASSES = {name: f"benchmarks.{module}" for module, _, name in (value.partition(":") for value in BENCHMARKS.values())}

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

# SPDX-License-Identifier: Apache-2.0
"""The benchmarks by name: a benchmark is one file and one line here; and the suites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_tripletclip.utils.registry import load_class, make

if TYPE_CHECKING:
    from hf_tripletclip.evaluation.benchmark import Benchmark

BENCHMARKS = {
    # one image and captions
    "sugarcrepe": "sugarcrepe:SugarCrepe",
    "sugarcrepe_pp": "sugarcrepe_pp:SugarCrepePP",
    "aro": "aro:ARO",
    "valse": "valse:VALSE",
    "negbench": "negbench:NegBench",
    "whatsup": "whatsup:WhatsUp",
    "captions": "captions:Captions",  # one's own
    # negative images too
    "bivlc": "bivlc:BiVLC",
    "winoground": "winoground:Winoground",
    "colorswap": "colorswap:ColorSwap",
    "mmvp": "mmvp:MMVP",
    "cola": "cola:Cola",
    "triplets": "triplets:Triplets",
    # what was paid for it
    "retrieval": "retrieval:Retrieval",
    "zeroshot": "zeroshot:ZeroShot",
    # how the embeddings lie
    "similarity": "similarity:Similarity",
}
PACKAGE = "hf_tripletclip.evaluation.benchmarks"

ONE_IMAGE = ("sugarcrepe", "sugarcrepe_pp", "aro", "valse", "negbench", "whatsup")
NEGATIVE_IMAGES = ("bivlc", "winoground", "colorswap", "mmvp", "cola", "triplets")
SUITES = {
    "default": ("sugarcrepe", "winoground", "retrieval", "zeroshot"),
    "paper": ("sugarcrepe", "retrieval", "zeroshot", "triplets"),
    "composition": (*ONE_IMAGE, *NEGATIVE_IMAGES),
    "all": tuple(name for name in BENCHMARKS if name != "captions"),  # there is no data of that name
}


def resolve(names: Sequence[str]) -> list[str]:
    """
    Names of benchmarks, each once; those of suites are replaced by what is in them.

    Raises:
        ValueError: There is no benchmark or suite of a name.
    """
    found: dict[str, None] = {}
    for name in names:
        if name not in BENCHMARKS and name not in SUITES:
            raise ValueError(
                f"unknown benchmark {name!r}; there are {', '.join(BENCHMARKS)}, and the suites {', '.join(SUITES)}"
            )
        found |= dict.fromkeys(SUITES.get(name, (name,)))
    return list(found)


def benchmark_class(name: str) -> type[Benchmark]:
    """
    The class of this name.

    Raises:
        ValueError: There is no such benchmark.
    """
    return load_class("benchmark", name, BENCHMARKS, PACKAGE)


def get_benchmark(name: str, options: Mapping[str, Any] | None = None) -> Benchmark:
    """
    A benchmark by its name.

    Args:
        name (`str`): Such as `sugarcrepe`.
        options (`Mapping[str, Any]`, *optional*): Its settings.

    Raises:
        ValueError: There is no such benchmark, or it has no such setting.
    """
    return make("benchmark", name, BENCHMARKS, PACKAGE, options)

# SPDX-License-Identifier: Apache-2.0
"""Making triplets: hard negative captions and images for image-caption pairs, checks and filters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tripletclip.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from hf_tripletclip.generation.captions.content import content_problem
    from hf_tripletclip.generation.filters import FilterSettings, filter_dataset
    from hf_tripletclip.generation.publish import GenerationReport
    from hf_tripletclip.generation.push import push_dataset
    from hf_tripletclip.generation.registry import get_stage
    from hf_tripletclip.generation.run import GenerationSettings, generate
    from hf_tripletclip.generation.source import Source
    from hf_tripletclip.generation.stage import Stage, row_seed

__all__ = [
    "FilterSettings",
    "GenerationReport",
    "GenerationSettings",
    "Source",
    "Stage",
    "content_problem",
    "filter_dataset",
    "generate",
    "get_stage",
    "push_dataset",
    "row_seed",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "FilterSettings": "filters",
        "GenerationReport": "publish",
        "GenerationSettings": "run",
        "Source": "source",
        "Stage": "stage",
        "content_problem": "captions.content",
        "filter_dataset": "filters",
        "generate": "run",
        "get_stage": "registry",
        "push_dataset": "push",
        "row_seed": "stage",
    },
)

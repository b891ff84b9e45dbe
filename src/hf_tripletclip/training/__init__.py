# SPDX-License-Identifier: Apache-2.0
"""Training: arguments, trainer, gradient caching and checkpoints that survive a kill."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tripletclip.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
    from hf_tripletclip.training.checkpointing import last_complete_checkpoint
    from hf_tripletclip.training.trainer import TripletCLIPTrainer

__all__ = ["TripletCLIPTrainer", "TripletCLIPTrainingArguments", "last_complete_checkpoint"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "TripletCLIPTrainer": "trainer",
        "TripletCLIPTrainingArguments": "arguments",
        "last_complete_checkpoint": "checkpointing",
    },
)

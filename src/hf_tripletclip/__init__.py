# SPDX-License-Identifier: Apache-2.0
"""TripletCLIP for the Hugging Face ecosystem.

Everything in `__all__` is imported on first use, so that `import hf_tripletclip` itself stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tripletclip.utils.lazy import lazy_exports
from hf_tripletclip.version import __version__

# The one table of public names: name -> module that defines it.
_PUBLIC = {
    "AutoTripletModel": "modeling",
    "TripletCLIPConfig": "configuration",
    "TripletCLIPModel": "modeling",
    "TripletCLIPOutput": "modeling",
    "TripletCLIPTrainer": "training",
    "TripletCLIPTrainingArguments": "training",
    "TripletCollator": "data",
    "available_objectives": "objectives",
    "evaluate_triplets": "evaluation",
    "get_objective": "objectives",
    "join": "joining",
    "load_processor": "layouts",
    "load_scenes": "data",
    "load_tripletdata": "data",
    "mine": "mining",
    "push_model": "hub",
}

if TYPE_CHECKING:
    from hf_tripletclip.configuration import TripletCLIPConfig
    from hf_tripletclip.data import TripletCollator, load_scenes, load_tripletdata
    from hf_tripletclip.evaluation import evaluate_triplets
    from hf_tripletclip.hub import push_model
    from hf_tripletclip.joining import join
    from hf_tripletclip.layouts import load_processor
    from hf_tripletclip.mining import mine
    from hf_tripletclip.modeling import AutoTripletModel, TripletCLIPModel, TripletCLIPOutput
    from hf_tripletclip.objectives import available_objectives, get_objective
    from hf_tripletclip.training import TripletCLIPTrainer, TripletCLIPTrainingArguments

__all__ = [
    "AutoTripletModel",
    "TripletCLIPConfig",
    "TripletCLIPModel",
    "TripletCLIPOutput",
    "TripletCLIPTrainer",
    "TripletCLIPTrainingArguments",
    "TripletCollator",
    "__version__",
    "available_objectives",
    "evaluate_triplets",
    "get_objective",
    "join",
    "load_processor",
    "load_scenes",
    "load_tripletdata",
    "mine",
    "push_model",
]


__getattr__, __dir__ = lazy_exports(__name__, _PUBLIC)

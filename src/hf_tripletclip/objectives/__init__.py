# SPDX-License-Identifier: Apache-2.0
"""Training objectives: one file per method, found by its name in the registry below."""

from __future__ import annotations

import inspect
from typing import Any

from hf_tripletclip.objectives.base import Embeddings, Objective, ObjectiveOutput, Term
from hf_tripletclip.objectives.clip import CLIPObjective
from hf_tripletclip.objectives.clip_all import CLIPAllObjective
from hf_tripletclip.objectives.infonce import info_nce
from hf_tripletclip.objectives.negclip import NegCLIPObjective
from hf_tripletclip.objectives.negclip_image import NegCLIPImageObjective
from hf_tripletclip.objectives.tripletclip import TripletCLIPObjective

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective
    for objective in (
        CLIPObjective,
        NegCLIPObjective,
        NegCLIPImageObjective,
        TripletCLIPObjective,
        CLIPAllObjective,
    )
}

# Role of an embedding -> its symbol in tables.
SYMBOLS = {"image": "v", "text": "t", "negative_image": "v'", "negative_text": "t'"}

__all__ = [
    "OBJECTIVES",
    "Embeddings",
    "Objective",
    "ObjectiveOutput",
    "Term",
    "available_objectives",
    "get_objective",
    "info_nce",
    "terms_table",
]


def available_objectives() -> tuple[str, ...]:
    """Names of the training objectives."""
    return tuple(OBJECTIVES)


def get_objective(name: str, **kwargs: Any) -> Objective:
    """
    The objective of that name.

    Args:
        name (`str`): One of `available_objectives`.
        kwargs: Its arguments: `negatives_across_devices`, `chunk_size` and what the objective has of its own.

    Raises:
        ValueError: The name or an argument is unknown.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}; there are {', '.join(OBJECTIVES)}")
    accepted = inspect.signature(OBJECTIVES[name]).parameters
    if unknown := sorted(kwargs.keys() - accepted.keys()):
        raise ValueError(f"the objective {name!r} takes no {', '.join(unknown)}; it takes {', '.join(accepted)}")
    return OBJECTIVES[name](**kwargs)


def terms_table() -> str:
    """
    A Markdown table of the registered objectives: the dataset columns that each needs, and the weight of each term, a
    column per term; symbols as in `docs/objectives.md`.
    """
    pairs = sorted(
        {(term.query, term.keys) for objective in OBJECTIVES.values() for term in objective.terms},
        key=lambda pair: (list(SYMBOLS).index(pair[0]), len(pair[1])),
    )
    heads = [f"{SYMBOLS[query]} → {' ∪ '.join(SYMBOLS[key].upper() for key in keys)}" for query, keys in pairs]
    lines = ["| objective | columns | " + " | ".join(heads) + " |", "| --- | --- |" + " --- |" * len(heads)]
    for name, objective in OBJECTIVES.items():
        weights = {(term.query, term.keys): f"{term.weight:g}" for term in objective.terms}
        columns = ", ".join(f"`{column}`" for column in objective().columns)
        lines.append(f"| `{name}` | {columns} | " + " | ".join(weights.get(pair, "") for pair in pairs) + " |")
    return "\n".join(lines)

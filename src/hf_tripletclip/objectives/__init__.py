# SPDX-License-Identifier: Apache-2.0
"""Training objectives: one file per method, found by its name in the registry below."""

from __future__ import annotations

from typing import Any

from hf_tripletclip.objectives.base import COLUMNS, Embeddings, Objective, ObjectiveOutput, Term, roles_of
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
    "register_objective",
    "terms_table",
]


def available_objectives() -> tuple[str, ...]:
    """Names of the training objectives."""
    return tuple(OBJECTIVES)


def register_objective(objective: type[Objective]) -> type[Objective]:
    """
    Make an objective of one's own known by its name, for [`get_objective`], `set_objective` and `--objective`. To be
    called, or used as a decorator of the class, before a model that names it is trained.

    Args:
        objective (`type[Objective]`): A subclass of [`Objective`] with a `name` and `terms` of its own.

    Returns:
        The class.

    Raises:
        TypeError: It is no such class.
        ValueError: Another objective has the name, or a term has a role that there is not.
    """
    if not (isinstance(objective, type) and issubclass(objective, Objective)):
        raise TypeError(f"An objective is a subclass of `Objective`, not {objective!r}.")
    name, terms = getattr(objective, "name", None), getattr(objective, "terms", None)
    if not isinstance(name, str) or not name or not terms or not all(isinstance(term, Term) for term in terms):
        raise TypeError(f"{objective.__name__} needs a `name` and `terms`, a tuple of `Term`.")
    if strange := sorted({role for term in terms for role in (term.query, *term.keys)} - SYMBOLS.keys()):
        raise ValueError(f"The terms of {name!r} have the roles {', '.join(strange)}; there are {', '.join(SYMBOLS)}.")
    known = OBJECTIVES.get(name)
    # The same class once more, such as that of a notebook's cell that is run again, takes its place.
    if known is not None and (known.__module__, known.__qualname__) != (objective.__module__, objective.__qualname__):
        raise ValueError(f"{known.__qualname__} has the name {name!r}: give {objective.__name__} another.")
    OBJECTIVES[name] = objective
    return objective


def get_objective(name: str, **kwargs: Any) -> Objective:
    """
    The objective of that name.

    Args:
        name (`str`): One of `available_objectives`.
        kwargs: Its arguments: `negatives_across_devices`, `chunk_size` and what the objective has of its own.

    Raises:
        ValueError: The name or an argument is unknown, or one that has no default is missing.
    """
    if name not in OBJECTIVES:
        raise ValueError(
            f"unknown objective {name!r}; there are {', '.join(OBJECTIVES)}, and those of your own once "
            "`register_objective` has been called with the class"
        )
    accepted = OBJECTIVES[name].arguments()
    if unknown := sorted(kwargs.keys() - accepted.keys()):
        raise ValueError(f"the objective {name!r} takes no {', '.join(unknown)}; it takes {', '.join(accepted)}")
    missing = [one for one, argument in accepted.items() if argument.default is argument.empty and one not in kwargs]
    try:
        return OBJECTIVES[name](**kwargs)
    except TypeError as error:
        # Those that a class gives to the class above are not missing, though its arguments name them.
        if not missing or "required" not in str(error):
            raise
        raise ValueError(
            f"the objective {name!r} needs {', '.join(missing)}: give {'it' if len(missing) == 1 else 'them'} in "
            f"`objective_kwargs`, or as `set_objective({name!r}, {missing[0]}=...)`"
        ) from error


def terms_table() -> str:
    """
    A Markdown table of the registered objectives: the dataset columns that each needs, and the weight of each term, a
    column per term; symbols as in `docs/objectives.md`.
    """
    pairs = sorted(
        dict.fromkeys((term.query, term.keys) for objective in OBJECTIVES.values() for term in objective.terms),
        key=lambda pair: list(SYMBOLS).index(pair[0]),
    )
    heads = [f"{SYMBOLS[query]} → {' ∪ '.join(SYMBOLS[key].upper() for key in keys)}" for query, keys in pairs]
    lines = ["| objective | columns | " + " | ".join(heads) + " |", "| --- | --- |" + " --- |" * len(heads)]
    for name, objective in OBJECTIVES.items():
        weights = {(term.query, term.keys): f"{term.weight:g}" for term in objective.terms}
        columns = ", ".join(f"`{COLUMNS[role]}`" for role in roles_of(objective.terms))
        lines.append(f"| `{name}` | {columns} | " + " | ".join(weights.get(pair, "") for pair in pairs) + " |")
    return "\n".join(lines)

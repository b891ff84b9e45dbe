# SPDX-License-Identifier: Apache-2.0
"""Training objectives: one file per method. The registry below finds a method by its name."""

from __future__ import annotations

from typing import Any

from hf_tripletclip.objectives.base import Objective
from hf_tripletclip.objectives.ce_clip import CECLIPObjective
from hf_tripletclip.objectives.clic import CLICObjective
from hf_tripletclip.objectives.clip import CLIPObjective
from hf_tripletclip.objectives.clip_all import CLIPAllObjective
from hf_tripletclip.objectives.conclip import CoNCLIPObjective
from hf_tripletclip.objectives.cyclip import CyCLIPObjective
from hf_tripletclip.objectives.cyclip_triplet import CyCLIPTripletObjective
from hf_tripletclip.objectives.dac import DACObjective
from hf_tripletclip.objectives.degla import DeGLAObjective
from hf_tripletclip.objectives.embeddings import Embeddings, ObjectiveOutput, Tokens
from hf_tripletclip.objectives.fsc_clip import FSCCLIPObjective
from hf_tripletclip.objectives.infonce import info_nce
from hf_tripletclip.objectives.laclip import LaCLIPObjective
from hf_tripletclip.objectives.laclip_hn import LaCLIPHNObjective
from hf_tripletclip.objectives.negclip import NegCLIPObjective
from hf_tripletclip.objectives.negclip_image import NegCLIPImageObjective
from hf_tripletclip.objectives.own_terms import AnyOwnTerm, MarginTerm, OwnTerm, PairwiseTerm
from hf_tripletclip.objectives.pairwise import PairwiseObjective
from hf_tripletclip.objectives.read_alignment import ReadAlignmentObjective
from hf_tripletclip.objectives.reconstruction import ReconstructionTerm
from hf_tripletclip.objectives.rows import Rows
from hf_tripletclip.objectives.siglip import SigLIPObjective
from hf_tripletclip.objectives.siglip_triplet import SigLIPTripletObjective
from hf_tripletclip.objectives.sigmoid import sigmoid_loss
from hf_tripletclip.objectives.sigmoid_terms import SigmoidTerm
from hf_tripletclip.objectives.teacher_terms import PriorTerm, TeacherTerm
from hf_tripletclip.objectives.terms import (
    AnyTerm,
    CloseTerm,
    CyclicTerm,
    LossTerm,
    Term,
    WithinTerm,
    roles_of,
)
from hf_tripletclip.objectives.token_terms import LocalOwnTerm
from hf_tripletclip.objectives.tripletclip import TripletCLIPObjective
from hf_tripletclip.objectives.tsvlc import TSVLCObjective
from hf_tripletclip.roles import ROLES
from hf_tripletclip.utils.markdown import markdown_table

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective
    for objective in (
        CLIPObjective,
        NegCLIPObjective,
        NegCLIPImageObjective,
        TripletCLIPObjective,
        CLIPAllObjective,
        LaCLIPObjective,
        LaCLIPHNObjective,
        CyCLIPObjective,
        CyCLIPTripletObjective,
        CoNCLIPObjective,
        TSVLCObjective,
        DACObjective,
        CECLIPObjective,
        FSCCLIPObjective,
        DeGLAObjective,
        CLICObjective,
        ReadAlignmentObjective,
        PairwiseObjective,
        SigLIPObjective,
        SigLIPTripletObjective,
    )
}

__all__ = [
    "OBJECTIVES",
    "AnyOwnTerm",
    "AnyTerm",
    "CloseTerm",
    "CyclicTerm",
    "Embeddings",
    "LocalOwnTerm",
    "LossTerm",
    "MarginTerm",
    "Objective",
    "ObjectiveOutput",
    "OwnTerm",
    "PairwiseTerm",
    "PriorTerm",
    "ReconstructionTerm",
    "Rows",
    "SigmoidTerm",
    "TeacherTerm",
    "Term",
    "Tokens",
    "WithinTerm",
    "available_objectives",
    "get_objective",
    "info_nce",
    "register_objective",
    "sigmoid_loss",
    "terms_table",
]


def available_objectives() -> tuple[str, ...]:
    """Names of all registered objectives."""
    return tuple(OBJECTIVES)


def register_objective(objective: type[Objective]) -> type[Objective]:
    """
    Register your own objective, so that [`get_objective`], `set_objective` and `--objective` find it by its name. Call
    it, or use it as a class decorator, before you train a model that names the objective.

    Args:
        objective (`type[Objective]`): A subclass of [`Objective`] with its own `name` and `terms`.

    Returns:
        The class.

    Raises:
        TypeError: `objective` is not such a class.
        ValueError: Another objective has the same name, or a term uses an unknown role.
    """
    if not (isinstance(objective, type) and issubclass(objective, Objective)):
        raise TypeError(f"An objective is a subclass of `Objective`, not {objective!r}.")
    name, terms = getattr(objective, "name", None), getattr(objective, "terms", None)
    if not isinstance(name, str) or not name or not terms or not all(isinstance(term, LossTerm) for term in terms):
        raise TypeError(
            f"{objective.__name__} needs a `name`, and `terms`: a tuple of `Term`s or other subclasses of `LossTerm`."
        )
    if unknown := sorted({role for term in terms for role in term.roles} - ROLES.keys()):
        raise ValueError(
            f"The terms of {name!r} use the unknown roles {', '.join(unknown)}; the roles are {', '.join(ROLES)}."
        )
    known = OBJECTIVES.get(name)
    # A class of the same name replaces the old one, such as when a notebook's cell is run again.
    if known is not None and (known.__module__, known.__qualname__) != (objective.__module__, objective.__qualname__):
        raise ValueError(f"{known.__qualname__} has the name {name!r} already: rename {objective.__name__}.")
    OBJECTIVES[name] = objective
    return objective


def get_objective(name: str, **kwargs: Any) -> Objective:
    """
    Make an objective by its name.

    Args:
        name (`str`): One of `available_objectives`.
        kwargs: The objective's arguments: those of [`Objective`], and the ones of its own class.

    Raises:
        ValueError: The name or an argument is unknown, a required argument is missing, or a value is not allowed.
    """
    if name not in OBJECTIVES:
        raise ValueError(
            f"unknown objective {name!r}; there are {', '.join(OBJECTIVES)}, and your own classes once "
            "`register_objective` has registered them"
        )
    accepted = OBJECTIVES[name].arguments()
    if unknown := sorted(kwargs.keys() - accepted.keys()):
        raise ValueError(f"the objective {name!r} takes no {', '.join(unknown)}; it takes {', '.join(accepted)}")
    for one, value in kwargs.items():  # "false" would count as true
        if isinstance(accepted[one].default, bool) and not isinstance(value, bool):
            raise ValueError(f"`{one}` of the objective {name!r} is {value!r}; give true or false")
    missing = [one for one, argument in accepted.items() if argument.default is argument.empty and one not in kwargs]
    try:
        objective = OBJECTIVES[name](**kwargs)
    except TypeError as error:
        # Arguments that a class passes to its base class are not missing, though `arguments` lists them.
        if not missing or "required" not in str(error):
            raise
        raise ValueError(
            f"the objective {name!r} needs {', '.join(missing)}: give {'it' if len(missing) == 1 else 'them'} in "
            f"`objective_kwargs`, or as `set_objective({name!r}, {missing[0]}=...)`"
        ) from error
    objective.check_teacher()
    return objective


def terms_table() -> str:
    """
    A Markdown table of the registered objectives: the dataset columns that each needs, and its terms with their
    default weights. `docs/objectives.md` explains the symbols.
    """
    rows = []
    for name, objective in OBJECTIVES.items():
        columns = ", ".join(f"`{ROLES[role].column}`" for role in roles_of(objective.terms))
        # A bar would end the cell.
        terms = " + ".join(f"{term.weight:.4g} {term.formula}" for term in objective.terms).replace("|", "\\|")
        rows.append([f"`{name}`", columns, terms])
    return markdown_table(["objective", "columns", "loss"], rows)

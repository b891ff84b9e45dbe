# SPDX-License-Identifier: Apache-2.0
"""The equation of an objective, from its own terms, as the Hub renders LaTeX: `$$ ... $$` and `\\\\( ... \\\\)`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

from hf_tripletclip.objectives import LossTerm, Objective
from hf_tripletclip.objectives.distillation import OTHER_MODALITY, Distillation
from hf_tripletclip.objectives.terms import symbol, union
from hf_tripletclip.roles import ROLES


def describe_objective(objective: Objective) -> str:
    """
    An objective as Markdown: its name, its equation, and what the symbols are.

    Args:
        objective ([`~hf_tripletclip.objectives.Objective`]): With its settings, such as `distillation`.
    """
    distilled = objective.distillation
    own_terms = type(objective).compute is Objective.compute
    total = _weighted(objective.terms) + ("" if own_terms else r" + \ldots")
    if distilled is not None:
        total += f" + {_factor(distilled.weight)}D"
    parts = [
        f"The objective is `{objective.name}`:",
        _shown(rf"\mathcal{{L}} = {total}"),
        *map(_shown, dict.fromkeys(term.definition for term in objective.terms if term.weight and term.definition)),
        _symbols(objective),
    ]
    if distilled is not None:
        parts += [_shown(_distillation(distilled, distilled.of(objective.roles))), _meaning_of_distillation(distilled)]
    if objective.needs_teacher:
        parts.append(_teacher(objective))
    if not own_terms:
        parts.append(f"The further terms are those of the code of `{type(objective).__name__}`.")
    return "\n\n".join(parts)


def _weighted(terms: Sequence[LossTerm]) -> str:
    """The terms, those of one weight under one factor."""
    by_weight: dict[float, list[str]] = {}
    for term in terms:
        if term.weight:
            by_weight.setdefault(term.weight, []).append(term.latex)
    sums = []
    for weight, group in by_weight.items():
        factor, inner = _factor(weight), " + ".join(group)
        sums.append(rf"{factor}\left[ {inner} \right]" if factor and len(group) > 1 else factor + inner)
    return " + ".join(sums)


def _factor(weight: float) -> str:
    if weight == 1:
        return ""
    fraction = Fraction(weight).limit_denominator(100)
    if float(fraction) == weight and fraction.denominator > 1:
        return rf"\tfrac{{{fraction.numerator}}}{{{fraction.denominator}}} "
    return rf"{weight:g}\, "


def _distillation(distillation: Distillation, roles: Iterable[str]) -> str:
    """As `objectives/distillation.py` computes it."""
    present = list(roles)
    if distillation.kind == "embedding":
        means = " + ".join(
            # In braces: a prime and an asterisk would be two superscripts of one letter.
            rf"\frac{{1}}{{n}} \sum_i \lVert {{{symbol}}}_i - {{{symbol}}}^{{*}}_i \rVert^2"
            for symbol in (ROLES[role].symbol for role in present)
        )
        return f"D = {means}" if len(present) == 1 else rf"D = \frac{{1}}{{{len(present)}}} \left[ {means} \right]"
    halves = []
    for query, others in OTHER_MODALITY.items():
        asked = symbol(query)
        keys = union((role for role in others if role in present), r" \cup ")
        halves.append(
            rf"\frac{{1}}{{n}} \sum_i \mathrm{{KL}}\left( p^{{*}}_{{{keys}}}({asked}_i) \,\Vert\, "
            rf"p_{{{keys}}}({asked}_i) \right)"
        )
    return rf"D = \tfrac{{1}}{{2}} \left[ {' + '.join(halves)} \right]"


def _meaning_of_distillation(distillation: Distillation) -> str:
    if distillation.kind == "embedding":
        return r"\\(D\\) is distillation."
    return (
        r"\\(D\\) is distillation: \\(p_K(q)\\) is the softmax of \\(s\, q \cdot k\\) over the keys \\(k \in K\\), "
        r"with \\(s\\) held constant."
    )


def _teacher(objective: Objective) -> str:
    teacher = "the model as it was before training"
    if objective.teacher_moves:
        teacher += f" and then its moving average, of which a part of {objective.teacher_decay:g} stays at each step"
    return f"An asterisk marks what is of the teacher: {teacher}."


def _symbols(objective: Objective) -> str:
    named = [rf"\\({symbol(role)}\\): {ROLES[role].words}" for role in objective.roles]
    batch = "the batch of all processes" if objective.negatives_across_devices else "one process's batch"
    return (
        f"Embeddings are L2-normalised ({', '.join(named)}); a capital letter is all of them in {batch}. Each query "
        r"\\(q_i\\) must find its target \\(k_i\\), row \\(i\\) of the first set of \\(K\\); \\(s\\) is "
        "`exp(logit_scale)`."
    )


def _shown(formula: str) -> str:
    return f"$$\n{formula}\n$$"

# SPDX-License-Identifier: Apache-2.0
"""
An objective in words and equations, made from its terms.

[`describe_objective`] writes the equation for a model card, as the Hub renders LaTeX: `$$ ... $$` and
`\\\\( ... \\\\)`. `python -m hf_tripletclip.objectives.describe docs/objectives.md` writes the table of all objectives
into the documentation.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

from hf_tripletclip.objectives import LossTerm, Objective, terms_table
from hf_tripletclip.objectives.distillation import OTHER_MODALITY, Distillation
from hf_tripletclip.objectives.terms import symbol, union
from hf_tripletclip.roles import ROLES

BEGIN, END = "<!-- terms:begin -->", "<!-- terms:end -->"


def describe_objective(objective: Objective) -> str:
    """
    An objective as Markdown: its name, its equation, and the meaning of the symbols.

    Args:
        objective ([`~hf_tripletclip.objectives.Objective`]): The objective with its settings, such as `distillation`.
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
        equation = _distillation(distilled, distilled.select(objective.roles))
        parts += [_shown(equation), _meaning_of_distillation(distilled)]
    if objective.needs_teacher:
        parts.append(_teacher(objective))
    if not own_terms:
        parts.append(f"The further terms are those of the code of `{type(objective).__name__}`.")
    return "\n\n".join(parts)


def _weighted(terms: Sequence[LossTerm]) -> str:
    """The sum of the terms. Terms of equal weight share one factor."""
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
    """The equation of what `objectives/distillation.py` computes."""
    present = list(roles)
    if distillation.kind == "embedding":
        means = " + ".join(
            # Braces, because LaTeX refuses a prime and an asterisk as two superscripts of one letter.
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
        teacher += f" and then its moving average, which keeps a share of {objective.teacher_decay:g} at each step"
    return f"An asterisk marks the teacher's embeddings. The teacher is {teacher}."


def _symbols(objective: Objective) -> str:
    named = [rf"\\({symbol(role)}\\): {ROLES[role].words}" for role in objective.roles]
    batch = "the batch of all processes" if objective.negatives_across_devices else "one process's batch"
    text = f"Embeddings are L2-normalised ({', '.join(named)}); a capital letter is all of them in {batch}. "
    if any(not term.uses_bias for term in objective.terms):
        text += r"Each query \\(q_i\\) must find its target \\(k_i\\), row \\(i\\) of the first set of \\(K\\); "
    if not objective.uses_bias:
        return text + r"\\(s\\) is `exp(logit_scale)`."
    fixed = "" if objective.bias is None else f", or {objective.bias:g} if the model has none"
    return text + (
        r"\\(z_{ij}\\) is 1 if image \\(i\\) and caption \\(j\\) are a pair, otherwise -1; \\(s\\) is "
        rf"`exp(logit_scale)`; \\(b\\) is `logit_bias`{fixed}."
    )


def _shown(formula: str) -> str:
    return f"$$\n{formula}\n$$"


def with_table(page: str) -> str:
    """Replace the table between the markers of a page; raises `ValueError` if a marker is missing."""
    if BEGIN not in page or END not in page:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    return re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}\n{terms_table()}\n{END}", page, flags=re.DOTALL)


def main(arguments: list[str]) -> None:
    """Rewrite the page that the command line names."""
    if len(arguments) != 1:
        raise SystemExit("usage: python -m hf_tripletclip.objectives.describe PAGE.md")
    page = Path(arguments[0])
    page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

# SPDX-License-Identifier: Apache-2.0
"""The equations that model cards show."""

from __future__ import annotations

import re

import pytest
import torch

from hf_tripletclip.objectives import OBJECTIVES, Objective, Term, get_objective
from hf_tripletclip.objectives.describe import describe_objective
from hf_tripletclip.roles import ROLES
from tests.objectives import reference

SHOWN = re.compile(r"^\$\$\n(.+)\n\$\$$", re.MULTILINE)
ROLE = {role.symbol: name for name, role in ROLES.items()}
# LaTeX of a term -> what computes it without the package's kernel.
TERMS = {
    r"\\mathrm\{MIL\}_\\mathrm\{own\}\(v \\to d \\mid t'\)": lambda b, s: reference.mil_own(b, s),
    r"\\mathrm\{CE\}\((\S+) \\to (.+?)\)": lambda b, s, query, keys: reference.ce(
        b, ROLE[query], tuple(ROLE[key.lower()] for key in keys.split(r" \cup ")), s
    ),
    r"\\mathrm\{own\}\((\S+) \\to (\S+) \\mid t'\)": lambda b, s, query, target: reference.own_ce(
        b, ROLE[query], ROLE[target], s
    ),
    r"\\mathrm\{own\}_\{s=(\d+)\}\((\S+) \\to \{(\S+)\}\^\{\*\} \\mid t'\)": lambda b, s, factor, query, target: (
        reference.own_ce(b, ROLE[query], ROLE[target], float(factor), teacher=True)
    ),
    r"\\mathrm\{own\}_\{\\gamma=(\S+?),\\varepsilon=(\S+?)\}\(v \\to t \\mid t'\)": lambda b, s, gamma, smoothing: (
        reference.own_ce(b, "image", "text", s, float(gamma), float(smoothing))
    ),
    r"C_\\mathrm\{within\}\(v, t\) \+ C_\\mathrm\{across\}\(v, t\)": lambda b, s: reference.cyclic(b),
    r"\\mathrm\{MIL\}\(v \\to D\)": lambda b, s: reference.mil(b, s),
    r"\\mathrm\{W\}\(v, t \\mid T'\)": lambda b, s: reference.within(b, s),
    r"\\mathrm\{rank\}_\{(\S+)\}\((\S+), t \\mid t'\)": lambda b, s, prior, query: reference.ranks(
        b, ROLE[query], s, float(prior)
    ),
    r"\\mathrm\{prior\}\(v, t\)": lambda b, s: reference.prior_of(b, s),
    r"\\mathrm\{M\}\(v, t \\mid t'\)": lambda b, s: reference.margin(b, s),
    r"\\Delta\^\{\*\}\((\S+)\)": lambda b, s, role: reference.to_teacher(b, ROLE[role]),
    r"\\mathrm\{sig\}\((.+?), (.+?)\)": lambda b, s, *sets: reference.sigmoid(
        b, *(tuple(ROLE[one.lower()] for one in roles.split(r" \cup ")) for roles in sets), s, reference.BIAS
    ),
    r"\\Delta\(t, p\)": lambda b, s: (b.values["text"] - b.values["paraphrase"]).square().sum(dim=1).mean(),
}


def value(formula: str, batch: reference.Batch, scale: torch.Tensor) -> float:
    """The value of the first line of a card's equation, computed without the package's kernel."""
    text = formula.removeprefix(r"\mathcal{L} = ")
    for pattern, compute in TERMS.items():
        text = re.sub(pattern, lambda match, c=compute: f"({c(batch, scale, *match.groups()).item()})", text)
    text = re.sub(r"\\tfrac\{(\d+)\}\{(\d+)\} ", r"\1/\2*", text)
    text = text.replace(r"\,", "*").replace(r"\left[", "(").replace(r"\right]", ")")
    assert re.fullmatch(r"[\d.e()+*/ -]+", text), text
    return eval(text)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_equation_is_what_the_code_computes(name):
    batch = reference.make_batch()
    scale = torch.tensor(7.0, dtype=torch.float64)
    objective = reference.make_objective(name)
    text = describe_objective(objective)
    assert text.startswith(f"The objective is `{name}`:")
    formula = SHOWN.findall(text)[0]
    expected = objective(batch.embeddings(masks=False), scale).loss.item()
    assert value(formula, batch, scale) == pytest.approx(expected, rel=1e-9)
    for role, known in ROLES.items():
        assert (rf"\\({known.symbol}\\): " in text) == (role in objective.roles)


def test_unusual_weights_and_other_kinds_of_terms():
    class Odd(Objective):
        name = "odd"
        terms = (Term("image", ("text",), 1.0), Term("text", ("image",), 0.3331), Term("image", ("text",), 2.0))

    shown = SHOWN.findall(describe_objective(Odd()))[0]
    assert shown == (r"\mathcal{L} = \mathrm{CE}(v \to T) + 0.3331\, \mathrm{CE}(t \to V) + 2\, \mathrm{CE}(v \to T)")

    class Further(Odd):
        def compute(self, rows, scale):
            return super().compute(rows, scale)

    text = describe_objective(Further())
    assert SHOWN.findall(text)[0].endswith(r"+ \ldots")
    assert "The further terms are those of the code of `Further`." in text


def test_distillation_is_a_separate_term():
    similar = describe_objective(get_objective("negclip", distillation={"kind": "similarity", "weight": 0.5}))
    total, _, distilled = SHOWN.findall(similar)
    assert total.endswith(r"\right] + \tfrac{1}{2} D")
    assert r"p_{T \cup T'}(v_i)" in distilled
    assert r"p_{V}(t_i)" in distilled
    assert "as it was before training" in similar
    embedded = describe_objective(get_objective("clip", distillation={"kind": "embedding"}))
    total, _, distilled = SHOWN.findall(embedded)
    assert total.endswith(r"\right] + D")
    assert distilled.startswith(r"D = \frac{1}{2} \left[")
    assert distilled.count(r"\rVert^2") == 2
    held = describe_objective(get_objective("clip", distillation={"kind": "embedding", "roles": ["text"]}))
    assert SHOWN.findall(held)[-1] == r"D = \frac{1}{n} \sum_i \lVert {t}_i - {t}^{*}_i \rVert^2"


def test_negatives_of_one_process():
    assert "in one process's batch" in describe_objective(get_objective("clip", negatives_across_devices=False))
    assert "in the batch of all processes" in describe_objective(get_objective("clip"))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_latex_is_balanced(name):
    for kind in ("similarity", "embedding"):
        for formula in SHOWN.findall(describe_objective(get_objective(name, distillation={"kind": kind}))):
            assert formula.count("{") == formula.count("}")
            assert formula.count(r"\left") == formula.count(r"\right")
            assert not re.search(r"'\^", formula)  # two superscripts of one letter are an error

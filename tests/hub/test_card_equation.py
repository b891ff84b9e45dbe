# SPDX-License-Identifier: Apache-2.0
"""The equations that model cards show."""

from __future__ import annotations

import re

import pytest
import torch

from hf_tripletclip.hub.card_equation import describe_objective
from hf_tripletclip.objectives import OBJECTIVES, SYMBOLS, Embeddings, Objective, Term, get_objective

CE = re.compile(r"\\mathrm\{CE\}\((\S+) \\to (.+?)\)")
SHOWN = re.compile(r"^\$\$\n(.+)\n\$\$$", re.MULTILINE)


def value(formula: str, embeddings: Embeddings, scale: torch.Tensor) -> float:
    """What the first line of a card's equation comes to, computed without the package's kernel."""
    roles = {symbol: getattr(embeddings, role) for role, symbol in SYMBOLS.items()}

    def cross_entropy(match: re.Match[str]) -> str:
        keys = torch.cat([roles[key.lower()] for key in match[2].split(r" \cup ")])
        logits = scale * roles[match[1]] @ keys.T
        return str(torch.nn.functional.cross_entropy(logits, torch.arange(len(logits))).item())

    text = CE.sub(cross_entropy, formula.removeprefix(r"\mathcal{L} = "))
    text = re.sub(r"\\tfrac\{(\d+)\}\{(\d+)\} ", r"\1/\2*", text)
    text = text.replace(r"\,", "*").replace(r"\left[", "(").replace(r"\right]", ")")
    assert re.fullmatch(r"[\d.e()+*/ -]+", text), text
    return eval(text)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_equation_is_what_the_code_computes(name):
    torch.manual_seed(0)
    embeddings = Embeddings(*torch.nn.functional.normalize(torch.randn(4, 6, 8, dtype=torch.float64), dim=-1))
    scale = torch.tensor(7.0, dtype=torch.float64)
    objective = get_objective(name)
    text = describe_objective(objective)
    assert text.startswith(f"The objective is `{name}`:")
    formula = SHOWN.findall(text)[0]
    assert value(formula, embeddings, scale) == pytest.approx(objective(embeddings, scale).loss.item(), rel=1e-9)
    for role, symbol in SYMBOLS.items():
        assert (rf"\\({symbol}\\): " in text) == (role in objective.roles)


def test_odd_weights_and_terms_of_other_kinds():
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


def test_distillation_is_a_term_of_its_own():
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

# SPDX-License-Identifier: Apache-2.0
"""`pairwise` with other settings than the defaults: the share of the prior, other columns, missing terms."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hf_tripletclip.objectives import PairwiseTerm, get_objective
from hf_tripletclip.objectives.base import Rows
from hf_tripletclip.objectives.drawing import picture_of
from tests.objectives.reference import Batch, ce, make_batch, prior_of, ranks

SETTINGS = (
    {},
    {"debias": 0.0, "prior_weight": 0.7},
    {"debias": 1.0},
    {"debias": 0.4, "prior_weight": 0.0},
    {"others": "dense_caption", "own_weight": 2, "debias": 0.5},
    {"text_weight": 0, "prior_weight": 0.0, "debias": 0.0},
)
DEFAULTS = {name: argument.default for name, argument in type(get_objective("pairwise")).arguments().items()}


def reference(settings: dict, batch: Batch, s: torch.Tensor) -> torch.Tensor:
    given = {**DEFAULTS, **settings}
    loss = (ce(batch, "image", ("text",), s) + ce(batch, "text", ("image",), s)) / 2
    loss = loss + given["own_weight"] * ranks(batch, "image", s, given["debias"])
    if given["text_weight"]:
        other = {"paraphrase": "paraphrase", "dense_caption": "dense_text"}[given["others"]]
        loss = loss + given["text_weight"] * ranks(batch, other, s, given["debias"])
    return loss + given["prior_weight"] * prior_of(batch, s)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("ragged", [False, True])
def test_value_and_gradients_are_those_of_the_equations(settings, ragged):
    ours, theirs = make_batch(ragged=ragged), make_batch(ragged=ragged)
    scale, other = (torch.tensor(5.0, dtype=torch.float64, requires_grad=True) for _ in range(2))
    output = get_objective("pairwise", **settings)(ours.embeddings(masks=ragged), scale)
    expected = reference(settings, theirs, other)
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    expected.backward()
    torch.testing.assert_close(scale.grad, other.grad)
    for role, mine in ours.values.items():
        torch.testing.assert_close(mine.grad, theirs.values[role].grad, msg=role)


@pytest.mark.parametrize("settings", SETTINGS)
def test_gradcheck(settings):
    batch, objective = make_batch(rows=3, dim=3, ragged=True), get_objective("pairwise", **settings)

    def loss(*values: torch.Tensor) -> torch.Tensor:
        named = dict(zip(batch.values, values, strict=True))
        return objective(Batch(named, batch.owners, batch.teacher).embeddings(normalized=True), 3.0).loss

    assert torch.autograd.gradcheck(loss, tuple(batch.values.values()))


def test_terms_without_a_weight_need_no_inputs():
    assert get_objective("pairwise", text_weight=0).columns == ("image", "caption", "neg_caption")
    assert get_objective("pairwise", others="dense_caption").columns[-1] == "dense_caption"
    assert not get_objective("pairwise", prior_weight=0).needs_teacher
    assert get_objective("pairwise", prior_weight=0.3).teacher_roles == ("text",)


def test_the_common_part_of_all_queries_does_not_count_without_the_prior():
    """A gap that is the same for all images has no gradient; a gap that differs between images has one."""
    common, apart = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0])
    image = torch.stack([common + apart, common - apart]) / 2**0.5
    for direction, wanted in ((common, 0.0), (apart, 0.5)):
        text = torch.stack([direction, direction]) * 0.5
        own = {"image": image, "text": text, "negative_text": torch.zeros(2, 3)}
        rows = Rows(own, own, dict.fromkeys(own, 0), 1)
        term = PairwiseTerm("image", "text", ("negative_text",), 1.0, prior=1.0)
        plain = dataclasses.replace(term, prior=0.0)
        gaps = (image - image.mean(dim=0)) @ direction * 0.5
        assert gaps.abs().max().item() == pytest.approx(wanted / 2**0.5, abs=1e-6)
        assert term.value(rows, torch.tensor(1.0)).item() == pytest.approx(
            torch.nn.functional.softplus(-gaps).mean().item()
        )
        assert (plain.value(rows, torch.tensor(1.0)) < term.value(rows, torch.tensor(1.0))) == (direction is common)


def test_formulas_and_drawing_name_the_share():
    term = PairwiseTerm("paraphrase", "text", ("negative_text",), 1.0, prior=0.5)
    assert term.formula == "rank[α = 0.5](p, t | t')"
    assert term.latex == r"\mathrm{rank}_{0.5}(p, t \mid t')"
    assert dataclasses.replace(term, prior=0.0).formula == "rank(p, t | t')"
    assert picture_of(term).queries == ["p1", "p2", "p3"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"others": "neg_caption"}, "`others` is 'neg_caption'; it can be 'paraphrase' or 'dense_caption'"),
        ({"debias": 1.5}, "`debias` is 1.5; give a number from 0 to 1"),
        ({"debias": -0.1}, "`debias` is -0.1; give a number"),
        ({"prior_weight": "1"}, "`prior_weight` is '1'"),
        ({"text_weight": float("nan")}, "`text_weight` is nan"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        get_objective("pairwise", **settings)

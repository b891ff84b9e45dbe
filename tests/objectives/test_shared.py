# SPDX-License-Identifier: Apache-2.0
"""Softmax terms computed together, against the same terms one by one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from hf_tripletclip.objectives import Embeddings, Term, available_objectives, get_objective, info_nce
from hf_tripletclip.objectives.base import Objective, ObjectiveOutput
from hf_tripletclip.objectives.chunks import as_scale
from hf_tripletclip.roles import TRIPLET
from tests.objectives.reference import make_batch, make_objective
from tests.objectives.test_infonce import LargestTensor, Products
from tests.objectives.test_repeats import contents_of


def one_by_one(objective: Objective, embeddings: Embeddings, scale: torch.Tensor) -> ObjectiveOutput:
    """The loss of the terms' own values."""
    rows = objective.gather(objective.check(embeddings), embeddings, {})
    scale = as_scale(scale, next(iter(rows.own.values())))
    values = {term.name: term.value(rows, scale) for term in objective.active_terms()}
    total = sum(term.weight * values[term.name] for term in objective.active_terms())
    return ObjectiveOutput(loss=total, parts=values)


def objective_of(*terms: Term, **settings: Any) -> Objective:
    return type("OneObjective", (Objective,), {"name": "one", "terms": terms})(**settings)


def leaves_of(rows: int = 12, dim: int = 6, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    values = torch.randn(len(TRIPLET), rows, dim, generator=generator, dtype=torch.float64)
    normal = torch.nn.functional.normalize(values, dim=-1).to(dtype)
    return {role: value.clone().requires_grad_() for role, value in zip(TRIPLET, normal, strict=True)}


def assert_equal_to_one_by_one(
    objective: Objective, embeddings: Embeddings, leaves: list[torch.Tensor], scale: torch.Tensor, **tolerance: float
) -> None:
    found, expected = objective(embeddings, scale), one_by_one(objective, embeddings, scale)
    torch.testing.assert_close(found.loss, expected.loss, **tolerance)
    for name, value in expected.parts.items():
        torch.testing.assert_close(found.parts[name], value.detach(), msg=name, **tolerance)
    gradients = [torch.autograd.grad(one.loss, leaves, allow_unused=True) for one in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, **tolerance)


SOFTMAX = [name for name in available_objectives() if any(type(one) is Term for one in make_objective(name).terms)]


@pytest.mark.parametrize("chunk_size", [1, 6, 4096])
@pytest.mark.parametrize("repeats", ["negative", "mask"])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", SOFTMAX)
def test_together_as_one_by_one(name, ragged, repeats, chunk_size):
    if ragged and name == "clip_all":
        pytest.skip("pairs with one negative pair each")
    batch = make_batch(name, ragged=ragged)
    same = [(0, row) for row in (1, 3)]
    contents = contents_of(batch, image=same, text=[(2, 4)]) if repeats == "mask" else None
    embeddings = dataclasses.replace(batch.embeddings(masks=ragged, contents=contents), teacher=batch.teacher)
    objective = make_objective(name, repeats=repeats, chunk_size=chunk_size)
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    leaves = [scale, *batch.values.values()]
    if objective.needs_teacher or name == "pairwise":
        objective.terms = tuple(term for term in objective.terms if type(term) is Term)
    assert_equal_to_one_by_one(objective, embeddings, leaves, scale)


@pytest.mark.parametrize("scale", [14.3, 100.0])
@pytest.mark.parametrize("name", ["clip", "tripletclip", "clip_all"])
def test_float32_equals_the_terms_to_a_millionth(name, scale):
    leaves = leaves_of(300, 64, torch.float32)
    objective = get_objective(name, chunk_size=128)
    found = objective(Embeddings(**leaves), torch.tensor(scale)).loss
    torch.testing.assert_close(
        found, one_by_one(objective, Embeddings(**leaves), torch.tensor(scale)).loss, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(("chunk_size", "tiles", "backward"), [(100, 1, 8), (24, 1, 8), (22, 4, 12)])
def test_each_product_is_made_once_for_both_directions(chunk_size, tiles, backward):
    """Four products, two for the gradients of each, and one where it is made again."""
    leaves, objective = leaves_of(12), get_objective("tripletclip", chunk_size=chunk_size)
    with Products() as seen:
        loss = objective(Embeddings(**leaves), torch.tensor(5.0)).loss
    assert seen.number == 4 * tiles
    with Products() as seen:
        loss.backward()
    assert seen.number == tiles * backward


def test_memory_is_tiles_and_never_a_whole_matrix():
    leaves = leaves_of(512, 4, torch.float32)
    with LargestTensor() as seen:
        get_objective("tripletclip", chunk_size=64)(Embeddings(**leaves), torch.tensor(10.0)).loss.backward()
    assert seen.numel == 512 * 4  # the embeddings: more than a tile
    with LargestTensor() as whole:
        get_objective("tripletclip", chunk_size=1024)(Embeddings(**leaves), torch.tensor(10.0)).loss.backward()
    assert whole.numel == 512 * 512


@pytest.mark.parametrize("chunk_size", [5, 100])
@pytest.mark.parametrize("locked", [("image", "negative_image"), ("text",), tuple(TRIPLET), ()])
@pytest.mark.parametrize("learned_scale", [True, False])
def test_only_what_needs_a_gradient_gets_one(locked, learned_scale, chunk_size):
    leaves = leaves_of()
    for role in locked:
        leaves[role].requires_grad_(False)
    scale = torch.tensor(4.0, dtype=torch.float64, requires_grad=learned_scale)
    objective = get_objective("tripletclip", chunk_size=chunk_size)
    wanted = [one for one in (scale, *leaves.values()) if one.requires_grad]
    if wanted:
        assert_equal_to_one_by_one(objective, Embeddings(**leaves), wanted, scale)
    else:
        assert not objective(Embeddings(**leaves), scale).loss.requires_grad


def test_a_locked_tower_takes_no_products_for_its_gradients():
    leaves = leaves_of()
    for role in ("image", "negative_image"):
        leaves[role].requires_grad_(False)
    loss = get_objective("tripletclip")(Embeddings(**leaves), torch.tensor(4.0, requires_grad=True)).loss
    with Products() as seen:
        loss.backward()
    assert seen.number == 4  # the gradient of the scale comes with that of the texts


TERMS = {
    "weights of the directions": (Term("image", ("text",), 0.3), Term("text", ("image",), 0.9)),
    "a weight of zero": (Term("image", ("text",), 0.0), Term("text", ("image",), 0.9)),
    "only weights of zero": (Term("image", ("text",), 0.0), Term("text", ("image",), 0)),
    "negative weights": (Term("image", ("text",), -0.3), Term("text", ("image",), -0.2)),
    "one direction alone": (Term("text", ("negative_image",), 1.0),),
    "the same queries twice": (Term("image", ("text",), 1.0), Term("image", ("negative_text", "text"), 2.0)),
    "texts with texts": (Term("text", ("negative_text",), 1.0), Term("negative_text", ("text", "image"), 1.0)),
    "a role with itself": (Term("text", ("negative_text", "text"), 1.0), Term("image", ("text",), 0.5)),
    "keys twice": (Term("image", ("text", "negative_text", "negative_text"), 1.0),),
}


@pytest.mark.parametrize("chunk_size", [5, 100])
@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_terms_of_any_form(terms, chunk_size):
    leaves = leaves_of()
    scale = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    objective = objective_of(*terms, chunk_size=chunk_size)
    named = {role: leaves[role] for role in objective.roles}
    inputs = [scale, *named.values()]
    assert_equal_to_one_by_one(objective, Embeddings(**leaves), inputs, scale)

    def loss(scale: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        moved = {**leaves, **dict(zip(named, values, strict=True))}
        return objective(Embeddings(**moved, normalized=True), scale).loss

    assert torch.autograd.gradcheck(loss, inputs)


def test_a_role_that_no_term_of_the_step_uses_has_no_gradient():
    leaves = leaves_of()
    objective = get_objective("tripletclip", alternate=True)
    objective.step = 1
    image, negative = (leaves[role] for role in ("image", "negative_image"))
    loss = objective(Embeddings(**leaves), torch.tensor(3.0)).loss
    unused, used = torch.autograd.grad(loss, (image, negative), allow_unused=True)
    assert unused is None
    assert used.abs().max() > 0


def test_a_subclass_and_a_learned_weight_are_computed_alone():
    class Doubled(Term):
        def value(self, rows, scale):
            return 2 * super().value(rows, scale)

    embeddings = Embeddings(**leaves_of())
    weight = torch.tensor(0.5, requires_grad=True)
    plain = get_objective("clip")(embeddings, 4.0).parts
    output = objective_of(Doubled("image", ("text",), 1.0), Term("text", ("image",), weight))(embeddings, 4.0)
    torch.testing.assert_close(output.parts["image_to_text"], 2 * plain["image_to_text"])
    (found,) = torch.autograd.grad(output.loss, weight)
    torch.testing.assert_close(found.double(), plain["text_to_image"])


def test_a_term_that_is_listed_twice_counts_twice():
    term = Term("image", ("text",), 1.0)
    embeddings = Embeddings(**leaves_of())
    once, twice = (objective_of(*[term] * times)(embeddings, 4.0).loss for times in (1, 2))
    torch.testing.assert_close(twice, 2 * once)


@pytest.mark.parametrize("chunk_size", [5, 100])
def test_no_further_texts_in_any_row(chunk_size):
    leaves = leaves_of()
    few = {"image": leaves["image"], "text": leaves["text"], "paraphrase": leaves["text"][:0]}
    masks = {"paraphrase": torch.zeros(12, 2, dtype=torch.bool)}
    objective = objective_of(Term("image", ("text",), 0.5), Term("image", ("paraphrase",), 0.5), chunk_size=chunk_size)
    output = objective(Embeddings(**few, masks=masks), 4.0)
    expected = info_nce(leaves["image"], [leaves["text"]], 4.0)
    torch.testing.assert_close(output.loss, expected / 2)
    assert output.parts["image_to_paraphrase"] == 0
    gradients = [torch.autograd.grad(one, leaves["image"]) for one in (output.loss, expected / 2)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("chunk_size", [5, 100])
def test_backward_twice_over_a_retained_graph_and_no_second_derivative(chunk_size):
    leaves, objective = leaves_of(), get_objective("tripletclip", chunk_size=chunk_size)
    loss = objective(Embeddings(**leaves), torch.tensor(3.0)).loss
    first, second = (torch.autograd.grad(loss, [*leaves.values()], retain_graph=True) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    factor = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (once,) = torch.autograd.grad(factor * loss, leaves["image"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        once.sum().backward()


@pytest.mark.parametrize("chunk_size", [16, 1000])
def test_backward_is_float32_under_autocast(chunk_size):
    leaves = leaves_of(64, 32, torch.float32)
    scale = torch.tensor(100.0, requires_grad=True)
    objective, inputs = get_objective("tripletclip", chunk_size=chunk_size), [scale, *leaves.values()]
    expected = torch.autograd.grad(objective(Embeddings(**leaves), scale).loss, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = torch.autograd.grad(objective(Embeddings(**leaves), scale).loss, inputs)
    assert all(torch.equal(*pair) for pair in zip(inside, expected, strict=True))


def test_large_scales_do_not_overflow():
    leaves = leaves_of(24, 6, torch.float32)
    with torch.no_grad():
        leaves["text"].copy_(-leaves["image"])  # every target is the worst of the keys
    scale = torch.tensor(1e4, requires_grad=True)
    loss = get_objective("clip", chunk_size=10)(Embeddings(**leaves), scale).loss
    logits = 1e4 * leaves["image"] @ leaves["text"].T
    targets = torch.arange(24)
    both = torch.nn.functional.cross_entropy(logits, targets) + torch.nn.functional.cross_entropy(logits.T, targets)
    torch.testing.assert_close(loss, both / 2)
    loss.backward()
    assert all(leaves[role].grad.isfinite().all() for role in ("image", "text"))
    assert scale.grad.isfinite()

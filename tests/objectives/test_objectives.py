# SPDX-License-Identifier: Apache-2.0
"""Every objective against the equations, written out densely in float64."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_tripletclip import objectives
from hf_tripletclip.objectives import (
    OBJECTIVES,
    Embeddings,
    MarginTerm,
    Term,
    available_objectives,
    get_objective,
    info_nce,
    register_objective,
    terms_table,
)
from hf_tripletclip.objectives.base import Objective, ObjectiveOutput, Rows
from hf_tripletclip.objectives.terms import roles_of
from hf_tripletclip.roles import TRIPLET
from tests.objectives.reference import SEVERAL, Batch, make_batch, make_objective, reference

ROLES = TRIPLET


def make_embeddings(rows: int = 6, dim: int = 5, seed: int = 0, dtype=torch.float64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        role: torch.nn.functional.normalize(torch.randn(rows, dim, generator=generator, dtype=dtype), dim=-1)
        for role in ROLES
    }


# Any number per row; `clip_all` takes one negative pair per row.
RAGGED = [name for name, one in OBJECTIVES.items() if {*SEVERAL} & {*roles_of(one.terms)} and name != "clip_all"]


@pytest.mark.parametrize(
    ("name", "ragged"),
    [*((name, False) for name in available_objectives()), *((name, True) for name in RAGGED)],
)
@pytest.mark.parametrize("chunk_size", [1, 4, 4096])
def test_value_and_gradients_are_those_of_the_equations(name, ragged, chunk_size):
    ours, theirs = make_batch(name, ragged=ragged), make_batch(name, ragged=ragged)
    scale, other_scale = (torch.tensor(7.0, dtype=torch.float64, requires_grad=True) for _ in range(2))
    output = make_objective(name, chunk_size=chunk_size)(ours.embeddings(masks=ragged), scale)
    expected = reference(name, theirs, other_scale)
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    expected.backward()
    torch.testing.assert_close(scale.grad, other_scale.grad)
    for role, mine in ours.values.items():
        torch.testing.assert_close(mine.grad, theirs.values[role].grad, msg=role)


@pytest.mark.parametrize("name", available_objectives())
def test_gradcheck(name):
    batch = make_batch(name, rows=4, dim=3, ragged=name in RAGGED)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    objective = make_objective(name, chunk_size=3)
    # The margin is a constant, which finite differences would move.
    objective.terms = tuple(term for term in objective.terms if not isinstance(term, MarginTerm))

    def loss(scale: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        named = dict(zip(batch.values, values, strict=True))
        embeddings = Batch(named, batch.owners, batch.teacher).embeddings(name in RAGGED, normalized=True)
        return objective(embeddings, scale).loss

    assert torch.autograd.gradcheck(loss, (scale, *batch.values.values()))


@pytest.mark.parametrize("name", available_objectives())
def test_parts_are_detached_and_add_up(name):
    objective = make_objective(name)
    output = objective(make_batch().embeddings(masks=False), torch.tensor(5.0))
    assert not any(part.requires_grad for part in output.parts.values())
    total = sum(term.weight * output.parts[term.name] for term in objective.terms)
    torch.testing.assert_close(total, output.loss.detach())
    assert output.parts.keys() == {term.name for term in objective.terms}


def test_negclip_takes_any_number_of_negative_captions():
    e = make_embeddings()
    extra = torch.cat([e["negative_text"], make_embeddings(seed=3)["text"][:4]])
    loss = get_objective("negclip")(Embeddings(e["image"], e["text"], negative_text=extra), torch.tensor(4.0)).loss
    keys = torch.cat([e["text"], extra])
    cross_entropy, labels = torch.nn.functional.cross_entropy, torch.arange(6)
    first, second = 4.0 * e["image"] @ keys.T, 4.0 * e["text"] @ e["image"].T
    torch.testing.assert_close(loss, (cross_entropy(first, labels) + cross_entropy(second, labels)) / 2)


def test_columns_and_roles_follow_from_the_terms():
    assert get_objective("clip").columns == ("image", "caption")
    assert get_objective("negclip").columns == ("image", "caption", "neg_caption")
    assert get_objective("negclip_image").columns == ("image", "caption", "neg_image")
    assert get_objective("tripletclip").columns == ("image", "caption", "neg_image", "neg_caption")
    assert get_objective("negclip").roles == ("image", "text", "negative_text")


def test_errors_say_what_is_missing():
    e = make_embeddings()
    with pytest.raises(ValueError, match=r"'tripletclip' needs negative_image.*negative_pixel_values.*neg_image"):
        get_objective("tripletclip")(Embeddings(e["image"], e["text"]), torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"5 rows of the first and 6 of the second"):
        get_objective("clip")(Embeddings(e["image"][:5], e["text"]), torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"'nope'; there are clip, "):
        get_objective("nope")
    with pytest.raises(ValueError, match=r"'clip' takes no chunks; it takes negatives_across_devices, chunk_size"):
        get_objective("clip", chunks=1)
    with pytest.raises(ValueError, match="chunk_size"):
        get_objective("clip", chunk_size=0)
    with pytest.raises(ValueError, match=r"'clip' needs text embeddings of a .* shape \(rows, dim\).*\(6,\)"):
        get_objective("clip")(Embeddings(e["image"], e["text"][:, 0]), torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"but they are torch.int64 of shape \(6, 5\)"):
        get_objective("clip")(Embeddings(e["image"], e["text"].long()), torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"equal dimension, but they have \{'image': 5, 'text': 4\}"):
        get_objective("clip")(Embeddings(e["image"], e["text"][:, :4]), torch.tensor(1.0))
    with pytest.raises(ValueError, match="'clip' received no rows"):
        get_objective("clip")(Embeddings(e["image"][:0], e["text"][:0]), torch.tensor(1.0))


def test_roles_that_the_objective_does_not_use_are_ignored():
    e = make_embeddings()
    useless = torch.full((3, 2), torch.nan)
    output = get_objective("clip")(Embeddings(e["image"], e["text"], useless, useless), torch.tensor(3.0))
    assert torch.equal(output.loss, get_objective("clip")(Embeddings(e["image"], e["text"]), torch.tensor(3.0)).loss)


def test_without_gradients():
    output = get_objective("tripletclip")(Embeddings(**make_embeddings()), torch.tensor(3.0))
    assert not output.loss.requires_grad
    with torch.no_grad():
        embeddings = {role: value.requires_grad_() for role, value in make_embeddings().items()}
        again = get_objective("tripletclip")(Embeddings(**embeddings), torch.tensor(3.0))
    assert torch.equal(output.loss, again.loss)


def test_a_subclass_adds_its_own_term():
    class WithAlignment(Objective):
        name = "with_alignment"
        terms = get_objective("clip").terms

        def compute(self, rows: Rows, scale: torch.Tensor) -> ObjectiveOutput:
            output = super().compute(rows, scale)
            alignment = (rows.own["image"] - rows.own["text"]).square().sum(dim=1).mean()
            return ObjectiveOutput(output.loss + alignment, {**output.parts, "alignment": alignment.detach()})

    embeddings = Embeddings(**make_embeddings())
    plain = get_objective("clip")(embeddings, torch.tensor(3.0))
    output = WithAlignment()(embeddings, torch.tensor(3.0))
    assert output.parts.keys() - plain.parts.keys() == {"alignment"}
    torch.testing.assert_close(output.loss, plain.loss + output.parts["alignment"])
    assert WithAlignment().columns == ("image", "caption")


@pytest.mark.parametrize("scale", [7, 7.0, np.float32(7), torch.tensor(7), torch.tensor([7.0]), torch.tensor([[7.0]])])
def test_the_scale_may_be_a_number_or_a_tensor_of_one_element(scale):
    e = make_embeddings(dtype=torch.float32)
    distilled = {"distillation": {"kind": "similarity"}}
    for options, teacher in (({}, None), (distilled, make_embeddings(seed=1, dtype=torch.float32))):
        objective = get_objective("tripletclip", **options)
        expected = objective(Embeddings(**e, teacher=teacher), torch.tensor(7.0)).loss
        assert torch.equal(objective(Embeddings(**e, teacher=teacher), scale).loss, expected)
    keys = [e["text"]]
    assert torch.equal(info_nce(e["image"], keys, scale), info_nce(e["image"], keys, torch.tensor(7.0)))


@pytest.mark.parametrize(
    "scale", [0, -1.0, float("nan"), float("inf"), True, None, "7", torch.ones(2), 7j, torch.tensor(7j), [7.0]]
)
def test_another_scale_is_one_clear_error(scale):
    e = make_embeddings()
    for call in (
        lambda: get_objective("clip")(Embeddings(**e), scale),
        lambda: info_nce(e["image"], [e["text"]], scale),
    ):
        with pytest.raises(ValueError, match="give the factor on the cosines"):
            call()


@pytest.mark.parametrize("change", [lambda row: row * 2, lambda row: row * 0.9, torch.zeros_like, lambda row: row / 0])
@pytest.mark.parametrize("role", ROLES)
def test_embeddings_that_are_not_normalised_are_refused(role, change):
    e = make_embeddings()
    e[role] = torch.cat([e[role][:-1], change(e[role][-1:])])
    with pytest.raises(ValueError, match=f"L2-normalised embeddings, but {role} embeddings are not: a row has length"):
        get_objective("tripletclip")(Embeddings(**e), 7.0)
    with pytest.raises(ValueError, match=f"but the teacher's {role} embeddings are not: a row"):
        get_objective("tripletclip", distillation={})(Embeddings(**make_embeddings(), teacher=e), 7.0)
    get_objective("tripletclip")(Embeddings(**e, normalized=True), 7.0)


def test_the_row_whose_length_is_farthest_from_one_is_named():
    e = make_embeddings()
    for longer, named in ((1.2, "0.4"), (1.7, "1.7")):
        scaled = {**e, "text": e["text"] * torch.tensor([1, 0.9, 0.4, longer, 1, 1], dtype=torch.float64)[:, None]}
        with pytest.raises(ValueError, match=f"a row has length {named}\\. Normalise them"):
            get_objective("clip")(Embeddings(**scaled), 7.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounded_lengths_are_accepted(dtype):
    e = {role: value.to(dtype) for role, value in make_embeddings(64, 512).items()}
    assert get_objective("tripletclip")(Embeddings(**e), 7.0).loss.isfinite()


def test_other_types_than_embeddings_are_one_clear_error():
    e = make_embeddings()
    with pytest.raises(TypeError, match="takes `Embeddings"):
        get_objective("clip")(e["image"], e["text"])
    with pytest.raises(ValueError, match="but they are a ndarray"):
        get_objective("clip")(Embeddings(e["image"].numpy(), e["text"]), 7.0)
    with pytest.raises(
        ValueError, match=r"needs negative_text embeddings \(of hard negative captions\).*'neg_caption'"
    ):
        get_objective("negclip")(Embeddings(e["image"], e["text"]), 7.0)


class Margin(Objective):
    """A user's objective with its own argument."""

    name = "margin"
    terms = (Term("image", ("text",), 1.0),)

    def __init__(self, margin: float = 0.1, **kwargs) -> None:
        super().__init__(**kwargs)
        self.margin = margin

    def compute(self, rows: Rows, scale: torch.Tensor) -> ObjectiveOutput:
        output = super().compute(rows, scale)
        return ObjectiveOutput(loss=output.loss + self.margin, parts=output.parts)


@pytest.fixture
def registry(monkeypatch):
    known = dict(objectives.OBJECTIVES)
    monkeypatch.setattr(objectives, "OBJECTIVES", known)
    return known


def test_a_users_own_objective_is_registered(registry):
    assert register_objective(Margin) is Margin
    assert get_objective("margin", margin=0.5, chunk_size=4).settings == {"margin": 0.5, "chunk_size": 4}
    assert "margin" in available_objectives()
    register_objective(type("Margin", (Margin,), {"__module__": Margin.__module__}))  # a cell that is run again
    with pytest.raises(ValueError, match="CLIPObjective has the name 'clip' already: rename Mine"):
        register_objective(type("Mine", (objectives.CLIPObjective,), {}))
    with pytest.raises(ValueError, match="use the unknown roles picture; the roles are image, text"):
        register_objective(type("Mine", (Objective,), {"name": "mine", "terms": (Term("picture", ("text",), 1.0),)}))
    fine = {"name": "mine", "terms": Margin.terms}
    changes = (
        {"name": ""},
        {"name": 3},
        {"name": None},
        {"terms": ()},
        {"terms": None},
        {"terms": (1, *Margin.terms)},
    )
    nameless = [type("Mine", (Objective,), {**fine, **change}) for change in changes]
    for wrong in (Margin(), type("Mine", (Objective,), {}), int, "margin", *nameless):
        with pytest.raises(TypeError, match=r"subclass of `Objective`|needs a `name`, and `terms`"):
            register_objective(wrong)


def test_a_missing_argument_without_a_default_is_an_error(registry):
    class Needy(Margin):
        name = "needy"

        def __init__(self, margin: float, power: float, **kwargs) -> None:
            super().__init__(margin, **kwargs)
            self.power = power

    register_objective(Needy)
    with pytest.raises(ValueError, match=r"'needy' needs margin, power: give them in .*\('needy', margin="):
        get_objective("needy", chunk_size=4)
    with pytest.raises(ValueError, match="'needy' needs power: give it in `objective_kwargs`"):
        get_objective("needy", margin=0.5)
    assert get_objective("needy", margin=0.5, power=2).settings == {"margin": 0.5, "power": 2}
    assert "| `needy` | `image`, `caption` |" in terms_table()

    class Given(Needy):
        name = "given"

        def __init__(self, **kwargs) -> None:
            super().__init__(margin=0.25, power=3, **kwargs)
            if self.chunk_size == 5:
                raise TypeError("of its own")

    register_objective(Given)
    assert get_objective("given", chunk_size=4).margin == 0.25
    with pytest.raises(TypeError, match="of its own"):
        get_objective("given", chunk_size=5)


def test_settings_are_the_arguments_that_differ_from_the_defaults():
    documented = {"negatives_across_devices": True, "chunk_size": 2048, "distillation": None}
    assert get_objective("clip").settings == get_objective("clip", **documented).settings == {}
    settings = {"negatives_across_devices": False, "distillation": {"kind": "embedding", "weight": 2.0}}
    assert get_objective("clip", **settings).settings == settings


@pytest.mark.parametrize("name", available_objectives())
def test_arguments_of_another_type_are_refused(name):
    flags = [one for one, argument in OBJECTIVES[name].arguments().items() if isinstance(argument.default, bool)]
    assert "negatives_across_devices" in flags
    for flag in flags:
        with pytest.raises(ValueError, match=f"`{flag}` of the objective '{name}' is 'false'; give true or false"):
            get_objective(name, **{flag: "false"})
    for size in ("4", 4.5, 0, None):
        with pytest.raises(ValueError, match=r"`chunk_size` is .*; give a whole number of at least 1"):
            get_objective(name, chunk_size=size)


class Calls(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("repeats", ["negative", "mask"])
@pytest.mark.parametrize("name", RAGGED)
def test_the_positions_of_a_mask_are_computed_once(name, repeats):
    """Computing them waits for the device."""
    batch, objective = make_batch(name, ragged=True), make_objective(name, repeats=repeats)
    contents = {role: torch.arange(len(batch.values[role])) for role in objective.roles}
    embeddings = batch.embeddings(normalized=True, contents=contents)
    with Calls() as calls:
        objective(embeddings, torch.tensor(7.0))
    own = sum(isinstance(term, objectives.PairwiseTerm) for term in objective.terms)
    assert len(embeddings.masks) <= calls.counts["nonzero"] <= len(embeddings.masks) + own


@pytest.mark.parametrize(
    "term",
    [
        objectives.OwnTerm("paraphrase", "text", ("negative_text",), 1.0),
        objectives.AnyOwnTerm("paraphrase", "text", ("negative_text",), 1.0),
        objectives.MarginTerm("paraphrase", "text", ("negative_text",), 1.0),
        objectives.PairwiseTerm("image", "paraphrase", ("negative_text",), 1.0),
        objectives.AnyTerm("paraphrase", "text", 1.0),
        objectives.CloseTerm("paraphrase", "text", 1.0),
        objectives.LocalOwnTerm("paraphrase", "text", ("negative_text",), 1.0),
        objectives.ReconstructionTerm("paraphrase", "text", 1.0, "nowhere"),
    ],
    ids=lambda term: type(term).__name__,
)
def test_a_term_that_needs_one_per_row_refuses_more_or_fewer(term):
    """Otherwise embeddings of one row would be compared with those of another."""
    one = type("OneObjective", (Objective,), {"name": "one", "terms": (term,)})()
    batch = make_batch("tripletclip", rows=4, ragged=True)
    with pytest.raises(
        ValueError, match=f"{term.name} of the objective 'one' needs exactly one paraphrase in each row"
    ):
        one(batch.embeddings(masks=True), 3.0)
    if not (term.needs_tokens or term.needs_states):
        values = {role: batch.values[role][:4] for role in ("image", "text", "negative_text", "paraphrase")}
        masks = {"paraphrase": torch.ones(4, 1, dtype=torch.bool)}
        told = one(Embeddings(**values, masks=masks), 3.0).loss
        torch.testing.assert_close(told, one(Embeddings(**values), 3.0).loss)

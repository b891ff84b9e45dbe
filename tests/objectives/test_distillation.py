# SPDX-License-Identifier: Apache-2.0
"""Distillation against its equations, written out in float64, and wrong settings."""

from __future__ import annotations

import math

import pytest
import torch

from hf_tripletclip.objectives import Embeddings, available_objectives, get_objective
from hf_tripletclip.objectives.base import Rows
from hf_tripletclip.objectives.distillation import Distillation, make_distillation
from hf_tripletclip.roles import ROLES
from tests.objectives.reference import make_objective


def random_embeddings(seed: int, rows: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(ROLES), rows, 6, generator=generator, dtype=torch.float64)
    return dict(zip(ROLES, torch.nn.functional.normalize(values, dim=-1), strict=True))


def naive(kind: str, student: dict, teacher: dict, roles: tuple[str, ...], scale: float) -> float:
    if kind == "embedding":
        means = []
        for role in roles:
            rows = [
                sum((float(a) - float(b)) ** 2 for a, b in zip(mine, wanted, strict=True))
                for mine, wanted in zip(student[role], teacher[role], strict=True)
            ]
            means.append(sum(rows) / len(rows))
        return sum(means) / len(means)
    halves = []
    for query, keys in (("image", ("text", "negative_text")), ("text", ("image", "negative_image"))):
        rows = []
        for row in range(len(student[query])):
            p = {}
            for side, values in (("student", student), ("teacher", teacher)):
                logits = [
                    scale * float(values[query][row] @ key) for role in keys if role in roles for key in values[role]
                ]
                total = sum(math.exp(value) for value in logits)
                p[side] = [math.exp(value) / total for value in logits]
            rows.append(sum(t * math.log(t / s) for t, s in zip(p["teacher"], p["student"], strict=True)))
        halves.append(sum(rows) / len(rows))
    return sum(halves) / 2


@pytest.mark.parametrize("kind", ["embedding", "similarity"])
@pytest.mark.parametrize("name", available_objectives())
def test_the_term_is_its_equation_and_adds_to_any_objective(name, kind):
    student, teacher = random_embeddings(0), random_embeddings(1)
    scale = torch.tensor(7.0, dtype=torch.float64)
    plain = make_objective(name)
    taught = make_objective(name, distillation={"kind": kind, "weight": 0.3})
    without = plain(Embeddings(**student, teacher=teacher), scale)
    output = taught(Embeddings(**student, teacher=teacher), scale)
    expected = naive(kind, student, teacher, plain.roles, 7.0)
    assert output.parts["distillation"].item() == pytest.approx(expected, rel=1e-9)
    assert output.loss.item() == pytest.approx(without.loss.item() + 0.3 * expected, rel=1e-9)
    assert output.parts.keys() == without.parts.keys() | {"distillation"}


@pytest.mark.parametrize(
    ("kind", "roles"),
    [
        ("embedding", ["text"]),
        ("embedding", ["negative_text", "image"]),
        ("similarity", ["image", "text"]),
        ("similarity", ["text", "image", "negative_image"]),
    ],
)
def test_some_roles_only(kind, roles):
    student, teacher = random_embeddings(0), random_embeddings(1)
    held = {role: value for role, value in teacher.items() if role in roles}  # of others none is asked for
    objective = get_objective("tripletclip", distillation={"kind": kind, "roles": roles})
    scale = torch.tensor(7.0, dtype=torch.float64)
    found = objective(Embeddings(**student, teacher=held), scale).parts["distillation"].item()
    assert found == pytest.approx(naive(kind, student, teacher, tuple(roles), 7.0), rel=1e-9)
    assert objective.settings == {"distillation": {"kind": kind, "weight": 1.0, "roles": roles}}
    assert set(objective.teacher_roles) == set(roles)
    again = get_objective("tripletclip", **objective.settings)
    assert again.settings == objective.settings


@pytest.mark.parametrize("kind", ["embedding", "similarity"])
def test_a_student_that_is_the_teacher_has_nothing_to_learn(kind):
    values = {role: value.requires_grad_() for role, value in random_embeddings(0).items()}
    teacher = {role: value.detach().clone() for role, value in values.items()}
    objective = get_objective("tripletclip", distillation={"kind": kind})
    output = objective(Embeddings(**values, teacher=teacher), torch.tensor(7.0, dtype=torch.float64))
    assert output.parts["distillation"].item() == pytest.approx(0.0, abs=1e-12)
    output.loss.backward()
    gradients = {role: value.grad.clone() for role, value in values.items() if role in objective.roles}
    for value in values.values():
        value.grad = None
    get_objective("tripletclip")(Embeddings(**values), torch.tensor(7.0, dtype=torch.float64)).loss.backward()
    for role, gradient in gradients.items():
        torch.testing.assert_close(gradient, values[role].grad, msg=role)


def test_similarity_lets_the_space_turn_and_embedding_does_not():
    student = random_embeddings(0)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    teacher = {role: value @ rotation for role, value in student.items()}
    scale = torch.tensor(7.0, dtype=torch.float64)
    parts = {
        kind: get_objective("tripletclip", distillation={"kind": kind})(Embeddings(**student, teacher=teacher), scale)
        for kind in ("embedding", "similarity")
    }
    assert parts["similarity"].parts["distillation"].item() == pytest.approx(0.0, abs=1e-12)
    assert parts["embedding"].parts["distillation"].item() > 0.1


@pytest.mark.parametrize("kind", ["embedding", "similarity"])
def test_the_mean_over_processes_is_that_over_all_rows(kind):
    student, teacher = random_embeddings(0), random_embeddings(1)
    scale, term = torch.tensor(7.0, dtype=torch.float64), Distillation(kind)

    def value(start: int, stop: int, processes: int) -> float:
        sides = [
            Rows({role: rows[start:stop] for role, rows in side.items()}, side, dict.fromkeys(side, start), processes)
            for side in (student, teacher)
        ]
        return term(*sides, scale).item()

    assert (value(0, 2, 2) + value(2, 5, 2)) / 2 == pytest.approx(value(0, 5, 1))


def test_the_scale_does_not_learn_from_it():
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    student = {role: value.requires_grad_() for role, value in random_embeddings(0).items()}
    gradients = []
    for options in ({}, {"distillation": {"kind": "similarity"}}):
        output = get_objective("clip", **options)(Embeddings(**student, teacher=random_embeddings(1)), scale)
        gradients.append(torch.autograd.grad(output.loss, scale)[0])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "feature"}, "the kind 'feature'; give embedding or similarity"),
        ({"weight": 0}, "the weight 0; give a number greater than 0"),
        ({"weight": "1"}, "the weight '1'; give a number"),
        ({"weight": float("inf")}, "the weight inf"),
        ({"weight": float("nan")}, "the weight nan"),
        ({"roles": "text"}, "the roles 'text'; give a list of some of image, text"),
        *(
            ({"roles": roles}, "has the roles .*; give a list")
            for roles in ([], 5, True, {"text": 1}, [["text"]], [{}])
        ),
        ({"kind": "embedding", "roles": ["caption"]}, r"the roles \['caption'\]"),
        ({"roles": ["text"]}, r"similarity compares images with texts, but its roles are \['text'\]"),
        (
            {"kind": "embedding", "roles": ["text", "paraphrase"]},
            "has the role paraphrase, which the objective does not use",
        ),
        ({"temperature": 2}, "takes `kind`, `weight` and `roles`, not 'temperature'"),
        ("similarity", "takes `kind`, `weight` and `roles`, not 'similarity'"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        get_objective("clip", distillation=settings)


def test_settings_that_are_accepted():
    assert make_distillation(None) is None
    made = Distillation("embedding", 2.0)
    assert make_distillation(made) is made
    assert get_objective("clip", distillation={"weight": 2}).distillation.kind == "similarity"


def test_a_teacher_that_is_missing_or_of_another_shape():
    objective = get_objective("negclip", distillation={})
    student, scale = random_embeddings(0), torch.tensor(7.0, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"teacher's image embeddings of shape \(5, 6\), but there are none"):
        objective(Embeddings(**student), scale)
    with pytest.raises(ValueError, match=r"teacher's image embeddings of shape \(5, 6\), but their shape is \(4, 6\)"):
        objective(Embeddings(**student, teacher=random_embeddings(1, rows=4)), scale)

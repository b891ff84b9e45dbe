# SPDX-License-Identifier: Apache-2.0
"""Terms that use patches and words."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hf_tripletclip.objectives import Embeddings, LocalOwnTerm, Tokens, get_objective, token_terms
from hf_tripletclip.objectives.describe import describe_objective
from tests.objectives.reference import Batch, local_own, make_batch, make_tokens, reference

WEIGHT = 0.2


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(("gamma", "smoothing"), [(2.0, 0.02), (0.0, 0.0), (1.0, 0.3)])
def test_value_and_gradients_are_those_of_the_equations(ragged, gamma, smoothing):
    ours, theirs = make_batch(ragged=ragged), make_batch(ragged=ragged)
    tokens, other_tokens = make_tokens(ours), make_tokens(theirs)
    scale, other_scale = (torch.tensor(7.0, dtype=torch.float64, requires_grad=True) for _ in range(2))
    objective = get_objective("fsc_clip", gamma=gamma, smoothing=smoothing, local_weight=WEIGHT)
    plain = get_objective("fsc_clip", gamma=gamma, smoothing=smoothing)
    output = objective(ours.embeddings(masks=ragged, tokens=tokens), scale)
    local = local_own(theirs, other_tokens, other_scale, gamma, smoothing)
    expected = plain(theirs.embeddings(masks=ragged), other_scale).loss + WEIGHT * local
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.parts["image_to_own_text_locally"], local.detach())
    output.loss.backward()
    expected.backward()
    torch.testing.assert_close(scale.grad, other_scale.grad)
    for role, mine in tokens.items():
        torch.testing.assert_close(mine.values.grad, other_tokens[role].values.grad, msg=role)
    assert torch.equal(tokens["text"].values.grad != 0, tokens["text"].mask[..., None].expand(-1, -1, 4)) != ragged


def test_gradcheck(monkeypatch):
    batch = make_batch(rows=4, dim=3, ragged=True)
    tokens = make_tokens(batch, dim=3)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    objective = get_objective("fsc_clip", local_weight=WEIGHT)
    shares = token_terms.patch_shares
    kept: list[torch.Tensor] = []
    # They are constants, which finite differences would move.
    monkeypatch.setattr(token_terms, "patch_shares", lambda *of: kept.append(shares(*of)) or kept[-1])
    loss_of(objective, batch, tokens, scale)

    def loss(scale: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        as_kept = iter(kept)
        with monkeypatch.context() as patched:
            patched.setattr(token_terms, "patch_shares", lambda *of: next(as_kept))
            moved = {
                role: dataclasses.replace(one, values=value)
                for (role, one), value in zip(tokens.items(), values, strict=True)
            }
            return loss_of(objective, batch, moved, scale)

    assert len(kept) == 2
    assert torch.autograd.gradcheck(loss, (scale, *(one.values for one in tokens.values())))


def loss_of(objective, batch: Batch, tokens: dict[str, Tokens], scale: torch.Tensor) -> torch.Tensor:
    return objective(batch.embeddings(normalized=True, tokens=tokens), scale).loss


def test_without_a_weight_nothing_changes():
    batch, objective = make_batch(), get_objective("fsc_clip", local_weight=0)
    assert objective.token_roles == ()
    assert objective.terms == get_objective("fsc_clip").terms
    output = objective(batch.embeddings(masks=False, tokens=make_tokens(batch)), 7.0)
    assert torch.equal(output.loss, get_objective("fsc_clip")(batch.embeddings(masks=False), 7.0).loss)
    torch.testing.assert_close(output.loss, reference("fsc_clip", batch, torch.tensor(7.0)))


def test_shares_depend_only_on_the_patches_that_count():
    values = torch.tensor([[[1.0, 0], [3, 0], [2, 0], [9, 9]]])
    patches = Tokens(values, torch.tensor([[True, True, True, False]]))
    words = Tokens(torch.tensor([[[1.0, 0], [0, 1], [-1, 0]]]), torch.ones(1, 3, dtype=torch.bool))
    found = token_terms.patch_shares(patches, words)
    third = 1 / 3
    expected = torch.tensor([[[0, 2 * third, third, 0], [third, third, third, 0], [2 * third, 0, third, 0]]])
    torch.testing.assert_close(found, expected)
    one = Tokens(values[:, :1], torch.ones(1, 1, dtype=torch.bool))
    assert torch.equal(token_terms.patch_shares(one, words), torch.ones(1, 3, 1))


def test_words_that_do_not_count_and_padding_change_nothing():
    batch = make_batch(ragged=True)
    tokens, scale = make_tokens(batch), torch.tensor(7.0)
    objective = get_objective("fsc_clip", local_weight=WEIGHT)
    expected = loss_of(objective, batch, tokens, scale)
    text = tokens["text"]
    noise = torch.where(text.mask[..., None], text.values, 100.0)
    longer = Tokens(
        torch.nn.functional.pad(noise, (0, 0, 0, 3), value=7.0), torch.nn.functional.pad(text.mask, (0, 3))
    )
    torch.testing.assert_close(loss_of(objective, batch, {**tokens, "text": longer}, scale), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    batch, objective = make_batch(), get_objective("fsc_clip", local_weight=WEIGHT)
    tokens = {role: Tokens(one.values.to(dtype), one.mask) for role, one in make_tokens(batch).items()}
    rounded = {role: Tokens(one.values.float(), one.mask) for role, one in tokens.items()}
    values = {role: value.float() for role, value in batch.values.items()}
    outputs = [objective(Embeddings(**values, tokens=given), 7.0) for given in (tokens, rounded)]
    assert torch.equal(outputs[0].loss, outputs[1].loss)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(objective(Embeddings(**values, tokens=rounded), 7.0).loss, outputs[1].loss)


def test_errors_say_what_is_missing():
    batch, objective = make_batch(), get_objective("fsc_clip", local_weight=WEIGHT)
    tokens = make_tokens(batch)
    with pytest.raises(ValueError, match=r"'fsc_clip' uses patches.*\{'image': Tokens.*given: none"):
        objective(batch.embeddings(masks=False), 7.0)
    image, text = tokens["image"], tokens["text"]
    wrong = {
        "words.*'text'.*given: torch.float64 of shape \\(5, 4, 4\\)": Tokens(text.values[:5], text.mask[:5]),
        "and torch.int64 of shape": Tokens(text.values, text.mask.long()),
        "and torch.bool of shape \\(6, 3\\)": Tokens(text.values, text.mask[:, :3]),
        "torch.int64 of shape": Tokens(text.values.long(), text.mask),
        r"of equal dimension, but they have \{'image': 4, 'text': 3": Tokens(text.values[..., :3], text.mask),
    }
    for message, given in wrong.items():
        with pytest.raises(ValueError, match=message):
            objective(batch.embeddings(masks=False, tokens={**tokens, "image": image, "text": given}), 7.0)
    for weight in (-1, float("nan"), "1", True):
        with pytest.raises(ValueError, match="`local_weight` is"):
            get_objective("fsc_clip", local_weight=weight)


def test_settings_card_and_columns():
    objective = get_objective("fsc_clip", local_weight=WEIGHT)
    assert objective.settings == {"local_weight": WEIGHT}
    assert objective.columns == get_objective("fsc_clip").columns
    assert objective.token_roles == ("image", "text", "negative_text")
    assert objective.terms[-1].formula == "local[γ = 2, ε = 0.02](v → t | t')"
    text = describe_objective(objective)
    assert r"\tfrac{1}{5} \mathrm{local}_{\gamma=2,\varepsilon=0.02}(v \to t \mid t')" in text
    assert LocalOwnTerm.definition in text
    assert "local" not in describe_objective(get_objective("fsc_clip"))

# SPDX-License-Identifier: Apache-2.0
"""The term whose frozen decoder writes paraphrases from captions."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import BertConfig, T5ForConditionalGeneration

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.objectives import ReconstructionTerm, get_objective, reconstruction
from hf_tripletclip.objectives.describe import describe_objective
from tests.objectives.reference import Batch, make_batch, reference
from tests.tiny import decoder_labels, further_texts, negatives, positives, tiny_config
from tests.tiny_decoder import WIDTH, tiny_decoder

WEIGHT = 0.3


def make_objective(**settings):
    return get_objective("read_alignment", decoder=tiny_decoder(), reconstruction_weight=WEIGHT, **settings)


def make_states(batch: Batch) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(batch.values["text"]), WIDTH, generator=generator, dtype=torch.float64).requires_grad_()


def given(batch: Batch, states: torch.Tensor, ragged: bool, **more):
    labels = decoder_labels(torch.arange(len(batch.values["paraphrase"])))
    return batch.embeddings(masks=ragged, states={"text": states}, labels={"paraphrase": labels}, **more)


def written(batch: Batch, states: torch.Tensor) -> torch.Tensor:
    """-mean log P, token by token, each from the tokens before it, by transformers' whole T5."""
    decoder = T5ForConditionalGeneration.from_pretrained(tiny_decoder()).double().eval()
    costs = []
    for n, labels in enumerate(decoder_labels(torch.arange(len(batch.values["paraphrase"])))):
        read, before = states[batch.owners["paraphrase"][n]], [0]
        for label in labels.tolist():
            if label == -100:
                break
            logits = decoder(encoder_outputs=(read[None, None],), decoder_input_ids=torch.tensor([before])).logits
            costs.append(-torch.log(logits[0, -1].softmax(dim=-1)[label]))
            before.append(label)
    return torch.stack(costs).mean()


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("at_a_time", [1, 4, 64])
def test_value_and_gradients_are_those_of_the_equations(monkeypatch, ragged, at_a_time):
    monkeypatch.setattr(reconstruction, "TEXTS_AT_A_TIME", at_a_time)
    ours, theirs = make_batch(ragged=ragged), make_batch(ragged=ragged)
    states, other = make_states(ours), make_states(theirs)
    scale = torch.tensor(7.0, dtype=torch.float64)
    output = make_objective()(given(ours, states, ragged), scale)
    cost = written(theirs, other)
    expected = reference("read_alignment", theirs, scale) + WEIGHT * cost
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.parts["text_writes_paraphrase"], cost.detach())
    output.loss.backward()
    expected.backward()
    torch.testing.assert_close(states.grad, other.grad)
    assert states.grad.abs().max() > 1e-3


def test_gradcheck():
    batch = make_batch(rows=4, dim=3, ragged=True)
    objective, states = make_objective(), make_states(batch)

    def loss(states: torch.Tensor) -> torch.Tensor:
        return objective(given(batch, states, True, normalized=True), 7.0).loss

    # transformers' T5 has its norms and softmax in float32, whatever its weights are.
    assert torch.autograd.gradcheck(loss, (states,), eps=1e-2, atol=1e-3)


def test_it_is_the_loss_of_transformers_own_t5():
    batch = make_batch()
    states = make_states(batch).detach().float()
    labels = decoder_labels(torch.arange(6))
    decoder = T5ForConditionalGeneration.from_pretrained(tiny_decoder()).eval()
    expected = decoder(encoder_outputs=(states[:, None],), labels=labels).loss
    values = {role: value.detach().float() for role, value in batch.values.items()}
    output = make_objective()(given(Batch(values, batch.owners, batch.teacher), states, False), 7.0)
    torch.testing.assert_close(output.parts["text_writes_paraphrase"], expected.detach())


def test_without_a_decoder_nothing_changes():
    batch = make_batch()
    plain = get_objective("read_alignment", reconstruction_weight=5.0)
    assert plain.terms == get_objective("read_alignment").terms
    assert (plain.state_roles, plain.label_roles, plain.decoder_width) == ((), (), None)
    collator = object()
    assert plain.prepare_collator(collator) is collator
    assert torch.equal(
        plain(given(batch, make_states(batch), False), 7.0).loss,
        get_objective("read_alignment")(batch.embeddings(masks=False), 7.0).loss,
    )


def test_there_is_one_frozen_decoder_without_dropout():
    decoder = reconstruction.load_decoder(tiny_decoder())
    assert decoder is reconstruction.load_decoder(tiny_decoder())
    assert decoder.config.dropout_rate > 0
    assert not decoder.training
    assert not any(parameter.requires_grad for parameter in decoder.parameters())
    batch, objective = make_batch(), make_objective()
    first, second = (objective(given(batch, make_states(batch), False), 7.0).loss for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("dtype", "same"), [(torch.float16, True), (torch.bfloat16, False)])
def test_float16_is_not_used_because_a_t5_overflows_in_it(dtype, same):
    batch = make_batch()
    values = {role: value.detach().float() for role, value in batch.values.items()}
    batch, states = Batch(values, batch.owners, batch.teacher), make_states(batch).detach().float().requires_grad_()
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            output = make_objective()(given(batch, states, False), 7.0)
        (grad,) = torch.autograd.grad(output.loss, states)
        found.append((output.parts["text_writes_paraphrase"], grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True)) is same
    torch.testing.assert_close(*found, rtol=0.1, atol=0.05)


def test_rows_without_paraphrases():
    batch = make_batch()
    none = {**batch.values, "paraphrase": batch.values["paraphrase"][:0]}
    masks = {"paraphrase": torch.zeros(6, 0, dtype=torch.bool)}
    states = make_states(batch)
    embeddings = dataclasses.replace(
        Batch(none, batch.owners, batch.teacher).embeddings(masks=False),
        masks=masks,
        states={"text": states},
        labels={"paraphrase": torch.full((0, 1), -100)},
    )
    output = make_objective()(embeddings, 7.0)
    output.loss.backward()
    assert output.parts["text_writes_paraphrase"] == 0
    assert torch.equal(states.grad, torch.zeros_like(states))


def test_errors_say_what_is_missing(tmp_path):
    batch, objective = make_batch(), make_objective()
    with pytest.raises(ValueError, match=r"has a decoder: it needs `Embeddings\(states=\{'text'.*given: none"):
        objective(batch.embeddings(masks=False), 7.0)
    fine = given(batch, make_states(batch), False)
    for labels, said in (
        (None, "none"),
        ({"paraphrase": torch.ones(5, 3).long()}, r"torch.int64 of shape \(5, 3\)"),
        ({"paraphrase": torch.ones(6, 3)}, r"torch.float32 of shape \(6, 3\)"),
    ):
        with pytest.raises(ValueError, match=rf"labels=\{{'paraphrase'.*of shape \(6, length\); given: {said}"):
            objective(dataclasses.replace(fine, labels=labels), 7.0)
    for decoder in ("", " ", 3, ["t5"]):
        with pytest.raises(ValueError, match=r"`decoder` is .*; give the directory of a T5"):
            get_objective("read_alignment", decoder=decoder)
    with pytest.raises(ValueError, match="`reconstruction_weight` is -1"):
        get_objective("read_alignment", reconstruction_weight=-1)


def test_other_models_than_a_t5_are_refused_when_the_objective_is_set(tmp_path):
    model = TripletCLIPModel(tiny_config())
    with pytest.raises(ValueError, match=r"`decoder` is '.*nowhere', whose config cannot be loaded.*google/t5"):
        model.set_objective("read_alignment", decoder=str(tmp_path / "nowhere"))
    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match=r"`decoder` '.*bert' is a bert; give a T5"):
        model.set_objective("read_alignment", decoder=str(tmp_path / "bert"))
    assert model.config.objective == TripletCLIPModel(tiny_config()).config.objective
    assert "decoder_input" not in dict(model.named_modules())


def test_settings_and_card():
    objective = make_objective()
    assert objective.settings == {"decoder": tiny_decoder(), "reconstruction_weight": WEIGHT}
    text = describe_objective(objective)
    assert r"\mathrm{R}(t \to p)" in text
    assert ReconstructionTerm.definition in text
    assert tiny_decoder() not in text


# ---- The model ----


def make_model() -> TripletCLIPModel:
    torch.manual_seed(0)
    model = TripletCLIPModel(tiny_config()).double().eval()
    model.set_objective(make_objective())
    return model


def make_inputs() -> dict[str, torch.Tensor]:
    batch = {**positives(5), **negatives(5), **further_texts(5)}
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


def test_the_decoder_reads_the_pooled_output_before_its_projection():
    model, batch = make_model(), make_inputs()
    output = model(**batch, return_loss=True, return_tokens=True)
    pooled = model.text_model(batch["input_ids"], batch["attention_mask"]).pooler_output
    expected = pooled @ model.decoder_input.weight.T
    torch.testing.assert_close(output.states["text"], expected)
    assert output.states.keys() == {"text"}
    labels = batch["paraphrase_decoder_targets"]
    owners = batch["paraphrase_mask"].nonzero()[:, 0]
    decoder = T5ForConditionalGeneration.from_pretrained(tiny_decoder()).double().eval()
    cost = decoder(encoder_outputs=(expected[owners][:, None],), labels=labels).loss
    torch.testing.assert_close(output.loss_parts["text_writes_paraphrase"], cost.detach())
    output.loss.backward()
    assert model.decoder_input.weight.grad.abs().max() > 1e-4
    # What a tower put out before serves too.
    del batch["attention_mask"]
    kept = {**batch, "input_ids": pooled.detach()}
    kept = {name: value for name, value in kept.items() if name.startswith(("input", "pixel"))}
    torch.testing.assert_close(model(**kept, return_loss=False, return_tokens=True).states["text"], expected)


def test_the_matrix_belongs_to_the_objective_not_to_saved_models(tmp_path):
    model = make_model()
    plain = TripletCLIPModel(tiny_config())
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert "decoder_input.weight" in dict(model.named_parameters())
    model.save_pretrained(tmp_path)
    again, info = TripletCLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert again.objective.decoder == tiny_decoder()
    with pytest.raises(ValueError, match=r"does not know of it yet: call `model.set_objective`"):
        again.double()(**make_inputs(), return_loss=True)
    first = model.decoder_input
    model.set_objective(make_objective())
    assert model.decoder_input is first  # what has been learned stays
    model.set_objective("negclip")
    assert model.decoder_input is None
    assert "decoder_input.weight" not in dict(model.named_parameters())
    state = torch.get_rng_state()
    model.set_objective(make_objective())
    assert torch.equal(model.decoder_input.weight, first.weight)
    assert torch.equal(torch.get_rng_state(), state)

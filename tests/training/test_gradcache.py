# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import copy

import pytest
import torch

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.training.gradcache import cached_backward, split_batch
from tests.objectives.towers_worker import SETTINGS
from tests.tiny import further_texts, negatives, positives, tiny_config


def make_model(dropout: float = 0.0) -> TripletCLIPModel:
    torch.manual_seed(0)
    config = tiny_config()
    config.text_config.attention_dropout = config.vision_config.attention_dropout = dropout
    return TripletCLIPModel(config).train()


def run_cached(model: TripletCLIPModel, batch: dict, mini_batch_size: int, **kwargs):
    return cached_backward(
        model,
        model,
        batch,
        mini_batch_size=mini_batch_size,
        backward=lambda loss: loss.backward(),
        no_sync=contextlib.nullcontext,
        **kwargs,
    )


@pytest.mark.parametrize("name", ["clip", "negclip", "negclip_image", "tripletclip", "clip_all", *SETTINGS])
@pytest.mark.parametrize("mini_batch_size", [1, 3, 7, 100])
def test_loss_and_gradients_are_those_of_the_whole_batch(name, mini_batch_size):
    batch = {**positives(7), **negatives(7)}
    if name in SETTINGS:
        batch |= further_texts(7)
    batch = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
    model = make_model().double()
    name, settings = SETTINGS.get(name, (name, {}))
    model.set_objective(name, **settings)
    reference = copy.deepcopy(model)
    expected = reference(**batch, return_loss=True)
    expected.loss.backward()

    loss, parts = run_cached(model, batch, mini_batch_size)
    torch.testing.assert_close(loss, expected.loss.detach())
    assert parts.keys() == expected.loss_parts.keys()
    for (parameter_name, parameter), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-6, atol=1e-9, msg=parameter_name)


def test_several_negatives_per_row_stay_with_their_row():
    batch = {"pixel_values": torch.arange(3), "negative_input_ids": torch.arange(6)}
    first, second = split_batch(batch, 2)
    assert first["negative_input_ids"].tolist() == [0, 1, 2, 3]
    assert second["negative_input_ids"].tolist() == [4, 5]


@pytest.mark.parametrize("number", [0, 1, 4, 9])
@pytest.mark.parametrize("mini_batch_size", [1, 2, 100])
def test_any_number_of_negative_captions_is_cut_in_proportion(number, mini_batch_size):
    batch = {**positives(3), **{name: value[:number] for name, value in negatives(9).items() if "pixel" not in name}}
    pieces = split_batch(batch, mini_batch_size)
    assert torch.equal(torch.cat([piece["negative_input_ids"] for piece in pieces]), batch["negative_input_ids"])
    model = make_model()
    model.set_objective("negclip")
    expected = model(**batch, return_loss=True).loss
    loss, _ = run_cached(model, batch, mini_batch_size)
    torch.testing.assert_close(loss, expected.detach())


def test_both_forwards_draw_the_same_dropout():
    batch = {**positives(6), **negatives(6)}
    model = make_model(dropout=0.3)
    seen: list[torch.Tensor] = []
    model.visual_projection.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    torch.manual_seed(1)
    run_cached(model, batch, 2)
    first, second = seen[:3], seen[3:]
    assert len(second) == 3
    for without_graph, with_graph in zip(first, second, strict=True):
        assert torch.equal(without_graph, with_graph)
    assert not torch.equal(first[0], model.visual_projection(torch.zeros(1, 32)).expand_as(first[0]))


def test_the_random_state_afterwards_is_that_of_one_forward():
    batch = {**positives(6), **negatives(6)}
    model = make_model(dropout=0.3)
    torch.manual_seed(1)
    with torch.no_grad():
        for mini_batch in split_batch(batch, 2):
            model(**mini_batch)
    expected = torch.rand(1)
    torch.manual_seed(1)
    run_cached(model, batch, 2)
    assert torch.equal(torch.rand(1), expected)


def test_loss_weight_scales_gradients_only():
    batch = {**positives(6), **negatives(6)}
    full, half = make_model(), make_model()
    loss, _ = run_cached(full, batch, 2)
    same_loss, _ = run_cached(half, batch, 2, loss_weight=0.5)
    assert torch.equal(loss, same_loss)
    torch.testing.assert_close(half.logit_scale.grad, full.logit_scale.grad / 2)


def test_only_the_last_mini_batch_synchronises():
    entered = []

    @contextlib.contextmanager
    def no_sync():
        entered.append(1)
        yield

    batch = {**positives(6), **negatives(6)}
    model = make_model()
    cached_backward(model, model, batch, mini_batch_size=2, backward=lambda loss: loss.backward(), no_sync=no_sync)
    assert len(entered) == 2

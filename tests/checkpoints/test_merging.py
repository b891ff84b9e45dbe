# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.checkpoints.merging import interpolate
from tests.tiny import tiny_config


def make_model(seed: int, **kwargs) -> TripletCLIPModel:
    torch.manual_seed(seed)
    return TripletCLIPModel(tiny_config(**kwargs))


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.7, 1.0, 1.5])
def test_each_weight_lies_between(alpha):
    base, tuned = make_model(0), make_model(1)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    merged = interpolate(base, tuned, alpha)
    for name, value in base.state_dict().items():
        expected = (1 - alpha) * value.double() + alpha * tuned.state_dict()[name].double()
        torch.testing.assert_close(merged[name].double(), expected, rtol=1e-6, atol=1e-7)
        assert torch.equal(value, before[name])
    if alpha in (0, 1):
        ends = (tuned if alpha else base).state_dict()
        assert all(torch.equal(value, ends[name]) for name, value in merged.items())
    make_model(2).load_state_dict(merged)


def test_half_precision_is_mixed_in_float32():
    base, tuned = make_model(0).to(torch.bfloat16), make_model(0).to(torch.bfloat16)
    with torch.no_grad():
        tuned.logit_scale.add_(0.25)
    merged = interpolate(base, tuned, 0.5)
    assert {value.dtype for value in merged.values()} == {torch.bfloat16}
    expected = (base.logit_scale.float() + tuned.logit_scale.float()) / 2
    assert merged["logit_scale"] == expected.to(torch.bfloat16)


def test_models_that_do_not_fit():
    other = tiny_config()
    other.text_config.intermediate_size = 48
    with pytest.raises(
        ValueError, match=r"mlp.fc1.weight is \(64, 32\) in the base and \(48, 32\) in the tuned model"
    ):
        interpolate(make_model(0), TripletCLIPModel(other), 0.5)
    deeper = tiny_config()
    deeper.vision_config.num_hidden_layers = 3
    with pytest.raises(ValueError, match=r"the base lacks 16 tensors, such as vision_model.encoder.layers.2"):
        interpolate(make_model(0), TripletCLIPModel(deeper), 0.5)
    with pytest.raises(ValueError, match="the tuned model lacks 16 tensors"):
        interpolate(TripletCLIPModel(deeper), make_model(0), 0.5)

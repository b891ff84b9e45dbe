# SPDX-License-Identifier: Apache-2.0
"""What trains: towers in full, by LoRA or frozen; refusals; what it costs; adapters that plain peft opens."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from peft import PeftModel
from transformers import CLIPModel

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.checkpoints.adapters import LOGIT_SCALE_FILE, load_logit_scale, save_logit_scale
from hf_tripletclip.training.towers import (
    TowerArguments,
    describe_towers,
    prepare_towers,
)
from tests.tiny import negatives, positives, tiny_config


def make_model() -> TripletCLIPModel:
    torch.manual_seed(0)
    return TripletCLIPModel(tiny_config())


def trained_names(model) -> set[str]:
    """First parts of the names of what trains, adapters told apart."""
    found = set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            name = name.removeprefix("base_model.model.")
            found.add(name.split(".")[0] + (".lora" if "lora_" in name else ""))
    return found


BOTH = {"text_model", "vision_model", "text_projection", "visual_projection", "logit_scale"}
CASES = {
    "full": ({}, BOTH),
    "locked image tower": (
        {"train_vision": "frozen"},
        {"text_model", "text_projection", "logit_scale"},
    ),
    "locked image tower, both projections": (
        {"train_vision": "frozen", "train_projections": True},
        {"text_model", "text_projection", "visual_projection", "logit_scale"},
    ),
    "projections alone": (
        {"train_vision": "frozen", "train_text": "frozen", "train_projections": True, "train_logit_scale": False},
        {"text_projection", "visual_projection"},
    ),
    "lora on both": ({"train_text": "lora", "train_vision": "lora"}, {"text_model.lora", "vision_model.lora"}),
    "lora on one": ({"train_text": "lora", "train_vision": "frozen"}, {"text_model.lora"}),
    "lora and full": (
        {"train_text": "full", "train_vision": "lora"},
        {"text_model", "text_projection", "vision_model.lora"},
    ),
    "lora and what else trains": (
        {"train_text": "lora", "train_vision": "lora", "train_projections": True, "train_logit_scale": True},
        {"text_model.lora", "vision_model.lora", "text_projection", "visual_projection", "logit_scale"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_trains(case):
    options, expected = CASES[case]
    model = prepare_towers(make_model(), TowerArguments(**options))
    assert trained_names(model) == expected
    loss = model(**positives(), **negatives(), return_loss=True)["loss"]
    loss.backward()
    without = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    # Before the first step the second factor of an adapter is zero, but it has a gradient.
    assert without == []
    assert all(value.grad is None for value in model.parameters() if not value.requires_grad)


@pytest.mark.parametrize("frozen", ["text", "vision"])
def test_a_frozen_tower_keeps_nothing_for_the_backward_pass(frozen):
    model = prepare_towers(make_model(), TowerArguments(**{f"train_{frozen}": "frozen"}))
    features = {
        "text": model.get_text_features(input_ids=positives()["input_ids"]).pooler_output,
        "vision": model.get_image_features(pixel_values=positives()["pixel_values"]).pooler_output,
    }
    assert {tower: value.requires_grad for tower, value in features.items()} == {
        tower: tower != frozen for tower in features
    }


REFUSED = {
    "a mode": ({"train_text": "half"}, "`train_text` is 'half'; give full, lora, frozen"),
    "nothing": ({"train_text": "frozen", "train_vision": "frozen"}, "Nothing is left to train"),
    "no target": (
        {"train_text": "lora", "train_vision": "frozen", "lora_targets": ["query"]},
        "names query, which matches no linear layer of text_model; there are k_proj, v_proj, q_proj, out_proj, fc1, "
        "fc2, or all-linear",
    ),
    "rank": ({"train_text": "lora", "lora_rank": 0}, "`lora_rank` is 0"),
    "dropout": ({"train_text": "lora", "lora_dropout": 1.0}, "`lora_dropout` is 1.0"),
    "4 bits in full": ({"load_in_4bit": True}, "`load_in_4bit` is for LoRA"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        prepare_towers(make_model(), TowerArguments(**options))


def test_4_bits_without_the_library(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    with pytest.raises(ImportError, match="pip install bitsandbytes"):
        TowerArguments(train_text="lora", load_in_4bit=True).check()


def test_options_of_the_adapters():
    args = TowerArguments(
        train_text="lora",
        train_vision="lora",
        lora_targets=["all-linear"],
        lora_dora=True,
        lora_rslora=True,
        lora_rank=4,
    )
    model = prepare_towers(make_model(), args)
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.use_dora, config.use_rslora) == (4, 32, True, True)
    adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted == {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}
    assert describe_towers(model, args).startswith("Text tower lora, image tower lora (rank 4): ")


def train_a_little(model) -> None:
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    for _ in range(3):
        model(**positives(), **negatives(), return_loss=True)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@pytest.mark.parametrize("case", ["lora on both", "lora and full", "lora and what else trains"])
def test_plain_peft_opens_the_adapter_and_merging_changes_nothing(tmp_path, case):
    base = make_model()
    base.save_pretrained(tmp_path / "base")
    model = prepare_towers(base, TowerArguments(**CASES[case][0]))
    train_a_little(model)
    model.save_pretrained(tmp_path / "adapter")
    save_logit_scale(model, tmp_path / "adapter")
    with torch.no_grad():
        expected = model(**positives())

    plain = PeftModel.from_pretrained(CLIPModel.from_pretrained(tmp_path / "base"), tmp_path / "adapter").eval()
    assert (tmp_path / "adapter" / LOGIT_SCALE_FILE).exists() is (case == "lora and what else trains")
    merged = PeftModel.from_pretrained(CLIPModel.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    load_logit_scale(merged, tmp_path / "adapter")
    merged.merge_and_unload().save_pretrained(tmp_path / "merged")
    reopened, info = CLIPModel.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(info.values())
    for other in (plain, reopened):
        with torch.no_grad():
            found = other(**positives())
        torch.testing.assert_close(found.image_embeds, expected.image_embeds, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.text_embeds, expected.text_embeds, rtol=1e-5, atol=1e-5)
    assert not torch.equal(expected.text_embeds, make_model()(**positives()).text_embeds)
    assert reopened.logit_scale.item() == base.logit_scale.item()

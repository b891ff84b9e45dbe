# SPDX-License-Identifier: Apache-2.0
"""What trains: towers in full, by LoRA or frozen; refusals; what it costs; adapters that plain peft opens."""

from __future__ import annotations

import contextlib
import importlib.util

import pytest
import torch
from peft import PeftModel
from transformers import CLIPModel

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.layouts.adapters import load_logit_scale, save_logit_scale
from hf_tripletclip.layouts.files import LOGIT_SCALE_FILE
from hf_tripletclip.training import towers
from hf_tripletclip.training.towers import (
    TowerArguments,
    check_lora_is_used,
    check_same_towers,
    describe_towers,
    hold_weights_in,
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


def kept_bytes(model, features, *inputs) -> int:
    """Of what autograd keeps for the backward pass of a tower, without the weights themselves."""
    weights = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = features(*inputs)  # held, so that no address is given away
    del output
    return sum(kept.values())


@pytest.mark.parametrize("other", ["full", "lora"])
@pytest.mark.parametrize("frozen", ["text", "vision"])
def test_a_frozen_tower_keeps_nothing_for_the_backward_pass(frozen, other):
    towers = {f"train_{tower}": "frozen" if tower == frozen else other for tower in ("text", "vision")}
    model = prepare_towers(make_model(), TowerArguments(**towers))
    kept = {
        "text": kept_bytes(model, model.get_text_features, positives()["input_ids"]),
        "vision": kept_bytes(model, model.get_image_features, positives()["pixel_values"]),
    }
    assert kept.pop(frozen) == 0
    assert next(iter(kept.values())) > 10_000


REFUSED = {
    "a mode": ({"train_text": "half"}, "`train_text` is 'half'; give full, lora, frozen"),
    "nothing": ({"train_text": "frozen", "train_vision": "frozen"}, "Nothing is left to train"),
    "no target": (
        {"train_text": "lora", "train_vision": "frozen", "lora_target_modules": ["query"]},
        "names query, which matches no linear layer of text_model; there are k_proj, v_proj, q_proj, out_proj, fc1, "
        "fc2, attention, or all-linear",
    ),
    "rank": ({"train_text": "lora", "lora_r": 0}, "`lora_r` is 0"),
    "dropout": ({"train_text": "lora", "lora_dropout": 1.0}, "`lora_dropout` is 1.0"),
    "4 bits in full": ({"load_in_4bit": True}, "`load_in_4bit` is for LoRA"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        prepare_towers(make_model(), TowerArguments(**options))


@pytest.mark.parametrize(
    ("argv", "settings", "named"),
    [
        (["--lora_r", "16"], {}, "lora_r"),
        (["--use-dora"], {"train_text": "frozen"}, "use_dora"),
        ([], {"lora_r": 4}, "lora_r"),  # of a YAML file
        (["--config", "a.yaml"], {"lora_target_modules": ["all-linear"]}, "lora_target_modules"),
        (["--lora_r", "4", "--train_text", "lora"], {"train_text": "lora", "lora_r": 4}, None),
        (["--train_text", "full", "--train_vision=full"], {"lora_r": 4}, None),  # instead of what the file says
        ([], {"train_vision": "lora", "use_dora": True}, None),
        ([], {}, None),
    ],
)
def test_settings_of_lora_without_lora(argv, settings, named):
    runs = [TowerArguments(), TowerArguments(**settings)]
    if named is None:
        check_lora_is_used(argv, runs)
    else:
        with pytest.raises(ValueError, match=f"`{named}` is given, but no tower trains by LoRA"):
            check_lora_is_used(argv, runs)


def test_4_bits_without_the_library(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    with pytest.raises(ImportError, match="pip install bitsandbytes"):
        TowerArguments(train_text="lora", load_in_4bit=True).check()


def test_options_of_the_adapters():
    args = TowerArguments(
        train_text="lora",
        train_vision="lora",
        lora_target_modules=["all-linear"],
        use_dora=True,
        use_rslora=True,
        lora_r=4,
    )
    model = prepare_towers(make_model(), args)
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.use_dora, config.use_rslora) == (4, 32, True, True)
    adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted == {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    total = make_model().num_parameters() + trained
    assert describe_towers(model, args) == (
        f"Text tower lora, image tower lora (rank 4): {trained:,} of {total:,} parameters train"
    )


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


def quantised(folder, **options) -> tuple[TripletCLIPModel, TowerArguments]:
    args = TowerArguments(**{"train_text": "lora", "train_vision": "lora", "load_in_4bit": True, **options})
    return TripletCLIPModel.from_pretrained(folder, **args.loading_arguments()), args


def test_qlora_trains_on_4_bits_and_its_adapter_fits_the_whole_weights(tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    make_model().save_pretrained(tmp_path / "base")
    core, args = quantised(tmp_path / "base")
    model = prepare_towers(core, args)
    four_bits = {name for name, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)}
    assert len(four_bits) == 2 * 2 * 6  # towers, layers, linear layers; the projections are not among them
    total = make_model().num_parameters() + model.num_parameters(only_trainable=True)
    assert describe_towers(model, args).endswith(f"of {total:,} parameters train")

    before = {name: value.clone() for name, value in model.state_dict().items() if "lora_" not in name}
    with torch.no_grad():
        model.eval()(**positives())  # an evaluation before training, as every run has
    model.train()
    loss = model(**positives(), **negatives(), return_loss=True)["loss"]
    loss.backward()
    first_layer = model.get_submodule("base_model.model.text_model.encoder.layers.0.self_attn.q_proj.lora_B.default")
    assert first_layer.weight.grad.abs().sum() > 0  # through all weights of 4 bits above it
    train_a_little(model)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())

    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = model(**positives())
        with model.disable_adapter():
            untrained = model(**positives())
    again = prepare_towers(*quantised(tmp_path / "base"))
    again.load_adapter(tmp_path / "adapter", "default", is_trainable=True)  # as a resumed run does
    plain = PeftModel.from_pretrained(CLIPModel.from_pretrained(tmp_path / "base"), tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.equal(again.eval()(**positives()).text_embeds, expected.text_embeds)
        found = plain(**positives()).text_embeds
        merged = plain.merge_and_unload()(**positives()).text_embeds
    torch.testing.assert_close(merged, found, rtol=1e-4, atol=1e-5)
    # Weights of 4 bits are near the whole ones, and what the adapter does is more than the difference.
    assert torch.nn.functional.cosine_similarity(found, expected.text_embeds).min() > 0.95
    assert torch.nn.functional.cosine_similarity(found, untrained.text_embeds).min() < 0.9


def test_qlora_beside_a_tower_in_full(tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    make_model().save_pretrained(tmp_path)
    model = prepare_towers(*quantised(tmp_path, train_text="full"))
    four_bits = [name for name, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert four_bits
    assert all(".vision_model." in name for name in four_bits)
    assert trained_names(model) == {"text_model", "text_projection", "vision_model.lora"}
    train_a_little(model)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lora_r": 8}, "`lora_r` is 4 there, not 8"),
        ({"lora_alpha": 7}, "`lora_alpha` is 32 there, not 7"),
        ({"lora_dropout": 0.1}, "`lora_dropout` is 0.0 there, not 0.1"),
        (
            {"lora_target_modules": ["q_proj"]},
            r"`lora_target_modules` is .*, not '\(text_model\|vision_model\).*q_proj",
        ),
        ({"train_projections": True}, r"`train_projections` is None there, not \['text_projection'"),
        ({"use_dora": True}, "`use_dora` is False there, not True"),
        ({"use_rslora": True}, "`use_rslora` is False there, not True"),
        ({"train_text": "full", "train_vision": "full"}, "it was trained by LoRA, and this run trains in full"),
    ],
)
def test_a_checkpoint_of_other_adapters_is_not_continued(tmp_path, changed, message):
    settings = {"train_text": "lora", "train_vision": "lora", "lora_r": 4}
    prepare_towers(make_model(), TowerArguments(**settings)).save_pretrained(tmp_path)
    check_same_towers(tmp_path, prepare_towers(make_model(), TowerArguments(**settings)))
    with pytest.raises(ValueError, match=message):
        check_same_towers(tmp_path, prepare_towers(make_model(), TowerArguments(**(settings | changed))))


def test_a_checkpoint_of_another_base_is_not_continued(tmp_path):
    args = TowerArguments(train_text="lora", train_vision="lora")
    for name in ("one", "other"):
        make_model().save_pretrained(tmp_path / name)
    one, other = (prepare_towers(TripletCLIPModel.from_pretrained(tmp_path / name), args) for name in ("one", "other"))
    one.save_pretrained(tmp_path / "adapter")
    check_same_towers(tmp_path / "adapter", one)
    with pytest.raises(ValueError, match=r"`model_name_or_path` is '.*one' there, not '.*other'"):
        check_same_towers(tmp_path / "adapter", other)


@pytest.mark.parametrize(
    ("held", "dtype", "said"),
    [
        (torch.float32, "float32", None),
        (torch.float16, "float32", "The model's weights are float16. They are trained and saved in float32"),
        (torch.float32, "bfloat16", "The weights are trained in bfloat16, as `weights_dtype` asks"),
        (torch.float64, "float16", "The weights are trained in float16, as `weights_dtype` asks"),
        (torch.float64, "float32", None),
    ],
)
def test_messages_on_the_precision_of_weights(caplog, held, dtype, said):
    towers.logger.warning_once.cache_clear()
    model = torch.nn.Linear(2, 2).to(held)
    hold_weights_in(model, dtype)
    assert model.weight.dtype == (held if held == torch.float64 and dtype == "float32" else getattr(torch, dtype))
    assert (said or "") in caplog.text
    assert bool(caplog.text) == (said is not None)


@pytest.mark.parametrize(
    ("field", "value", "refused"),
    [("lora_r", 1, False), ("lora_alpha", 0, True), ("lora_alpha", 1, False), ("lora_dropout", -0.1, True)],
)
def test_bounds_of_the_adapters(field, value, refused):
    with pytest.raises(ValueError, match=f"`{field}` is") if refused else contextlib.nullcontext():
        TowerArguments(train_text="lora", **{field: value}).check()


def test_lora_without_its_library(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    TowerArguments().check()
    with pytest.raises(ImportError, match="LoRA needs peft"):
        TowerArguments(train_text="lora").check()


@pytest.mark.parametrize(
    ("modes", "whole"),
    [
        (("lora", "lora"), {"text_projection", "visual_projection"}),
        (("full", "lora"), {"text_model", "text_projection", "visual_projection"}),
        (("lora", "full"), {"vision_model", "text_projection", "visual_projection"}),
    ],
)
def test_towers_that_train_in_full_are_not_in_4_bits(modes, whole):
    pytest.importorskip("bitsandbytes")
    args = TowerArguments(train_text=modes[0], train_vision=modes[1], load_in_4bit=True)
    config = args.loading_arguments()["quantization_config"]
    assert set(config.llm_int8_skip_modules) == whole
    assert (config.load_in_4bit, config.bnb_4bit_quant_type) == (True, "nf4")

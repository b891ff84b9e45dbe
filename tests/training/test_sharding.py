# SPDX-License-Identifier: Apache-2.0
"""FSDP2 in two processes on CPUs against one process with the doubled batch; and what is refused."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel

from hf_tripletclip import AutoTripletModel, TripletCLIPModel
from hf_tripletclip.training import sharding
from hf_tripletclip.training.sharding import (
    average_gradients,
    check_processes,
    check_sharding,
    kept_whole,
    layers_of,
    own_groups,
)
from tests.families import FAMILIES, write_family
from tests.objectives.test_distributed import in_two_processes
from tests.tiny import tiny_config
from tests.training import sharded_worker
from tests.training.test_trainer import Rows, make_trainer

LAYERS = {
    "clip": {"CLIPEncoderLayer", "CLIPTextEmbeddings", "CLIPVisionEmbeddings"},
    "siglip": {
        *("SiglipEncoderLayer", "SiglipTextEmbeddings", "SiglipVisionEmbeddings"),
        "SiglipMultiheadAttentionPoolingHead",
    },
    "metaclip_2": {"MetaClip2EncoderLayer", "MetaClip2TextEmbeddings", "MetaClip2VisionEmbeddings"},
    "chinese_clip": {
        *("ChineseCLIPTextLayer", "ChineseCLIPTextEmbeddings"),
        *("ChineseCLIPVisionLayer", "ChineseCLIPVisionEmbeddings"),
    },
    "altclip": {"AltRobertaLayer", "AltRobertaEmbeddings", "AltCLIPEncoderLayer", "AltCLIPVisionEmbeddings"},
    "dual_encoder": {"Dinov2Layer", "Dinov2Embeddings", "BertLayer", "BertEmbeddings"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layers_and_the_scale_of_each_family(tmp_path, family):
    model = AutoTripletModel.from_pretrained(write_family(family, tmp_path))
    assert set(layers_of(model)) == LAYERS[family]
    whole = {id(parameter) for parameter in kept_whole(model)}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in whole}
    assert names == {"logit_scale", "logit_bias"} if family == "siglip" else names == {"logit_scale"}


def test_what_is_not_sharded_has_groups_of_its_own():
    model = TripletCLIPModel(tiny_config())
    decayed = [value for value in model.parameters() if value.ndim >= 2]
    others = [value for value in model.parameters() if value.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.5)
    own_groups(optimizer, [model.logit_scale])
    assert [len(group["params"]) for group in optimizer.param_groups] == [len(decayed), len(others) - 1, 1]
    assert optimizer.param_groups[2]["params"][0] is model.logit_scale
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0, 0.0]
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


def test_gradients_of_what_is_not_sharded_are_averaged(monkeypatch):
    monkeypatch.setattr(sharding.dist, "all_reduce", lambda tensor: tensor.add_(7.0))  # what another process has
    monkeypatch.setattr(sharding.dist, "get_world_size", lambda: 2)
    model = nn.Linear(1, 1)
    model.weight.grad = torch.ones(1, 1)
    average_gradients(model)
    assert (model.weight.grad.item(), model.bias.grad) == (4.0, None)


def test_one_process_is_refused_before_anything_else(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="FSDP shards a model over several processes, and this is one: start them"):
        make_trainer(tmp_path, fsdp=True)
    monkeypatch.setenv(sharding.USE_FSDP, "true")
    with pytest.raises(ValueError, match="this is one"):
        check_processes(SimpleNamespace(fsdp=None, world_size=1))
    check_processes(SimpleNamespace(fsdp=None, world_size=2))


def trainer_like(objective: dict | None = None, precision: str = "no", quantized: bool = False, **changed):
    """What `check_sharding` looks at, of a trainer with FSDP2."""
    core = TripletCLIPModel(tiny_config())
    core.set_objective("tripletclip", **(objective or {}))
    if quantized:
        core.text_projection.weight.quant_state = "nf4"
    plugin = {"fsdp_version": 2, "cpu_ram_efficient_loading": False}
    args = {"mini_batch_size": None, "cache_locked_towers": None, "retention_metric": None}
    state = SimpleNamespace(
        fsdp_plugin=SimpleNamespace(**{name: changed.get(name, value) for name, value in plugin.items()})
    )
    return SimpleNamespace(
        is_fsdp_enabled=changed.get("is_fsdp_enabled", True),
        args=SimpleNamespace(**{name: changed.get(name, value) for name, value in args.items()}),
        accelerator=SimpleNamespace(state=state, mixed_precision=precision),
        core=core,
        model=core,
        teacher=changed.get("teacher"),
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"fsdp_version": 1}, "FSDP1 cannot keep the scalar `logit_scale` whole: use FSDP2"),
        ({"cpu_ram_efficient_loading": True}, "`cpu_ram_efficient_loading` of FSDP leaves"),
        ({"precision": "fp16"}, "FSDP2 trains in float32 or with `bf16` here, not with `fp16`"),
        ({"teacher": object()}, r"does not work with a teacher \(distillation\), which needs whole weights"),
        ({"cache_locked_towers": "cache"}, "does not work with `cache_locked_towers`"),
        ({"retention_metric": "zeroshot_top1"}, "does not work with `retention_metric`"),
        ({"quantized": True}, "does not work with `load_in_4bit`"),
        (
            {"mini_batch_size": 2, "objective": {"negatives_across_devices": False}},
            "needs `negatives_across_devices` with FSDP2",
        ),
    ],
)
def test_what_needs_whole_weights_is_refused(changed, said):
    with pytest.raises(ValueError, match=said):
        check_sharding(trainer_like(**changed))
    check_sharding(trainer_like(**changed, is_fsdp_enabled=False))


def test_an_evaluation_before_training_is_refused(tmp_path):
    trainer = make_trainer(tmp_path, eval_dataset=Rows(6))
    trainer.is_fsdp_enabled = True
    with pytest.raises(ValueError, match="FSDP2 shards the model when training starts"):
        trainer.evaluate()


def test_what_is_not_refused():
    check_sharding(trainer_like(precision="bf16", mini_batch_size=2))


# ---- In two processes ----


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, pytestconfig):
    folder = tmp_path_factory.mktemp("sharded")
    sharded_worker.write_models(folder)
    in_two_processes(pytestconfig.rootpath, sharded_worker.__name__, str(folder))
    saved = torch.load(folder / "results.pt")
    assert saved["world_size"] == 2
    return folder, saved


@pytest.mark.slow
@pytest.mark.parametrize("case", sharded_worker.CASES)
def test_two_processes_train_as_one(two_processes, case):
    folder, saved = two_processes
    found, expected = saved[case], sharded_worker.run(case, folder, 8)
    exact = "bf16" not in case
    assert found["sharded"] == len(found["weights"]) - len(found["scales"])
    assert found["scales"] == expected["scales"]  # shapes of the base class, and no parts of tensors
    assert len(found["log"]) == len(expected["log"])
    for entry, wanted in zip(found["log"], expected["log"], strict=True):
        assert entry.keys() == wanted.keys()
        for name, value in wanted.items():
            if exact or name == "loss":
                assert entry[name] == pytest.approx(value, rel=1e-5 if exact else 1e-2, abs=1e-6), name
    for name, value in expected["weights"].items():
        torch.testing.assert_close(
            found["weights"][name],
            value,
            rtol=1e-5,
            atol=1e-5 if exact else 2e-3,
            msg=lambda text, n=name: f"{n}: {text}",
        )


@pytest.mark.slow
def test_the_bound_on_the_scale_holds(two_processes):
    weights = two_processes[1]["clip, bounded"]["weights"]
    assert weights["logit_scale"].item() == pytest.approx(math.log(10), abs=1e-2)
    assert weights["logit_scale"].item() <= math.log(10)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["clip", "siglip", "dual encoder"])
def test_the_saved_model_opens_in_transformers(two_processes, case):
    folder, saved = two_processes
    model, told = AutoModel.from_pretrained(folder / f"{case} 2", output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.logit_scale.shape == ((1,) if case == "siglip" else ())
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, saved[case]["weights"][name], rtol=0, atol=0)


@pytest.mark.slow
def test_the_saved_adapter_has_its_scale_beside_it(two_processes):
    folder, saved = two_processes
    weights = saved["clip, LoRA"]["weights"]
    adapter = PeftModel.from_pretrained(AutoModel.from_pretrained(folder / "clip"), folder / "clip, LoRA 2")
    found = {name: value for name, value in adapter.named_parameters() if "lora_" in name}
    assert len(found) == 16
    for name, value in found.items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)
    scale = load_file(folder / "clip, LoRA 2" / "logit_scale.safetensors")["logit_scale"]
    assert torch.equal(scale, weights["base_model.model.logit_scale"])


@pytest.mark.slow
@pytest.mark.parametrize("case", sharded_worker.RESUMED)
def test_a_resumed_run_goes_on_exactly(two_processes, case):
    folder, saved = two_processes
    (log, weights), (log_again, weights_again) = saved[case]["whole"], saved[case]["again"]
    assert len(log) == sharded_worker.STEPS
    assert log_again == log
    assert all(torch.equal(value, weights_again[name]) for name, value in weights.items())
    checkpoint = folder / case / "checkpoint-2"
    if "LoRA" not in case:
        assert load_file(checkpoint / "model.safetensors")["logit_scale"].shape == ()
    parts = (checkpoint / "pytorch_model_fsdp_0").is_dir()
    assert parts == ("in parts" in case)


@pytest.mark.slow
def test_the_best_model_comes_back(two_processes):
    found = two_processes[1]["best"]
    assert found["best"].endswith("checkpoint-2")
    weights = load_file(f"{found['best']}/model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in found["weights"].items())


@pytest.mark.slow
def test_a_run_without_fsdp_does_not_go_on_from_its_checkpoint(two_processes):
    told = two_processes[1]["refused"]
    assert "was trained with other settings: `fsdp` was True and is None" in told

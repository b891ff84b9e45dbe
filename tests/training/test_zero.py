# SPDX-License-Identifier: Apache-2.0
"""DeepSpeed, where it is installed, in two processes against one with the doubled batch; and what is refused."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled, set_hf_deepspeed_config

from hf_tripletclip import AutoTripletModel, TripletCLIPModel, TripletCLIPTrainingArguments
from hf_tripletclip.training import resume_settings, zero
from hf_tripletclip.training.callbacks import ClampLogitScale
from hf_tripletclip.training.trainer_setup import choose_precision
from hf_tripletclip.training.zero import (
    check_package,
    check_zero,
    clamp,
    give_dimensions,
    load_whole_models,
    take_dimensions,
)
from tests.families import FAMILIES, write_family
from tests.tiny import tiny_config
from tests.training import sharded_worker
from tests.training.test_trainer import make_trainer

# ---- Parameters without dimensions ----


@pytest.mark.parametrize("family", FAMILIES)
def test_the_scale_has_one_element_while_it_trains(tmp_path, family):
    model = AutoTripletModel.from_pretrained(write_family(family, tmp_path))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    scale = model.logit_scale
    names = give_dimensions(model)
    assert names == ([] if family == "siglip" else ["logit_scale"])
    assert model.logit_scale is scale  # an optimizer may have it
    assert all(value.ndim > 0 for value in model.parameters())
    take_dimensions(SimpleNamespace(without_dimensions=names, model=model))
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_the_scale_is_saved_in_its_own_shape(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.without_dimensions = give_dimensions(trainer.model)
    trainer._save(str(tmp_path), state_dict=trainer.model.state_dict())
    assert load_file(tmp_path / "model.safetensors")["logit_scale"].shape == ()
    assert AutoModel.from_pretrained(tmp_path).logit_scale.shape == ()


# ---- The bound on the scale, with a stand-in for DeepSpeed's optimizer ----


class FakeDeepSpeed(SimpleNamespace):
    """What of deepspeed (0.19) the bound needs: an optimizer's copy of a parameter, and its whole weights."""

    def __init__(self, copy: torch.Tensor | None) -> None:
        self.copy, self.gathered = copy, []
        get, put = (lambda _: self.copy), (lambda _, value: self.copy.copy_(value))
        names = {"safe_get_full_fp32_param": get, "safe_set_full_fp32_param": put}
        names |= {"safe_get_local_fp32_param": get, "safe_set_local_fp32_param": put}
        super().__init__(utils=SimpleNamespace(**names), zero=SimpleNamespace(GatheredParameters=self.gather))

    @contextlib.contextmanager
    def gather(self, parameters, modifier_rank):
        self.gathered += parameters
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("maximum", [13.5, 10.0, 100.0])
def test_the_bound_holds_for_the_weights_and_for_the_optimizers_copy(monkeypatch, dtype, maximum):
    model = nn.Module()
    model.logit_scale = nn.Parameter(torch.full((1,), 9.0, dtype=dtype))
    model.other = nn.Parameter(torch.full((1,), 9.0, dtype=dtype))
    fake = FakeDeepSpeed(torch.full((1,), 9.0))
    monkeypatch.setitem(sys.modules, "deepspeed", fake)
    ClampLogitScale(maximum).on_optimizer_step(SimpleNamespace(deepspeed_plugin=object()), None, None, model=model)
    assert fake.gathered == [model.logit_scale]
    assert model.other.item() == 9.0
    bound = math.log(maximum)
    assert model.logit_scale.item() == fake.copy.item() <= bound
    assert fake.copy.item() == pytest.approx(bound, abs=1e-6 if dtype == torch.float32 else 2e-2)


def test_a_bound_that_cannot_hold_is_an_error(monkeypatch):
    parameter = nn.Parameter(torch.ones(1))
    monkeypatch.setitem(sys.modules, "deepspeed", FakeDeepSpeed(None))
    with pytest.raises(ValueError, match="DeepSpeed does not give its float32 copy of `logit_scale`"):
        clamp(parameter, 0.0, 0.5)
    clamp(parameter.requires_grad_(False), 0.0, 0.5)  # the optimizer does not have it
    assert parameter.item() == 0.5


# ---- Before a run ----


def test_a_missing_package_is_told():
    args = {"output_dir": "unused", "report_to": "none", "deepspeed": {"zero_optimization": {"stage": 2}}}
    if find_spec("deepspeed") is None:
        with pytest.raises(ImportError, match="the package is not installed: pip install deepspeed"):
            TripletCLIPTrainingArguments(**args)
    check_package(SimpleNamespace(deepspeed=None))


def test_models_are_loaded_whole():
    cutting = Mock(is_zero3=lambda: True)
    set_hf_deepspeed_config(cutting)
    assert is_deepspeed_zero3_enabled()
    load_whole_models()
    assert not is_deepspeed_zero3_enabled()


@pytest.mark.parametrize(("precision", "expected"), [("bf16", True), ("no", False)])
def test_the_launcher_chooses_the_precision(precision, expected):
    args = SimpleNamespace(bf16=None, deepspeed_plugin=object(), mixed_precision=precision)
    choose_precision(TripletCLIPModel(tiny_config()), args)
    assert args.bf16 is expected


def trainer_like(monkeypatch, stage=2, processes=2, started=True, cut=False, quantized=False, **changed):
    """What `check_zero` looks at, of a trainer with DeepSpeed."""
    monkeypatch.setattr(zero.dist, "is_initialized", lambda: started)
    monkeypatch.setattr(zero.dist, "get_world_size", lambda: processes)
    model = TripletCLIPModel(tiny_config())
    if cut:
        model.logit_scale.ds_id = 0
    if quantized:
        model.text_projection.weight.quant_state = "nf4"
    args = {"deepspeed_plugin": object(), "world_size": 2, "fp16": False, "retention_metric": None}
    args |= {"benchmark_settings": {}}
    config = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": changed.get("saved", True)}
    plugin = SimpleNamespace(deepspeed_config={"zero_optimization": config, "fp16": {"enabled": False}})
    return SimpleNamespace(
        is_deepspeed_enabled=changed.get("is_deepspeed_enabled", True),
        args=SimpleNamespace(**{name: changed.get(name, value) for name, value in args.items()}),
        accelerator=SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin)),
        model=model,
        teacher=changed.get("teacher"),
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"is_deepspeed_enabled": False}, "trains on GPUs only, but none is found or `use_cpu` is set"),
        ({"processes": 1}, "trains on GPUs only"),
        ({"started": False}, "in processes that a launcher has started, and this is none"),
        ({"stage": 0}, "ZeRO stage is 0: give 1, 2 or 3"),
        ({"stage": 3, "saved": False}, "the saved model would have no weights: set `zero3_save_16bit_model`"),
        ({"fp16": True}, "trains in float32 or with `bf16` here, not with `fp16`"),
        ({"cut": True}, "ZeRO-3 has cut the model's weights already"),
        ({"teacher": object()}, r"does not work with a teacher \(distillation\), because no process has"),
        ({"retention_metric": "zeroshot_top1"}, "does not work with `retention_metric`"),
        ({"quantized": True}, "does not work with `load_in_4bit`"),
        ({"stage": 3, "benchmark_settings": {"winoground": {}}}, "not work with ZeRO-3 and `eval_benchmarks`"),
    ],
)
def test_what_does_not_work_is_refused(monkeypatch, changed, said):
    with pytest.raises(ValueError, match=said) as caught:
        check_zero(trainer_like(monkeypatch, **changed))
    assert "\n" not in str(caught.value)
    check_zero(trainer_like(monkeypatch, **{**changed, "deepspeed_plugin": None}))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_what_is_not_refused(monkeypatch, stage):
    check_zero(trainer_like(monkeypatch, stage))


def test_the_stage_is_a_setting_of_a_run_that_a_launcher_started(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    assert resume_settings.settings_of(trainer)["deepspeed"] is None
    trainer.is_deepspeed_enabled = True
    monkeypatch.setattr(resume_settings, "stage_of", lambda _: 3)
    settings = resume_settings.settings_of(trainer)
    assert settings["deepspeed"] == "ZeRO-3"
    (difference,), _ = resume_settings.differences(settings, {**settings, "deepspeed": None})
    assert difference.name == "deepspeed"


# ---- In two processes ----


def in_two_processes(folder, root, processes, **environment):
    sharded_worker.write_models(folder)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    finished = subprocess.run(
        [*command, "-m", "tests.training.zero_worker", str(folder)],
        cwd=root,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=900,  # the first time, DeepSpeed compiles
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    saved = torch.load(folder / "results.pt")
    assert saved["world_size"] == processes
    return folder, saved


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def two_processes(request, tmp_path_factory, pytestconfig):
    if find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed: pip install deepspeed")
    environment = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""} if request.param == "cpu" else {}
    if request.param == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("two CUDA devices are needed")
    return in_two_processes(tmp_path_factory.mktemp("zero"), pytestconfig.rootpath, 2, **environment)


@pytest.mark.slow
@pytest.mark.parametrize("name", sharded_worker.OF_ZERO)
def test_two_processes_train_as_one(two_processes, name):
    folder, saved = two_processes
    expected = sharded_worker.run(name, folder, 8)
    exact = "bf16" not in name
    for stage in (2, 3):
        found = saved[f"{name} zero{stage}"]
        # With ZeRO-3 no process holds a whole weight between two steps.
        assert found["held"] == ((len(expected["weights"]), 0) if stage == 3 else (0, 0))
        assert len(found["log"]) == len(expected["log"])
        for entry, wanted in zip(found["log"], expected["log"], strict=True):
            assert entry.keys() == wanted.keys()
            for key, value in wanted.items():
                if exact or key == "loss":
                    assert entry[key] == pytest.approx(value, rel=1e-5 if exact else 1e-2, abs=1e-6), key
        for key, value in expected["weights"].items():
            weight = found["weights"][key].float().reshape(value.shape)
            torch.testing.assert_close(weight, value, rtol=1e-5, atol=1e-5 if exact else 5e-3, msg=f"{key} {stage}")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_bound_on_the_scale_holds(two_processes, stage):
    found = two_processes[1][f"clip, bounded zero{stage}"]
    bound = math.log(10)
    assert any(entry.get("logit_scale", 0) == pytest.approx(10, abs=1e-5) for entry in found["log"])
    ((computed, copy),) = found["scales"].values()
    assert computed.item() == copy.item() == pytest.approx(bound, abs=1e-2)
    assert computed.item() <= bound


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_the_bound_on_the_scale_holds_in_bfloat16(two_processes, stage):
    folder, saved = two_processes
    name = f"bounded in bf16 zero{stage}"
    ((computed, copy),) = saved[name].values()
    written = load_file(folder / name / "model.safetensors")["logit_scale"]
    assert computed.dtype == written.dtype == torch.bfloat16
    assert max(computed.item(), copy.item(), written.item()) <= math.log(13.5)
    assert copy.item() == pytest.approx(math.log(13.5), abs=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("name", ["clip", "siglip", "dual encoder", "clip, bf16"])
def test_the_saved_model_opens_in_transformers(two_processes, name, stage):
    folder, saved = two_processes
    model, told = AutoModel.from_pretrained(folder / f"{name} zero{stage}", output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.logit_scale.shape == ((1,) if name == "siglip" else ())
    for key, value in model.named_parameters():
        weight = saved[f"{name} zero{stage}"]["weights"][key].reshape(value.shape)
        torch.testing.assert_close(value, weight, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_the_saved_adapter_has_its_scale_beside_it(two_processes, stage):
    folder, saved = two_processes
    written, weights = folder / f"clip, LoRA zero{stage}", saved[f"clip, LoRA zero{stage}"]["weights"]
    adapter = PeftModel.from_pretrained(AutoModel.from_pretrained(folder / "clip"), written)
    found = {name: value for name, value in adapter.named_parameters() if "lora_" in name}
    assert len(found) == 16
    for name, value in found.items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)
    scale = load_file(written / "logit_scale.safetensors")["logit_scale"]
    assert torch.equal(scale, weights["base_model.model.logit_scale"].reshape(()))


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("name", ["clip", "clip, LoRA"])
def test_a_resumed_run_goes_on_exactly(two_processes, name, stage):
    saved = two_processes[1][f"resumed, {name} zero{stage}"]
    (log, weights), (log_again, weights_again) = saved["whole"], saved["again"]
    assert len(log) == sharded_worker.STEPS
    assert log_again == log
    assert all(torch.equal(value, weights_again[key]) for key, value in weights.items())


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_the_best_model_comes_back(two_processes, stage):
    found = two_processes[1][f"best zero{stage}"]
    assert found["best"].endswith("checkpoint-2")
    weights = load_file(f"{found['best']}/model.safetensors")
    assert weights["logit_scale"].shape == ()
    assert all(torch.equal(value.reshape(weights[key].shape), weights[key]) for key, value in found["weights"].items())


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_weights_that_are_not_finite_are_not_saved(two_processes, stage):
    assert "number of tensors with weights that are not finite" in two_processes[1][f"diverged zero{stage}"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_an_evaluation_before_training_is_refused(two_processes, stage):
    assert "DeepSpeed takes the model when training starts" in two_processes[1][f"evaluated before zero{stage}"]

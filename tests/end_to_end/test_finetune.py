# SPDX-License-Identifier: Apache-2.0
"""`examples/finetune_lora.py`: from a model of `examples/pretrain.py` to adapters, curves and the table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoTokenizer, CLIPModel

from tests.end_to_end.conftest import Example
from tests.loopback_hub import run_command


@pytest.fixture(scope="module")
def base(example: Example, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "clip"
    example.run(folder, "--objective", "clip", "--max_steps", "6")
    return folder


def finetune(example: Example, base: Path, output: Path, *flags: str):
    script = example.script.with_name("finetune_lora.py")
    settings = {
        "triplets": {"data": "scenes", "max_rows": 40},
        "zeroshot": {"data": "scenes", "max_rows": 22},
    }
    small = ["--max_steps", "3", "--eval_steps", "3", "--save_steps", "3", "--per_device_train_batch_size", "8"]
    small += ["--scenes_train_size", "60", "--scenes_validation_size", "20", "--scenes_test_size", "40"]
    small += ["--dataloader_num_workers", "0", "--warmup_steps", "0", "--alpha", "0,0.5,1"]
    finished = subprocess.run(
        [sys.executable, str(script), "--model_name_or_path", str(base), "--output_dir", str(output), *small,
         "--benchmarks", json.dumps(settings), *flags],
        env=example.environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    return finished


@pytest.mark.slow
def test_runs_side_by_side_and_adapters_that_plain_peft_opens(example, base, tmp_path):
    finished = finetune(example, base, tmp_path / "out")
    assert "FutureWarning" not in finished.stderr
    table = (tmp_path / "out" / "finetuning.md").read_text()
    assert table.strip() in finished.stdout
    names = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert names[0] == "base"
    assert names[1] == "lora"
    assert names[3] == "lora distilled"
    assert names[2].startswith("lora, WiSE-FT α = ")
    assert all(line.count("[") == 2 for line in table.splitlines()[3:])
    for name in ("lora", "lora distilled"):
        folder = tmp_path / "out" / name
        model = PeftModel.from_pretrained(CLIPModel.from_pretrained(base), folder)
        ids = AutoTokenizer.from_pretrained(folder)(["a red cat"], return_tensors="pt")
        with torch.no_grad():
            changed = model.get_text_features(**ids).pooler_output
            with model.disable_adapter():
                before = model.get_text_features(**ids).pooler_output
        assert not torch.equal(changed, before)
        card = (folder / "README.md").read_text()
        assert "library_name: peft" in card
        assert "PeftModel.from_pretrained" in card
        assert str(base) not in card  # paths of this machine are nobody's business
        assert "| this model | " in card
        assert "![Composition and retention between base and tuned model](interpolation.png)" in card
        assert "(rank 16): " in card
        assert ("distillation" in card) == (name == "lora distilled")
        curve = json.loads((folder / "interpolation.json").read_text())
        assert [point["alpha"] for point in curve["points"]] == [0.0, 0.5, 1.0]
    losses = json.loads((tmp_path / "out" / "lora distilled" / "trainer_state.json").read_text())["log_history"]
    assert any("distillation" in entry for entry in losses)


@pytest.mark.slow
def test_full_tuning_of_one_tower_stops_at_the_bound(example, base, tmp_path):
    variants = {"locked": {"train_text": "full", "train_vision": "frozen", "learning_rate": 0.5}}
    flags = ["--variants", json.dumps(variants), "--retention_metric", "zeroshot_top1", "--max_retention_loss", "0"]
    flags += ["--eval_benchmarks", '{"zeroshot": {"data": "scenes", "max_rows": 22}}', "--eval_steps", "1"]
    finetune(example, base, tmp_path / "out", *flags)
    folder = tmp_path / "out" / "locked"
    tuned, start = (CLIPModel.from_pretrained(where).state_dict() for where in (folder, base))
    assert all(torch.equal(value, start[name]) for name, value in tuned.items() if name.startswith("vision"))
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    values = [entry["eval_zeroshot_top1"] for entry in history if "eval_zeroshot_top1" in entry]
    assert len(values) >= 2  # before the first step, too


@pytest.mark.slow
def test_variants_are_pushed_with_what_was_measured_of_them(example, base, hub, tmp_path):
    files = {path.name: path.read_bytes() for path in base.iterdir() if path.is_file()}
    hub.add("model", "user/clip", files)
    settings = {"triplets": {"data": "scenes", "max_rows": 40}, "zeroshot": {"data": "scenes", "max_rows": 22}}
    script = example.script.with_name("finetune_lora.py")
    token = "hf_" + "A1b2C3d4" * 4
    finished = run_command(
        [sys.executable, script, "--model_name_or_path", base, "--output_dir", tmp_path / "out", "--max_steps", "2",
         "--eval_strategy", "no", "--save_strategy", "no", "--per_device_train_batch_size", "8", "--alpha", "0,1",
         "--scenes_train_size", "60", "--scenes_validation_size", "20", "--scenes_test_size", "40", "--max_loss", "1",
         "--dataloader_num_workers", "0", "--warmup_steps", "0", "--benchmarks", json.dumps(settings),
         "--push_to_hub", "--hub_model_id", "user/tuned", "--hub_base_model", "user/clip", "--hub_token", token],
        hub, tmp_path / "home", OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    assert token not in finished.stdout + finished.stderr
    for slug in ("lora", "lora-distilled"):
        files = hub.files("model", f"user/tuned-{slug}")
        card = ModelCard(files["README.md"].decode())
        assert card.data.base_model == "user/clip"
        assert card.data.base_model_relation == "adapter"
        assert f'PeftModel.from_pretrained(base, "user/tuned-{slug}")' in card.text
        assert "## Retention" in card.text  # measured before it was pushed
        assert {"interpolation.json", "interpolation.png", "adapter_model.safetensors"} <= files.keys()
        assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "user/clip"
        for content in files.values():
            assert token.encode() not in content
            assert str(tmp_path).encode() not in content
    assert ("model", "user/lora") not in hub.repos  # the folder's name, which `Trainer` would take

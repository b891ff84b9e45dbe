# SPDX-License-Identifier: Apache-2.0
"""`examples/finetune_lora.py`: from a model of `examples/pretrain.py` to adapters, curves and the table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoTokenizer, CLIPModel

from tests.end_to_end.conftest import Example


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

# SPDX-License-Identifier: Apache-2.0
"""`examples/finetune_lora.py` in two processes, and going on after it was killed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from hf_tripletclip import load_scenes
from hf_tripletclip.checkpoints.load import load_clip_like
from hf_tripletclip.evaluation import evaluate_triplets
from hf_tripletclip.training.checkpointing import is_complete, last_complete_checkpoint
from tests.end_to_end.conftest import ONE_PROCESS, TWO_PROCESSES, Example, losses

ZEROSHOT = {"zeroshot": {"data": "scenes", "max_rows": 22}}
BENCHMARKS = {"triplets": {"data": "scenes", "max_rows": 40}, **ZEROSHOT}
DISTILLED = {"objective_kwargs": {"distillation": {"kind": "similarity", "weight": 1.0}}}
SAVING = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 2}
FILES = ("adapter_model.safetensors", "logit_scale.safetensors", "metrics.json", "interpolation.json")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(example: Example, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "clip"
    example.run(folder, "--objective", "clip", "--max_steps", "6")
    return folder


def command(
    example: Example, base: Path, output: Path, variants: dict[str, Any], *flags: str, launcher: list[str]
) -> list[str]:
    """Two processes with batches of 8, or one with a batch of 16; on a CPU, which two processes must be told."""
    rows = "8" if launcher is TWO_PROCESSES else "16"
    return [
        *launcher, str(example.script.with_name("finetune_lora.py")), "--use_cpu",
        *("--model_name_or_path", str(base), "--output_dir", str(output), "--variants", json.dumps(variants)),
        *("--max_steps", "6", "--eval_strategy", "no", "--save_strategy", "no", "--logging_steps", "1"),
        *("--scenes_train_size", "60", "--scenes_validation_size", "20", "--scenes_test_size", "40"),
        *("--dataloader_num_workers", "0", "--warmup_steps", "0", "--per_device_train_batch_size", rows),
        *("--alpha", "0,1", "--max_loss", "1", "--benchmarks", json.dumps(BENCHMARKS), *flags),
    ]  # fmt: skip


def finetune(*arguments: Any, launcher: list[str], status: int = 0) -> subprocess.CompletedProcess[str]:
    example: Example = arguments[0]
    finished = subprocess.run(
        command(*arguments, launcher=launcher),
        env=example.environment,
        capture_output=True,
        text=True,
        timeout=300,  # where processes wait for each other
    )
    assert finished.returncode == status, finished.stdout[-2000:] + finished.stderr[-4000:]
    return finished


def probed(folder: Path) -> list[tuple[int, float]]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [(entry["step"], entry["eval_zeroshot_top1"]) for entry in history if "eval_zeroshot_top1" in entry]


def test_two_processes_walk_the_curve_of_one_and_stop_together(example, base, tmp_path):
    """The teacher is the model without adapters, inside DDP; one tower is adapted beside one that trains in full."""
    watched = {"retention_metric": "zeroshot_top1", "max_retention_loss": 0.0, "eval_benchmarks": ZEROSHOT}
    each_step = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    both = {"distilled": DISTILLED, "mixed": {**DISTILLED, "train_vision": "full", "train_logit_scale": True}}
    stopped = {**watched, **each_step, "learning_rate": 0.3}
    one, two = tmp_path / "one", tmp_path / "two"
    finetune(example, base, one, both, launcher=ONE_PROCESS)
    variants = {**both, "stopped": stopped}
    finished = finetune(example, base, two, variants, "--mini_batch_size", "3", launcher=TWO_PROCESSES)
    for name in both:
        assert "| world_size | 2 |" in (two / name / "README.md").read_text()
        assert len(losses(two / name)) == 6
        assert losses(two / name) == pytest.approx(losses(one / name), rel=2e-4)
        history = json.loads((two / name / "trainer_state.json").read_text())["log_history"]
        assert max(entry["distillation"] for entry in history if "loss" in entry) > 0.01
    table = (two / "finetuning.md").read_text()
    assert table.count("\n") == 2 + 1 + 2 * len(variants)
    assert table in finished.stdout

    steps, values = zip(*probed(two / "stopped"), strict=True)
    assert steps[-1] < 6, "it was not stopped"
    assert values[-1] < values[0] <= min(values[:-1])
    assert finished.stderr.count(f"Training stops after step {steps[-1]}: ") == 1
    if steps[-2]:  # the adapter is that of the last evaluation within the bound
        kept, tuned = (
            load_file(folder / "adapter_model.safetensors")
            for folder in (two / "stopped" / f"checkpoint-{steps[-2]}", two / "stopped")
        )
        assert all((tuned[name] == value).all() for name, value in kept.items())
    # Both processes went back: each evaluated a share of the rows with the weights that it holds.
    model, processor = load_clip_like(two / "stopped")
    rows = load_scenes("test", nouns=24, train_size=60, validation_size=20, test_size=40)
    expected = evaluate_triplets(model, processor, rows, batch_size=64).metrics
    assert json.loads((two / "stopped" / "metrics.json").read_text()) == pytest.approx(expected)


@pytest.mark.parametrize("launcher", [ONE_PROCESS, TWO_PROCESSES], ids=["one process", "two processes"])
def test_a_resumed_run_continues_the_exact_curve(example, base, tmp_path, launcher):
    """With dropout, which the random state of each process decides, and a scale that trains beside the adapter."""
    variants = {"lora": {**DISTILLED, **SAVING, "lora_dropout": 0.3, "train_logit_scale": True}}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    arguments = (variants, "--mini_batch_size", "3")
    finetune(example, base, whole, *arguments, launcher=launcher)
    assert not list(whole.rglob("*.tmp*"))
    shutil.copytree(whole / "lora" / "checkpoint-4", cut / "lora" / "checkpoint-4")
    finetune(example, base, cut, *arguments, "--resume_from_checkpoint", launcher=launcher)
    assert losses(cut / "lora") == losses(whole / "lora")
    for name in FILES:
        assert (cut / "lora" / name).read_bytes() == (whole / "lora" / name).read_bytes(), name

    changed = ("--resume_from_checkpoint", "--lora_r", "4")
    finished = finetune(example, base, cut, *arguments, *changed, launcher=launcher, status=1)
    refused = "checkpoint-6 was trained with other settings: `lora_r` was 16 and is 4. Resume with its settings"
    assert refused in finished.stderr
    assert (cut / "lora" / FILES[0]).read_bytes() == (whole / "lora" / FILES[0]).read_bytes()


def test_a_killed_run_goes_on(example, base, tmp_path):
    arguments = ({"lora": {**DISTILLED, **SAVING}}, "--max_steps", "12")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finetune(example, base, whole, *arguments, launcher=ONE_PROCESS)
    process = subprocess.Popen(
        command(example, base, killed, *arguments, launcher=ONE_PROCESS),
        env=example.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (killed / "lora" / "checkpoint-6").exists():  # in the middle of writing it, or right after
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert last_complete_checkpoint(killed / "lora") is not None
    assert not (killed / "lora" / "metrics.json").exists()
    finetune(example, base, killed, *arguments, "--resume_from_checkpoint", launcher=ONE_PROCESS)
    assert losses(killed / "lora") == losses(whole / "lora")
    assert all(map(is_complete, (killed / "lora").glob("checkpoint-*")))
    assert (killed / "lora" / FILES[0]).read_bytes() == (whole / "lora" / FILES[0]).read_bytes()


def test_a_mistake_ends_both_processes_with_its_message(example, base, tmp_path):
    flags = ["--eval_strategy", "steps", "--eval_steps", "2", "--eval_benchmarks", json.dumps(ZEROSHOT)]
    flags += ["--retention_metric", "zeroshot_top9"]
    started = time.monotonic()
    finished = finetune(example, base, tmp_path / "out", {"lora": {}}, *flags, launcher=TWO_PROCESSES, status=1)
    assert time.monotonic() - started < 120
    assert "error: `retention_metric` is 'zeroshot_top9', which zeroshot does not give; there are" in finished.stderr
    assert "finetuning.py" not in finished.stderr  # the launcher's traceback is there, and none of ours
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

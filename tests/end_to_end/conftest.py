# SPDX-License-Identifier: Apache-2.0
"""Runs the training example in processes of its own, as its users do, on a tiny model and in seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = """
dataset_name_or_path: scenes
scenes_train_size: 160
scenes_validation_size: 30
scenes_test_size: 42
objective: tripletclip
model_config:
  projection_dim: 16
  vision_config: {image_size: 32, patch_size: 16, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2,
                  num_attention_heads: 2}
  text_config: {hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2}
max_steps: 12
per_device_train_batch_size: 8
learning_rate: 1.0e-3
logging_steps: 1
eval_strategy: "no"
save_strategy: "no"
dataloader_num_workers: 0
report_to: none
disable_tqdm: true
seed: 3
"""

ONE_PROCESS = [sys.executable]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
QUIET = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
# Two processes on a CPU; see "Several processes" in docs/scaling.md.
TWO_PROCESSES = [*ACCELERATE, "--multi_gpu", "--num_processes", "2", "--main_process_port", "0", *QUIET]


class Example:
    """`examples/pretrain.py` with a small configuration and a cache of its own."""

    def __init__(self, root: Path, home: Path) -> None:
        self.script = root / "examples" / "pretrain.py"
        self.config = home / "small.yaml"
        self.config.write_text(CONFIG)
        self.environment = {
            **os.environ,
            "HF_HOME": str(home / "hf"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def command(self, output_dir: Path, *flags: str, launcher: list[str] = ONE_PROCESS) -> list[str]:
        return [*launcher, str(self.script), "--config", str(self.config), "--output_dir", str(output_dir), *flags]

    def run(
        self, output_dir: Path, *flags: str, launcher: list[str] = ONE_PROCESS, status: int = 0
    ) -> subprocess.CompletedProcess[str]:
        finished = subprocess.run(
            self.command(output_dir, *flags, launcher=launcher),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert finished.returncode == status, finished.stdout[-2000:] + finished.stderr[-4000:]
        return finished


def losses(output_dir: Path) -> dict[int, float]:
    history = json.loads((output_dir / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}


@pytest.fixture(scope="session")
def example(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Example:
    return Example(Path(pytestconfig.rootpath), tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="session")
def reference(example: Example, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of one process with a batch of 16."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    example.run(folder, "--per_device_train_batch_size", "16")
    return folder

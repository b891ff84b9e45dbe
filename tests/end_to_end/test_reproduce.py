# SPDX-License-Identifier: Apache-2.0
"""`examples/reproduce.py`: two short runs, their table, and the same again."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_an_experiment_and_its_continuation(example, pytestconfig, tmp_path):
    script = pytestconfig.rootpath / "examples" / "reproduce.py"
    command = [
        sys.executable,
        str(script),
        "--experiment",
        "modality",
        "--output_dir",
        str(tmp_path),
        "--only",
        "negclip",
    ]
    command += ["--seeds", "0", "1", "--max_steps", "2", "--disable_tqdm", "--config", str(example.config)]
    finished = subprocess.run(command, env=example.environment, check=True, capture_output=True, text=True)
    assert "| clip | 2 |" in finished.stdout
    assert "| negclip | 2 |" in finished.stdout
    log = tmp_path / "clip-seed-0" / "log.txt"
    before = log.read_text()
    subprocess.run(command, env=example.environment, check=True, capture_output=True)
    assert log.read_text() == before
    assert "| negclip | 2 |" in (tmp_path / "modality" / "comparison.md").read_text()
    shared = [word if word != "modality" else "cyclip" for word in command]
    shared[shared.index("negclip")] = "cyclip"
    finished = subprocess.run(shared, env=example.environment, check=True, capture_output=True, text=True)
    assert "4 runs in" in finished.stdout
    assert ", 2 of them finished" in finished.stdout
    assert "| cyclip | 2 |" in finished.stdout
    assert log.read_text() == before
    refused = subprocess.run(
        [*command, "--learning_rate", "1"], env=example.environment, capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert "name another `--output_dir`" in refused.stderr

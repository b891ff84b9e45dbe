# SPDX-License-Identifier: Apache-2.0
"""`examples/compare_objectives.py`: its bookkeeping, and a comparison of two short runs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def compare(pytestconfig):
    path = Path(pytestconfig.rootpath) / "examples" / "compare_objectives.py"
    spec = importlib.util.spec_from_file_location("compare_objectives", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_plan_has_the_control_with_twice_the_steps(compare, tmp_path):
    runs = compare.plan(tmp_path, ["clip", "tripletclip"], [0, 1], 10)
    assert [(run.label, run.objective, run.steps, run.seed) for run in runs[:3]] == [
        ("clip", "clip", 10, 0),
        ("tripletclip", "tripletclip", 10, 0),
        ("clip (2x steps)", "clip", 20, 0),
    ]
    assert len({run.folder for run in runs}) == len(runs) == 6
    assert all(run.objective != "clip" for run in compare.plan(tmp_path, ["negclip"], [0], 10))


def test_summary_is_mean_and_deviation_over_seeds(compare, tmp_path):
    runs = compare.plan(tmp_path, ["negclip"], [0, 1, 2], 10)
    for run, value in zip(runs[:2], (0.2, 0.4), strict=True):
        run.folder.mkdir()
        (run.folder / "metrics.json").write_text(json.dumps({"group_score": value, "text_score": 0.5}))
    mean, deviation, seeds = compare.summarize(runs)["negclip"]["group_score"]
    assert (mean, seeds) == (pytest.approx(0.3), 2)
    assert deviation == pytest.approx(0.1414, abs=1e-4)
    table = compare.as_markdown(compare.summarize(runs))
    assert "| negclip | 2 | 0.500 ± 0.000 | 0.300 ± 0.141 |" in table


@pytest.mark.slow
def test_a_comparison_and_its_continuation(compare, example, tmp_path):
    command = [sys.executable, compare.__file__, "--output_dir", str(tmp_path), "--objectives", "clip"]
    command += ["--seeds", "0", "--max_steps", "2", "--config", str(example.config)]
    finished = subprocess.run(command, env=example.environment, check=True, capture_output=True, text=True)
    assert "| clip | 1 |" in finished.stdout
    assert "| clip (2x steps) | 1 |" in finished.stdout
    for name in ("comparison.md", "comparison.json", "comparison.png"):
        assert (tmp_path / name).stat().st_size > 0
    log = tmp_path / "clip-2-steps-seed-0" / "log.txt"
    before = log.read_text()
    subprocess.run(command, env=example.environment, check=True, capture_output=True)
    assert log.read_text() == before  # a finished run is kept
    refused = subprocess.run(
        [*command, "--learning_rate", "1"], env=example.environment, capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert "name another --output_dir" in refused.stderr

# SPDX-License-Identifier: Apache-2.0
"""`benchmarks/run.py`: one of its rows in a small size, the same loss in all ways, and times in turns."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch):
    """Benchmarks import each other by plain names, which other modules may have too."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) == str(FOLDER / f"{name}.py"):
            del sys.modules[name]


def without_its_extra(options):
    raise ImportError("datatrove is not installed")


def test_a_row_quickly(monkeypatch, tmp_path):
    page = tmp_path / "run.md"
    monkeypatch.setattr(
        sys, "argv", ["run.py", "--quick", "--only", "step", "rules", "gpu_step", "--output", str(page)]
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = importlib.import_module("run")
    monkeypatch.setitem(run.CPU, "rules", without_its_extra)
    run.main()
    text = page.read_text(encoding="utf-8")
    row = re.search(
        r"\| training step.*\| the published step \| ([\d.]+) \| ≥ 1.55 \| (met|not met); "
        r"its matrix products take [\d.]+ times fewer operations \|",
        text,
    )
    assert row is not None
    assert float(row[1]) > 0
    assert "- `rules` was left out: datatrove is not installed." in text
    assert (float(row[1]) >= 1.55) == (row[2] == "met")
    assert "- `gpu_step` was left out: there is no CUDA device." in text


def test_steps_have_the_same_loss():
    steps = importlib.import_module("training_step").Steps(3, layers=1)
    assert steps.padded[0]["input_ids"].shape == (3, 77)
    published, ours = (step(False)() for step in (steps.published, steps.ours))
    torch.testing.assert_close(ours, published, rtol=1e-4, atol=1e-5)


def test_ways_take_turns():
    alternating = importlib.import_module("alternating")
    called: list[str] = []
    times = alternating.alternate({name: lambda name=name: called.append(name) for name in "ab"}, 2)
    assert "".join(called) == "ab" + "ab" + "ba"
    assert len(times["a"].cpu) == len(times["b"].wall) == 2
    slow, fast = alternating.Times(cpu=[2.0, 8.0, 3.0]), alternating.Times(cpu=[1.0, 2.0, 3.0])
    assert slow.ratio(fast) == 2
    assert slow.median() == 3

# SPDX-License-Identifier: Apache-2.0
"""Trainings in two processes against one with the doubled batch: short last batches, broken rows, and the end."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tests.objectives.test_distributed import in_two_processes
from tests.training import steps_worker


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, pytestconfig):
    folder = tmp_path_factory.mktemp("steps")
    in_two_processes(pytestconfig.rootpath, steps_worker.__name__, str(folder))
    saved = torch.load(folder / "results.pt")
    assert saved["world_size"] == 2
    return saved


@pytest.mark.slow
@pytest.mark.parametrize("case", steps_worker.CASES)
def test_two_processes_train_and_evaluate_as_one(two_processes, tmp_path, case):
    log, weights = two_processes[case]
    expected_log, expected = steps_worker.run(case, tmp_path, 8)
    assert len(log) == len(expected_log)
    for found, wanted in zip(log, expected_log, strict=True):
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("case", steps_worker.STOPPED)
def test_two_processes_stop_together(two_processes, case):
    messages = [found[case] for found in two_processes["messages"]]
    assert messages[0] == messages[1]
    assert messages[0].startswith("Training stops")


LEFT_ALONE = """
import os, signal, sys, time
import torch
import torch.distributed as dist
from hf_tripletclip import TripletCLIPTrainingArguments

args = TripletCLIPTrainingArguments(output_dir=sys.argv[1], use_cpu=True, ddp_timeout=5, report_to="none")
assert args.world_size == 2
dist.all_reduce(torch.ones(1))
if args.process_index == 1:
    os.kill(os.getpid(), signal.SIGSTOP)  # as if the link to it were lost: nothing comes, and nothing says so
started = time.monotonic()
try:
    dist.all_reduce(torch.ones(1))
except RuntimeError as error:
    with open(f"{sys.argv[1]}/gave_up", "w") as file:
        file.write(str(time.monotonic() - started))
    os._exit(3)
"""


@pytest.mark.slow
def test_a_process_that_waits_for_ever_on_a_cpu_ends(tmp_path):
    (tmp_path / "script.py").write_text(LEFT_ALONE)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with subprocess.Popen([*command, str(tmp_path / "script.py"), str(tmp_path)], stderr=subprocess.PIPE) as process:
        try:
            process.communicate(timeout=150)  # torchrun waits for half a minute before it ends the other for good
        finally:
            process.kill()
    assert 4 < float((tmp_path / "gave_up").read_text()) < 60

# SPDX-License-Identifier: Apache-2.0
"""Two gloo processes under DDP against one process with the concatenated batch: loss and every gradient."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_tripletclip.objectives import available_objectives
from tests.objectives.distributed_worker import one_step


@pytest.mark.parametrize(
    ("counts", "mini_batch_size"), [((4, 4), None), ((5, 3), None), ((4, 4), 3)], ids=["even", "uneven", "gradcache"]
)
def test_two_processes_equal_one_with_the_concatenated_batch(tmp_path, pytestconfig, counts, mini_batch_size):
    out = tmp_path / "results.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.objectives.distributed_worker", str(out), *map(str, counts)]
    command += [] if mini_batch_size is None else [str(mini_batch_size)]
    finished = subprocess.run(command, cwd=Path(pytestconfig.rootpath), capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-3000:]

    results = torch.load(out)
    assert set(results) == set(available_objectives())
    for name, (loss, gradients) in results.items():
        expected, reference = one_step(name, slice(0, 8), None, lambda model: model)
        assert loss == pytest.approx(expected, rel=1e-5), name
        for parameter, gradient in reference.items():
            torch.testing.assert_close(gradients[parameter], gradient, rtol=1e-5, atol=1e-8, msg=f"{name} {parameter}")

# SPDX-License-Identifier: Apache-2.0
"""Keys that go round in a ring of three gloo processes, against one process with all rows."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from hf_tripletclip.objectives import Embeddings, get_objective
from hf_tripletclip.objectives.exchange import GATHER_LIMIT, goes_round
from tests.objectives import ring_worker
from tests.objectives.reference import make_batch


@pytest.fixture(scope="module")
def three_processes(tmp_path_factory, pytestconfig):
    out = tmp_path_factory.mktemp("ring") / "results.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    finished = subprocess.run(
        [*command, "-m", ring_worker.__name__, str(out)],
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return torch.load(out)


@pytest.mark.parametrize("kernel", ring_worker.KERNELS)
@pytest.mark.parametrize("case", ring_worker.CASES)
def test_the_ring_equals_one_process(three_processes, case, kernel):
    found = [results[case, kernel] for results in three_processes]
    leaves = ring_worker.leaves_of(case, None)
    losses = ring_worker.losses_of(kernel, case, leaves, None)
    expected = ring_worker.gradients_of(losses, leaves, 0)
    torch.testing.assert_close(torch.cat([one for one, _ in found]), losses.detach())
    for name, wanted in expected.items():
        parts = [gradients[name] for _, gradients in found]
        together = sum(parts) if name in ("scale", "bias") else torch.cat(parts)
        torch.testing.assert_close(together, wanted, msg=lambda text, n=name: f"{n}: {text}")
        assert wanted.abs().max() > 1e-3 or (name == "bias" and "sigmoid" not in kernel)


def test_no_process_holds_all_keys(three_processes):
    for results in three_processes:
        largest = results["largest"]
        assert largest["ring"] <= 2 * 64 * 32 < 3 * 64 * 32 <= largest["gather"]  # two blocks of keys, at most
        assert largest["auto"] == largest["gather"]


def test_auto_goes_by_the_size_of_all_keys():
    rows = GATHER_LIMIT // 2048
    for counts, expected in (([[rows]], False), ([[rows, 1]], True), ([[rows], [1]], True), ([[0], [0]], False)):
        assert goes_round("auto", counts, 2048) == expected
        assert goes_round("ring", counts, 2048)
        assert not goes_round("gather", counts, 2048)


def test_settings_and_one_process():
    assert get_objective("tripletclip", key_exchange="ring").settings == {"key_exchange": "ring"}
    assert get_objective("siglip", key_exchange="gather").settings == {}
    for wrong in ("star", None, True):
        with pytest.raises(ValueError, match=r"`key_exchange` is .*; it can be 'gather' or 'ring' or 'auto'"):
            get_objective("tripletclip", key_exchange=wrong)
    batch = make_batch()
    embeddings = Embeddings(**batch.values)
    alone = get_objective("tripletclip")(embeddings, 5.0).loss
    assert torch.equal(get_objective("tripletclip", key_exchange="ring")(embeddings, 5.0).loss, alone)

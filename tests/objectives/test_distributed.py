# SPDX-License-Identifier: Apache-2.0
"""Two gloo processes under DDP against one process with the concatenated batch: loss, parts and every gradient."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.objectives import distributed_worker, towers_worker


def in_two_processes(root: Path, module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    finished = subprocess.run(
        [*command, "-m", module, *arguments], cwd=root, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "FutureWarning" not in finished.stderr


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, pytestconfig):
    out = tmp_path_factory.mktemp("towers") / "results.pt"
    in_two_processes(pytestconfig.rootpath, towers_worker.__name__, str(out))
    saved = torch.load(out)
    assert saved["world_size"] == 2
    return saved["results"]


@pytest.mark.parametrize("case", towers_worker.CASES)
def test_two_processes_equal_one_with_the_concatenated_batch(two_processes, case):
    for name in towers_worker.objectives_of(case):
        found = two_processes[case, name]
        expected = towers_worker.step(towers_worker.model_of(case, name), towers_worker.batch_of(case, None))
        assert {key for key, value in expected[1].items() if value.abs().max() > 1e-3} >= {
            "image.weight",
            "text.weight",
            "logit_scale",
            *(["logit_bias"] if "siglip" in name else []),
        }
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}")


def test_negatives_that_are_not_shared(two_processes):
    model = towers_worker.Towers("tripletclip")
    halves = [model(towers_worker.batch_of("even", rank)).loss for rank in range(2)]
    loss = (halves[0] + halves[1]) / 2
    loss.backward()
    values, gradients = two_processes["not shared", "tripletclip"]
    torch.testing.assert_close(values["loss"], loss.detach())
    torch.testing.assert_close(gradients, {key: p.grad for key, p in model.named_parameters()})
    assert (values["loss"] - two_processes["even", "tripletclip"][0]["loss"]).abs() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("counts", "mini_batch_size"),
    [((5, 3), None), ((8, 0), None), ((4, 4), 3)],
    ids=["model", "a process without rows", "gradcache"],
)
def test_model_and_gradient_caching_in_two_processes(tmp_path, pytestconfig, counts, mini_batch_size):
    out = tmp_path / "results.pt"
    arguments = [str(out), *map(str, counts)] + ([] if mini_batch_size is None else [str(mini_batch_size)])
    in_two_processes(pytestconfig.rootpath, distributed_worker.__name__, *arguments)

    results = torch.load(out)
    assert set(results) == set(distributed_worker.VARIANTS)
    for name, (loss, gradients) in results.items():
        expected, reference = distributed_worker.one_step(name, slice(0, 8), None, lambda model: model)
        assert loss == pytest.approx(expected, rel=1e-5), name
        for parameter, gradient in reference.items():
            torch.testing.assert_close(gradients[parameter], gradient, rtol=1e-5, atol=1e-8, msg=f"{name} {parameter}")

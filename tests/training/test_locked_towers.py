# SPDX-License-Identifier: Apache-2.0
"""Two processes that share what locked towers put out, against one without a cache."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.test_distributed import in_two_processes
from tests.training import locked_worker


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, pytestconfig):
    folder = tmp_path_factory.mktemp("locked")
    in_two_processes(pytestconfig.rootpath, locked_worker.__name__, str(folder))
    saved = torch.load(folder / "results.pt")
    assert saved["world_size"] == 2
    return saved


@pytest.mark.slow
@pytest.mark.parametrize("time", ["first", "again"])
@pytest.mark.parametrize("case", locked_worker.CASES)
def test_two_processes_train_as_one_without_a_cache(two_processes, tmp_path, case, time):
    expected = locked_worker.run(case, tmp_path, 8, None)
    found = two_processes[case, time]
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-4, abs=1e-5)
    assert found["evaluated"] == pytest.approx(expected["evaluated"], rel=1e-4, abs=1e-5)
    assert found["repeated"] == expected["repeated"]
    assert max(found["repeated"]) > 0
    for computed in two_processes["computed"]:
        values = computed[case, time].values()
        assert set(values) == {0} if time == "again" else all(0 < value <= 5 for value in values)

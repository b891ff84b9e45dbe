# SPDX-License-Identifier: Apache-2.0
"""What one process finds or fails at, told to all; the other process is made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hf_tripletclip.utils import processes
from hf_tripletclip.utils.processes import from_first_process, in_all_processes


def fail() -> Any:
    raise FileNotFoundError("nothing there")


def test_alone():
    assert from_first_process(lambda: 3) == in_all_processes(lambda: 3) == 3
    for together in (from_first_process, in_all_processes):
        with pytest.raises(FileNotFoundError, match="nothing there"):
            together(fail)


def test_another_process_fails(monkeypatch):
    monkeypatch.setattr(processes, "gather_object", lambda own: [*own, "OSError: full"])
    with pytest.raises(ValueError, match="in another process: OSError: full"):
        in_all_processes(lambda: 3)


@pytest.mark.parametrize("told", [[5, None], [None, OSError("full")]])
def test_only_the_first_process_calls_the_function(monkeypatch, told):
    sent: list[Any] = []
    monkeypatch.setattr(processes, "PartialState", lambda: SimpleNamespace(is_main_process=False))
    monkeypatch.setattr(processes, "broadcast_object_list", lambda own: sent.append(own) or told)
    if told[1] is None:
        assert from_first_process(fail) == 5
    else:
        with pytest.raises(OSError, match="full"):
            from_first_process(fail)
    assert sent == [[None, None]]


def test_a_mistake_of_the_program_is_not_told():
    with pytest.raises(ZeroDivisionError):
        from_first_process(lambda: 1 // 0)

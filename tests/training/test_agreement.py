# SPDX-License-Identifier: Apache-2.0
"""What the processes of a run agree on, with the others' answers made up."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_tripletclip.training import output_lock, resuming
from hf_tripletclip.training.checkpointing import mark_complete, visible
from hf_tripletclip.training.output_lock import HOLDER_FILE, AlreadyTraining, holder, output_held, training_lock
from hf_tripletclip.training.resuming import agree_on_checkpoint
from hf_tripletclip.utils import processes


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with whole checkpoints of steps 5 and 10."""
    for step in (5, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        mark_complete(folder)
    return tmp_path


def process(folder: Path, index: int = 0, **changes: Any) -> Any:
    given = {"world_size": 2, "process_index": index, "local_process_index": 0, "save_on_each_node": False}
    return SimpleNamespace(output_dir=str(folder), **{**given, **changes})


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What the other processes say, each time that all are asked; and what process 0 says to this one."""

    def others(*answers: Any, first: Any = None) -> None:
        told = iter(answers)

        def gather(own: list[Any]) -> list[Any]:
            answer = next(told, None)
            return answer(own) if callable(answer) else [*own, answer]

        def broadcast(outcome: list[Any]) -> list[Any]:
            if first is None:
                return outcome
            return [None, first] if isinstance(first, Exception) else [first, None]

        for module in (output_lock, resuming):
            monkeypatch.setattr(module, "gather_object", gather)
        monkeypatch.setattr(processes, "broadcast_object_list", broadcast)
        monkeypatch.setattr(
            output_lock, "broadcast_object_list", lambda values: values if first is None else [first, *values[1:]]
        )

    return others


def test_processes_agree_on_the_checkpoint_or_are_told_which_differs(run, others):
    seen = visible(True, run)
    others((1, "beta", seen))
    assert agree_on_checkpoint(True, process(run)) == str(run / "checkpoint-10")
    for there, listed in (({}, "none"), ({"checkpoint-5": "other"}, "checkpoint-5")):
        others((1, "beta", there))
        with pytest.raises(ValueError, match="a folder that all machines share: nothing was trained") as caught:
            agree_on_checkpoint("true", process(run))
        assert (
            f"process 0 on {socket.gethostname()} sees checkpoint-5, checkpoint-10, process 1 on beta sees {listed}."
            in str(caught.value)
        )
    assert agree_on_checkpoint(None, process(run)) is None
    assert agree_on_checkpoint("false", process(run)) is None
    assert agree_on_checkpoint(True, process(run, world_size=1)) == str(run / "checkpoint-10")


def test_files_of_each_machine_are_compared_by_name(run, others):
    others((1, "beta", {"checkpoint-5": "", "checkpoint-10": ""}))
    assert agree_on_checkpoint(True, process(run, save_on_each_node=True)) == str(run / "checkpoint-10")


def test_all_processes_raise_what_process_0_cannot_resolve(run, others):
    others((1, "beta", {}))
    with pytest.raises(FileNotFoundError, match="which is no folder"):
        agree_on_checkpoint(str(run / "absent"), process(run))
    others(lambda own: [*own], first=ValueError("told by process 0"))
    with pytest.raises(ValueError, match="told by process 0"):
        agree_on_checkpoint(True, process(run, 1))


@pytest.mark.parametrize(
    ("index", "local", "marked", "named"),
    [(1, 0, True, True), (0, 0, True, False), (1, 1, True, False), (1, 0, False, False)],
)
def test_a_copy_that_is_damaged_on_another_machine(run, others, index, local, marked, named):
    """One process of each other machine reads it; one without a marker, of a plain `Trainer`, tells nothing."""
    checkpoint = run / "checkpoint-10"
    (checkpoint / "trainer_state.json").write_text("{}")
    if not marked:
        (checkpoint / "checkpoint_complete.json").unlink()
    others(lambda own: own, lambda own: own, first=str(checkpoint))
    args = process(run, index, local_process_index=local)
    if not named:
        assert agree_on_checkpoint(str(checkpoint), args) == str(checkpoint)
        return
    where = f"not whole everywhere: on process 1, {socket.gethostname()}: trainer_state.json has 2 bytes"
    with pytest.raises(ValueError, match=where):
        agree_on_checkpoint(str(checkpoint), args)


def test_process_0_holds_the_folder_and_all_refuse_another_run(tmp_path, others):
    folder = tmp_path / "run"
    others(None)
    with output_held(process(folder)):
        assert holder(folder) is not None
    assert list(folder.iterdir()) == []
    others(first=AlreadyTraining("another run"))
    with pytest.raises(AlreadyTraining, match="another run"), output_held(process(folder, 1)):
        pass
    others()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_lock, "training_lock", lambda folder: (_ for _ in ()).throw(AlreadyTraining("mine")))
        with pytest.raises(AlreadyTraining, match="mine"), output_held(process(folder)):
            pass
    blocked = tmp_path / "file"
    blocked.write_text("")
    others()
    with pytest.raises(OSError, match="file"), output_held(process(blocked)):
        pass
    assert blocked.is_file()


@pytest.mark.parametrize(
    ("changes", "answer", "said"),
    [
        ({}, "process 1 on beta", "process 1 on beta does not see what process 0 writes into"),
        ({}, None, None),
        ({"save_on_each_node": True}, "process 1 on beta", None),
        ({"world_size": 1}, "process 1 on beta", None),
    ],
)
def test_process_0_warns_of_a_folder_that_is_not_shared(tmp_path, others, caplog, changes, answer, said):
    others(answer)
    with output_held(process(tmp_path, **changes)):
        pass
    assert (said or "") in caplog.text
    assert bool(said) == ("does not see" in caplog.text)


@pytest.mark.parametrize("sees", [True, False])
def test_each_process_reports_whether_it_sees_the_run(tmp_path, others, caplog, sees):
    asked: list[Any] = []
    others(lambda own: asked.extend(own) or own, first="a-run")
    if sees:
        (tmp_path / HOLDER_FILE).write_text(json.dumps({"run": "a-run"}))
    with output_held(process(tmp_path, 1)):
        pass
    assert asked == [None if sees else f"process 1 on {socket.gethostname()}"]
    assert not caplog.text  # that is for process 0


def test_the_folder_may_be_held_again_within_a_process(tmp_path, others):
    others(None)
    with training_lock(tmp_path), output_held(process(tmp_path)):
        assert holder(tmp_path) is not None

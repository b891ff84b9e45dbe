# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.training.checkpointing import (
    COMPLETE_MARKER,
    check_same_run,
    is_complete,
    last_complete_checkpoint,
    mark_complete,
    resolve_checkpoint,
    set_aside_old_run,
    unmark,
)
from tests.tiny import tiny_config


def write_checkpoint(run: Path, step: int, complete: bool = True) -> Path:
    folder = run / f"checkpoint-{step}"
    (folder / "nested").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "nested" / "rank0.pt").write_bytes(b"shard")
    (folder / "trainer_state.json").write_text("{}")
    if complete:
        mark_complete(folder)
    return folder


def test_marker_comes_and_goes(tmp_path):
    folder = write_checkpoint(tmp_path, 10, complete=False)
    assert not is_complete(folder)
    mark_complete(folder)
    assert is_complete(folder)
    assert not list(folder.glob("*.tmp"))
    unmark(folder)
    unmark(folder)  # once more is fine
    assert not is_complete(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "nested/rank0.pt"])
def test_a_missing_or_short_file_makes_it_incomplete(tmp_path, name):
    folder = write_checkpoint(tmp_path, 10)
    (folder / name).write_bytes(b"w")
    assert not is_complete(folder)
    (folder / name).unlink()
    assert not is_complete(folder)


def test_newest_complete_one_wins_by_number(tmp_path):
    assert last_complete_checkpoint(tmp_path / "missing") is None
    assert last_complete_checkpoint(tmp_path) is None
    for step in (5, 100, 20):
        write_checkpoint(tmp_path, step)
    write_checkpoint(tmp_path, 200, complete=False)
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")


def test_resolve(tmp_path):
    assert resolve_checkpoint(None, tmp_path) is None
    assert resolve_checkpoint("false", tmp_path) is None
    assert resolve_checkpoint("true", tmp_path) is None  # nothing there yet: a fresh start
    first, second = write_checkpoint(tmp_path, 1), write_checkpoint(tmp_path, 2)
    broken = write_checkpoint(tmp_path, 3)
    (broken / "model.safetensors").unlink()
    assert resolve_checkpoint(True, tmp_path) == str(second)
    assert resolve_checkpoint(str(first), tmp_path) == str(first)
    with pytest.raises(ValueError, match=r"checkpoint-3 is not a complete checkpoint; .*checkpoint-2"):
        resolve_checkpoint(str(broken), tmp_path)
    with pytest.raises(FileNotFoundError, match="checkpoint-9"):
        resolve_checkpoint(str(tmp_path / "checkpoint-9"), tmp_path)


def test_a_plain_trainers_checkpoint_may_be_named(tmp_path):
    folder = write_checkpoint(tmp_path, 4)
    (folder / COMPLETE_MARKER).unlink()
    assert resolve_checkpoint(str(folder), tmp_path) == str(folder)
    (folder / "trainer_state.json").unlink()
    with pytest.raises(ValueError, match="not a complete checkpoint"):
        resolve_checkpoint(str(folder), tmp_path)


def test_a_fresh_start_sets_an_older_run_aside(tmp_path):
    assert set_aside_old_run(tmp_path) is None
    write_checkpoint(tmp_path, 700)
    (tmp_path / "metrics.json").write_text("{}")
    assert set_aside_old_run(tmp_path) == tmp_path / "_previous"
    assert last_complete_checkpoint(tmp_path) is None
    assert not (tmp_path / "metrics.json").exists()
    old = str(tmp_path / "_previous" / "checkpoint-700")
    assert resolve_checkpoint(old, tmp_path) == old
    write_checkpoint(tmp_path, 3, complete=False)
    assert set_aside_old_run(tmp_path) is None  # nothing worth it: what was kept stays
    assert is_complete(old)


def test_a_fresh_start_leaves_no_weights_of_an_older_run(tmp_path):
    for name in ("adapter_config.json", "adapter_model.safetensors", "logit_scale.safetensors", "config.json"):
        (tmp_path / name).write_text("{}")
    for name in ("model.safetensors", "model-00001-of-00002.safetensors", "README.md"):
        (tmp_path / name).write_text("")
    set_aside_old_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_checkpoint_of_another_run_is_not_continued(tmp_path):
    TripletCLIPModel(tiny_config(objective="clip")).save_pretrained(tmp_path)
    check_same_run(tmp_path, tiny_config(objective="clip"))
    check_same_run(tmp_path, tiny_config(objective="clip", use_cache=False))  # which Trainer sets
    with pytest.raises(ValueError, match="objective is 'clip', not 'negclip'"):
        check_same_run(tmp_path, tiny_config(objective="negclip"))
    wider = tiny_config(objective="clip")
    wider.vision_config.image_size = 32
    with pytest.raises(ValueError, match=r"another run: vision_config.image_size is 16, not 32\."):
        check_same_run(tmp_path, wider)
    check_same_run(tmp_path / "adapter", wider)  # an adapter's checkpoint has no config of the model

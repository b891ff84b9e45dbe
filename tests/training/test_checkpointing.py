# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.training import checkpointing
from hf_tripletclip.training.checkpointing import (
    COMPLETE_MARKER,
    check_same_run,
    damage,
    is_complete,
    last_complete_checkpoint,
    mark_complete,
    require_optimizer,
    resolve_checkpoint,
    rotate,
    set_aside_later,
    set_aside_old_run,
    step_of,
    unmark,
    visible,
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


def test_the_marker_is_written_and_removed(tmp_path):
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


def test_the_complete_checkpoint_with_the_highest_number_is_the_newest(tmp_path):
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


@pytest.mark.parametrize(
    ("limit", "best", "kept"),
    [
        (None, None, [1, 2, 3, 4, 9]),
        (0, None, [1, 2, 3, 4, 9]),
        (-1, None, [1, 2, 3, 4, 9]),
        (1, None, [4, 9]),
        (2, None, [3, 4, 9]),
        (4, None, [1, 2, 3, 4, 9]),
        (5, None, [1, 2, 3, 4, 9]),
        (1, 2, [2, 4, 9]),
        (2, 1, [1, 4, 9]),
        (3, 1, [1, 3, 4, 9]),
        (2, 4, [3, 4, 9]),
    ],
)
def test_the_newest_and_the_best_stay(tmp_path, limit, best, kept):
    """`checkpoint-9` is behind the newest one: of another run."""
    paths = {step: write_checkpoint(tmp_path, step) for step in (1, 2, 3, 4, 9)}
    rotate(paths[4], limit, None if best is None else str(paths[best]))
    assert sorted(int(path.name.split("-")[1]) for path in tmp_path.iterdir()) == kept


def test_a_missing_newest_checkpoint_does_not_stop_rotation(tmp_path):
    for step in (1, 2, 3):
        write_checkpoint(tmp_path, step)
    rotate(tmp_path / "checkpoint-7", 1, None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "checkpoint_complete.json cannot be read"),
        ("[]", "checkpoint_complete.json cannot be read"),
        ('{"files": {"model.safetensors": "x"}}', "checkpoint_complete.json cannot be read"),
        ('{"files": {}}', "checkpoint_complete.json names no files"),
        ('{"files": {"a": 1}}', "a is missing"),
        ('{"files": {"model.safetensors": 8}}', "model.safetensors has 7 bytes instead of 8"),
        ('{"files": {"model.safetensors": 7}}', None),
        (
            '{"files": {"model.safetensors": 7}, "sha256": {"model.safetensors": "0"}}',
            "model.safetensors has changed since it was written",
        ),
    ],
)
def test_damage_is_described(tmp_path, content, said):
    folder = write_checkpoint(tmp_path, 1)
    (folder / COMPLETE_MARKER).write_text(content)
    assert damage(folder) == said
    assert damage(folder, contents=False) == (
        None if said == "model.safetensors has changed since it was written" else said
    )


def test_later_checkpoints_are_set_aside_before_a_run_goes_on(tmp_path):
    paths = {step: write_checkpoint(tmp_path, step) for step in (1, 2, 3)}
    (tmp_path / "metrics.json").write_text("{}")
    assert set_aside_later(tmp_path, paths[3]) is None
    assert set_aside_later(tmp_path, paths[2]) == tmp_path / "_previous"
    assert [path.name for path in (tmp_path / "_previous").iterdir()] == ["checkpoint-3"]
    assert (tmp_path / "metrics.json").exists()
    # from a checkpoint that had been set aside: all others are of another course, and it stays where it is
    assert set_aside_later(tmp_path, tmp_path / "_previous" / "checkpoint-3") == tmp_path / "_previous_2"
    assert {path.name for path in (tmp_path / "_previous_2").iterdir()} == {"checkpoint-1", "checkpoint-2"}
    assert is_complete(tmp_path / "_previous" / "checkpoint-3")


def test_checkpoints_that_a_process_sees(tmp_path):
    first, second = (write_checkpoint(tmp_path, step) for step in (1, 2))
    (second / COMPLETE_MARKER).unlink()
    seen = visible(True, tmp_path)
    assert list(seen) == ["checkpoint-1"]
    assert visible(str(first), tmp_path / "elsewhere") == seen
    assert visible(str(second), tmp_path) == {"checkpoint-2": "no marker"}
    assert visible(str(tmp_path / "checkpoint-3"), tmp_path) == {}


def test_a_checkpoint_needs_an_optimizer_and_a_step(tmp_path):
    folder = write_checkpoint(tmp_path, 4)
    with pytest.raises(ValueError, match="has the model alone"):
        require_optimizer(folder)
    for name in ("optimizer.pt", "optimizer_0", "global_step4", "pytorch_model_fsdp_0"):
        (folder / name).write_text("")
        require_optimizer(folder)
        (folder / name).unlink()
    for content in ("", "[]", "{}", '{"global_step": null}'):
        (folder / "trainer_state.json").write_text(content)
        with pytest.raises(ValueError, match=r"trainer_state\.json cannot be read: the checkpoint is damaged"):
            step_of(folder)
    (folder / "trainer_state.json").write_text('{"global_step": 4}')
    assert step_of(folder) == 4


def test_differing_configs_are_listed_up_to_five(tmp_path):
    TripletCLIPModel(tiny_config()).save_pretrained(tmp_path)
    other = tiny_config()
    for number, name in enumerate(
        ("hidden_size", "intermediate_size", "num_hidden_layers", "patch_size", "image_size", "projection_dim")
    ):
        setattr(other.vision_config, name, 100 + number)
    with pytest.raises(ValueError, match="is of another run") as caught:
        check_same_run(tmp_path, other)
    assert str(caught.value).count(" is ") == 6  # five, and that it is of another run


def test_a_file_that_cannot_be_read_is_damage(tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path, 1)

    def refuse(path: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpointing, "file_digest", refuse)
    assert damage(folder) == "model.safetensors cannot be read: Input/output error"

# SPDX-License-Identifier: Apache-2.0
"""When a command that trains starts several processes, and with what."""

from __future__ import annotations

import pytest

from hf_tripletclip.training import launch as module
from hf_tripletclip.training.launch import ACCELERATE_CONFIGS, launch


@pytest.fixture
def started(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    calls: list[tuple[list[str], list[str], list[str]]] = []
    monkeypatch.setattr(module, "_start", lambda *arguments: calls.append(tuple(map(list, arguments))))
    return calls


@pytest.mark.parametrize(
    "argv",
    [[], ["--num_processes", "1"], ["--num_processes", "2", "--help"], ["--config", "scenes", "--print_config"]],
)
def test_one_process_trains_here(started, argv):
    assert not launch(argv, "scenes", "tripletclip train")
    assert started == []


def test_several_are_started_with_the_other_flags(started):
    assert launch(["--config", "scenes", "--num-processes=3", "--seed", "1"], None, "tripletclip train")
    ((flags, program, argv),) = started
    assert flags[:3] == ["--num_processes", "3", "--multi_gpu"]
    assert program == ["-m", "hf_tripletclip.cli", "train"]
    assert argv == ["--config", "scenes", "--seed", "1"]


def test_an_accelerate_config_is_a_name_or_a_file(started, tmp_path, capsys):
    (tmp_path / "own.yaml").write_text("num_processes: 2\n")
    for given, file in (
        ("multi_gpu", ACCELERATE_CONFIGS / "multi_gpu.yaml"),
        (str(tmp_path / "own.yaml"), tmp_path / "own.yaml"),
    ):
        assert launch(["--accelerate_config", given])
        assert started.pop()[0] == ["--config_file", str(file)]
    with pytest.raises(FileNotFoundError, match="give a YAML file, or one of multi_gpu, two_machines"):
        launch(["--accelerate_config", "gpus"])
    assert launch(["--accelerate_config", "two_machines", "--print_config"])
    assert capsys.readouterr().out == (ACCELERATE_CONFIGS / "two_machines.yaml").read_text()


def test_the_configuration_may_ask_for_them(started, tmp_path, monkeypatch):
    (tmp_path / "own.yaml").write_text("num_processes: 2\n")
    assert launch(["--config", str(tmp_path / "own.yaml")], None, "tripletclip finetune")
    assert started.pop()[0][:2] == ["--num_processes", "2"]
    monkeypatch.setenv("WORLD_SIZE", "2")  # in a process that was started so
    assert not launch(["--config", str(tmp_path / "own.yaml")], None, "tripletclip finetune")


@pytest.mark.parametrize("number", ["0", "two", "-1"])
def test_a_number_that_is_none_is_refused(started, number):
    with pytest.raises(ValueError, match=f"`num_processes` is {number}: give a whole number"):
        launch([f"--num_processes={number}"])

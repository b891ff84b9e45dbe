# SPDX-License-Identifier: Apache-2.0
"""When a command that trains starts several processes, and with what."""

from __future__ import annotations

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

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
    with pytest.raises(
        FileNotFoundError, match="give a YAML file, or one of fsdp2, multi_gpu, multi_node, single_gpu, zero2, zero3"
    ):
        launch(["--accelerate_config", "gpus"])
    assert launch(["--accelerate_config", "multi_node", "--print_config"])
    assert capsys.readouterr().out == (ACCELERATE_CONFIGS / "multi_node.yaml").read_text()


@pytest.mark.parametrize("file", sorted(ACCELERATE_CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_accelerate_reads_the_ready_files(file, monkeypatch):
    """As `accelerate launch` reads them; it refuses keys that it does not know."""
    config = load_config_from_file(str(file))
    kinds = {"single_gpu": "NO", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}
    assert config.distributed_type == kinds.get(file.stem, "MULTI_GPU")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr("accelerate.commands.launch.is_deepspeed_available", lambda: True)
    command = launch_command_parser().parse_args(["--config_file", str(file), "train.py"])
    args, *_ = _validate_launch_command(command)
    assert args.num_processes == {"single_gpu": 1, "multi_node": 16}.get(file.stem, 8)
    assert args.num_machines == (2 if file.stem == "multi_node" else 1)
    assert args.mixed_precision == "bf16"
    if file.stem == "fsdp2":
        assert (args.use_fsdp, int(args.fsdp_version), args.fsdp_state_dict_type) == (True, 2, "SHARDED_STATE_DICT")
        assert not args.fsdp_cpu_ram_efficient_loading
        assert str(args.fsdp_reshard_after_forward).lower() == "true"
        assert args.fsdp_transformer_layer_cls_to_wrap is None  # found by the model's type
    if file.stem.startswith("zero"):
        assert (args.use_deepspeed, args.zero_stage) == (True, int(file.stem[-1]))
        assert args.zero3_init_flag in (False, "false")


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

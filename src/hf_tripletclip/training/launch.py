# SPDX-License-Identifier: Apache-2.0
"""Several processes: a command that trains starts `accelerate launch` itself when its flags ask for them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hf_tripletclip.utils.cli_arguments import CONFIGS, config_values, find_config

ACCELERATE_CONFIGS = CONFIGS / "accelerate"


@dataclass
class LaunchArguments:
    """Where a command that trains runs."""

    num_processes: int | None = field(
        default=None,
        metadata={"help": "Processes to train in, started by `accelerate launch`. Default: this one."},
    )
    accelerate_config: str | None = field(
        default=None,
        metadata={
            "help": "Start `accelerate launch` with this file of `accelerate config`, or a ready one: "
            f"{', '.join(sorted(file.stem for file in ACCELERATE_CONFIGS.glob('*.yaml')))}."
        },
    )


def launch(argv: Sequence[str], default_config: str | Path | None = None, prog: str | None = None) -> bool:
    """
    Start the processes that a command line or its configuration asks for, and wait for them.

    Args:
        argv (`Sequence[str]`): The command line.
        default_config (`str` or `Path`, *optional*): The configuration to use without `--config`.
        prog (`str`, *optional*): The command, such as `tripletclip train`; by default the script that is running.

    Returns:
        `bool`: Whether processes were started, which have done all there is to do: `False` if this one is to train.

    Raises:
        FileNotFoundError: There is no such configuration of accelerate.
        ChildProcessError: A process failed; it has said why.
        ValueError: The number of processes is none.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--num_processes", "--num-processes")
    finder.add_argument("--accelerate_config", "--accelerate-config")
    given, rest = finder.parse_known_args(list(argv))
    printing = any(word in ("--print_config", "--print-config") for word in rest)
    if printing and given.accelerate_config is not None:
        print(_config_file(given.accelerate_config).read_text(encoding="utf-8"), end="")
        return True
    if printing or "-h" in rest or "--help" in rest or "WORLD_SIZE" in os.environ:
        return False  # `WORLD_SIZE`: a launcher has started this process already
    config = config_values(argv, default_config)
    number = given.num_processes or config.get("num_processes")
    accelerate = given.accelerate_config or config.get("accelerate_config")
    if number is not None and not (str(number).isdigit() and int(number) > 0):
        raise ValueError(f"`num_processes` is {number}: give a whole number of processes, at least 1.")
    if accelerate is None and int(number or 1) == 1:
        return False
    flags = [] if number is None else ["--num_processes", str(number)]
    if accelerate is not None:
        flags += ["--config_file", str(_config_file(accelerate))]
    else:
        # On a CPU too: with `--cpu` accelerate (1.15) starts one process only. Port 0 is any that is free.
        flags += ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        flags += ["--main_process_port", "0"]
    _start(flags, ["-m", "hf_tripletclip.cli", *prog.split()[1:]] if prog else [sys.argv[0]], rest)
    return True


def _config_file(name: str) -> Path:
    file = find_config(name, folder=ACCELERATE_CONFIGS)
    assert file is not None  # of a name
    return file


def _start(flags: Sequence[str], program: Sequence[str], argv: Sequence[str]) -> None:
    import torch
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"
        argv = [*argv, "--use_cpu"]
    try:
        launch_command(launch_command_parser().parse_args([*flags, *program, *argv]))
    except ChildFailedError as error:
        raise ChildProcessError(f"training failed in {len(error.failures)} of the processes, as told above") from error

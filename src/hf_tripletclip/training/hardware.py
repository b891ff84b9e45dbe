# SPDX-License-Identifier: Apache-2.0
"""What a run was trained on and how long, as its model card tells."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch
import transformers
from transformers import TrainingArguments

from hf_tripletclip.version import __version__

CPU_INFO = Path("/proc/cpuinfo")
GIB = 1024**3


def describe_hardware(
    args: TrainingArguments, seconds: float | None = None, *, resumed_from: int | None = None
) -> dict[str, str]:
    """
    Name -> value, what is known of: the device, the time, the peak memory of a GPU, and the versions.

    Args:
        args ([`~transformers.TrainingArguments`]): Of the run; they say which device and how many processes.
        seconds (`float`, *optional*): How long training took.
        resumed_from (`int`, *optional*): The step after which that time began.
    """
    found = {"hardware": _device(args)}
    if seconds is not None:
        since = f", from step {resumed_from:,} on" if resumed_from else ""
        found["training time"] = f"{seconds / 60:.1f} minutes{since}"
    if args.device.type == "cuda":
        found["peak GPU memory"] = f"{torch.cuda.max_memory_allocated(args.device) / GIB:.1f} GiB per process"
    found["software"] = (
        f"hf_tripletclip {__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    )
    return found


def _device(args: TrainingArguments) -> str:
    processes = args.world_size
    if args.device.type == "cuda":
        name = torch.cuda.get_device_name(args.device)
        return name if processes == 1 else f"{processes} × {name}"
    several = "" if processes == 1 else f", {processes} processes"
    if args.device.type == "cpu":
        return f"{_cpu()}, {os.cpu_count()} cores{several}"
    return f"{args.device.type}{several}"


def _cpu() -> str:
    """The model of the CPU, or what kind it is."""
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "CPU"

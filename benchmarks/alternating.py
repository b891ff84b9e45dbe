# SPDX-License-Identifier: Apache-2.0
"""The one way in which benchmarks compare: what is measured and its reference take turns in the same run."""

from __future__ import annotations

import os
import platform
import re
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

CPU_INFO = Path("/proc/cpuinfo")
FAST_BF16 = ("amx_bf16", "avx512_bf16")  # instructions of x86 CPUs that multiply in bfloat16


@dataclass
class Times:
    """
    Args:
        wall, cpu (`list[float]`): Seconds of each round: of the clock on the wall, and of the CPU over all threads and
            all child processes that have ended, which other work on the machine disturbs least.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def median(self, clock: str = "cpu") -> float:
        return statistics.median(getattr(self, clock))

    def ratio(self, other: Times, clock: str = "cpu") -> float:
        """The median over the rounds of this time divided by the other's in the same round."""
        pairs = zip(getattr(self, clock), getattr(other, clock), strict=True)
        return statistics.median(one / another for one, another in pairs)


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def alternate(ways: Mapping[str, Callable[[], Any]], rounds: int, *, warm: bool = True) -> dict[str, Times]:
    """
    Time some ways of doing the same thing in turns, in the other order every second round.

    Args:
        ways (`Mapping[str, Callable]`): The ways by name.
        rounds (`int`): How often each is timed.
        warm (`bool`, defaults to `True`): Whether each runs once before, so that libraries set up their buffers.

    Returns:
        `dict[str, Times]`: The times by the names of the ways.
    """
    for way in ways.values() if warm else ():
        way()
    times = {name: Times() for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            _wait()
            wall, cpu = time.perf_counter(), cpu_seconds()
            ways[name]()
            _wait()
            times[name].wall.append(time.perf_counter() - wall)
            times[name].cpu.append(cpu_seconds() - cpu)
    return times


def operations(way: Callable[[], Any]) -> int:
    """The floating-point operations of the matrix products of something that is run once."""
    with FlopCounterMode(display=False) as counter:
        way()
    return counter.get_total_flops()


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_kib() -> int:
    """
    The peak resident set of this process in KiB. Linux says it of the program alone; `ru_maxrss` begins with the size
    of the process that started this one, and would hide growth below that.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))[1])  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def has_fast_bf16() -> bool:
    """Whether the CPU multiplies in bfloat16; only Linux on x86 says so."""
    flags = CPU_INFO.read_text(encoding="utf-8").split() if CPU_INFO.is_file() else []
    return any(name in flags for name in FAST_BF16)


def machine() -> str:
    """The processors, and the versions that matter."""
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    kind = f"{model}{' with bfloat16' if has_fast_bf16() else ''}, {os.cpu_count()} cores"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{kind}, {torch.get_num_threads()} threads, {device}, torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )

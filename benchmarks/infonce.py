# SPDX-License-Identifier: Apache-2.0
"""Memory and time of the streaming InfoNCE kernel, as a ratio to `cross_entropy` on the whole matrix.

    python benchmarks/infonce.py --output benchmarks/results/infonce.md

Both compute `tripletclip`, forward and backward, on the same embeddings in the same run. Each measurement has its own
process, and so its own peak memory: the growth of the peak resident set after a step of 8 rows (CPU), or
`torch.cuda.max_memory_allocated` (CUDA). Times are medians of `--repeats` steps after a first one; batches of 8192 and
more are timed once. On a CPU they are CPU seconds of all threads, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from result_page import write_page

from hf_tripletclip.objectives import Embeddings, get_objective

DIM = 512
CHUNK = get_objective("clip").chunk_size


def dense(e: Embeddings, scale: torch.Tensor) -> torch.Tensor:
    """The reference: a straightforward `tripletclip` with whole matrices."""

    def ce(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        logits = scale * queries @ keys.T
        return torch.nn.functional.cross_entropy(logits, torch.arange(len(queries), device=logits.device))

    assert e.negative_image is not None
    assert e.negative_text is not None
    first = ce(e.image, torch.cat([e.text, e.negative_text])) + ce(e.text, e.image)
    second = ce(e.negative_image, torch.cat([e.negative_text, e.text])) + ce(e.negative_text, e.negative_image)
    return (first + second) / 2


def peak_kib() -> int:
    """
    The peak resident set of this process in KiB. Linux says it of the program alone; `ru_maxrss` begins with the size
    of the process that started this one, and would hide growth below that.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))[1])  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(method: str, rows: int, chunk_size: int, repeats: int, device: str) -> dict[str, float]:
    objective = get_objective("tripletclip", chunk_size=chunk_size)
    scale = torch.tensor(14.3, device=device, requires_grad=True)

    def new_leaves(rows: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        values = (torch.randn(rows, DIM, device=device) for _ in range(4))
        return [torch.nn.functional.normalize(value, dim=-1).requires_grad_() for value in values]

    def step(leaves: list[torch.Tensor]) -> float:
        for leaf in (*leaves, scale):
            leaf.grad = None
        embeddings = Embeddings(*leaves)
        loss = dense(embeddings, scale) if method == "dense" else objective(embeddings, scale).loss
        loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return loss.item()

    step(new_leaves(8))  # libraries set up their buffers
    leaves = new_leaves(rows)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = peak_kib()
    loss = step(leaves)
    if device == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**20
    else:
        memory = (peak_kib() - before) / 2**10
    clock = time.perf_counter if device == "cuda" else time.process_time
    times = []
    for _ in range(1 if rows >= 8192 else repeats):
        start = clock()
        step(leaves)
        times.append(clock() - start)
    return {"loss": loss, "memory": memory, "time": statistics.median(times)}


def in_a_process(method: str, rows: int, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", method, "--rows", str(rows), "--device", options.device]
    command += ["--repeats", str(options.repeats), "--chunk_size", str(options.chunk_size)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1024, 4096, 8192])
    parser.add_argument("--chunk_size", type=int, default=CHUNK)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", choices=["dense", "streaming"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        rows = options.rows[0]
        print(json.dumps(measure(options.measure, rows, options.chunk_size, options.repeats, options.device)))
        return

    machine = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, times in CPU seconds of all threads"
    if options.device == "cuda":
        machine = torch.cuda.get_device_name()
    lines = [
        "Written by `python benchmarks/infonce.py --output benchmarks/results/infonce.md`.",
        "",
        f"`tripletclip`, forward and backward, dimension {DIM}, float32, chunks of {options.chunk_size} keys, "
        f"{machine}, torch {torch.__version__}, Python {platform.python_version()}. Reference, in the same run: "
        "`torch.nn.functional.cross_entropy` on whole matrices. If all keys of a term fit into one chunk, both build "
        "the same matrix.",
        "",
        "| rows | dense MiB | streaming MiB | memory ratio | dense s | streaming s | time ratio |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for rows in options.rows:
        reference, ours = (in_a_process(method, rows, options) for method in ("dense", "streaming"))
        assert abs(reference["loss"] - ours["loss"]) < 1e-3, (reference, ours)
        lines.append(
            f"| {rows} | {reference['memory']:.0f} | {ours['memory']:.0f} | "
            f"{ours['memory'] / reference['memory']:.2f} | {reference['time']:.3f} | {ours['time']:.3f} | "
            f"{ours['time'] / reference['time']:.2f} |"
        )
    write_page(lines, options.output)


if __name__ == "__main__":
    main()

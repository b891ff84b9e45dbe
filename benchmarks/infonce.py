# SPDX-License-Identifier: Apache-2.0
"""Memory and time of the streaming InfoNCE kernel, as a ratio to `cross_entropy` on the whole matrix.

    python benchmarks/infonce.py --output benchmarks/results/infonce.md

Both compute `tripletclip`, or `clip`, forward and backward, on the same embeddings in the same run. Each measurement
has its own process, and so its own peak memory: the growth of the peak resident set after a step of 8 rows (CPU), or
`torch.cuda.max_memory_allocated` (CUDA). The two take turns, and the median of `--repeats` turns counts, also of their
ratios; batches below 8192 are timed as often in each turn. On a CPU times are CPU seconds of all threads. Threads that
wait for each other count too: on a machine with other work, measure with `OMP_NUM_THREADS=1`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from alternating import peak_kib
from result_page import write_page

from hf_tripletclip.objectives import Embeddings, get_objective

DIM = 512
NOTES = (
    "Tile sizes, tried for `tripletclip` on one thread: at 8192 rows tiles of 512 x 512 and of 2048 x 2048 take from "
    "3% less to 7% more than 1024 x 1024, from run to run; at 4096 rows tiles of 256 x 256 take 4% more.",
    "",
    "Not built, because a calculation from the times of the parts shows little to gain; products of matrices take "
    "nine tenths of the time:",
    "",
    "- One exponential for both directions of a tile, with a common offset: at most 2% of the time. It would "
    "underflow if the largest logits of a row and of a column lie more than 87 apart, as they can at a scale of 100.",
    "- Keeping some tiles for the backward pass within 5% of the memory of whole matrices: 1% of the products.",
    "",
    "The packages memeff 0.3.1 (CLIP), inf-cl 1.2.1 (CLIP) and siglip-kernel 0.1.2 (sigmoid loss) have kernels in "
    "Triton, which need a CUDA GPU; so they have no row here.",
)
CHUNK = get_objective("clip").chunk_size


def cross_entropy(logits: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def dense(name: str, e: Embeddings, scale: torch.Tensor) -> torch.Tensor:
    """The reference: a straightforward `tripletclip` or `clip` with whole matrices."""
    if name == "clip":  # one matrix for both directions
        logits = scale * e.image @ e.text.T
        return (cross_entropy(logits) + cross_entropy(logits.T)) / 2

    def ce(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return cross_entropy(scale * queries @ keys.T)

    assert e.negative_image is not None
    assert e.negative_text is not None
    first = ce(e.image, torch.cat([e.text, e.negative_text])) + ce(e.text, e.image)
    second = ce(e.negative_image, torch.cat([e.negative_text, e.text])) + ce(e.negative_text, e.negative_image)
    return (first + second) / 2


def measure(name: str, method: str, rows: int, chunk_size: int, repeats: int, device: str) -> dict[str, float]:
    objective = get_objective(name, chunk_size=chunk_size)
    scale = torch.tensor(14.3, device=device, requires_grad=True)

    def new_leaves(rows: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        values = (torch.randn(rows, DIM, device=device) for _ in range(4 if name == "tripletclip" else 2))
        return [torch.nn.functional.normalize(value, dim=-1).requires_grad_() for value in values]

    def step(leaves: list[torch.Tensor]) -> float:
        for leaf in (*leaves, scale):
            leaf.grad = None
        embeddings = Embeddings(*leaves)
        loss = dense(name, embeddings, scale) if method == "dense" else objective(embeddings, scale).loss
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


def in_a_process(method: str, rows: int, options: argparse.Namespace, name: str = "tripletclip") -> dict[str, float]:
    command = [
        sys.executable,
        __file__,
        "--measure",
        method,
        "--objectives",
        name,
        "--rows",
        str(rows),
        "--device",
        options.device,
    ]
    command += ["--repeats", str(options.repeats), "--chunk_size", str(options.chunk_size)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objectives", choices=["tripletclip", "clip"], nargs="+", default=["tripletclip", "clip"])
    parser.add_argument("--rows", type=int, nargs="+", default=[1024, 4096, 8192])
    parser.add_argument("--chunk_size", type=int, default=CHUNK)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", choices=["dense", "streaming"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, rows = options.objectives[0], options.rows[0]
        print(json.dumps(measure(name, options.measure, rows, options.chunk_size, options.repeats, options.device)))
        return

    machine = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, times in CPU seconds of all threads"
    if options.device == "cuda":
        machine = torch.cuda.get_device_name()
    lines = [
        "Written by `python benchmarks/infonce.py --output benchmarks/results/infonce.md`.",
        "",
        f"Forward and backward, dimension {DIM}, float32, `chunk_size` {options.chunk_size}, {machine}, torch "
        f"{torch.__version__}, Python {platform.python_version()}. Reference, in the same run: "
        "`torch.nn.functional.cross_entropy` on whole matrices: for `tripletclip` one for each term, for `clip` one "
        "for both. If all products together have at most `chunk_size`² numbers, the kernel keeps them; else it makes "
        "each product again in the backward pass.",
        "",
        "| objective | rows | dense MiB | streaming MiB | memory ratio | dense s | streaming s | time ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, rows in itertools.product(options.objectives, options.rows):
        turns = [
            tuple(in_a_process(method, rows, options, name) for method in ("dense", "streaming"))
            for _ in range(options.repeats)
        ]
        for reference, ours in turns:
            assert abs(reference["loss"] - ours["loss"]) < 1e-3, (reference, ours)
        memory, times = (
            [
                statistics.median(values)
                for values in zip(*((a[one], b[one], b[one] / a[one]) for a, b in turns), strict=True)
            ]
            for one in ("memory", "time")
        )
        lines.append(
            f"| `{name}` | {rows} | {memory[0]:.0f} | {memory[1]:.0f} | {memory[2]:.3f} | "
            f"{times[0]:.3f} | {times[1]:.3f} | {times[2]:.2f} |"
        )
    lines += ["", *NOTES]
    write_page(lines, options.output)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Memory and time of the streaming InfoNCE kernel as a ratio against `cross_entropy` on the whole matrix.

    python benchmarks/infonce.py --output benchmarks/results/infonce.md

Both compute `tripletclip`, forward and backward, on the same embeddings in the same run. Each measurement is a process
of its own, so that peak memory is its own: the peak resident set above what was there before (CPU), or
`torch.cuda.max_memory_allocated` (CUDA). Times are medians.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from hf_tripletclip.objectives import Embeddings, get_objective

DIM = 512


def dense(e: Embeddings, scale: torch.Tensor) -> torch.Tensor:
    """The reference: `tripletclip` as one would write it, with whole matrices."""

    def ce(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        logits = scale * queries @ keys.T
        return torch.nn.functional.cross_entropy(logits, torch.arange(len(queries), device=logits.device))

    assert e.negative_image is not None
    assert e.negative_text is not None
    first = ce(e.image, torch.cat([e.text, e.negative_text])) + ce(e.text, e.image)
    second = ce(e.negative_image, torch.cat([e.negative_text, e.text])) + ce(e.negative_text, e.negative_image)
    return (first + second) / 2


def measure(method: str, rows: int, chunk_size: int, repeats: int, device: str) -> dict[str, float]:
    torch.manual_seed(0)
    leaves = [
        torch.nn.functional.normalize(torch.randn(rows, DIM, device=device), dim=-1).requires_grad_() for _ in range(4)
    ]
    scale = torch.tensor(14.3, device=device, requires_grad=True)
    objective = get_objective("tripletclip", chunk_size=chunk_size)

    def step() -> float:
        for leaf in (*leaves, scale):
            leaf.grad = None
        embeddings = Embeddings(*leaves)
        loss = dense(embeddings, scale) if method == "dense" else objective(embeddings, scale).loss
        loss.backward()
        return loss.item()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loss = step()
    if device == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**20
    else:
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return {"loss": loss, "memory": memory, "time": statistics.median(times)}


def in_a_process(method: str, rows: int, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", method, "--rows", str(rows), "--device", options.device]
    command += ["--repeats", str(options.repeats), "--chunk_size", str(options.chunk_size)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 1024, 4096, 8192])
    parser.add_argument("--chunk_size", type=int, default=get_objective("clip").chunk_size)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", choices=["dense", "streaming"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        rows = options.rows[0]
        print(json.dumps(measure(options.measure, rows, options.chunk_size, options.repeats, options.device)))
        return

    lines = [
        f"`tripletclip`, forward and backward, dimension {DIM}, float32, chunks of {options.chunk_size} keys, "
        f"{options.device} ({torch.get_num_threads()} threads, torch {torch.__version__}, Python "
        f"{platform.python_version()}). Reference: `torch.nn.functional.cross_entropy` on whole matrices.",
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
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

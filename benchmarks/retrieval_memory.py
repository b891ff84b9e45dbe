# SPDX-License-Identifier: Apache-2.0
"""Peak memory and time of exact retrieval in chunks, as a ratio to the whole matrix of scores and its `argsort`.

    python benchmarks/retrieval_memory.py --output benchmarks/results/retrieval_memory.md

Both compute recall@1, 5 and 10 in both directions from the same embeddings, for up to 5,000 images and 25,000 captions
as in COCO's test split. Each measurement has its own process, and so its own peak memory: the growth of the peak
resident set after a run on 8 images. Times are CPU seconds of all threads, which other work on
the machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from alternating import peak_kib
from result_page import write_page
from safetensors.torch import load_file, save_file

from hf_tripletclip.evaluation.recall import CELLS, rank

DIM = 512
CAPTIONS = 5  # of each image
RECALL_AT = (1, 5, 10)


def embeddings(images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images, and captions near enough to their images to be retrieved sometimes."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(images, DIM, generator=generator)
    noise = torch.randn(images * CAPTIONS, DIM, generator=generator)
    text = image.repeat_interleave(CAPTIONS, dim=0) + 5 * noise
    return torch.nn.functional.normalize(image, dim=-1), torch.nn.functional.normalize(text, dim=-1)


def matrix(image: torch.Tensor, text: torch.Tensor) -> list[float]:
    """The reference: straightforward recall with the whole matrix."""
    owner = torch.arange(len(image)).repeat_interleave(CAPTIONS)
    scores = image @ text.T
    to_text = scores.argsort(dim=1, descending=True)[:, : max(RECALL_AT)].clone()
    to_image = scores.T.argsort(dim=1, descending=True)[:, : max(RECALL_AT)].clone()
    right = [owner[to_text] == torch.arange(len(image))[:, None], to_image == owner[:, None]]
    return [hits[:, :k].any(dim=1).double().mean().item() for hits in right for k in RECALL_AT]


def chunks(image: torch.Tensor, text: torch.Tensor) -> list[float]:
    """Our recall, in chunks."""
    own = [list(range(start, start + CAPTIONS)) for start in range(0, len(text), CAPTIONS)]
    owner = [[index] for index in range(len(image)) for _ in range(CAPTIONS)]
    ranks = [rank(image, text, own).rank, rank(text, image, owner).rank]
    return [(places < k).double().mean().item() for places in ranks for k in RECALL_AT]


METHODS = {"matrix": matrix, "chunks": chunks}


def measure(method: str, file: Path) -> dict[str, float | list[float]]:
    METHODS[method](*embeddings(8))  # libraries set up their buffers
    given = load_file(file)
    assert all(values.sum().isfinite() for values in given.values())  # reads the mapped file into memory
    before = peak_kib()
    start = time.process_time()
    recall = METHODS[method](given["image"], given["text"])
    taken = time.process_time() - start
    return {
        "recall": recall,
        "memory": (peak_kib() - before) / 2**10,
        "time": taken,
    }


def in_a_process(method: str, file: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", method, "--file", str(file)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", choices=list(METHODS), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.file)))
        return

    lines = [
        "Written by `python benchmarks/retrieval_memory.py --output benchmarks/results/retrieval_memory.md`.",
        "",
        f"Exact recall@1, 5, 10 in both directions, dimension {DIM}, {CAPTIONS} captions per image, chunks of "
        f"{CELLS:,} scores, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, times in CPU seconds of "
        f"all threads, torch {torch.__version__}, Python {platform.python_version()}. Reference, in the same run: the "
        "whole float32 matrix and `argsort`. Chunks are multiplied in float64, so that equal pairs have equal scores.",
        "",
        "| images x captions | matrix MiB | chunks MiB | memory ratio | matrix s | chunks s | time ratio |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for images in options.images:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "embeddings.safetensors"
            save_file(dict(zip(("image", "text"), embeddings(images), strict=True)), file)
            reference, ours = (in_a_process(method, file) for method in METHODS)
        assert reference["recall"] == ours["recall"], (reference, ours)
        lines.append(
            f"| {images:,} x {images * CAPTIONS:,} | {reference['memory']:.0f} | {ours['memory']:.0f} | "
            f"{ours['memory'] / reference['memory']:.3f} | {reference['time']:.1f} | {ours['time']:.1f} | "
            f"{ours['time'] / reference['time']:.2f} |"
        )
    write_page(lines, options.output)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Everything that is fast by intent, measured on this machine against a named reference in the same run.

    python benchmarks/run.py --output benchmarks/results/run.md

Each row is something that this package does, the reference that takes turns with it, the ratio of the two, and the
ratio that is aimed at. Rows of a GPU run if there is one (`--device gpu` runs them alone). `--only NAME ...` picks
rows, `--quick` runs them in sizes that only show whether they work. A row that cannot run says why.

Rows import the scripts that they are parts of, whose names (`evaluate`) others may have too.

Ratios are medians over the rounds, of CPU seconds, on a GPU of the wall clock; `wall clock` in a row says otherwise.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from alternating import Times, alternate, has_fast_bf16, machine, operations
from result_page import write_page
from training_step import Steps, product_ceiling
from transformers.utils import logging

PRETRAIN = Path(__file__).resolve().parents[1] / "examples" / "pretrain.py"
NOTES = (
    "OpenCLIP is not measured, because it needs torchvision, which does not go with this package's tests. The "
    "published step works as OpenCLIP does: captions of 77 tokens without a mask.",
)
FEWER = "its matrix products take {:.2f} times fewer operations"
PARTS = "[its parts and the ceiling]({}.md)"
GPU_ROWS = 1024  # triplets of a step, the published batch


@dataclass(frozen=True)
class Result:
    """
    One comparison.

    Args:
        what, reference (`str`): What was measured, and against what.
        ratio (`float`): How many times faster, or for `at_most` which share of the reference it takes.
        target (`float`): What is aimed at.
        at_most (`bool`, defaults to `False`): Whether less is better.
        note (`str`, defaults to `""`): What explains the ratio, measured in the same run.
    """

    what: str
    reference: str
    ratio: float
    target: float
    at_most: bool = False
    note: str = ""

    @property
    def met(self) -> bool:
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target


class Skipped(Exception):
    """A row cannot run here; its text says why."""


def speedup(times: dict[str, Times], reference: str = "reference", ours: str = "ours", clock: str = "cpu") -> float:
    return times[reference].ratio(times[ours], clock)


def cpu_steps(options: argparse.Namespace) -> Steps:
    return Steps(2, layers=1) if options.quick else Steps(8)


def step(options: argparse.Namespace) -> Iterator[Result]:
    steps = cpu_steps(options)
    ways = {"reference": steps.published(False), "ours": steps.ours(False)}
    note = FEWER.format(operations(ways["reference"]) / operations(ways["ours"]))
    times = alternate(ways, options.rounds)
    yield Result("training step, ViT-B/32, 8 triplets, float32", "the published step", speedup(times), 1.55, note=note)


def step_bf16(options: argparse.Namespace) -> Iterator[Result]:
    if not has_fast_bf16():
        raise Skipped("the CPU has no instructions for bfloat16")
    steps = cpu_steps(options)
    ways = {"float32": steps.published(False), "bf16": steps.published(True), "ours": steps.ours(True)}
    times = alternate(ways, options.rounds)
    what = "training step, ViT-B/32, 8 triplets, bfloat16 autocast"
    yield Result(what, "the published step, float32", speedup(times, "float32"), 2.6)
    yield Result(what, "the published step, bfloat16 autocast", speedup(times, "bf16"), 1.5)


def step_peers(options: argparse.Namespace) -> Iterator[Result]:
    if importlib.util.find_spec("sentence_transformers") is None:
        raise Skipped("sentence-transformers is not installed")
    steps = cpu_steps(options)
    ways = {"reference": steps.sentence_transformers(False), "ours": steps.ours(False, "negclip")}
    times = alternate(ways, options.rounds)
    yield Result("`negclip` step, ViT-B/32, 8 rows, float32", "sentence-transformers", speedup(times), 1.0)


def objective(options: argparse.Namespace, device: str = "cpu") -> Iterator[Result]:
    import infonce

    rows = 256 if options.quick else 8_192 if device == "cpu" else 32_768
    settings = argparse.Namespace(device=device, repeats=1, chunk_size=infonce.CHUNK)
    memory, seconds = [], []
    for _ in range(1 if options.quick else min(options.rounds, 3)):
        reference, ours = (infonce.in_a_process(method, rows, settings) for method in ("dense", "streaming"))
        memory.append(ours["memory"] / reference["memory"])
        seconds.append(ours["time"] / reference["time"])
    what = f"`tripletclip` of {rows:,} triplets, dimension {infonce.DIM}"
    yield Result(f"{what}: memory", "whole matrices", statistics.median(memory), 0.05, at_most=True)
    yield Result(f"{what}: time", "whole matrices", statistics.median(seconds), 0.8, at_most=True)


def locked_tower(options: argparse.Namespace) -> Iterator[Result]:
    import locked_towers

    rows, size = (4, 2) if options.quick else (64, 32)
    settings = argparse.Namespace(batch_size=size, epochs=3, model=None)
    data = locked_towers.make_rows(rows, None)
    with tempfile.TemporaryDirectory() as folder:
        cpu = locked_towers.train("image tower locked", data, settings, f"{folder}/run", f"{folder}/cache")["cpu"]
    ratio = cpu[0] / statistics.median(cpu[1:])
    yield Result("an epoch with the image tower locked, from the second on", "the first epoch", ratio, 20)


def loader(options: argparse.Namespace) -> Iterator[Result]:
    import data_pipeline as pipeline

    rows = 16 if options.quick else 320
    with tempfile.TemporaryDirectory() as name:
        captions = pipeline.write_tars(Path(name), rows, 2 if options.quick else 4, 512)
        processor = pipeline.build_processor(captions, image_size=pipeline.SIZE, model_max_length=pipeline.TOKENS)
        times = pipeline.compare(Path(name), processor, rows, options.rounds, batch_size=16, num_workers=1)
    what = "loader, published tars, 512 px JPEG to 224 px, full decoding, one worker"
    yield Result(what, "the published reader", speedup(times), 2.5, note=PARTS.format("data_pipeline"))


def rules(options: argparse.Namespace) -> Iterator[Result]:
    import datasets
    import generation

    datasets.disable_progress_bars()
    stages = {"captions": generation.get_stage("captions", "rules")}
    times = generation.compare(stages, 100 if options.quick else 4_000, options.rounds)
    ratio, note = speedup(times, "map", "engine"), PARTS.format("generation")
    yield Result("captions by `rules`, whole engine", "`Dataset.map`", ratio, 1.5, note=note)


def evaluation(options: argparse.Namespace) -> Iterator[Result]:
    import evaluate

    with tempfile.TemporaryDirectory() as folder:
        found = evaluate.compare(Path(folder), 2 if options.quick else 60, min(options.rounds, 3), 64)
    what, note = "SugarCrepe, random ViT-B/32", FEWER.format(found.fewer)
    yield Result(what, "one row at a time, as released", speedup(found.times), 10, note=note)


def default_run(options: argparse.Namespace) -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "accelerate.commands.launch", str(PRETRAIN), "--output", f"{folder}/run"]
        command += ["--max_steps", "2"] if options.quick else []

        def train() -> None:
            subprocess.run(command, check=True)

        minutes = alternate({"run": train}, 1, warm=False)["run"].wall[0] / 60
    yield Result("the default training run, minutes of the wall clock", "-", minutes, 4.0, at_most=True)


def gpu_ceiling() -> float:
    """Operations per second of large matrix products in bfloat16."""
    seconds = alternate({"products": product_ceiling("cuda", torch.bfloat16, 8192)}, 5)["products"].median("wall")
    return 5 * 2 * 8192**3 / seconds


def gpu_step(options: argparse.Namespace) -> Iterator[Result]:
    steps = Steps(2, layers=1, device="cuda") if options.quick else Steps(GPU_ROWS, device="cuda")
    ways = {"reference": steps.published(True), "ours": steps.ours(True)}
    counts = {name: operations(way) for name, way in ways.items()}
    times, ceiling = alternate(ways, options.rounds), gpu_ceiling()
    for name, count in counts.items():
        rate = count / times[name].median("wall")
        print(f"{name}: {rate / 1e12:.0f} of {ceiling / 1e12:.0f} TFLOP/s, {rate / ceiling:.0%} of large products")
    what = f"training step, ViT-B/32, {len(steps.images['pixel_values']):,} triplets, bfloat16 autocast"
    yield Result(what, "the published step", speedup(times, clock="wall"), 1.55)


def gpu_step_peers(options: argparse.Namespace) -> Iterator[Result]:
    if importlib.util.find_spec("sentence_transformers") is None:
        raise Skipped("sentence-transformers is not installed")
    steps = Steps(2, layers=1, device="cuda") if options.quick else Steps(GPU_ROWS, device="cuda")
    ways = {"reference": steps.sentence_transformers(True), "ours": steps.ours(True, "negclip")}
    times = alternate(ways, options.rounds)
    what = f"`negclip` step, ViT-B/32, {len(steps.images['pixel_values']):,} rows, bfloat16 autocast"
    yield Result(what, "sentence-transformers", speedup(times, clock="wall"), 1.0)


def gpu_objective(options: argparse.Namespace) -> Iterator[Result]:
    yield from objective(options, "cuda")


Function = Callable[[argparse.Namespace], Iterator[Result]]
CPU: dict[str, Function] = {
    "step": step,
    "step_bf16": step_bf16,
    "step_peers": step_peers,
    "objective": objective,
    "locked_tower": locked_tower,
    "loader": loader,
    "rules": rules,
    "evaluation": evaluation,
}
GPU: dict[str, Function] = {"gpu_step": gpu_step, "gpu_step_peers": gpu_step_peers, "gpu_objective": gpu_objective}
ON_DEMAND: dict[str, Function] = {"default_run": default_run}  # minutes: only if `--only` names them


def table(results: list[Result]) -> list[str]:
    lines = ["| what | reference | ratio | target | |", "| --- | --- | --- | --- | --- |"]
    for one in results:
        sign = "≤" if one.at_most else "≥"
        mark = ("met" if one.met else "not met") + (f"; {one.note}" if one.note else "")
        lines.append(f"| {one.what} | {one.reference} | {one.ratio:.2f} | {sign} {one.target:g} | {mark} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*CPU, *GPU, *ON_DEMAND], help="rows to run; all by default")
    parser.add_argument("--device", choices=["cpu", "gpu"], help="only the rows of one kind; both by default")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it works, not how fast it is")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    logging.set_verbosity_error()
    every = {"cpu": CPU, "gpu": GPU}
    rows = CPU | GPU if options.device is None else every[options.device]
    if options.only:
        rows = {name: function for name, function in (CPU | GPU | ON_DEMAND).items() if name in options.only}
    results, skipped = [], []
    for name, function in rows.items():
        try:
            if name in GPU and not torch.cuda.is_available():
                raise Skipped("there is no CUDA device")
            results += (found := list(function(options)))
            print(f"{name}: " + ", ".join(f"{one.ratio:.2f}" for one in found), flush=True)
        except (Skipped, ImportError) as reason:  # such as an extra that is not installed
            skipped.append(f"- `{name}` was left out: {reason}.")
    lines = ["Written by `python benchmarks/run.py --output benchmarks/results/run.md`.", "", f"{machine()}.", ""]
    write_page([*lines, *table(results), *([""] if skipped else []), *skipped, "", *NOTES], options.output)


if __name__ == "__main__":
    main()

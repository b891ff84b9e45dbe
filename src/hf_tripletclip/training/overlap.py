# SPDX-License-Identifier: Apache-2.0
"""Looks up before training which evaluation data is also training data, and what the training data has twice.

Pictures are compared by the bytes of their files; `hf_tripletclip.evaluation.checks.leakage` also finds resized
copies. Of a stream only the beginning is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from transformers.utils import logging

from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.data.reading import BrokenValue, is_url, read_image_file
from hf_tripletclip.data.schema import CAPTION_COLUMNS, IMAGE, IMAGE_COLUMNS
from hf_tripletclip.data.streaming import unshuffled
from hf_tripletclip.evaluation.benchmark import Benchmark
from hf_tripletclip.evaluation.images import ImageCell, ImageFile

logger = logging.get_logger(__name__)

MAX_READ = 100_000  # pictures of the training data whose contents are read, if an evaluated one is equally long
MAX_FILES = 200_000  # files of the training data whose sizes are read: other processes wait meanwhile
MAX_EVALUATED = 20_000  # rows of an evaluation that are read
MAX_TWINS = 5_000  # rows of the training data that are compared with each other
MAX_STREAMED = 1_000  # rows of a stream that are read, in no more than so many seconds:
MAX_SECONDS = 20.0
ROWS_AT_ONCE = 1_000


@dataclass
class Picture:
    """A picture of a row, which is not read yet."""

    row: int
    size: int  # bytes
    value: Any = field(repr=False)  # its path, or the column that has its contents: to take it out would be to read it
    place: int = 0  # its place in the column

    def digest(self) -> str | None:
        """The SHA-256 of its bytes; `None` if they cannot be read."""
        try:
            content = read_image_file(self.value) if isinstance(self.value, str) else self.value[self.place].as_py()
        except (OSError, BrokenValue):
            return None
        return hashlib.sha256(content).hexdigest()


def pictures_of(dataset: Dataset, columns: Iterable[str] = IMAGE_COLUMNS) -> Iterator[Picture]:
    """The pictures of a dataset, without reading them: Arrow knows how many bytes they have."""
    for name in columns:
        if name not in dataset.column_names:
            continue
        start = 0
        for table in undecoded(dataset).select_columns([name]).with_format("arrow").iter(batch_size=ROWS_AT_ONCE):
            for column in table[name].chunks:  # one by one: combined they would be copied, and so all pictures read
                if pa.types.is_struct(column.type):
                    contents, paths = pc.struct_field(column, "bytes"), pc.struct_field(column, "path").to_pylist()
                elif pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
                    contents, paths = column, [None] * len(column)
                else:
                    return
                for index, length in enumerate(pc.binary_length(contents).to_pylist()):
                    if length is not None:
                        yield Picture(start + index, length, contents, index)
                    elif (path := paths[index]) and not is_url(path) and os.path.isfile(path):
                        yield Picture(start + index, os.path.getsize(path), path)
                start += len(column)


def captions_of(row: Mapping[str, Any]) -> set[str]:
    """The captions of a row."""
    found: set[str] = set()
    for name in CAPTION_COLUMNS:
        value = row.get(name)
        found |= {one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)}
    return found


def pictures_of_stream(dataset: IterableDataset) -> Iterator[tuple[Picture | None, Mapping[str, Any]]]:
    """The pictures of the first rows of a stream, each with its row; `None` when the limits are reached."""
    ends = time.monotonic() + MAX_SECONDS
    with contextlib.closing(
        iter(undecoded(unshuffled(dataset)))
    ) as rows:  # a reader that is left open may crash at the end
        for number, row in enumerate(rows):
            if number == MAX_STREAMED or time.monotonic() > ends:
                yield None, {}
                return
            for name in IMAGE_COLUMNS:
                value = row.get(name)
                content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, value)
                if isinstance(content, bytes):
                    yield Picture(number, len(content), pa.array([content], pa.large_binary())), row
                elif isinstance(path, str) and not is_url(path) and os.path.isfile(path):
                    yield Picture(number, os.path.getsize(path), path), row


@dataclass
class Evaluated:
    """The pictures of an evaluation: the digest of each, its size, and the captions beside it."""

    rows: int
    pictures: dict[str, list[tuple[int, set[str]]]]  # digest -> its rows, and their captions
    sizes: set[int]

    @classmethod
    def of(cls, source: Dataset | Benchmark) -> Evaluated:
        """Read a split or a benchmark; a benchmark that does not list its images gives none."""
        found: dict[str, list[tuple[int, set[str]]]] = defaultdict(list)
        sizes: set[int] = set()
        entries = _of_split(source) if isinstance(source, Dataset) else _of_benchmark(source)
        rows = set()
        for picture, captions in entries:
            if (digest := picture.digest()) is not None:
                found[digest].append((picture.row, captions))
                sizes.add(picture.size)
            rows.add(picture.row)
        return cls(len(rows), dict(found), sizes)


def _of_split(dataset: Dataset) -> Iterator[tuple[Picture, set[str]]]:
    if len(dataset) > MAX_EVALUATED:
        dataset = dataset.select(range(0, len(dataset), -(-len(dataset) // MAX_EVALUATED)))
    texts = _texts_of(dataset)
    for picture in pictures_of(dataset):
        yield picture, captions_of(texts[picture.row])


def _texts_of(dataset: Dataset) -> Dataset:
    """The captions, without the pictures that would be read with them."""
    return dataset.select_columns([name for name in CAPTION_COLUMNS if name in dataset.column_names])


def _of_benchmark(benchmark: Benchmark) -> Iterator[tuple[Picture, set[str]]]:
    if type(benchmark).contents is Benchmark.contents:
        return  # it does not list its images
    for row, (_, images, captions) in enumerate(benchmark.contents()):
        if row == MAX_EVALUATED:
            return
        for image in images:
            if isinstance(image, ImageFile) and image.box is None and image.exists():
                yield Picture(row, os.path.getsize(image.path), image.path), set(captions)
            elif isinstance(image, ImageCell):
                one = image.dataset.select([image.row])
                for picture in pictures_of(one, [image.column]):
                    yield dataclasses.replace(picture, row=row), set(captions)


def find_overlap(train: Any, evaluated: Mapping[str, Any]) -> list[str]:
    """
    Find rows of an evaluation that are also training rows. Of a stream the first 1,000 rows are read, or fewer if they
    take more than 20 seconds; the time is checked between rows, so a stream that fills a buffer first may take longer.
    Rows without pictures are not compared.

    Args:
        train (`datasets.Dataset` or `datasets.IterableDataset`): The training data.
        evaluated (`Mapping[str, Dataset or Benchmark]`): The data of each evaluation, by name.

    Returns:
        `list[str]`: A sentence for each evaluation that has pictures of the training data.
    """
    sources = {name: Evaluated.of(one) for name, one in evaluated.items() if isinstance(one, (Dataset, Benchmark))}
    wanted = {size for source in sources.values() for size in source.sizes}
    if not isinstance(train, (Dataset, IterableDataset)) or not wanted:
        return []
    entries: Iterable[tuple[Picture | None, Mapping[str, Any] | None]]
    if isinstance(train, IterableDataset):
        entries = pictures_of_stream(train)
    else:
        texts, entries = _texts_of(train), ((picture, None) for picture in pictures_of(train))
    pictures: dict[str, set[int]] = {name: set() for name in sources}
    whole: dict[str, set[int]] = {name: set() for name in sources}
    files = read = seen = 0
    sample = ""
    for picture, values in entries:
        if picture is not None:
            files += isinstance(picture.value, str)
            read += picture.size in wanted
        if picture is None or files > MAX_FILES or read > MAX_READ:
            sample = f" (of the first {seen if picture is None else picture.row:,} training rows)"
            break
        seen = picture.row + 1
        if picture.size not in wanted:
            continue
        digest = picture.digest()
        for name, source in sources.items():
            for row, captions in source.pictures.get(digest or "", ()):
                pictures[name].add(row)
                if row not in whole[name] and captions & captions_of(texts[picture.row] if values is None else values):
                    whole[name].add(row)
    if isinstance(train, IterableDataset) and not any(pictures.values()):
        part = f"the first {seen:,} rows" if sample else "all rows"
        logger.info(
            f"Of the streamed training data {part} were compared to what is evaluated: no picture is in both."
            if seen
            else "The streamed training data was not compared to what is evaluated: none of its pictures was read in "
            "time, or they come decoded."
        )
    return [
        f"{len(pictures[name]):,} of {source.rows:,} rows of {name} have a picture that is also trained on, and "
        f"{len(whole[name]):,} a caption with it{sample}: this evaluation does not measure new pictures."
        for name, source in sources.items()
        if pictures[name]
    ]


def describe_twins(train: Any, batch: int) -> str | None:
    """
    Describe how many rows of the training data share a picture or a caption, and how often such rows meet in a batch.

    Args:
        train (`datasets.Dataset`): The training data; nothing is said of other types.
        batch (`int`): Rows of a batch, of all processes that share them.

    Returns:
        `str`, *optional*: A few sentences; `None` if fewer than one row in ten batches meets such a row.
    """
    if (
        not isinstance(train, Dataset)
        or len(train) < 2
        or not any(name in train.column_names for name in IMAGE_COLUMNS)
    ):
        return None
    looked_at = train.select(range(min(len(train), MAX_TWINS)))
    captions = looked_at["caption"] if "caption" in train.column_names else []
    groups = {
        "picture": Counter(digest for picture in pictures_of(looked_at, [IMAGE]) if (digest := picture.digest())),
        "caption": Counter(caption for caption in captions if isinstance(caption, str)),
    }
    apart = 1 - (min(batch, len(train)) - 1) / (len(train) - 1)  # the odds that a given row is not in the batch
    met = {
        what: sum(size * (1 - apart ** (size - 1)) for size in sizes.values()) * batch / len(looked_at)
        for what, sizes in groups.items()
    }
    if max(met.values()) < 0.1:
        return None
    shared = {what: sum(size for size in sizes.values() if size > 1) for what, sizes in groups.items()}
    return (
        f"Of {len(looked_at):,} training rows {shared['picture']:,} have the picture of another row and "
        f"{shared['caption']:,} the caption. In a batch of {batch:,} about {met['picture']:.1f} rows meet their "
        f"picture and {met['caption']:.1f} their caption again, which then count as wrong answers. The log counts "
        'them (`repeated_images`, `repeated_captions`); `objective_kwargs` {"repeats": "mask"} leaves them out.'
    )


def look_at_data(trainer: Any, evaluated: Mapping[str, Any]) -> list[str]:
    """
    Warn of what is both trained and evaluated on, and of what stands in the training data more than once.

    Args:
        trainer ([`TripletCLIPTrainer`]): On the main process, with raw rows.
        evaluated (`Mapping[str, Dataset or Benchmark]`): What is evaluated besides the trainer's own data, by name.

    Returns:
        `list[str]`: A sentence for each evaluation that has pictures of the training data.
    """
    parts = trainer.eval_dataset
    if not isinstance(parts, dict):
        parts = {"the validation data": parts}
    benchmarks = {benchmark.title: benchmark for benchmark in trainer.benchmarks}
    overlap = find_overlap(trainer.train_dataset, {**parts, **benchmarks, **evaluated})
    for sentence in overlap:
        logger.warning(f"Evaluated on training data: {sentence}")
    args, objective = trainer.args, trainer.core.objective
    if not objective.masks_repeats:  # else they are no wrong answers
        processes = args.world_size if args.negatives_across_devices else 1
        if (twins := describe_twins(trainer.train_dataset, args.train_batch_size * processes)) is not None:
            logger.warning(twins)
    return overlap

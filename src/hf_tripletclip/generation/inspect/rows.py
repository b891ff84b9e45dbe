# SPDX-License-Identifier: Apache-2.0
"""The rows that the page is made of: evenly from all over a dataset, and never more than a few thousand of them."""

from __future__ import annotations

import contextlib
import heapq
import math
import os
import random
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from tqdm.auto import tqdm

from hf_tripletclip.data.decoding import BrokenValue, decode_image, is_several, known_reason, row_name
from hf_tripletclip.data.loading import load_tripletdata, undecoded
from hf_tripletclip.data.schema import (
    CAPTION,
    CAPTION_COLUMNS,
    COLUMNS,
    ERROR,
    GENERATOR,
    HELD_OUT,
    IMAGE_COLUMNS,
    KEY_COLUMNS,
    NEG_CAPTION,
    NEGATIVE_TYPE,
    SCORES,
)
from hf_tripletclip.data.validate import UNREADABLE, _check_row, _number_of_rows
from hf_tripletclip.utils.pages.pictures import THUMBNAIL, thumbnail

FIRST_KEYS = 3  # of the rows with one fault


@dataclass
class Row:
    """
    A row without its images.

    Args:
        split, key (`str`): Where it is.
        caption (`str`): Its caption.
        negatives (`list[str]`): Its hard negative captions.
        kinds (`list[str | None]`): The `negative_type` of each.
        scores (`dict[str, float]`): Those that it has.
        generator (`str`, *optional*): What made it.
        held_out (`bool`): Whether training never shows its combination of concepts.
    """

    split: str
    key: str
    caption: str
    negatives: list[str]
    kinds: list[str | None]
    scores: dict[str, float]
    generator: str | None = None
    held_out: bool = False


@dataclass
class Look:
    """
    The images of a row that were decoded.

    Args:
        row (`Row`, *optional*): The row; `None` if its captions cannot be used.
        thumbnails (`dict[str, str]`): Column -> small image as a `data:` URI.
        problems (`list[tuple[str, str]]`): Reason and column of the images that are broken, and the row's key.
    """

    row: Row | None
    thumbnails: dict[str, str] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class SplitSample:
    """
    What was read of a split.

    Args:
        name (`str`): The split.
        total (`int`, *optional*): Its rows, if that is known.
        read (`int`): Rows that were read.
        how (`str`): Which ones.
        columns (`tuple[str, ...]`): Of our four columns those that it has.
        scores (`tuple[str, ...]`): The score columns that it has.
        rows (`list[Row]`): Rows with usable captions.
        looks (`list[Look]`): Rows whose images were decoded, at random from those read.
        captions (`Counter[str]`): Reason and column -> rows read whose captions cannot be used.
        left_out (`Counter[str]`): Reason and column -> negative captions that are left out of rows that are used.
        files (`Counter[str]`): Reason -> files that are damaged.
        keys (`dict[str, list[str]]`): Reason and column -> the first keys.
    """

    name: str
    total: int | None = None
    read: int = 0
    how: str = "all rows"
    columns: tuple[str, ...] = COLUMNS
    scores: tuple[str, ...] = ()
    rows: list[Row] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    captions: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    keys: dict[str, list[str]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether all rows were read."""
        return self.how == "all rows"

    @property
    def images(self) -> Counter[str]:
        """Reason and column -> rows whose images are broken, of those that were decoded."""
        return Counter(label for look in self.looks for label, _ in look.problems)

    def count(self, counter: Counter[str], label: str, key: str) -> None:
        """Count a fault and keep the first keys."""
        counter[label] += 1
        self.keep_key(label, key)

    def keep_key(self, label: str, key: str) -> None:
        """Keep a key as an example, unless there are enough."""
        first = self.keys.setdefault(label, [])
        if len(first) < FIRST_KEYS:
            first.append(key)


AT_ONCE = 100  # rows read from a part of a stream before the next part's turn: a row group of ours


def read_sample(
    name_or_path: str | os.PathLike[str],
    *,
    split: str | None = None,
    columns: Mapping[str, str] | str | None = None,
    max_rows: int = 20_000,
    max_images: int = 1_000,
    seed: int = 0,
    progress: bool = True,
    **kwargs: Any,
) -> list[SplitSample]:
    """
    Read a dataset, or evenly spread parts of a large one. Nothing is copied or written.

    Args:
        name_or_path, split, columns, kwargs: As in [`~hf_tripletclip.data.load_tripletdata`]; all splits by default.
        max_rows (`int`, defaults to 20,000): Rows that are read of each split.
        max_images (`int`, defaults to 1,000): Rows of each split whose images are decoded.
        seed (`int`, defaults to 0): Of the choice of these.
        progress (`bool`, defaults to `True`): Whether to show progress bars.

    Raises:
        FileNotFoundError: There is no such dataset.
        ValueError: It has no captions, or `columns` is wrong.
    """
    name, path = os.fspath(name_or_path), Path(name_or_path)
    # What is on the disk as Arrow is read at any place without a copy; all else is streamed.
    at_hand = name == "scenes" or any((path / marker).exists() for marker in ("dataset_dict.json", "state.json"))
    loaded: Any = load_tripletdata(
        name_or_path, split=split, streaming=not at_hand, columns=columns, required_columns=(CAPTION,), **kwargs
    )
    parts = loaded if isinstance(loaded, dict) else {str(split): loaded}
    samples = []
    for part, dataset in parts.items():
        sample = SplitSample(part, total=len(dataset) if at_hand else _number_of_rows(dataset))
        expected = min(max_rows, sample.total or max_rows)
        with tqdm(total=expected, desc=f"reading {part}", unit=" rows", disable=not progress) as bar:
            _read_split(undecoded(dataset), sample, max_rows, max_images, random.Random(f"{seed} {part}"), bar)
        samples.append(sample)
    return samples


def _read_split(
    dataset: Any, sample: SplitSample, max_rows: int, max_images: int, rng: random.Random, bar: Any
) -> None:
    wanted = (*COLUMNS, *KEY_COLUMNS, ERROR, NEGATIVE_TYPE, GENERATOR, HELD_OUT, *SCORES)
    names = dataset.column_names
    if names is not None:
        dataset = dataset.select_columns([name for name in names if name in wanted])
        sample.columns = tuple(name for name in COLUMNS if name in names)
        sample.scores = tuple(name for name in SCORES if name in names)
    stream = _some(dataset, sample, max_rows) if isinstance(dataset, Dataset) else _parts(dataset, sample, max_rows)
    chosen: list[tuple[float, int, Look]] = []  # the rows that drew the lowest numbers, the highest of them first
    for row in stream:
        bar.update()
        key = row_name(row)[0] or f"row {sample.read + 1}"
        whole_file = known_reason(row, CAPTION)
        if whole_file is not None and whole_file[1] is None:
            sample.count(sample.files, whole_file[0].partition(":")[0], f"{key}: {whole_file[0]}")
            continue
        if names is None:
            sample.scores = tuple(name for name in SCORES if name in row or name in sample.scores)
            sample.columns = tuple(name for name in COLUMNS if name in row)
        sample.read += 1
        usable = _read_row(row, key, sample)
        drawn = rng.random()
        if len(chosen) < max_images:
            heapq.heappush(chosen, (-drawn, sample.read, _look(row, key, usable, sample.columns)))
        elif chosen and drawn < -chosen[0][0]:
            heapq.heapreplace(chosen, (-drawn, sample.read, _look(row, key, usable, sample.columns)))
    for _, _, look in sorted(chosen, key=lambda entry: entry[1]):
        sample.looks.append(look)
        for label, key in look.problems:
            sample.keep_key(label, key)
    if sample.whole:
        sample.total = sample.read


def _some(dataset: Dataset, sample: SplitSample, max_rows: int) -> Iterator[dict[str, Any]]:
    """At most `max_rows` rows of a dataset on the disk, evenly spread."""
    number = len(dataset)
    if number > max_rows:
        sample.how = f"every {number / max_rows:.3g}th row"
        dataset = dataset.select([place * number // max_rows for place in range(max_rows)])
    yield from dataset


def _parts(dataset: IterableDataset, sample: SplitSample, max_rows: int) -> Iterator[dict[str, Any]]:
    """
    At most `max_rows` rows of a stream: the first of each file, or of each row group of parquet files; of evenly
    spread ones if there are many. Then the next rows of each while there is room.
    """
    wanted = max(1, max_rows // AT_ONCE)
    if dataset.num_shards < wanted:
        with contextlib.suppress(*UNREADABLE):  # a damaged file is reported when its rows are read
            dataset = dataset.reshard()
    shards = dataset.num_shards
    bits = shards.bit_length()
    order = sorted(range(shards), key=lambda shard: f"{shard:0{bits}b}"[::-1])  # any beginning of it is evenly spread
    quota = max(AT_ONCE, math.ceil(max_rows / max(shards, 1)))
    waiting = deque((shard, 0) for shard in order)
    opened: set[int] = set()
    left = max_rows
    while waiting and left:
        shard, start = waiting.popleft()
        opened.add(shard)
        asked, got = min(quota, left), 0
        part: Any = dataset.shard(shards, shard)
        try:
            for row in part.skip(start).take(asked + 1):
                if got == asked:
                    waiting.append((shard, start + got))
                    break
                got += 1
                yield row
        except UNREADABLE as error:
            cause = error.__cause__ or error
            detail = f"{type(cause).__name__} {cause}".splitlines()[0]
            sample.count(sample.files, "the rest of a file cannot be read", detail)
        left -= got
    if waiting:
        sample.how = f"the first rows of {len(opened):,} of {shards:,} files or row groups, evenly spread"
        if len(opened) == shards:
            sample.how = "the first rows" + (f" of each of {shards:,} files or row groups" if shards > 1 else "")


def _read_row(row: Mapping[str, Any], key: str, sample: SplitSample) -> Row | None:
    """The captions and scores of a row; what is wrong with its captions is counted."""
    captions = [name for name in CAPTION_COLUMNS if name in sample.columns]
    usable = True
    for _, reason, column, _, skips in _check_row(row, captions):
        label = f"{reason.partition(':')[0]} in {column}"
        sample.count(sample.captions if skips else sample.left_out, label, key)
        usable = usable and not skips
    if not usable:
        return None
    value: Any = row.get(NEG_CAPTION)
    kinds: Any = row.get(NEGATIVE_TYPE)
    values = list(value) if is_several(value) else [] if value is None else [value]
    of_each: list[Any] = list(kinds) if is_several(kinds) else [kinds] * len(values)
    of_each += [None] * (len(values) - len(of_each))
    pairs = [
        (_text(text), None if kind is None else str(kind))
        for text, kind in zip(values, of_each, strict=False)
        if not _is_blank(text)
    ]
    scores = {
        name: float(row[name])
        for name in SCORES
        if isinstance(row.get(name), (int, float)) and math.isfinite(row[name])
    }
    generator = row.get(GENERATOR)
    made = Row(
        split=sample.name,
        key=key,
        caption=_text(row[CAPTION]),
        negatives=[text for text, _ in pairs],
        kinds=[kind for _, kind in pairs],
        scores=scores,
        generator=None if generator is None else str(generator),
        held_out=row.get(HELD_OUT) is True,
    )
    sample.rows.append(made)
    return made


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _is_blank(value: Any) -> bool:
    """Of several negative captions, what `validate` has counted as left out."""
    return not isinstance(value, (str, bytes)) or not _text(value).strip()


def _look(row: Mapping[str, Any], key: str, usable: Row | None, columns: Sequence[str]) -> Look:
    look = Look(usable)
    for name in (name for name in columns if name in IMAGE_COLUMNS):
        try:
            look.thumbnails[name] = thumbnail(decode_image(row.get(name), THUMBNAIL))
        except BrokenValue as error:
            reason = (known_reason(row, name) or (str(error), name))[0]
            look.problems.append((f"{reason.partition(':')[0]} in {name}", key))
    return look

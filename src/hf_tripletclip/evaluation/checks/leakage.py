# SPDX-License-Identifier: Apache-2.0
"""Leakage: the rows of a benchmark that are in a training set.

Three things are compared. Each can find what another misses:

- image ids: numbers of COCO (`000000222235.jpg`, `COCO_val2014_000000222235.jpg`, a column `cocoid`), which are the
  same in the editions of 2014 and 2017, and file names that are a number of six or more digits without leading zeros,
  as in Flickr and Visual Genome;
- images, by their perceptual hash (64 bits, from the low frequencies of the cosine transform): copies in another
  size or compression differ in few bits. Crops and mirror images are not found;
- captions, ignoring capitals, spaces and a final full stop.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice, pairwise
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset, DatasetDict
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_tripletclip.data.decoding import BrokenValue, is_several
from hf_tripletclip.data.loading import load_tripletdata, undecoded
from hf_tripletclip.data.schema import CAPTION_COLUMNS, IMAGE_COLUMNS, KEY_COLUMNS
from hf_tripletclip.evaluation.images import ImageCell, ImageFile, ImageRef
from hf_tripletclip.utils.extras import optional_imports

if TYPE_CHECKING:
    from hf_tripletclip.evaluation.benchmark import Benchmark

IMAGE_ID, NEAR_DUPLICATE, CAPTION = "image id", "near duplicate", "caption"  # the kinds
COCO = re.compile(r"(?<!\d)0{6}(\d{6})(?!\d)")  # the numbers have at most six digits and are padded to twelve
NUMBER = re.compile(r"[1-9]\d{5,}")  # as a whole file name: counters start with zeros, or are shorter
COCO_COLUMNS = ("cocoid", "coco_id")
NAME_COLUMNS = (*KEY_COLUMNS, "filename", "file_name", "image_file_name", "filepath", "coco_url")
MAX_PAIRS = 1_000  # the most that are listed of a kind

BITS = 64
MAX_DISTANCE = 6  # bits: copies of a photograph in another size or compression differ in fewer, others in over 16
MOST = 12  # bits; with more, photographs of the same composition would count as near
PLAIN = 16  # bits: the median halves a picture's frequencies; fewer bits on one side mean that most are equal
BATCH = 32  # images that a worker returns at a time
CANDIDATES = 4_000_000  # pairs that are compared at a time


@dataclass(frozen=True)
class Row:
    """
    The parts of a row that are compared.

    Args:
        key (`str`): The row's name in the report.
        images (`tuple[ImageRef, ...]`): Its images.
        captions (`tuple[str, ...]`): Its captions.
        names (`tuple[str, ...]`): Keys and file names that may hold the ids of its images.
    """

    key: str
    images: tuple[ImageRef, ...]
    captions: tuple[str, ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeakedPair:
    """
    Args:
        kind (`str`): `image id`, `near duplicate` or `caption`.
        training, benchmark (`str`): The keys of the rows.
        what (`str`): The id, the bits that differ, or the caption.
    """

    kind: str
    training: str
    benchmark: str
    what: str


@dataclass
class LeakageReport:
    """
    Args:
        training, benchmark (`str`): The names of the two sets.
        counts (`dict[str, int]`): `training_rows`, `benchmark_rows`, and images whose hash could not be compared
            because they are missing or broken (`unread_images`) or show almost nothing (`plain_images`).
        found (`dict[str, dict[str, int]]`): Kind -> the numbers of `training_rows` and `benchmark_rows` that are in a
            pair, and of `pairs`.
        pairs (`list[LeakedPair]`): Up to 1,000 of each kind.
        benchmark_keys (`list[str]`): The keys of the benchmark's rows that are in a pair of any kind, in order.
        max_distance (`int`): Bits in which the hashes of near duplicates may differ.
    """

    training: str
    benchmark: str
    counts: dict[str, int]
    found: dict[str, dict[str, int]]
    pairs: list[LeakedPair] = field(repr=False)
    benchmark_keys: list[str] = field(repr=False)
    max_distance: int = MAX_DISTANCE

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    def format_table(self, examples: int = 3) -> str:
        """A plain-text table, and the first pairs of each kind."""
        rows = self.counts["benchmark_rows"]
        lines = [
            f"{self.training} ({self.counts['training_rows']:,} rows) against {self.benchmark} ({rows:,} rows): "
            f"{len(self.benchmark_keys):,} rows of the benchmark are in the training set in some way",
            f"{'':16}{'training rows':>15}{'benchmark rows':>16}{'pairs':>12}",
        ]
        for kind, numbers in self.found.items():
            values = (numbers["training_rows"], numbers["benchmark_rows"], numbers["pairs"])
            lines.append(f"{kind:16}{values[0]:15,}{values[1]:16,}{values[2]:12,}")
        for kind in self.found:
            shown = [pair for pair in self.pairs if pair.kind == kind][:examples]
            lines += [f"  {kind}: {pair.training} = {pair.benchmark} ({pair.what})" for pair in shown]
        if left := self.counts["unread_images"] + self.counts["plain_images"]:
            lines.append(
                f"Not compared by hash: {left:,} images ({self.counts['unread_images']:,} missing or broken, "
                f"{self.counts['plain_images']:,} too plain)"
            )
        return "\n".join(lines)


def check_leakage(
    benchmark: Benchmark, training: str | os.PathLike[str] | Dataset, *, split: str | None = None, **options: Any
) -> LeakageReport:
    """
    Look for a benchmark's rows in a training set.

    Args:
        benchmark ([`Benchmark`]): One that has images or captions of its own.
        training (`str`, `os.PathLike` or `Dataset`): Anything that [`~hf_tripletclip.data.load_tripletdata`] loads, or
            the dataset itself.
        split (`str`, *optional*): The split of the training set. Defaults to `train`, or the only one.
        options: Arguments of [`find_leakage`].

    Raises:
        FileNotFoundError: The training set or the benchmark's data does not exist.
        ValueError: There is no such split, or the data does not have the expected form.
        ImportError: `imagehash` is not installed.
    """
    if isinstance(training, Dataset):
        return find_leakage(training, benchmark, name="the training set", **options)
    name = os.fspath(training)
    loaded = load_tripletdata(name, split=split)
    if isinstance(loaded, DatasetDict):
        if "train" not in loaded and len(loaded) > 1:
            raise ValueError(f"{name} has no split train: say which of {', '.join(map(str, loaded))} to check")
        loaded = loaded["train" if "train" in loaded else next(iter(loaded))]
    assert isinstance(loaded, Dataset)  # not streaming
    return find_leakage(loaded, benchmark, name=name, **options)


def find_leakage(
    training: Dataset,
    benchmark: Benchmark,
    *,
    name: str = "the training set",
    max_distance: int = MAX_DISTANCE,
    hashes: bool = True,
    num_workers: int = 0,
    progress: bool = True,
) -> LeakageReport:
    """
    Look for a benchmark's rows in a training set.

    Args:
        training (`datasets.Dataset`): With `image`, `caption`, `neg_image`, `neg_caption`, or some of them.
        benchmark ([`Benchmark`]): One that has images or captions of its own.
        name (`str`): The name of the training set in the report.
        max_distance (`int`, defaults to 6): Bits of 64 in which the hashes of near duplicates may differ.
        hashes (`bool`, defaults to `True`): Whether to compare the images; it takes a few milliseconds for each.
        num_workers (`int`, defaults to 0): Processes that read the images.
        progress (`bool`, defaults to `True`): Whether to show a progress bar.

    Raises:
        ValueError: `max_distance` is out of range, or the data does not have the expected form.
        OSError: The benchmark's data does not exist.
        ImportError: `imagehash` is not installed.
    """
    check_distance(max_distance)
    trained, tested = training_rows(training), benchmark_rows(benchmark)
    groups = {
        IMAGE_ID: _shared(_by(trained, _ids), _by(tested, _ids)),
        CAPTION: _shared(_by(trained, _captions), _by(tested, _captions)),
    }
    counts = {
        "training_rows": len(trained),
        "benchmark_rows": len(tested),
        "unread_images": 0,
        "plain_images": 0,
    }
    if hashes:
        images = list(dict.fromkeys(image for row in (*trained, *tested) for image in row.images))
        known, unread, plain = image_hashes(images, num_workers=num_workers, progress=progress)
        counts |= {"unread_images": unread, "plain_images": plain}
        mine, other = (_by(rows, lambda row: map(known.get, row.images)) for rows in (trained, tested))
        for found in (mine, other):
            found.pop(None, None)  # the images without a hash
        groups[NEAR_DUPLICATE] = [
            (mine[one], other[two], f"{bits} of 64 bits differ")
            for one, two, bits in near(list(mine), list(other), max_distance)
        ]
    leaked = sorted({row for kind in groups.values() for _, rows, _ in kind for row in rows})
    return LeakageReport(
        training=name,
        benchmark=benchmark.name,
        counts=counts,
        found={kind: _count(of) for kind, of in groups.items()},
        pairs=[pair for kind, of in groups.items() for pair in _pairs(kind, of, trained, tested)],
        benchmark_keys=[tested[row].key for row in leaked],
        max_distance=max_distance,
    )


# ---- The two sides ----


def training_rows(dataset: Dataset) -> list[Row]:
    """The rows of a triplet dataset."""
    columns = dataset.column_names
    images = [name for name in IMAGE_COLUMNS if name in columns]
    captions = [name for name in CAPTION_COLUMNS if name in columns]
    if not images and not captions:
        raise ValueError(f"The training set has none of {', '.join((*IMAGE_COLUMNS, *CAPTION_COLUMNS))}: {columns}")
    raw: Any = undecoded(dataset, images)
    cells = [ImageCell.of_column(raw, name) for name in images]
    rows = []
    known = [name for name in columns if name in (*captions, *COCO_COLUMNS, *NAME_COLUMNS)]
    about: Any = raw.select_columns(known) if known else [{} for _ in range(len(raw))]
    for number, row in enumerate(about):
        key = next((str(row[name]) for name in KEY_COLUMNS if row.get(name) is not None), f"row {number}")
        names = [str(row[name]) for name in NAME_COLUMNS if row.get(name) is not None]
        names += [f"{int(row[name]):012}" for name in COCO_COLUMNS if str(row.get(name) or "").isdecimal()]
        texts = [text for name in captions for text in (row[name] if is_several(row[name]) else [row[name]])]
        rows.append(
            Row(
                key=key,
                images=tuple(cell[number] for cell in cells),
                captions=tuple(text for text in texts if isinstance(text, str)),
                names=tuple(names),
            )
        )
    return rows


def benchmark_rows(benchmark: Benchmark) -> list[Row]:
    """The rows of a benchmark."""
    return [Row(key, tuple(images), tuple(captions), (key,)) for key, images, captions in benchmark.contents()]


# ---- What is compared ----


def _ids(row: Row) -> Iterable[str]:
    for name in (*row.names, *filter(None, map(_path, row.images))):
        stem = PurePath(name).stem
        if NUMBER.fullmatch(stem):
            yield stem
        yield from COCO.findall(stem)


def _path(image: ImageRef) -> str | None:
    if isinstance(image, ImageFile):
        return image.path
    value = image.dataset[image.row][image.column]
    return value.get("path") if isinstance(value, Mapping) else None


def _captions(row: Row) -> Iterable[str]:
    for caption in row.captions:
        if same := " ".join(caption.casefold().split()).removesuffix(".").rstrip():
            yield same


# ---- Groups: rows of the training set, rows of the benchmark, and the value that they share ----

Group = tuple[Sequence[int], Sequence[int], str]


def _by(rows: Sequence[Row], values: Callable[[Row], Iterable[Any]]) -> dict[Any, list[int]]:
    """Value -> the rows that have it."""
    found: dict[Any, list[int]] = {}
    for number, row in enumerate(rows):
        for value in set(values(row)):
            found.setdefault(value, []).append(number)
    return found


def _shared(trained: Mapping[str, list[int]], tested: Mapping[str, list[int]]) -> list[Group]:
    return [(trained[value], rows, value) for value, rows in tested.items() if value in trained]


def _count(groups: Sequence[Group]) -> dict[str, int]:
    return {
        "training_rows": len({row for rows, _, _ in groups for row in rows}),
        "benchmark_rows": len({row for _, rows, _ in groups for row in rows}),
        "pairs": sum(len(trained) * len(tested) for trained, tested, _ in groups),
    }


def _pairs(kind: str, groups: Sequence[Group], trained: Sequence[Row], tested: Sequence[Row]) -> list[LeakedPair]:
    every = (
        LeakedPair(kind, trained[one].key, tested[other].key, what)
        for left, right, what in groups
        for other in right
        for one in left
    )
    return list(islice(every, MAX_PAIRS))


# ---- Hashes ----


def check_distance(max_distance: int) -> None:
    """
    Check the setting before images are read.

    Raises:
        ValueError: The number is out of range.
    """
    if not 0 <= max_distance <= MOST:
        raise ValueError(f"`max_distance` is {max_distance}; give 0 to {MOST} bits.")


def image_hashes(
    images: Sequence[ImageRef], *, num_workers: int = 0, progress: bool = True
) -> tuple[dict[ImageRef, int], int, int]:
    """
    The perceptual hash of each image: `imagehash.phash`, 64 bits as an integer.

    Args:
        images (`Sequence[ImageRef]`): The images, without repetitions.
        num_workers (`int`, defaults to 0): Processes that read them.
        progress (`bool`, defaults to `True`): Whether to show a progress bar.

    Returns:
        `tuple`: Image -> hash, the number of images that are missing or broken, and the number of images that are too
        plain to distinguish. Both kinds have no hash.

    Raises:
        ImportError: `imagehash` is not installed.
    """
    with optional_imports():
        import imagehash  # noqa: F401 - before workers start
    batches: Any = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None, collate_fn=_hash_all, num_workers=num_workers)
    found: dict[ImageRef, int] = {}
    unread = plain = 0
    with tqdm(total=len(images), desc="Hashing images", unit="image", disable=not progress, leave=False) as bar:
        for batch, hashes in zip(batches, loader, strict=True):
            for image, value in zip(batch, hashes, strict=True):
                if value is None:
                    unread += 1
                elif not PLAIN <= value.bit_count() <= BITS - PLAIN:
                    plain += 1
                else:
                    found[image] = value
            bar.update(len(batch))
    return found, unread, plain


def _hash_all(images: Sequence[ImageRef]) -> list[int | None]:
    import imagehash

    hashes: list[int | None] = []
    for image in images:
        try:
            hashes.append(int(str(imagehash.phash(image.load())), 16))
        except BrokenValue:
            hashes.append(None)
    return hashes


def near(training: Sequence[int], benchmark: Sequence[int], max_distance: int) -> list[tuple[int, int, int]]:
    """
    The pairs of hashes that differ in few bits.

    The bits are cut into one band more than the bits that may differ. So near hashes agree in at least one band, and
    only such hashes are compared.

    Args:
        training, benchmark (`Sequence[int]`): Hashes of 64 bits, without repetitions.
        max_distance (`int`): Bits that may differ.

    Returns:
        `list[tuple[int, int, int]]`: A hash of the training set, one of the benchmark, and the number of bits
        in which they differ.
    """
    first, second = (np.array(hashes, dtype=np.uint64) for hashes in (training, benchmark))
    found: dict[tuple[int, int], int] = {}
    edges = np.linspace(0, BITS, max_distance + 2).astype(int)
    for start, stop in pairwise(edges):
        mask = np.uint64((1 << int(stop)) - (1 << int(start)))
        bands = first & mask
        order = np.argsort(bands, kind="stable")
        bands, sorted_first = bands[order], first[order]
        low = np.searchsorted(bands, second & mask, side="left")
        high = np.searchsorted(bands, second & mask, side="right")
        for part in _parts(high - low):
            counts = (high - low)[part]
            second_places = np.repeat(np.arange(len(second))[part], counts)
            offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            first_places = np.repeat(low[part], counts) + offsets
            distances = _bits(sorted_first[first_places] ^ second[second_places])
            for place in np.flatnonzero(distances <= max_distance):
                pair = (int(sorted_first[first_places[place]]), int(second[second_places[place]]))
                found[pair] = int(distances[place])
    return [(one, other, bits) for (one, other), bits in found.items()]


def _parts(counts: np.ndarray) -> list[slice]:
    """Slices that have about `CANDIDATES` pairs each."""
    parts = np.cumsum(counts) // CANDIDATES
    edges = [0, *(np.flatnonzero(np.diff(parts)) + 1), len(counts)]
    return [slice(one, other) for one, other in pairwise(edges) if other > one]


_BITS_OF_16 = np.array([number.bit_count() for number in range(1 << 16)], dtype=np.uint8)


def _bits(values: np.ndarray) -> np.ndarray:
    """How many bits of each uint64 are set."""
    return _BITS_OF_16[values.view(np.uint16).reshape(-1, 4)].sum(axis=1, dtype=np.int64)

# SPDX-License-Identifier: Apache-2.0
"""Where the image-caption pairs come from: any dataset that `load_tripletdata` opens, or the embedded scenes."""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import itertools
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, Image, Value

from hf_tripletclip.data.loading import load_tripletdata, undecoded
from hf_tripletclip.data.raw import BUILDERS
from hf_tripletclip.data.reading import BrokenValue, read_image_file
from hf_tripletclip.data.schema import CAPTION, ERROR, HELD_OUT, ID, IMAGE, IMAGE_COLUMNS, KEY_COLUMNS
from hf_tripletclip.generation.plan import WORK_FOLDER
from hf_tripletclip.generation.stage import Batch

HASHED_ROWS = 100_000  # at a time
DATA_FILES = {*BUILDERS, ".arrow"}  # ends of the names of files that rows are in
# What a row had when its first unit was made: digests of each of these, as they are stored, and of the image's pixels.
CHECKED = (CAPTION, IMAGE)
DIGEST = "source_digest"


@dataclass(frozen=True)
class Source:
    """
    The pairs that negatives are made for.

    Args:
        name (`str`): `"scenes"`, a path, or the id of a Hub dataset.
        splits (`tuple[str, ...]`, *optional*): Which splits; all by default.
        columns (`dict` or `str`, *optional*): Our name -> the dataset's own, or a preset; see `load_tripletdata`.
        revision (`str`, *optional*): Of a Hub dataset.
        max_rows (`int`, *optional*): The first rows of each split only.
        images (`str`, *optional*): A folder of images that paths in the rows may lead to.
        scenes (`dict`): `nouns`, `seed`, `image_size` of the built-in data.
    """

    name: str = "scenes"
    splits: tuple[str, ...] | None = None
    columns: Any = None
    revision: str | None = None
    max_rows: int | None = None
    scenes: dict[str, Any] = field(default_factory=dict)
    images: str | None = None

    def located(self) -> Source:
        """The same with an absolute path: workers may have started in another directory."""
        name = os.path.expanduser(self.name)
        local = name != "scenes" and "://" not in name and (glob.has_magic(name) or Path(name).exists())
        images = None if self.images is None else os.path.abspath(os.path.expanduser(self.images))
        return replace(self, name=os.path.abspath(name) if local else self.name, images=images)

    def overlaps(self, output: Path) -> bool:
        """
        Whether an output folder would be read as part of this source, or its files are in the output folder. The
        source is as `located` gives it.
        """
        if not os.path.isabs(self.name):
            return False
        made = Path(os.path.realpath(output))
        paths = [self.name]
        if glob.has_magic(self.name) and not Path(self.name).exists():
            parts = itertools.takewhile(lambda part: not glob.has_magic(part), Path(self.name).parts)
            # `**` reads all of its folder, also what is written later; else it is about what is there.
            paths = [os.path.join(*parts)] if "**" in self.name else glob.glob(self.name)
        read = [Path(os.path.realpath(path)) for path in paths]
        return any(made == path or made in path.parents or path in made.parents for path in read)

    def open(self, again: bool = False) -> OpenSource:
        """
        The source, which is opened once per process; `again` opens it anew, because its files may have changed.

        Raises:
            FileNotFoundError: It does not exist.
            ValueError: It has no such split, no captions or no images.
        """
        if again:
            _open.cache_clear()
        options = [self.name, self.splits, self.columns, self.revision, self.max_rows, self.scenes, self.images]
        return _open(json.dumps(options))


class OpenSource(ABC):
    """A source that can be read."""

    sizes: dict[str, int]  # split -> rows
    features: Features  # of the columns that can be read, without `id`

    @abstractmethod
    def read(self, split: str, start: int, stop: int, columns: Sequence[str]) -> Batch:
        """`id` and the columns asked for of some rows; images as `{"bytes", "path"}`."""

    def problems(self, split: str, start: int, stop: int) -> list[str | None]:
        """What is wrong with the image or the caption of some rows; `None` if nothing is."""
        return [None] * (stop - start)

    def digests(self, split: str, start: int, stop: int) -> list[str | None]:
        """Digests of some rows, see `DIGEST`; `None` if the rows cannot change."""
        return [None] * (stop - start)

    def files(self) -> str | None:
        """A digest of the files that the rows are in; `None` if none of them is on this machine."""
        return None

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What distinguishes this source from another, as JSON."""


@functools.lru_cache(maxsize=2)
def _open(arguments: str) -> OpenSource:
    name, splits, columns, revision, max_rows, scenes, images = json.loads(arguments)
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"`max_rows` is {max_rows}; give at least 1.")
    if name == "scenes":
        return _Scenes(splits, max_rows, **scenes)
    if scenes:
        raise ValueError(f"Settings of `scenes` ({', '.join(scenes)}) say nothing about the source {name!r}.")
    return _Loaded(name, splits, columns, revision, max_rows, images)


def _chosen(name: str, available: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    if unknown := [split for split in wanted or () if split not in available]:
        raise ValueError(f"{name!r} has no split {', '.join(map(repr, unknown))}; it has {', '.join(available)}.")
    return list(wanted or available)


class _Loaded(OpenSource):
    def __init__(
        self,
        name: str,
        splits: list[str] | None,
        columns: Any,
        revision: str | None,
        max_rows: int | None,
        images: str | None,
    ) -> None:
        options: dict[str, Any] = {} if revision is None else {"revision": revision}
        loaded = load_tripletdata(name, columns=columns, images=images, required_columns=(IMAGE, CAPTION), **options)
        assert isinstance(loaded, DatasetDict)  # neither a stream nor one split was asked for
        self.name, self.columns, self.revision = name, columns, revision
        self._examined: tuple[tuple[str, int, int], list[tuple[str | None, str]]] | None = None
        self.parts: dict[str, Dataset] = {}
        for split in _chosen(name, list(loaded), splits):
            part = undecoded(loaded[split])
            assert isinstance(part, Dataset)
            self.parts[split] = part if max_rows is None else part.select(range(min(max_rows, len(part))))
        self.sizes = {split: len(part) for split, part in self.parts.items()}
        self.repeated = {split for split, part in self.parts.items() if _has_repeated_keys(part)}
        first = next(iter(self.parts.values())).features
        self.features = Features({name: Image() if name in IMAGE_COLUMNS else first[name] for name in first})

    def read(self, split: str, start: int, stop: int, columns: Sequence[str]) -> Batch:
        part = self.parts[split]
        key = _key_column(part)
        needed = [*columns, *([key] if key is not None and key not in columns else [])]
        rows = part.select_columns(needed)[start:stop]
        keys = rows[key] if key is not None else [None] * (stop - start)
        if split in self.repeated:
            keys = [None if name is None else f"{name}-{index:09d}" for index, name in enumerate(keys, start)]
        names = [f"{split}-{index:09d}" if name is None else str(name) for index, name in enumerate(keys, start)]
        batch = {ID: names, **{column: rows[column] for column in columns}}
        for name in IMAGE_COLUMNS:
            if name in columns:
                batch[name] = [_with_bytes(image) for image in batch[name]]
        return batch

    def problems(self, split: str, start: int, stop: int) -> list[str | None]:
        return [problem for problem, _ in self._examine(split, start, stop)]

    def digests(self, split: str, start: int, stop: int) -> list[str | None]:
        return [digest for _, digest in self._examine(split, start, stop)]

    def _examine(self, split: str, start: int, stop: int) -> list[tuple[str | None, str]]:
        """Problems and digests of some rows; those of the last call are kept, for both are asked for."""
        if self._examined is None or self._examined[0] != (split, start, stop):
            self._examined = (split, start, stop), self._look_at(split, start, stop)
        return self._examined[1]

    def _look_at(self, split: str, start: int, stop: int) -> list[tuple[str | None, str]]:
        from hf_tripletclip.data.decoding import decode_caption, known_reason

        part = self.parts[split]
        known = [ERROR] if ERROR in part.column_names else []
        rows = part.select_columns([IMAGE, CAPTION, *known])[start:stop]
        rows[IMAGE] = [_with_bytes(image) for image in rows[IMAGE]]
        found: list[tuple[str | None, str]] = []
        for place in range(stop - start):
            row = {name: column[place] for name, column in rows.items()}
            problem, pixels = None, ""
            for name in CHECKED:
                if (known_problem := known_reason(row, name)) is not None:
                    problem = f"source: {known_problem[0]}"
                else:
                    try:
                        if name == IMAGE:
                            pixels = picture_digest(row[name])
                        else:
                            decode_caption(row[name])
                    except BrokenValue as error:
                        reason, colon, detail = str(error).partition(":")
                        problem = f"source: {reason} in {name}{colon}{detail}"
                if problem:
                    break
            found.append((problem, "-".join([*(value_digest(row[name]) for name in CHECKED), pixels])))
        return found

    def identity(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "revision": self.revision,
            "columns": self.columns,
            "splits": list(self.sizes),
            "rows": self.sizes,
            "captions": _digest({split: (part, CAPTION) for split, part in self.parts.items()}),
            "keys": _digest({split: (part, _key_column(part)) for split, part in self.parts.items()}),
        }

    def files(self) -> str | None:
        return _files_digest(self.name, self.parts.values())


def _key_column(part: Dataset) -> str | None:
    return next((column for column in KEY_COLUMNS if column in part.column_names), None)


def _has_repeated_keys(part: Dataset) -> bool:
    """Whether rows share a key, as those of tars do that all number from 0: then keys alone name no row."""
    if (key := _key_column(part)) is None:
        return False
    keys = part.select_columns([key]).with_format("arrow")[:][key]
    try:
        return pc.count_distinct(keys, mode="only_valid").as_py() < len(keys) - keys.null_count
    except pa.ArrowNotImplementedError:  # keys that are lists or the like
        return True


def _digest(columns: dict[str, tuple[Dataset, str | None]]) -> str:
    """Of the values of a column of each split, in the order of their rows."""
    digest = hashlib.sha256()
    for split, (part, column) in columns.items():
        digest.update(f"{split}\x1f{len(part)}\x1f".encode())
        if column is None:
            continue
        for table in part.select_columns([column]).with_format("arrow").iter(batch_size=HASHED_ROWS):
            values = table[column].combine_chunks()
            if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
                digest.update(repr(values.to_pylist()).encode())
                continue
            digest.update(pc.fill_null(pc.binary_length(values), -1).to_numpy().astype("<i8").tobytes())
            # The text of all values follows each other in one buffer; a missing one may have some there too.
            values = pc.fill_null(values.cast(pa.large_binary()), b"")
            offsets = np.frombuffer(values.buffers()[1], np.int64)[values.offset : values.offset + len(values) + 1]
            if (text := values.buffers()[2]) is not None:
                digest.update(text[int(offsets[0]) : int(offsets[-1])])
    return digest.hexdigest()[:16]


def _files_digest(name: str, parts: Iterable[Dataset]) -> str | None:
    """
    A hash of the names, sizes and times of the local files that hold the rows and their images. Reading all images to
    see whether one has changed would take hours. `None` for a dataset of the Hub.
    """
    if not os.path.isabs(name):
        return None
    base = Path(name) if Path(name).is_dir() else Path(name).parent
    found = base.rglob("*") if base == Path(name) else map(Path, [name] if Path(name).is_file() else glob.glob(name))
    paths = {str(path) for path in found if path.suffix in DATA_FILES and WORK_FOLDER not in path.parts}
    for part in parts:
        for column in (column for column in IMAGE_COLUMNS if column in part.column_names):
            for table in part.select_columns([column]).with_format("arrow").iter(batch_size=HASHED_ROWS):
                for images in table[column].chunks if pa.types.is_struct(table[column].type) else ():
                    outside = pc.is_null(pc.struct_field(images, "bytes"))
                    paths.update(filter(None, pc.filter(pc.struct_field(images, "path"), outside).to_pylist()))
    digest = hashlib.sha256()
    for path in sorted(paths):
        try:
            about = os.stat(path)
            line = f"{os.path.relpath(path, base)}\x1f{about.st_size}\x1f{about.st_mtime_ns}\n"
        except (OSError, ValueError):
            line = f"{path}\x1fmissing\n"
        digest.update(line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def value_digest(value: Any) -> str:
    """Of a caption or of an image as it is stored: that of another differs."""
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    content = value if isinstance(value, bytes) else repr(value).encode("utf-8", "backslashreplace")
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def picture_digest(image: Any) -> str:
    """
    Of an image's size and pixels: the same of a picture, in whatever lossless file and with whatever metadata.

    Raises:
        BrokenValue: It cannot be decoded.
    """
    from hf_tripletclip.data.decoding import decode_image

    picture = decode_image(image)
    return hashlib.blake2b(repr(picture.size).encode() + picture.tobytes(), digest_size=8).hexdigest()


def _with_bytes(image: Any) -> Any:
    """An image's file is read now: its path means nothing in the dataset that is made. A missing one stays a path."""
    if not isinstance(image, dict):
        return image
    content, path = image.get("bytes"), image.get("path")
    if content is None and path:
        with contextlib.suppress(BrokenValue):  # which `problems` reports
            content = read_image_file(path)
    return image if content is None else {"bytes": content, "path": None}


class _Scenes(OpenSource):
    def __init__(
        self,
        splits: list[str] | None,
        max_rows: int | None,
        nouns: Any = 24,
        seed: int = 0,
        image_size: int = 64,
        **sizes: int,
    ) -> None:
        from hf_tripletclip.data.scenes.build import DEFAULT_SIZES, check_options

        if unknown := sorted(sizes.keys() - {f"{split}_size" for split in DEFAULT_SIZES}):
            raise ValueError(f"`scenes` takes no {', '.join(unknown)}.")
        wanted = {split: sizes.get(f"{split}_size", rows) for split, rows in DEFAULT_SIZES.items()}
        check_options(nouns, wanted, image_size)
        self.nouns, self.seed, self.image_size = nouns, seed, image_size
        chosen = _chosen("scenes", list(wanted), splits)
        self.sizes = {split: min(wanted[split], max_rows or wanted[split]) for split in chosen}
        self.features = Features({IMAGE: Image(), CAPTION: Value("string"), HELD_OUT: Value("bool")})

    def read(self, split: str, start: int, stop: int, columns: Sequence[str]) -> Batch:
        from hf_tripletclip.data.scenes.build import make_example
        from hf_tripletclip.data.scenes.vocabulary import choose_nouns

        nouns = choose_nouns(self.nouns)
        rows = [
            make_example(split, index, self.seed, nouns, self.image_size, columns=(ID, *columns))
            for index in range(start, stop)
        ]
        return {name: [row[name] for row in rows] for name in (ID, *columns)}

    def identity(self) -> dict[str, Any]:
        from hf_tripletclip.data.scenes.build import VERSION

        return {
            "name": "scenes",
            "version": VERSION,
            "nouns": self.nouns,
            "seed": self.seed,
            "image_size": self.image_size,
            "splits": list(self.sizes),
            "rows": self.sizes,
        }

# SPDX-License-Identifier: Apache-2.0
"""The image-caption pairs of a dataset: each caption with its image, and which images are the same."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, Image

from hf_tripletclip.data.decoding import BrokenValue, decode_caption, is_several
from hf_tripletclip.data.loading import load_tripletdata, undecoded
from hf_tripletclip.data.reading import read_image_file
from hf_tripletclip.data.schema import (
    CAPTION,
    CLIP_SCORE,
    COLUMNS,
    ERROR,
    GENERATOR,
    IMAGE,
    KEY_COLUMNS,
    NEG_ID,
    NEGATIVE_TYPE,
    SCORES,
    SEED,
    SOURCE,
)
from hf_tripletclip.evaluation.images import ImageCell, ImageFile, ImageRef, content_digest
from hf_tripletclip.evaluation.readers.clip_benchmark import find_tar_set
from hf_tripletclip.evaluation.readers.retrieval_sets import (
    CAPTIONS,
    Captioned,
    pick_column,
    pick_image_column,
    read_captioned,
)
from hf_tripletclip.generation.captions.content import find_words

MADE = frozenset({IMAGE, CAPTION, CLIP_SCORE, ERROR, SOURCE, *KEY_COLUMNS})  # columns that are computed anew
NAME_IT = 'say which with `columns`, such as {"image": "photo", "caption": "text"}'
# Those of the negatives that the source has.
OF_NEGATIVES = frozenset({*COLUMNS, *SCORES, NEGATIVE_TYPE, GENERATOR, SEED, NEG_ID})


@dataclass
class Pairs:
    """
    The pairs of a split: pair i is `captions[i]` and the image `images[image_of[i]]`.

    Args:
        split (`str`): The split.
        keys (`list[str]`): Of each pair, unique.
        captions (`list[str]`): Of each pair.
        image_of (`list[int]`): Of each pair, its image.
        images (`list[ImageRef]`): The images, each once by its contents.
        groups (`list[int]`): Of each image; images of one group are the same by contents or key.
        rows (`list[int]`): Of each pair, the row that it comes from.
        dataset (`datasets.Dataset`, *optional*): The rows' other columns, which are kept.
        problems (`list[tuple[int, str, str]]`): Row, key and reason of the captions that cannot be used.
    """

    split: str
    keys: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    image_of: list[int] = field(default_factory=list)
    images: list[ImageRef] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    dataset: Dataset | None = None
    problems: list[tuple[int, str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def further(self) -> Features:
        """The columns of the source that are kept."""
        features = Features() if self.dataset is None else self.dataset.features
        return Features({name: Image() if isinstance(one, Image) else one for name, one in features.items()})

    def without(self, broken: Mapping[int, str]) -> Pairs:
        """The pairs without those of broken images, which become problems."""
        kept = [pair for pair, image in enumerate(self.image_of) if image not in broken]
        lost = [
            (self.rows[pair], self.keys[pair], f"image cannot be read: {broken[image]}")
            for pair, image in enumerate(self.image_of)
            if image in broken
        ]
        whole = [image for image in range(len(self.images)) if image not in broken]
        places = {image: place for place, image in enumerate(whole)}
        return Pairs(
            self.split,
            keys=[self.keys[pair] for pair in kept],
            captions=[self.captions[pair] for pair in kept],
            image_of=[places[self.image_of[pair]] for pair in kept],
            images=[self.images[image] for image in whole],
            groups=[self.groups[image] for image in whole],
            rows=[self.rows[pair] for pair in kept],
            dataset=self.dataset,
            problems=[*self.problems, *lost],
        )

    def digest(self) -> str:
        """A hash of everything that is mined: keys, captions and the contents of the images."""
        found = hashlib.sha256()
        versions = [_contents(image) for image in self.images]
        for key, caption, image in zip(self.keys, self.captions, self.image_of, strict=True):
            line = json.dumps([key, caption, versions[image]])
            found.update(line.encode("utf-8", "surrogatepass") + b"\n")
        found.update(json.dumps([self.groups, self.problems]).encode("utf-8", "surrogatepass"))
        if self.dataset is not None:
            found.update(repr(self.dataset.features).encode())
        return found.hexdigest()[:16]


def text_identity(caption: str) -> str:
    """A text that is equal for captions of the same words: case, marks and spaces do not count."""
    return " ".join(find_words(caption)) or caption.strip()


def stored_image(image: ImageRef) -> dict[str, Any]:
    """
    An image as a row of the dataset holds it: its file's bytes.

    Raises:
        BrokenValue: It cannot be read.
    """
    if isinstance(image, ImageFile):
        return {"bytes": read_image_file(image.path), "path": None}
    return stored_cell(image.dataset[image.row][image.column])


def stored_cell(value: Any) -> dict[str, Any]:
    """As [`stored_image`], for an undecoded cell of a column of images."""
    if isinstance(value, Mapping) and value.get("bytes") is None and value.get("path"):
        return {"bytes": read_image_file(value["path"]), "path": None}
    if isinstance(value, Mapping) and value.get("bytes") is not None:
        return {"bytes": value["bytes"], "path": None}
    raise BrokenValue("missing image")


def read_pairs(
    name: str,
    *,
    splits: Sequence[str] | None = None,
    columns: Mapping[str, str] | str | None = None,
    images: str | None = None,
    keep_negatives: bool = False,
    **kwargs: Any,
) -> list[Pairs]:
    """
    The pairs of a dataset, by split.

    Args:
        name (`str`): What `load_tripletdata` opens; or Karpathy's or COCO's JSON, or a local folder in
            CLIP_benchmark's layout, as the benchmark `retrieval` reads them. Captions may be one or several a row.
        splits (`Sequence[str]`, *optional*): Which; all by default, and of Karpathy's files and CLIP_benchmark's
            folders `train`.
        columns, images, kwargs: As of `load_tripletdata`. Without `columns` a column of captions may also be called
            `captions`, `txt`, `text` or `sentences`.
        keep_negatives (`bool`, defaults to `False`): Whether negatives that the rows have are among the columns that
            are kept.

    Raises:
        OSError: The data is not there.
        ValueError: It is not what it should be, or has no split of this name.
    """
    path = Path(name).expanduser()
    chosen = list(splits) if splits else None
    as_retrieval = path.is_file() and path.suffix == ".json" and _is_object(path)
    if not as_retrieval and path.is_dir():
        as_retrieval = any(find_tar_set(name, split, None) is not None for split in chosen or _tar_splits(path))
    if as_retrieval:
        if columns is not None:
            raise ValueError(f"`columns` names columns of a table, and {name} is none: leave it out.")
        return [
            _of_captioned(split, read_captioned(name, images, split))
            for split in chosen or _tar_splits(path) or ["train"]
        ]
    if images is not None:
        kwargs["images"] = images
    mapping = columns if columns is None or isinstance(columns, str) else dict(columns)
    found = _load(name, chosen, mapping, kwargs)
    features = next(iter(found.values())).features
    if mapping is None:
        renamed: dict[str, str] = {}
        if IMAGE not in features:
            renamed[IMAGE] = pick_image_column(features, None, name, NAME_IT)
        if CAPTION not in features:
            renamed[CAPTION] = pick_column(list(features), None, CAPTIONS, "columns", name, NAME_IT)
        if renamed:
            found = _load(name, chosen, renamed, kwargs)
    for split, part in found.items():
        if missing := [column for column in (IMAGE, CAPTION) if column not in part.column_names]:
            there = ", ".join(column for column in part.column_names if column != ERROR)
            raise ValueError(
                f"{name} (split {split!r}) has no column {', '.join(missing)}; it has {there}: say which with "
                '`columns`, such as {"caption": "text"}.'
            )
    return [_of_table(split, part, keep_negatives) for split, part in found.items()]


def _is_object(path: Path) -> bool:
    """Whether a file is one JSON object, not lines or a list of rows."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            start = file.read(4096).lstrip()
    except UnicodeDecodeError:
        return False
    return start.startswith("{") and ('"annotations"' in start or '"images"' in start)


def _tar_splits(path: Path) -> list[str]:
    """Folders with CLIP_benchmark's tars in them."""
    return (
        sorted(one.name for one in path.iterdir() if one.is_dir() and any(one.glob("*.tar"))) if path.is_dir() else []
    )


def _load(name: str, splits: Sequence[str] | None, columns: Any, kwargs: Mapping[str, Any]) -> dict[str, Dataset]:
    if splits is not None:
        loaded = {split: load_tripletdata(name, split=split, columns=columns, **kwargs) for split in splits}
    else:
        everything = load_tripletdata(name, columns=columns, **kwargs)
        assert isinstance(everything, DatasetDict)
        loaded = {str(split): part for split, part in everything.items()}
    return {split: part for split, part in loaded.items() if isinstance(part, Dataset)}


def _of_table(split: str, table: Dataset, keep_negatives: bool) -> Pairs:
    raw = undecoded(table, table.column_names)
    assert isinstance(raw, Dataset)
    cells = ImageCell.of_column(raw, IMAGE)
    key_column = next((name for name in KEY_COLUMNS if name in table.column_names), None)
    given = (
        [None if value is None else str(value) for value in table[key_column]] if key_column else [None] * len(cells)
    )
    values = table[CAPTION][:]
    captions = [list(value) if is_several(value) else [value] for value in values]
    left = MADE if keep_negatives else MADE | OF_NEGATIVES
    kept = [name for name in table.column_names if name not in left]
    pairs = _assemble(split, given, cells, captions)
    pairs.dataset = raw.select_columns(kept) if kept else None
    return pairs


def _of_captioned(split: str, rows: Sequence[Captioned]) -> Pairs:
    return _assemble(split, [row.key for row in rows], [row.image for row in rows], [row.captions for row in rows])


def _assemble(
    split: str, given: Sequence[str | None], images: Sequence[ImageRef], captions: Sequence[Sequence[Any]]
) -> Pairs:
    pairs = Pairs(split)
    places: dict[str, int] = {}
    of_row = []
    for image in images:
        place = places.setdefault(_contents(image), len(pairs.images))
        if place == len(pairs.images):
            pairs.images.append(image)
        of_row.append(place)
    pairs.groups = _groups(len(pairs.images), of_row, given)
    seen: dict[str, int] = {}
    for row, (key, place, texts) in enumerate(zip(given, of_row, captions, strict=True)):
        base = f"{split}-{row:09d}" if key is None else key
        usable: dict[str, None] = {}
        for number, value in enumerate(texts):
            if value is None and len(texts) > 1:
                continue  # a list that is padded
            try:
                usable.setdefault(decode_caption(value))
            except BrokenValue as error:
                pairs.problems.append((row, base if len(texts) == 1 else f"{base}-{number}", str(error)))
        if not texts:
            pairs.problems.append((row, base, "missing caption"))
        for number, caption in enumerate(usable):
            name = base if len(texts) == 1 else f"{base}-{number}"
            times = seen[name] = seen.get(name, 0) + 1
            pairs.keys.append(name if times == 1 else f"{name}-row{row}")
            pairs.captions.append(caption)
            pairs.image_of.append(place)
            pairs.rows.append(row)
    return pairs


def _contents(image: ImageRef) -> str:
    """A text that is equal for images of the same contents, in any place."""
    if isinstance(image, ImageCell):
        return image.digest
    if not os.path.isfile(image.path):
        return f"missing:{image.name}"
    return f"{content_digest(image.path)}{image.box or ''}"


def _groups(number: int, of_row: Iterable[int], keys: Iterable[str | None]) -> list[int]:
    """For each image, the first image that is the same: rows of one key have one image."""
    parent = list(range(number))

    def root(image: int) -> int:
        while parent[image] != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    first: dict[str, int] = {}
    for image, key in zip(of_row, keys, strict=True):
        if key is not None:
            one, other = sorted((root(first.setdefault(key, image)), root(image)))
            parent[other] = one
    return [root(image) for image in range(number)]

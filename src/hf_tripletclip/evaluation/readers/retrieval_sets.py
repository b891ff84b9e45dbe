# SPDX-License-Identifier: Apache-2.0
"""Images with their captions, for retrieval: Karpathy's files, COCO's, tables and CLIP_benchmark's tars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, Features, Image

from hf_tripletclip.data.decoding import BrokenValue, decode_caption, is_several
from hf_tripletclip.data.loading import load_tripletdata, undecoded
from hf_tripletclip.evaluation.images import ImageCell, ImageFile, ImageRef, find_image
from hf_tripletclip.evaluation.readers.clip_benchmark import find_tar_set, read_tar_set
from hf_tripletclip.evaluation.readers.tables import image_folders, load_table, take
from hf_tripletclip.utils.files import read_json

CAPTIONS = ("caption", "captions", "txt", "text", "sentences")  # names by which the column is recognised


class Captioned(NamedTuple):
    """
    Args:
        key (`str`): The image's name in the predictions.
        image (`ImageRef`): The image.
        captions (`list[str]`): All captions that are true of it.
    """

    key: str
    image: ImageRef
    captions: list[str]


def read_captioned(
    data: str,
    images: str | None,
    split: str,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    config: str | None = None,
    revision: str | None = None,
) -> list[Captioned]:
    """
    The images of a split and their captions; see [`Retrieval`] for the arguments.

    Raises:
        OSError: The data does not exist.
        ValueError: The data does not have the expected form.
    """
    if data == "scenes":
        scenes = load_tripletdata(data, split=split)
        assert isinstance(scenes, Dataset)
        return _table(scenes, f"scenes (split {split!r})", image_column, caption_column)
    path = Path(data).expanduser()
    if path.is_file() and path.suffix == ".json":
        found = read_json(path)
        if isinstance(found, dict) and "annotations" in found:
            return _coco(found, path, images)
        if isinstance(found, dict) and "images" in found:
            return _karpathy(found, path, images, split)
        raise ValueError(
            f"{path}: a JSON object with `images` and their `sentences` (Karpathy's files) or with `images` and "
            "`annotations` (COCO's) is expected"
        )
    if (folder := find_tar_set(data, split, revision)) is not None:
        keys, cells, texts = read_tar_set(folder, split, "txt")
        lines = [[line for line in (text or "").splitlines() if line.strip()] for text in texts]
        return [Captioned(*row) for row in zip(keys, cells, lines, strict=True)]
    table = load_table(data, split, config=config, revision=revision, images=images)
    return _table(table, f"{data} (split {split!r})", image_column, caption_column, data, images)


def _karpathy(found: dict[str, Any], path: Path, images: str | None, split: str) -> list[Captioned]:
    folders = image_folders(path, images)
    rows: list[Captioned] = []
    splits: dict[Any, None] = {}
    entries = _list(found["images"], f"{path}, images")
    names_in_all = Counter(str(image.get("filename")) for image in entries if isinstance(image, dict))
    for number, image in enumerate(entries):
        where = f"{path}, images[{number}]"
        name, of, sentences = take(image, ("filename", "split", "sentences"), where)
        if not isinstance(name, str) or not isinstance(of, str):
            raise ValueError(f"{where}: filename {name!r} and split {of!r}; texts are expected")
        splits[of] = None
        if of != split:
            continue
        captions = [_caption(take(one, ("raw",), where)[0], where) for one in _list(sentences, f"{where}, sentences")]
        names = [f"{image['filepath']}/{name}"] if image.get("filepath") else [name]
        if names_in_all[name] == 1:  # then the folder is not needed to identify it
            names.append(name)
        if isinstance(image.get("cocoid"), int):
            names.append(f"{image['cocoid']:012d}.jpg")  # COCO's name of the same photograph since 2017
        rows.append(Captioned(name, _first(folders, names), captions))
    if not rows:
        raise ValueError(f"{path} has no split {split!r}; it has {', '.join(map(str, splits))}")
    return rows


def _coco(found: dict[str, Any], path: Path, images: str | None) -> list[Captioned]:
    folders = image_folders(path, images)
    rows: dict[Any, Captioned] = {}
    entries, annotations = take(found, ("images", "annotations"), str(path))
    for number, image in enumerate(_list(entries, f"{path}, images")):
        where = f"{path}, images[{number}]"
        code, name = take(image, ("id", "file_name"), where)
        if not isinstance(code, (int, str)) or not isinstance(name, str):
            raise ValueError(f"{where}: id {code!r} and file_name {name!r}; a number and a text are expected")
        rows[code] = Captioned(name, find_image(folders, name), [])
    for number, annotation in enumerate(_list(annotations, f"{path}, annotations")):
        where = f"{path}, annotations[{number}]"
        code, caption = take(annotation, ("image_id", "caption"), where)
        if not isinstance(code, (int, str)) or code not in rows:
            raise ValueError(f"{where}: there is no image of the id {code!r}")
        rows[code].captions.append(_caption(caption, where))
    return list(rows.values())


def _table(
    table: Dataset,
    where: str,
    image_column: str | None,
    caption_column: str | None,
    data: str | None = None,
    images: str | None = None,
) -> list[Captioned]:
    image = pick_image_column(table.features, image_column, where)
    caption = pick_column(table.column_names, caption_column, CAPTIONS, "caption_column", where)
    cells = table_images(table, image, where, data, images)
    values = table[caption][:]
    listed = any(is_several(value) for value in values)
    rows: dict[Any, Captioned] = {}
    for row, (cell, value) in enumerate(zip(cells, values, strict=True)):
        texts = [_caption(text, f"{where}, row {row}") for text in (value if is_several(value) else [value])]
        # With one caption per row, an image has as many rows as captions; with lists, it has one row.
        rows.setdefault(row if listed else cell, Captioned(str(row), cell, [])).captions.extend(texts)
    return list(rows.values())


def table_images(
    table: Dataset, column: str, where: str, data: str | None = None, images: str | None = None
) -> Sequence[ImageRef]:
    """
    The images of a column, which holds images or names of files.

    Args:
        table (`datasets.Dataset`): The rows.
        column (`str`): The column.
        where (`str`): For messages.
        data (`str`, *optional*): The file or folder of the rows. Named files are in its folder.
        images (`str`, *optional*): Another folder with the named files.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The column names files, and their folder is not known.
    """
    if getattr(table.features[column], "dtype", None) not in ("string", "large_string"):
        raw = undecoded(table, [column])
        assert isinstance(raw, Dataset)
        return ImageCell.of_column(raw, column)
    if images is None and (data is None or not Path(data).expanduser().exists()):
        raise ValueError(f"{where} names images in {column!r}: say where they are (`images`)")
    folders = image_folders(data or "", images)
    found = []
    for row, name in enumerate(table[column]):
        if not isinstance(name, str) or not name:
            raise ValueError(f"{where}, row {row}: {column} is {name!r}; the name of an image is expected")
        found.append(find_image(folders, name))
    return found


def pick_image_column(features: Features, given: str | None, where: str, how: str | None = None) -> str:
    """
    The column of images; `how` as in `pick_column`.

    Raises:
        ValueError: There is no such column, or no single column of images and none with the name `image`.
    """
    pictures = [name for name, feature in features.items() if isinstance(feature, Image)]
    if given is None and "image" not in pictures and len(pictures) == 1:
        return pictures[0]
    return pick_column(list(features), given, ("image",), "image_column", where, how)


def pick_column(
    columns: Sequence[str], given: str | None, known: Iterable[str], option: str, where: str, how: str | None = None
) -> str:
    """
    The column that an option names, or the first existing one of the usual names.

    Args:
        columns (`Sequence[str]`): The columns that there are.
        given (`str`, *optional*): The one that the option names.
        known (`Iterable[str]`): The usual names.
        option (`str`): The option, a setting of a benchmark.
        where (`str`): The data, for messages.
        how (`str`, *optional*): How a user names a column, for messages; by default with the option.

    Raises:
        ValueError: There is no such column.
    """
    if given is not None and given not in columns:
        raise ValueError(f"{where} has no column {given!r}; it has {', '.join(columns)}")
    found = given or next((name for name in known if name in columns), None)
    if found is None:
        usual = ", ".join(dict.fromkeys(known)) or "the usual names"
        how = how or f"name it with `{option}` (--option BENCHMARK.{option}=COLUMN)"
        raise ValueError(f"{where}: no column is called {usual}: {how}; there are {', '.join(columns)}")
    return found


def _first(folders: Sequence[Path], names: Sequence[str]) -> ImageFile:
    found = [find_image(folders, name) for name in names]
    return next((image for image in found if image.exists()), found[0])


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: a list is expected, not {type(value).__name__}")
    return value


def _caption(value: Any, where: str) -> str:
    try:
        return decode_caption(value)
    except BrokenValue as error:
        raise ValueError(f"{where}: {error}") from error

# SPDX-License-Identifier: Apache-2.0
"""Images with their classes, for zero-shot classification: folders, tables and CLIP_benchmark's tars."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset

from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.evaluation.captioned import pick_column, pick_image_column
from hf_tripletclip.evaluation.images import EXTENSIONS, ImageCell, ImageFile, ImageRef
from hf_tripletclip.evaluation.prompts import imagenet_classes, read_classnames
from hf_tripletclip.evaluation.sources import load_table
from hf_tripletclip.evaluation.tar_sets import find_tar_set, read_lines, read_tar_set

CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
LABELS = ("label", "labels", "cls", "fine_label")  # names of the column that are recognised
SPLITS = {"train", "test", "val", "validation"}  # these folders are no classes
WORDNET_ID = re.compile(r"n\d{8}")


@dataclass
class LabelledSet:
    """
    Args:
        keys (`list[str]`): Name the images in the predictions.
        images (`list[ImageRef]`): The images.
        labels (`list[int]`): Of each image its class, a place in `classnames`.
        classnames (`list[str]`): The classes.
        templates (`list[str]`, *optional*): The set's own prompt templates.
    """

    keys: list[str]
    images: list[ImageRef]
    labels: list[int]
    classnames: list[str]
    templates: list[str] | None = None

    def select(self, rows: Sequence[int]) -> LabelledSet:
        """These images."""
        return LabelledSet(
            keys=[self.keys[row] for row in rows],
            images=[self.images[row] for row in rows],
            labels=[self.labels[row] for row in rows],
            classnames=self.classnames,
            templates=self.templates,
        )


def read_labelled(
    data: str,
    split: str,
    *,
    classnames: str | Sequence[str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    config: str | None = None,
    revision: str | None = None,
) -> LabelledSet:
    """
    The images of a split and their classes; see [`ZeroShot`] for the arguments.

    Raises:
        OSError: The data is not there.
        ValueError: It is not what it should be.
    """
    if data == "scenes":
        return _scenes()
    names = None if classnames is None else read_classnames(classnames)
    path = Path(data).expanduser()
    if (folder := find_tar_set(data, split, revision)) is not None:
        return _tars(folder, split, names)
    if path.is_dir() and (folders := _class_folders(path, split)):
        return _folder(folders, names)
    table = load_table(data, split, config=config, revision=revision)
    return _table(table, f"{data} (split {split!r})", names, image_column, label_column)


def _scenes() -> LabelledSet:
    from hf_tripletclip.data.scenes.recognition import load_recognition, recognition_templates

    found = _table(load_recognition(), "scenes", None, None, None)
    found.templates = recognition_templates()
    return found


def _tars(folder: Path, split: str, names: list[str] | None) -> LabelledSet:
    keys, images, texts = read_tar_set(folder, split, "cls")
    where = f"{folder} (split {split!r})"
    names = names or read_lines(folder / CLASSNAMES)
    if not names:
        raise ValueError(f"{where} has no {CLASSNAMES}: give the class names (`classnames`)")
    labels = [_label(text, f"{where}, {key}.cls") for key, text in zip(keys, texts, strict=True)]
    _check_labels(labels, names, where)
    templates = [line for line in read_lines(folder / TEMPLATES) or () if line]
    return LabelledSet(keys, list(images), labels, names, templates or None)


def _class_folders(path: Path, split: str) -> list[Path]:
    """The folders of the classes, in the folder or in that of the split; none where they hold no images."""
    base = path / split if (path / split).is_dir() else path
    folders = sorted(child for child in base.iterdir() if child.is_dir() and not child.name.startswith("."))
    if {folder.name for folder in folders} & SPLITS:
        return []
    return folders if any(_pictures(folder) for folder in folders) else []


def _pictures(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.suffix.lower() in EXTENSIONS)


def _folder(folders: Sequence[Path], names: list[str] | None) -> LabelledSet:
    where = str(folders[0].parent)
    if names is None:
        names = read_lines(folders[0].parent / CLASSNAMES) or [_name_of(folder.name) for folder in folders]
    if len(names) != len(folders):
        raise ValueError(f"{where} has {len(folders)} folders of classes, and there are {len(names)} class names")
    files = [(label, file) for label, folder in enumerate(folders) for file in _pictures(folder)]
    return LabelledSet(
        keys=[f"{file.parent.name}/{file.name}" for _, file in files],
        images=[ImageFile(str(file)) for _, file in files],
        labels=[label for label, _ in files],
        classnames=names,
    )


def _name_of(folder: str) -> str:
    """The class of a folder: ImageNet's folders are called by WordNet ids."""
    if WORDNET_ID.fullmatch(folder):
        return imagenet_classes().get(folder, folder)
    return folder.replace("_", " ")


def _table(
    table: Dataset, where: str, names: list[str] | None, image_column: str | None, label_column: str | None
) -> LabelledSet:
    image = pick_image_column(table.features, image_column, where)
    classes = [name for name, feature in table.features.items() if isinstance(feature, ClassLabel)]
    known = [*classes, *LABELS] if len(classes) == 1 else LABELS
    column = pick_column(table.column_names, label_column, known, "label_column", where)
    feature = table.features[column]
    if names is None:
        if not isinstance(feature, ClassLabel):
            raise ValueError(f"{where}: column {column!r} has no class names: give them (`classnames`)")
        names = [name.replace("_", " ") for name in feature.names]
        if len(names) == len(imagenet_classes()) and names[0] == "tench, Tinca tinca":  # ILSVRC/imagenet-1k
            names = list(imagenet_classes().values())
    labels = [_label(value, f"{where}, row {row}") for row, value in enumerate(table[column][:])]
    _check_labels(labels, names, where)
    raw = undecoded(table, [image])
    assert isinstance(raw, Dataset)
    return LabelledSet(list(map(str, range(len(labels)))), list(ImageCell.of_column(raw, image)), labels, names)


def _label(value: Any, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    raise ValueError(f"{where}: a label is a whole number, not {value!r}")


def _check_labels(labels: Sequence[int], names: Sequence[str], where: str) -> None:
    if bad := sorted({label for label in labels if not 0 <= label < len(names)}):
        raise ValueError(f"{where} has the labels {bad[:5]}, and there are {len(names)} class names")

# SPDX-License-Identifier: Apache-2.0
"""Images with their classes, for zero-shot classification: folders, tables and CLIP_benchmark's tars."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset
from transformers.utils import logging

from hf_tripletclip.evaluation.images import EXTENSIONS, LISTED, ImageFile, ImageRef, is_left_behind
from hf_tripletclip.evaluation.readers.clip_benchmark import find_tar_set, read_lines, read_tar_set
from hf_tripletclip.evaluation.readers.prompts import imagenet_classes, read_classnames
from hf_tripletclip.evaluation.readers.retrieval_sets import pick_column, pick_image_column, table_images
from hf_tripletclip.evaluation.readers.tables import load_table

logger = logging.get_logger(__name__)

CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
LABELS = ("label", "labels", "cls", "fine_label")  # names by which the column is recognised
SPLITS = {"train", "test", "val", "validation"}  # folders with these names are not classes
ALIKE = {"val": ("val", "validation"), "validation": ("validation", "val")}  # possible names of the folder of a split
NUMBERED = re.compile(r"(\D*)(\d+)")
WORDNET_ID = re.compile(r"n\d{8}")


@dataclass
class LabelledSet:
    """
    Args:
        keys (`list[str]`): The names of the images in the predictions.
        images (`list[ImageRef]`): The images.
        labels (`list[int]`): The class of each image, as a place in `classnames`.
        classnames (`list[str]`): The classes.
        templates (`list[str]`, *optional*): The set's own prompt templates.
    """

    keys: list[str]
    images: list[ImageRef]
    labels: list[int]
    classnames: list[str]
    templates: list[str] | None = None

    def select(self, rows: Sequence[int]) -> LabelledSet:
        """The set with only these images."""
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
    images: str | None = None,
) -> LabelledSet:
    """
    The images of a split and their classes; see [`ZeroShot`] for the arguments.

    Raises:
        OSError: The data does not exist.
        ValueError: The data does not have the expected form.
    """
    if data == "scenes":
        return _scenes()
    names = None if classnames is None else read_classnames(classnames)
    path = Path(data).expanduser()
    if (folder := find_tar_set(data, split, revision)) is not None:
        return _tars(folder, split, names)
    if path.is_dir() and (folders := _class_folders(path, split)):
        return _folder(folders, names)
    table = load_table(data, split, config=config, revision=revision, images=images)
    return _table(table, f"{data} (split {split!r})", names, image_column, label_column, data, images)


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
    """The folders of the classes, in the folder or in that of the split; empty if they hold no images."""
    inside = [path / name for name in ALIKE.get(split, (split,)) if (path / name).is_dir()]
    base = inside[0] if inside else path
    folders = [child for child in base.iterdir() if child.is_dir() and not is_left_behind(child.name)]
    if {folder.name for folder in folders} & SPLITS:
        return []
    numbers = [NUMBERED.fullmatch(folder.name) for folder in folders]
    alike = len({found and found[1] for found in numbers}) == 1  # all are like `7`, or like `class_7`
    order = {folder: int(found[2]) if alike and found else 0 for folder, found in zip(folders, numbers, strict=True)}
    folders.sort(key=lambda folder: (order[folder], folder.name))
    return folders if any(_pictures(folder)[0] for folder in folders) else []


def _pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """The pictures in and below a folder, in order, and the other files."""
    pictures: list[Path] = []
    others: list[Path] = []
    seen: set[str] = set()
    for place, below, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # a link to a folder that contains it
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not is_left_behind(name))
        for name in sorted(name for name in names if not is_left_behind(name)):
            file = Path(place, name)
            (pictures if file.suffix.lower() in EXTENSIONS else others).append(file)
    return pictures, others


def _folder(folders: Sequence[Path], names: list[str] | None) -> LabelledSet:
    base = folders[0].parent
    classes, names = [folder.name for folder in folders], names or read_lines(base / CLASSNAMES)
    if names and classes != sorted(classes) and not classes[0].isdecimal():
        logger.warning(f"{base}: the class names are taken for {', '.join(classes[:LISTED])}, ... in this order.")
    labels, names = _places(classes, names, str(base))
    files: list[tuple[int, Path]] = []
    skipped = [file for file in sorted(base.iterdir()) if _is_stray(file)]
    for label, folder in zip(labels, folders, strict=True):
        pictures, others = _pictures(folder)
        files += [(label, file) for file in pictures]
        skipped += others
    if skipped:
        some = ", ".join(str(file.relative_to(base)) for file in skipped[:LISTED])
        logger.warning(f"{base}: {len(skipped)} files are no pictures of a class and are skipped, such as {some}.")
    return LabelledSet(
        keys=[file.relative_to(base).as_posix() for _, file in files],
        images=[ImageFile(str(file)) for _, file in files],
        labels=[label for label, _ in files],
        classnames=names,
    )


def _is_stray(file: Path) -> bool:
    """Whether the file is a picture beside the folders of the classes."""
    return file.is_file() and file.suffix.lower() in EXTENSIONS and not is_left_behind(file.name)


def _places(classes: Sequence[str], names: list[str] | None, where: str) -> tuple[list[int], list[str]]:
    """
    The place of each class among the class names, and the class names.

    Args:
        classes (`Sequence[str]`): The names of the classes in a folder or table. Numbers are places, WordNet ids are
            classes of ImageNet.
        names (`list[str]`, *optional*): The class names that the user gave. Defaults to those of ImageNet, or to
            `classes`.
        where (`str`): For messages.

    Raises:
        ValueError: A class has no name, or two classes have the same one.
    """
    imagenet = imagenet_classes()
    numbered = all(name.isdecimal() for name in classes)
    ids = all(map(WORDNET_ID.fullmatch, classes))
    if names is None:
        if ids and (unknown := [name for name in classes if name not in imagenet]):
            raise ValueError(
                f"{where}: {', '.join(unknown[:LISTED])} are not among the 1,000 classes of ImageNet whose names are "
                "known here: give the class names (`classnames`)"
            )
        if numbered:
            logger.warning(
                f"{where}: the classes are called {classes[0]} to {classes[-1]}, and so the prompts speak of numbers: "
                "give the class names (`classnames`) if these are their places."
            )
        return list(range(len(classes))), [imagenet[n] if ids else n.replace("_", " ") for n in classes]
    if numbered:
        places = [int(name) for name in classes]
        if len(set(places)) < len(places):
            raise ValueError(f"{where}: two classes have the same number, such as 1 and 01")
        if max(places) >= len(names):
            raise ValueError(
                f"{where} has {len(classes)} folders of classes, and there are {len(names)} class names: folders that "
                f"are called by numbers are places among them, 0 to {len(names) - 1}, and these are {min(places)} to "
                f"{max(places)}"
            )
        return places, names
    if ids and names == list(imagenet.values()):
        order = {name: place for place, name in enumerate(imagenet)}
        if unknown := [name for name in classes if name not in order]:
            raise ValueError(f"{where}: {', '.join(unknown[:LISTED])} are not among the 1,000 classes of ImageNet")
        return [order[name] for name in classes], names
    if len(names) != len(classes):
        raise ValueError(f"{where} has {len(classes)} folders of classes, and there are {len(names)} class names")
    return list(range(len(classes))), names


def _table(
    table: Dataset,
    where: str,
    names: list[str] | None,
    image_column: str | None,
    label_column: str | None,
    data: str | None = None,
    images: str | None = None,
) -> LabelledSet:
    image = pick_image_column(table.features, image_column, where)
    classes = [name for name, feature in table.features.items() if isinstance(feature, ClassLabel)]
    known = [*classes, *LABELS] if len(classes) == 1 else LABELS
    column = pick_column(table.column_names, label_column, known, "label_column", where)
    feature = table.features[column]
    given = names is not None
    if names is None:
        if not isinstance(feature, ClassLabel):
            raise ValueError(f"{where}: column {column!r} has no class names: give them (`classnames`)")
        names = [name.replace("_", " ") for name in feature.names]
        if len(names) == len(imagenet_classes()) and names[0] == "tench, Tinca tinca":  # ILSVRC/imagenet-1k
            names = list(imagenet_classes().values())
    labels = [_label(value, f"{where}, row {row}") for row, value in enumerate(table[column][:])]
    if isinstance(feature, ClassLabel) and given and all(name.isdecimal() for name in feature.names):
        places, _ = _places(feature.names, names, where)  # `datasets` sorts the names of folders as texts
        labels = [places[label] if 0 <= label < len(places) else label for label in labels]
    _check_labels(labels, names, where)
    pictures = table_images(table, image, where, data, images)
    return LabelledSet(list(map(str, range(len(labels)))), list(pictures), labels, names)


def _label(value: Any, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    raise ValueError(f"{where}: a label is a whole number, not {value!r}")


def _check_labels(labels: Sequence[int], names: Sequence[str], where: str) -> None:
    if bad := sorted({label for label in labels if not 0 <= label < len(names)}):
        raise ValueError(f"{where} has the labels {bad[:5]}, and there are {len(names)} class names")

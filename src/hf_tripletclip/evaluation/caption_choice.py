# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share that ask about one image and several captions: parts of a file each, and choices.

Two classes to derive from, [`PartsBenchmark`] and [`ChoiceBenchmark`], and functions that read rows and find images.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from datasets import Dataset, List
from datasets import Image as ImageFeature
from transformers.utils import logging

from hf_tripletclip.data.decoding import BrokenValue, decode_caption
from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.items import Item, choice
from hf_tripletclip.evaluation.predictions import CATEGORY
from hf_tripletclip.evaluation.questions import ItemBenchmark
from hf_tripletclip.evaluation.readers.images import ImageCell, ImageFile, ImageRef, is_left_behind, the_one
from hf_tripletclip.evaluation.readers.tables import image_folders, load_table, read_json, take
from hf_tripletclip.results.result import EvaluationResult, Mean
from hf_tripletclip.results.statistics import tally

logger = logging.get_logger(__name__)

TABLES = ("*.parquet", "*.jsonl", "data/*.parquet")  # a folder with one of these is a table
PAIRWISE = choice(2)
EXAMPLES = "examples.jsonl"
ANSWER = "answer"  # the column of predictions: where the true caption stands in the benchmark's own order
OPTIONS = "options"  # the column of predictions: among how many captions


@dataclasses.dataclass(kw_only=True)
class PartsBenchmark(ItemBenchmark):
    """
    A benchmark in parts, which are the categories of its items, with a file for each.

    A subclass sets `FILES`, part -> name of its file, and `WHERE`, a sentence that says where to get them.

    Args:
        annotations (`str`): The folder of the files.
        images (`str`, *optional*): The folder of the images. Defaults to the annotations' folder, or one in it.
        parts (`tuple[str, ...]`, *optional*): Only these parts. Defaults to those that are there.
        protocol, allow_missing, max_rows: As in [`Benchmark`].
    """

    FILES: ClassVar[Mapping[str, str]]
    WHERE: ClassVar[str]

    annotations: str
    images: str | None = None
    parts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.parts is None:
            return
        self.parts = (self.parts,) if isinstance(self.parts, str) else tuple(self.parts)
        if not self.parts or (unknown := [part for part in self.parts if part not in self.FILES]):
            what = f"no {', '.join(unknown)}" if self.parts else "nothing to evaluate in `parts` = ()"
            raise ValueError(f"{self.name}: there is {what}; the parts are {', '.join(self.FILES)}.")

    @property
    def source(self) -> str:
        return str(self.annotations)

    @property
    def folder(self) -> Path:
        return Path(self.annotations).expanduser()

    def run(self, encoder: Encoder) -> EvaluationResult:
        result = super().run(encoder)
        present = set(result.predictions[CATEGORY])
        result.data["parts"] = [part for part in self.FILES if part in present]
        absent = [part for part in self.FILES if part not in present]
        if (
            absent
            and self.parts is None
            and present & self.FILES.keys()
            and not self.folder.is_file()
            and encoder.state.is_main_process
        ):
            logger.warning(
                f"{self.title}: {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not there: means are over "
                f"{len(present)} of {len(self.FILES)} parts, and no published ones."
            )
        return result

    def wants(self, part: str | None) -> bool:
        """Whether a part is to be evaluated."""
        return self.parts is None or part in self.parts

    def files(self) -> dict[str, Path]:
        """
        The parts that are there and wanted, and their files. Empty where the annotations are no folder of files but a
        table: a file, a folder of parquet or JSON lines, or a Hub id.

        Raises:
            FileNotFoundError: There is none, or not each of those that are asked for.
        """
        self.check_path()
        found = {part: path for part, name in self.FILES.items() if (path := self.folder / name).is_file()}
        if not found and (not self.folder.is_dir() or any(any(self.folder.glob(table)) for table in TABLES)):
            return {}
        absent = [self.FILES[part] for part in self.parts or () if part not in found]
        if absent or not found:
            lacks = f"no {', '.join(absent)}" if absent else f"none of {', '.join(self.FILES.values())}"
            raise FileNotFoundError(f"{self.title}: {self.folder} has {lacks}: {self.WHERE}")
        return {part: path for part, path in found.items() if self.wants(part)}

    def check_path(self) -> None:
        """
        Check that the annotations are there, unless they may be on the Hub.

        Raises:
            FileNotFoundError: They are not.
        """
        name = str(self.annotations)
        on_hub = not self.folder.is_absolute() and not name.startswith(".") and name.count("/") < 2
        if not on_hub and not self.folder.exists():
            raise FileNotFoundError(f"{self.title}: {self.folder} does not exist: {self.WHERE}")

    def image_folders(self) -> list[Path]:
        """
        Where images may be: the folder that the user says, the annotations' folder otherwise, and those in it.

        Raises:
            FileNotFoundError: The folder that the user says is not there.
            ValueError: The user says none, and the annotations are on the Hub.
        """
        if self.images is None and not self.folder.exists():
            raise ValueError(f"{self.title}: {self.annotations} has no images: say where they are (`images`)")
        base = image_folders(self.annotations, self.images)[0]
        return [base, *sorted(path for path in base.iterdir() if path.is_dir() and not is_left_behind(path.name))]


@dataclasses.dataclass(kw_only=True)
class ChoiceBenchmark(PartsBenchmark):
    """
    A benchmark that asks which of several captions is true of an image; its items come from [`question`].

    `protocol="official"` is `argmax` over the scores in the benchmark's own order: of equal scores the first wins.
    """

    def official_outcomes(self, item: Item, scores: Mapping[str, float]) -> dict[str, bool]:
        answer = item.columns[ANSWER]
        best = scores["i0c0"]
        others = [scores[f"i0c{place}"] for place in range(1, len(item.captions))]  # in the benchmark's order
        return {"accuracy": all(best > score for score in others[:answer]) and best >= max(others)}

    def make_result(
        self,
        encoder: Encoder,
        *,
        predictions: dict[str, list[Any]],
        means: Mapping[str, Mean],
        chance: Mapping[str, float],
        **values: Any,
    ) -> EvaluationResult:
        # Questions have different numbers of captions: guessing is a column that the same means are taken of.
        guesses = {**predictions, "accuracy": [1 / options for options in predictions[OPTIONS]]}
        of_choices = {name: tally(guesses, mean) for name, mean in means.items() if mean.outcome == "accuracy"}
        return super().make_result(
            encoder, predictions=predictions, means=means, chance={**of_choices, **chance}, **values
        )


def question(
    key: str,
    image: ImageRef,
    captions: Sequence[str],
    answer: int,
    *,
    category: str,
    columns: Mapping[str, Any] | None = None,
) -> Item:
    """
    An item of a [`ChoiceBenchmark`].

    Args:
        key, image, category, columns: As in [`Item`].
        captions (`Sequence[str]`): In the benchmark's own order.
        answer (`int`): Which of them is true. In the item it stands first, and the others keep their order.
    """
    others = (*captions[:answer], *captions[answer + 1 :])
    return Item(
        key=key,
        images=(image,),
        captions=(captions[answer], *others),
        comparisons=choice(len(captions)),
        category=category,
        columns={**(columns or {}), ANSWER: answer, OPTIONS: len(captions)},
    )


def pair(key: str, image: ImageRef, captions: Sequence[str], category: str) -> Item:
    """An item with two captions, of which the first is true, and the outcome `accuracy`."""
    return Item(key=key, images=(image,), captions=tuple(captions), comparisons=PAIRWISE, category=category)


def read_rows(path: Path) -> Iterator[tuple[str, Any, str]]:
    """
    The rows of a JSON file, which is a list or an object of rows by id.

    Yields:
        `tuple[str, Any, str]`: The row's id or number, the row, and file and id for messages.

    Raises:
        ValueError: It is neither.
    """
    rows = read_json(path)
    if not isinstance(rows, (dict, list)):
        raise ValueError(f"{path}: a JSON object of rows by id, or a list, is expected, not {type(rows).__name__}")
    for key, row in rows.items() if isinstance(rows, dict) else enumerate(rows):
        yield str(key), row, f"{path}, row {key!r}"


def strings(row: Any, names: Sequence[str], where: str) -> list[str]:
    """
    The values of these names of a JSON object, which are texts.

    Raises:
        ValueError: It is no object, lacks one of them, or one is no text.
    """
    values = take(row, names, where)
    for name, value in zip(names, values, strict=True):
        check_text(value, f"{where}: {name}")
    return values


def check_text(value: Any, where: str) -> str:
    """
    The value, which is a text that is not empty.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} is {value!r}, where a text is expected")
    try:
        return decode_caption(value)
    except BrokenValue as error:  # it holds what is no character
        raise ValueError(f"{where} is {value!r}: {error}") from error


class ImageFinder:
    """
    Finds image files by names that may be paths of other people's folders: the longest end of it that is there counts,
    unless what it leaves out tells two images apart.

    Args:
        folders (`Sequence[Path]`): Where to look, in this order.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.roots = [os.fspath(path) for path in folders if path.parent != folders[0]]
        self.inside: dict[str, list[str]] = {}  # what is directly in a folder inside the first one -> these folders
        for folder in folders:
            if folder.parent == folders[0] and folder.is_dir():
                for name in os.listdir(folder):
                    self.inside.setdefault(name, []).append(os.fspath(folder))
        self.known: dict[str, ImageFile] = {}
        self.names: dict[str, set[tuple[str, ...]]] = {}  # file -> the names that it was found by
        self.spoken_of: set[str] = set()  # the folders in the names

    def __call__(self, name: str) -> ImageFile:
        """
        The image file; where there is none, that of the whole name in the first folder. With all names known,
        [`settle`] says whether it is certain.

        Raises:
            ValueError: Two files of the whole name differ.
        """
        if name not in self.known:
            steps = _steps(name)
            path, dropped = self._find(steps)
            self.names.setdefault(path, set()).add(steps)
            self.spoken_of.update(steps[:-1])
            self.known[name] = ImageFile(path, said=name if dropped else None)
        return self.known[name]

    def settled(self, items: Sequence[Item]) -> list[Item]:
        """The items, with each image [`settle`]d."""
        return [replace(item, images=tuple(map(self.settle, item.images))) for item in items]

    def settle(self, image: ImageRef) -> ImageRef:
        """
        The image, or a missing one instead, if it was found by the end of its name alone and either another name leads
        to the same file, or the file is in a folder that other names speak of and this one does not.
        """
        if not isinstance(image, ImageFile) or image.said is None:
            return image
        steps = _steps(image.said)
        elsewhere = (self.spoken_of - set(steps)) & set(self._within(image.path))
        if len(self.names[image.path]) == 1 and not elsewhere:
            return image
        return replace(image, path=self._missing(steps))

    def _within(self, path: str) -> tuple[str, ...]:
        """The folders between the first one and the file."""
        return () if self.roots[0] not in path else Path(os.path.relpath(path, self.roots[0])).parts[:-1]

    def _find(self, steps: tuple[str, ...]) -> tuple[str, bool]:
        """The path, and whether it has only the end of the name."""
        for start in range(len(steps)):
            end = steps[start:]
            paths = [os.path.join(root, *end) for root in self.roots]
            if found := next(filter(os.path.isfile, paths), None):
                return found, start > 0
            folders = self.inside.get(end[0], ())
            if start:  # of `patient2/a.png` none is in `patient1`
                folders = [
                    folder for folder in folders if not _same_series(os.path.basename(folder), steps[start - 1])
                ]
            inside = [path for folder in folders if os.path.isfile(path := os.path.join(folder, *end))]
            try:
                if found := the_one(inside):
                    return found, start > 0
            except ValueError:
                if start == 0:
                    raise
                break  # what the end leaves out says which of them it is
        return self._missing(steps), False

    def _missing(self, steps: tuple[str, ...]) -> str:
        return os.path.join(self.roots[0], *steps)


def _steps(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.replace("\\", "/")).parts


def _same_series(one: str, other: str) -> bool:
    """Whether two names differ in their numbers only."""
    return one != other and re.sub(r"\d+", "0", one) == re.sub(r"\d+", "0", other)


def image_cells(table: Dataset, source: str) -> list[ImageCell]:
    """
    The image of each row of a table, from its column `image` or `images`; of a list, the first.

    Raises:
        ValueError: It has no such column.
    """
    features = table.features
    column = next((name for name in ("image", "images") if name in features), None)
    if column is None:
        raise ValueError(f"{source} has no column image or images; it has {', '.join(features)}")
    if isinstance(features[column], List):
        undecoded_list = List(ImageFeature(decode=False))
        table = table.select_columns([column]).cast_column(column, undecoded_list)
        table = table.map(
            lambda lists: {column: [images[0] if images else None for images in lists]},
            input_columns=[column],
            batched=True,
            features=type(table.features)({column: ImageFeature(decode=False)}),
        )
    return ImageCell.of_column(undecoded(table, [column]), column)


def listed_rows(source: str, images: str | None) -> Iterator[tuple[int, dict[str, Any], ImageRef, str]]:
    """
    The rows of a copy of the Hub's `Mayfull/valse_vlms` or `Mayfull/whats_up_vlms`, or of a table like them: with
    lists of captions, `positive_caption` and `negative_caption`, and the image as `images` or by `image_file_name`.

    Args:
        source (`str`): `examples.jsonl`, a folder that has it, or any table.
        images (`str`, *optional*): The folder of the images. Defaults to the one of the rows, and `images` in it.

    Yields:
        `tuple`: The row's number, the row, its image, and source and number for messages.

    Raises:
        OSError: There is none.
        ValueError: It is not of this layout.
    """
    path = Path(source).expanduser()
    path = path / EXAMPLES if (path / EXAMPLES).is_file() else path
    lists = ("positive_caption", "negative_caption")
    table = load_table(path if path.exists() else source, columns=lists, images=images)
    files: list[ImageRef] | None = None
    if "image_file_name" in table.column_names:
        base = image_folders(path, images)[0]
        find = ImageFinder([base, base / "images"])
        names = enumerate(table["image_file_name"])
        files = [find(check_text(name, f"{source}, row {number}: image_file_name")) for number, name in names]
        files = [find.settle(image) for image in files]
    found: Sequence[ImageRef] = image_cells(table, source) if files is None else files
    texts = table.select_columns([name for name in table.column_names if name not in ("image", "images")])
    for number, row in enumerate(texts):
        where = f"{source}, row {number}"
        for name in lists:
            if not isinstance(row[name], list) or not row[name]:
                raise ValueError(f"{where}: {name} is {row[name]!r}, where a list of captions is expected")
            for caption in row[name]:
                check_text(caption, f"{where}: {name}")
        yield number, row, found[number], where

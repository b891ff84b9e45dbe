# SPDX-License-Identifier: Apache-2.0
"""The user's own questions: which of two or more captions of an image is true?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset, Image

from hf_tripletclip.data.decoding import BrokenValue, decode_caption, is_several
from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.data.schema import ID
from hf_tripletclip.evaluation.caption_choice import OPTIONS
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.images import ImageCell, ImageRef
from hf_tripletclip.evaluation.items import CATEGORY, Item, choice, settled
from hf_tripletclip.evaluation.questions import ItemBenchmark
from hf_tripletclip.evaluation.readers.annotations import ImageFinder
from hf_tripletclip.evaluation.readers.retrieval_sets import pick_column
from hf_tripletclip.evaluation.readers.tables import load_table, read_csv_rows
from hf_tripletclip.results.result import EvaluationResult, Mean
from hf_tripletclip.results.scoring import tally
from hf_tripletclip.utils.files import read_text

IMAGE_NAMES = (
    "image",
    "image_path",
    "image_file",
    "image_file_name",
    "file_name",
    "filename",
    "filepath",
    "path",
    "file",
)
LIST_NAMES = ("captions", "texts", "sentences", "caption_options")  # a column with all captions of a row
CATEGORIES = ("category", "negative_type", "kind", "type")
FALSE = r"neg|negatives?|hard_negatives?|false|wrong|incorrect|foils?|distractors?|swapped"
TRUE = r"true|correct|pos|positive|right"
WORD = r"captions?|texts?|sentences?"
# Names of columns of captions: caption, neg_caption, caption_0, true_caption, foil, negative_caption_2, ...
NAMED = re.compile(rf"(({TRUE}|{FALSE})_?)?({WORD})(_?({TRUE}|{FALSE}|[a-z]|\d+))?|({TRUE}|{FALSE})(_?\d+)?")
SAYS_FALSE = re.compile(rf"(^|_)({FALSE})(_|\d|$)")
OF_OTHERS = ("macro", "micro", "accuracy", "tie_rate", "rows", "images", "captions", "missing", "broken")


@dataclass(kw_only=True)
class Captions(ItemBenchmark):
    r"""
    Any table of an image and two or more captions, of which one is true: SugarCrepe's question on the user's own data.

    Metrics: with categories the accuracy of each, `macro` (over them) and `micro` (over the rows), else `accuracy`. A
    row is right if the true caption scores strictly higher than each of the others. Rows may have different numbers of
    captions; chance is the mean of one over their number. A caption that a row has twice counts once. The name
    of a row is its column `id`, if each row that is used has an id of its own, and else its number.

    Args:
        data (`str` or `datasets.Dataset`): A CSV (commas, semicolons or tabs), JSON lines, JSON (a list of objects) or
            parquet file; a folder or Hub id that `datasets` opens; or a dataset.
        images (`str`, *optional*): Folder of the images that the rows name. Defaults to the folder of the file.
        image_column (`str`, *optional*): Defaults to `image`, `image_path`, `file_name` or the like, or the only
            column of pictures.
        caption_columns (`list[str]`, *optional*): The columns of captions, or one column of lists of captions.
            Defaults to `captions`, or to all columns with names like `caption`, `neg_caption`, `caption_2`, `true`,
            `foil`.
        true_column (`str`, *optional*): The column with the true caption. Defaults to the first column; in a column of
            lists, the first caption is true.
        category_column (`str`, *optional*): Defaults to `category`, `negative_type`, `kind` or `type`, if there is
            one.
        split (`str`, *optional*): The split of a folder or Hub dataset. Defaults to `test`, or the only one.
        config, revision (`str`, *optional*): The configuration and the revision of a Hub dataset.
        protocol, allow_missing, max_rows: As in [`Benchmark`]. Rows without a true and another caption are counted as
            `broken`, and refused unless `allow_missing`.
    """

    name: ClassVar[str] = "captions"
    title: ClassVar[str] = "Captions"
    reference: ClassVar[str] = "your own data"
    primary: ClassVar[str] = "macro"

    data: str | Dataset
    images: str | None = None
    image_column: str | None = None
    caption_columns: list[str] | str | None = None
    true_column: str | None = None
    category_column: str | None = None
    split: str | None = None
    config: str | None = None
    revision: str | None = None

    @property
    def source(self) -> str:
        return self.data if isinstance(self.data, str) else self.data.info.dataset_name or "a dataset in memory"

    def items(self) -> list[Item]:
        rows, columns, pictures = self._read()
        if not columns:
            raise ValueError(f"{self.title}: {self.source} has no rows.")
        known = {_plain(name): name for name in reversed(columns)}  # as they are written there
        names = [known[name] for name in IMAGE_NAMES if name in known]
        image = pick_column(columns, self.image_column or pictures, names or IMAGE_NAMES, "image_column", self.source)
        wanted = self._caption_columns(columns, image, lists=not self._is_csv())
        category = self.category_column or next((known[name] for name in CATEGORIES if name in known), None)
        if category is not None:
            pick_column(columns, category, (), "category_column", self.source)
        self._used = {"image": image, "true": wanted[0], "others": wanted[1:], "category": category}
        self._reasons: list[str] = []
        find = self._finder()
        found: list[Item] = []
        ids: list[str] = []
        for number, (row, cell) in enumerate(rows):
            where = f"{self.source}, row {number}"
            try:
                captions = self._captions(row, wanted)
                picture = cell or self.is_named(row.get(image), find)
                kind = _category(row.get(category) if category else None)
            except BrokenValue as error:
                self._reasons.append(f"{where}: {error}")
                continue
            found.append(
                Item(
                    key=str(number),
                    images=(picture,),
                    captions=captions,
                    comparisons=choice(len(captions)),
                    category=kind,
                    columns={OPTIONS: len(captions)},
                )
            )
            ids.append(_id(row.get(known.get(ID, ID))))
        if self._reasons and (not self.allow_missing or not found):
            total = len(found) + len(self._reasons)
            raise ValueError(
                f"{self.title}: {len(self._reasons)} of {total} rows cannot be used: {'; '.join(self._reasons[:5])}. "
                "Leave them out with --allow-missing (allow_missing=True); the result then has their number."
            )
        if all(ids) and len(set(ids)) == len(ids):
            found = [replace(item, key=name) for item, name in zip(found, ids, strict=True)]
        return settled(found, find) if find is not None else found

    # ---- Reading ----

    def _is_csv(self) -> bool:
        path = Path(self.data).expanduser() if isinstance(self.data, str) else None
        return path is not None and path.is_file() and path.suffix.lower() in (".csv", ".tsv", ".txt")

    def _read(self) -> tuple[Iterator[tuple[Mapping[str, Any], ImageRef | None]], list[str], str | None]:
        """The rows, each with its image if the table has images; the columns; and the only column of images."""
        path = None if not isinstance(self.data, str) else Path(self.data).expanduser()
        if path is not None and self._is_csv():
            rows: list[dict[str, Any]] = read_csv_rows(path)
            return ((row, None) for row in rows), list(rows[0]) if rows else [], None
        if path is not None and path.is_file() and path.suffix.lower() in (".jsonl", ".json", ".ndjson"):
            rows = _json_rows(path)
            return ((row, None) for row in rows), list(dict.fromkeys(name for row in rows for name in row)), None
        table = self.data
        if not isinstance(table, Dataset):
            split = self.split or (None if path is not None and path.is_file() else "test")
            table = load_table(table, split, config=self.config, revision=self.revision, images=self.images)
        pictures = [name for name, feature in table.features.items() if isinstance(feature, Image)]
        column = self.image_column or (pictures[0] if len(pictures) == 1 else "image")
        columns = list(table.column_names)
        texts = table.select_columns([name for name in columns if name not in pictures])
        if column not in pictures:
            return ((row, None) for row in texts), columns, None
        raw = undecoded(table, [column])
        assert isinstance(raw, Dataset)
        empty: Mapping[str, Any] = {}
        cells = ImageCell.of_column(raw, column)
        every = texts if texts.column_names else [empty] * len(cells)
        return zip(every, cells, strict=True), columns, column

    def _finder(self) -> ImageFinder | None:
        """The finder of named images: in the user's folder, or in the folder of the file."""
        if self.images is not None:
            base = Path(self.images).expanduser()
            if not base.is_dir():
                raise FileNotFoundError(f"the image folder {base} does not exist")
        elif isinstance(self.data, str) and Path(self.data).expanduser().exists():
            base = Path(self.data).expanduser()
            base = base if base.is_dir() else base.parent
        else:
            return None
        return ImageFinder([base])

    def is_named(self, name: Any, find: ImageFinder | None) -> ImageRef:
        if not isinstance(name, str) or not name.strip():
            raise BrokenValue("no image")
        if find is None:
            raise ValueError(f"{self.title}: {self.source} names images: say where they are (`images`)")
        return find(name.strip())

    def _caption_columns(self, columns: Sequence[str], image: str, *, lists: bool) -> list[str]:
        """The columns of captions, the true one first. A single column holds lists, if `lists`."""
        given = [self.caption_columns] if isinstance(self.caption_columns, str) else self.caption_columns
        if given:
            if unknown := [name for name in given if name not in columns]:
                raise ValueError(
                    f"{self.source} has no column {', '.join(unknown)} (`caption_columns`); it has "
                    f"{', '.join(columns)}"
                )
            found = list(dict.fromkeys(given))
        else:
            listed = [name for name in LIST_NAMES if lists and name in columns]
            found = listed[:1] or [name for name in columns if name != image and NAMED.fullmatch(_plain(name))]
            if not listed and len(found) < 2:
                raise ValueError(
                    f"{self.source}: which columns are captions? Name two or more, the true one first: --option "
                    f"'captions.caption_columns=[...]'; there are {', '.join(columns)}"
                )
        if self.true_column is not None:
            if self.true_column not in columns:
                raise ValueError(f"{self.source} has no column {self.true_column!r} (`true_column`)")
            return [self.true_column, *(name for name in found if name != self.true_column)]
        if not given and len(found) > 1 and SAYS_FALSE.search(_plain(found[0])):
            true = [name for name in found if not SAYS_FALSE.search(_plain(name))]
            raise ValueError(
                f"{self.source}: the first caption would be the true one, and its column is called {found[0]!r}: say "
                f"which is true: --option captions.true_column={true[0] if true else '...'}"
            )
        return found

    def _captions(self, row: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, ...]:
        """The captions of a row without repetitions, the true one first."""
        values: list[Any] = [row.get(name) for name in columns]
        if not is_several(values[0]):
            values = [values[0], *(value for name in values[1:] for value in (name if is_several(name) else [name]))]
        elif len(columns) == 1:
            values = list(values[0])
        else:  # true captions, then false ones
            raise BrokenValue(f"{columns[0]} is a list, and there are other columns of captions")
        true = decode_caption(values[0])
        others = [decode_caption(value) for value in values[1:] if value is not None and value != ""]
        if true in others:
            raise BrokenValue("the true caption is also one of the others")
        if not others:
            raise BrokenValue("no other caption than the true one")
        return (true, *dict.fromkeys(others))

    # ---- Results ----

    def make_result(
        self, encoder: Encoder, *, predictions: dict[str, list[Any]], means: Mapping[str, Mean], **values: Any
    ) -> EvaluationResult:
        # Rows have different numbers of captions, so chance is the same means over a column of 1 / options.
        guesses = {**predictions, "accuracy": [1 / options for options in predictions[OPTIONS]]}
        values["chance"] = {name: tally(guesses, mean) for name, mean in means.items()}
        if self._reasons:
            values["counts"]["broken"] = values["counts"].get("broken", 0) + len(self._reasons)
        result = super().make_result(encoder, predictions=predictions, means=means, **values)
        result.data["columns"] = self._used
        result.data["categories"] = sorted({kind for kind in predictions[CATEGORY] if kind is not None})
        return result


def _plain(name: str) -> str:
    """The name of a column in lower case, without spaces: `neg_caption` for `Neg caption`."""
    return "_".join(name.lower().split())


def _id(value: Any) -> str:
    """The id of a row; empty if it has none."""
    return "" if value is None or is_several(value) else str(value).strip()


def _category(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    name = str(value).strip()
    if name in OF_OTHERS:
        raise ValueError(f"a category is called {name!r}, which is the name of something else in a result: rename it")
    return name


def _json_rows(path: Path) -> list[dict[str, Any]]:
    """
    The objects of a file of JSON lines, or of a JSON list.

    Raises:
        ValueError: The file is neither; the message says where.
    """
    text = read_text(path)
    whole = text.lstrip().startswith("[")
    rows: list[Any] = []
    for line, part in [(1, text)] if whole else enumerate(text.split("\n"), 1):
        if part.strip():
            try:
                rows += json.loads(part) if whole else [json.loads(part)]
            except json.JSONDecodeError as error:
                place = error.lineno if whole else line
                raise ValueError(
                    f"{path} is not valid JSON: line {place}, column {error.colno}: {error.msg}"
                ) from error
            except RecursionError as error:
                raise ValueError(f"{path} is nested too deeply to be read (line {line})") from error
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, row {number}: a JSON object is expected, not {type(row).__name__}")
    return rows

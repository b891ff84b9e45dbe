# SPDX-License-Identifier: Apache-2.0
"""`load_tripletdata`: loads any triplet dataset with this package's column names and types."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    LargeList,
    List,
    Value,
    concatenate_datasets,
)
from datasets.exceptions import DatasetGenerationError

from hf_tripletclip.data.decoding import captions_in
from hf_tripletclip.data.places import as_images, image_columns
from hf_tripletclip.data.presets import IMAGE_ID, LISTS_AS_TEXT, UNRELATED_COLUMNS, resolve_columns
from hf_tripletclip.data.raw import AnyDataset, as_streams, column_names, load_raw, without_bars
from hf_tripletclip.data.schema import CAPTION_COLUMNS, ERROR, IMAGE, IMAGE_COLUMNS, TEXT_COLUMNS
from hf_tripletclip.roles import BY_COLUMN

SEVERAL = tuple(name for name in TEXT_COLUMNS if BY_COLUMN[name].mask is not None)  # a row may have any number of them
TEXT = ("string", "large_string")
LOOKED_AT = 100  # rows whose texts are inspected for lists
UNREADABLE = (OSError, ValueError, pa.ArrowException, DatasetGenerationError)
TABLES = ("csv", "json", "parquet")  # builders of `datasets`


def load_tripletdata(
    name_or_path: str | os.PathLike[str],
    *,
    split: str | None = None,
    streaming: bool = False,
    columns: Mapping[str, str] | str | None = None,
    images: str | os.PathLike[str] | None = None,
    required_columns: Sequence[str] = (),
    **kwargs: Any,
) -> AnyDataset:
    """
    Load a triplet dataset with the columns `image`, `caption`, `neg_image` and `neg_caption`, images as `Image()` and
    captions as strings. A row may have several hard negative captions, as a list of strings, which is empty if there
    are none. The same holds for paraphrases and dense captions. If all texts in such a column look like lists,
    `['a cat', 'a dog']`, as in a CSV file, they are read as lists.

    Broken rows are kept as they are; [`TripletCollator`] skips and reports them. Captions that are not UTF-8 become
    `None`, with the reason in a column `__error__`, which only tars, splits with such captions and streams of binary
    captions have. Images are not decoded here; [`~hf_tripletclip.data.loading.undecoded`] leaves them as bytes for the
    collator. A tar that ends too early gives the rows before its end, and one more row without contents, with the name
    of the file in `__key__` and the reason in `__error__`.

    A path in a row is relative to the file that holds the row. It must lead into the dataset's own folder, which is
    the folder of that file or the folder given here, or into `images`. A row with another path or a URL is broken.

    Args:
        name_or_path (`str` or `os.PathLike`):
            `"scenes"` for the built-in data; a folder, a file or a pattern of files (`"data/*.tar"`) with CSV, JSON
            lines or parquet, in which an image may be a path; an image folder with metadata (columns `file_name`,
            `neg_image_file_name`); WebDataset tars whose members are `KEY.image`, `KEY.caption`, `KEY.neg_image` and
            `KEY.neg_caption` (the layout of the published TripletCLIP data); a folder written by `save_to_disk`; or
            the id of a Hub dataset.
        split (`str`, *optional*): The split; all of them, as a dict, by default.
        streaming (`bool`, defaults to `False`): Whether to read rows only when they are needed.
        columns (`Mapping[str, str]` or `str`, *optional*):
            Our name -> the dataset's own name, for columns whose names differ; or the name of a preset. Presets of
            datasets are `"tripletclip"`, `"bivlc"`, `"trohn-img"` (with COCO's images: give `images`), `"winoground"`
            and `"colorswap"`. Presets of methods' training data are `"negclip"`, `"degla"` (COCO's images again),
            `"tsvlc"`, `"dac"` and `"read-clip"`.
        images (`str` or `os.PathLike`, *optional*):
            A folder of images, in which paths are looked up first, and to which absolute paths may lead. Numbers
            instead of paths name COCO's pictures: 42 is `000000000042.jpg`.
        required_columns (`Sequence[str]`): Columns that the dataset must have.
        kwargs: For `datasets.load_dataset` (`revision`, `token`, `cache_dir`, ...), for `datasets.load_from_disk`, or
            for `load_scenes`.

    Returns:
        `Dataset` or `IterableDataset`, or a dict of them by split.

    Raises:
        FileNotFoundError: The path or the folder of images does not exist, or the Hub has no such dataset or cannot be
            reached.
        ValueError: There is no such split or preset, `columns` has a name that is not one of ours, a split is empty
            (in a stream this shows only when it is read) or cannot be read, or a column is missing or of the wrong
            type.
    """
    name = os.path.expanduser(os.fspath(name_or_path))
    renames = resolve_columns(columns)
    preset = columns.lower() if isinstance(columns, str) else ""
    unrelated, lists = UNRELATED_COLUMNS.get(preset, ()), LISTS_AS_TEXT.get(preset, ())
    with without_bars(name):
        if name == "scenes":
            from hf_tripletclip.data.scenes import load_scenes

            dataset: AnyDataset = as_streams(load_scenes(split, **kwargs), streaming)
        else:
            pictures, texts = (
                [renames.get(ours, ours) for ours in of if ours not in unrelated]
                for of in (IMAGE_COLUMNS, CAPTION_COLUMNS)
            )
            dataset, renames = load_raw(
                name, split, streaming, renames, kwargs, images=images, pictures=pictures, texts=texts
            )
        parts = dataset if isinstance(dataset, (DatasetDict, IterableDatasetDict)) else {str(split): dataset}
        for key, part in parts.items():
            try:
                names = dict(renames)
                if isinstance(columns, str) and names.get(IMAGE) == IMAGE_ID and IMAGE in column_names(part):
                    del names[IMAGE]  # the dataset holds the pictures themselves
                if surplus := [one for one in unrelated if one in column_names(part) and one not in names.values()]:
                    part = part.remove_columns(surplus)
                part = _with_our_columns(part, names, lists, local=os.path.exists(name))
                check_columns(part, required_columns)
                if isinstance(part, Dataset) and len(part) == 0:
                    raise ValueError("it has no rows")
            except ValueError as error:
                raise ValueError(f"{name} (split {key!r}): {error}") from error
            parts[key] = part
        return dataset if isinstance(dataset, (DatasetDict, IterableDatasetDict)) else parts[str(split)]


def _with_our_columns(
    dataset: Dataset | IterableDataset, columns: dict[str, str], lists: Sequence[str], *, local: bool
) -> Dataset | IterableDataset:
    names = column_names(dataset)
    if unknown := [original for original in columns.values() if original not in names]:
        there = [name for name in names if name != ERROR]
        raise ValueError(f"`columns` names {unknown}, which it does not have; it has {there}")
    # A stream decodes the images of each row that it renames or maps, and stops at a broken one. So images stay
    # undecoded until the end.
    decoded = {name: dataset.features[name] for name in image_columns(dataset.features)}
    dataset = undecoded(dataset, tuple(decoded))
    renames = {original: ours for ours, original in columns.items() if original != ours}
    if taken := [ours for ours in renames.values() if ours in names and ours not in renames]:
        dataset = dataset.remove_columns(taken)  # it has our name, but `columns` names another column for it
        decoded = {name: feature for name, feature in decoded.items() if name not in taken}
    if renames:  # in two steps, because a stream cannot exchange two names
        dataset = dataset.rename_columns({original: f"_our_{ours}" for original, ours in renames.items()})
        dataset = dataset.rename_columns({f"_our_{ours}": ours for ours in renames.values()})

    features = dataset.features
    if features is None:
        return dataset  # the collator accepts any values
    lists = [name for name in lists if is_value(features.get(name), *TEXT)] or _lists_as_text(dataset, local)
    captions = [name for name in TEXT_COLUMNS if name in features and (name in lists or not _is_text(features[name]))]
    if captions:
        dataset = _with_text(dataset, captions, lists)
    targets = {renames.get(name, name): feature for name, feature in decoded.items()}
    for name in IMAGE_COLUMNS:
        if name in features and name not in targets and not is_value(features[name], "null"):
            if is_value(features[name]) and not is_value(features[name], "string", "binary", "large"):
                numbers = "; if they are numbers of COCO's pictures, give their folder, such as train2017, as `images`"
                hint = numbers if features[name].dtype.startswith(("int", "uint")) else ""
                raise ValueError(f"its column {name!r} holds {features[name].dtype}, not images{hint}")
            targets[name] = Image()
    for name, feature in targets.items():
        dataset = dataset.cast_column(name, feature)
    return dataset


def is_value(feature: Any, *kinds: str) -> bool:
    """Whether a column holds single values whose dtype starts with one of `kinds`."""
    return isinstance(feature, Value) and (not kinds or feature.dtype.startswith(kinds))


def _is_text(feature: Any) -> bool:
    """Whether captions need no decoding here. The collator reports values that are not text at all."""
    if isinstance(feature, (List, LargeList)):
        return False  # a row without captions may hold null
    return not is_value(feature, "binary", "large", "fixed_size_binary", "null")


def _lists_as_text(dataset: Dataset | IterableDataset, local: bool) -> list[str]:
    """
    Of the text columns that may hold several captions per row, those in which all inspected texts look like lists.
    Streams are inspected only if they are local tables.
    """
    columns = [name for name in SEVERAL if is_value((dataset.features or {}).get(name), *TEXT)]
    table = local and dataset.info.builder_name in TABLES
    if not columns or (isinstance(dataset, IterableDataset) and not table):
        return []
    rows: list[Mapping[str, Any]] = []
    with contextlib.suppress(*UNREADABLE):  # reported when the rows are read
        rows.extend(dataset.select_columns(columns).take(LOOKED_AT))
    lists = []
    for name in columns:
        texts = [row[name] for row in rows if row[name]]
        if texts and all(captions_in(text) is not None for text in texts):
            lists.append(name)
    return lists


def _with_text(
    dataset: Dataset | IterableDataset, names: list[str], as_text: Sequence[str] = ()
) -> Dataset | IterableDataset:
    features = dataset.features.copy()
    for name in names:
        several = name in as_text or isinstance(features[name], (List, LargeList))
        features[name] = List(Value("string")) if several else Value("string")
    lists = [name for name in names if isinstance(features[name], List)]
    had = ERROR in features
    features[ERROR] = Value("string")
    arguments = {"names": names, "lists": lists}
    if isinstance(dataset, IterableDataset):
        # The types are cast afterwards: a stream that was mapped to `features` ignores later casts, so its images
        # could not stay undecoded. Few rows at a time, because a batch holds their images too.
        mapped = dataset.map(_decode_captions, batched=True, batch_size=16, fn_kwargs=arguments).cast(features)
        return mapped if had or _may_be_no_text(dataset.features, names) else mapped.remove_columns([ERROR])
    # Only the captions are written again: the images of a large dataset stay in their file.
    text = dataset.select_columns(names).map(
        _decode_captions,
        batched=True,
        fn_kwargs=arguments,
        features=Features({name: features[name] for name in [*names, ERROR]}),
    )
    if not had and text.data[ERROR].null_count == len(text):
        text = text.remove_columns([ERROR])
        del features[ERROR]
    rest = dataset.remove_columns([name for name in text.column_names if name in dataset.column_names])
    return concatenate_datasets([rest, text], axis=1).select_columns(list(features)) if rest.column_names else text


def _may_be_no_text(features: Features, names: Sequence[str]) -> bool:
    """Whether captions may be bytes that are not UTF-8."""
    return any(
        "binary" in str(getattr(getattr(features[name], "feature", features[name]), "dtype", "")) for name in names
    )


def _decode_captions(batch: dict[str, list[Any]], names: list[str], lists: list[str]) -> dict[str, list[Any]]:
    """Captions as text; a caption that is not UTF-8 becomes `None`, with the reason in `__error__`."""
    errors: list[str | None] = [None] * len(batch[names[0]])

    def decode(value: Any, row: int, name: str) -> str | None:
        try:
            return value.decode("utf-8") if isinstance(value, bytes) else value
        except UnicodeDecodeError:
            errors[row] = "\n".join([*filter(None, [errors[row]]), f"{name}: caption is not UTF-8"])
            return None

    decoded: dict[str, list[Any]] = {}
    for name in names:
        if name in lists:
            decoded[name] = [
                [decode(value, row, name) for value in _captions_of(few)] for row, few in enumerate(batch[name])
            ]
        else:
            decoded[name] = [decode(value, row, name) for row, value in enumerate(batch[name])]
    return {**decoded, ERROR: errors}


def _captions_of(few: Any) -> Sequence[Any]:
    """The captions of a cell, which may be a list or the text of a list; any other text is one caption."""
    if not isinstance(few, str):
        return few or ()
    captions = captions_in(few)
    return captions if captions is not None else [few] if few.strip() else []


def check_columns(dataset: Any, columns: Sequence[str]) -> None:
    """Raise `ValueError` if a dataset lacks one of the columns. A stream with unknown columns passes."""
    names = getattr(dataset, "column_names", None)
    if names is None and hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset):
        names = list(dataset[0])
    if names is None:
        return
    if missing := [name for name in columns if name not in names]:
        there = ", ".join(repr(name) for name in names if name != ERROR)
        message = f"it lacks {', '.join(map(repr, missing))}; it has {there}."
        if set(missing) <= set(BY_COLUMN):
            message += ' If they have other names there, say so with `columns`, such as {"neg_caption": "foil"}.'
        raise ValueError(message)


def undecoded(dataset: Dataset | IterableDataset, columns: Sequence[str] = IMAGE_COLUMNS) -> Dataset | IterableDataset:
    """
    The dataset with its images left as `{"bytes", "path"}`, for a collator that decodes them once and reports broken
    ones. A dataset that decodes images itself raises an error at a broken one.

    Args:
        dataset (`Dataset` or `IterableDataset`): A dataset with columns of `Image()`, or lists of them. Other columns
            stay as they are.
        columns (`Sequence[str]`, defaults to `image` and `neg_image`): The columns to leave undecoded.
    """
    there = image_columns(dataset.features)
    return as_images(dataset, [name for name in columns if name in there], decode=False)

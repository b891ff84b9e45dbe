# SPDX-License-Identifier: Apache-2.0
"""`load_tripletdata`: any triplet dataset with our column names and types."""

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
from hf_tripletclip.data.presets import IMAGE_ID, LISTS_AS_TEXT, OTHERWISE_MEANT, resolve_columns
from hf_tripletclip.data.raw import AnyDataset, as_streams, column_names, load_raw, quietly
from hf_tripletclip.data.schema import CAPTION_COLUMNS, ERROR, IMAGE, IMAGE_COLUMNS, TEXT_COLUMNS
from hf_tripletclip.roles import BY_COLUMN

SEVERAL = tuple(name for name in TEXT_COLUMNS if BY_COLUMN[name].mask is not None)  # a row may have any number of them
TEXT = ("string", "large_string")
LOOKED_AT = 100  # rows, for what their texts are
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
    Load a triplet dataset with the columns `image`, `caption`, `neg_image`, `neg_caption`, images as `Image()` and
    captions as strings. A row may have several hard negative captions: a list of strings, empty where it has none. So
    may it have paraphrases and dense captions. If all texts in such a column look like lists, `['a cat', 'a dog']`, as
    in a CSV file, they are lists.

    Broken rows are kept as they are, for [`TripletCollator`] to skip and to report. Captions that are not UTF-8 become
    `None`, and a column `__error__` says so; only tars, splits with such captions and streams of binary captions have
    it. Images are not looked at: [`~hf_tripletclip.data.loading.undecoded`] leaves them as bytes for the collator. A
    tar that ends too early gives the rows before its end and one more without contents, whose `__key__` is the file
    and whose `__error__` says what is wrong with it.

    A path in a row is relative to the file that the row is in. It is followed inside the dataset's own folder, which
    is that of the file, or the one given here, and inside `images`; a row with another path, or with a URL, is broken.

    Args:
        name_or_path (`str` or `os.PathLike`):
            `"scenes"` for the embedded data; a folder, a file or a pattern of files (`"data/*.tar"`): CSV, JSON lines
            or parquet, in which an image may be a path; an image folder with metadata (columns `file_name`,
            `neg_image_file_name`); WebDataset tars whose members are `KEY.image`, `KEY.caption`, `KEY.neg_image` and
            `KEY.neg_caption` (the layout of the published TripletCLIP data); what `save_to_disk` wrote; or the id of a
            Hub dataset.
        split (`str`, *optional*): The split; all of them, as a dict, by default.
        streaming (`bool`, defaults to `False`): Whether to read the rows as they are asked for.
        columns (`Mapping[str, str]` or `str`, *optional*):
            Our name -> the dataset's own, where they differ; or the name of a preset, one of `"tripletclip"`,
            `"bivlc"`, `"trohn-img"` (whose images are COCO's: give `images`), `"winoground"` and `"colorswap"`, and of
            what methods were trained on `"negclip"`, `"degla"` (COCO's again), `"tsvlc"`, `"dac"` and `"read-clip"`.
        images (`str` or `os.PathLike`, *optional*):
            A folder of images, in which paths are looked up first, and to which absolute ones may lead. Numbers in
            place of paths are those of COCO's pictures: 42 is `000000000042.jpg`.
        required_columns (`Sequence[str]`): Columns that the dataset must have.
        kwargs: For `datasets.load_dataset` (`revision`, `token`, `cache_dir`, ...), for `datasets.load_from_disk`, or
            for `load_scenes`.

    Returns:
        `Dataset` or `IterableDataset`, or a dict of them by split.

    Raises:
        FileNotFoundError: The path or the folder of images does not exist, or the Hub has no such dataset or cannot be
            reached.
        ValueError: There is no such split or preset, `columns` has a name that is none of ours, a split is empty (of a
            stream this is known only when it is read) or cannot be read, or a column is missing or of the wrong type.
    """
    name = os.path.expanduser(os.fspath(name_or_path))
    renames = resolve_columns(columns)
    preset = columns.lower() if isinstance(columns, str) else ""
    otherwise, lists = OTHERWISE_MEANT.get(preset, ()), LISTS_AS_TEXT.get(preset, ())
    with quietly(name):
        if name == "scenes":
            from hf_tripletclip.data.scenes import load_scenes

            dataset: AnyDataset = as_streams(load_scenes(split, **kwargs), streaming)
        else:
            pictures, texts = (
                [renames.get(ours, ours) for ours in of if ours not in otherwise]
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
                    del names[IMAGE]  # someone has put the pictures in
                if meant := [one for one in otherwise if one in column_names(part) and one not in names.values()]:
                    part = part.remove_columns(meant)
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
    if unknown := [theirs for theirs in columns.values() if theirs not in names]:
        there = [name for name in names if name != ERROR]
        raise ValueError(f"`columns` names {unknown}, which it does not have; it has {there}")
    # A stream decodes the images of each row that it renames or maps, and stops at a broken one: only types that are
    # not decoded on the way there.
    decoded = {name: dataset.features[name] for name in image_columns(dataset.features)}
    dataset = undecoded(dataset, tuple(decoded))
    renames = {theirs: ours for ours, theirs in columns.items() if theirs != ours}
    if taken := [ours for ours in renames.values() if ours in names and ours not in renames]:
        dataset = dataset.remove_columns(taken)  # a column of our name that `columns` says is another
        decoded = {name: feature for name, feature in decoded.items() if name not in taken}
    if renames:  # in two steps: a stream refuses names that change places
        dataset = dataset.rename_columns({theirs: f"_our_{ours}" for theirs, ours in renames.items()})
        dataset = dataset.rename_columns({f"_our_{ours}": ours for ours in renames.values()})

    features = dataset.features
    if features is None:
        return dataset  # the collator takes whatever the rows hold
    lists = [name for name in lists if is_value(features.get(name), *TEXT)] or _lists_as_text(dataset, local)
    captions = [name for name in TEXT_COLUMNS if name in features and (name in lists or not _is_text(features[name]))]
    if captions:
        dataset = _with_text(dataset, captions, lists)
    targets = {renames.get(name, name): feature for name, feature in decoded.items()}
    for name in IMAGE_COLUMNS:
        if name in features and name not in targets and not is_value(features[name], "null"):
            if is_value(features[name]) and not is_value(features[name], "string", "binary", "large"):
                numbers = (
                    "; if they are the numbers of COCO's pictures, give the folder of these, such as train2017, with "
                    "`images`"
                )
                hint = numbers if features[name].dtype.startswith(("int", "uint")) else ""
                raise ValueError(f"its column {name!r} holds {features[name].dtype}, no images{hint}")
            targets[name] = Image()
    for name, feature in targets.items():
        dataset = dataset.cast_column(name, feature)
    return dataset


def is_value(feature: Any, *kinds: str) -> bool:
    """Whether a column holds single values, of a dtype that begins like one of `kinds`."""
    return isinstance(feature, Value) and (not kinds or feature.dtype.startswith(kinds))


def _is_text(feature: Any) -> bool:
    """Whether captions need no decoding; what is no text at all is left to the collator, which reports it."""
    if isinstance(feature, (List, LargeList)):
        return False  # where a row has none it may be null
    return not is_value(feature, "binary", "large", "fixed_size_binary", "null")


def _lists_as_text(dataset: Dataset | IterableDataset, local: bool) -> list[str]:
    """
    The columns of text, of those that may have several captions in a row, in which all texts that are looked at are
    lists. Of streams only tables that are here are looked at.
    """
    columns = [name for name in SEVERAL if is_value((dataset.features or {}).get(name), *TEXT)]
    table = local and dataset.info.builder_name in TABLES
    if not columns or (isinstance(dataset, IterableDataset) and not table):
        return []
    looked_at: list[Mapping[str, Any]] = []
    with contextlib.suppress(*UNREADABLE):  # whoever reads the rows is told
        looked_at.extend(dataset.select_columns(columns).take(LOOKED_AT))
    found = []
    for name in columns:
        texts = [row[name] for row in looked_at if row[name]]
        if texts and all(captions_in(text) is not None for text in texts):
            found.append(name)
    return found


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
        # Types are told afterwards: a stream that was mapped to `features` does not heed later casts, so its images
        # could not be left undecoded. Few rows at a time, because a batch holds their images too.
        mapped = dataset.map(_decode_captions, batched=True, batch_size=16, fn_kwargs=arguments).cast(features)
        return mapped if had or _may_be_no_text(dataset.features, names) else mapped.remove_columns([ERROR])
    # Only the captions are written anew: the images of a large dataset stay in the file that they are in.
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
    """Whether captions may be other bytes than UTF-8."""
    return any(
        "binary" in str(getattr(getattr(features[name], "feature", features[name]), "dtype", "")) for name in names
    )


def _decode_captions(batch: dict[str, list[Any]], names: list[str], lists: list[str]) -> dict[str, list[Any]]:
    """Captions as text; what is not UTF-8 becomes `None`, with the reason in `__error__`."""
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
    """The captions of a cell: a list, or the text of one; another text is one caption."""
    if not isinstance(few, str):
        return few or ()
    found = captions_in(few)
    return found if found is not None else [few] if few.strip() else []


def check_columns(dataset: Any, columns: Sequence[str]) -> None:
    """Raise `ValueError` where a dataset lacks one of the columns; a stream of unknown columns passes."""
    names = getattr(dataset, "column_names", None)
    if names is None and hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset):
        names = list(dataset[0])
    if names is None:
        return
    if missing := [name for name in columns if name not in names]:
        there = ", ".join(repr(name) for name in names if name != ERROR)
        message = f"it lacks {', '.join(map(repr, missing))}; it has {there}."
        if set(missing) <= set(BY_COLUMN):
            message += ' If they are there under other names, say so with `columns`, such as {"neg_caption": "foil"}.'
        raise ValueError(message)


def undecoded(dataset: Dataset | IterableDataset, columns: Sequence[str] = IMAGE_COLUMNS) -> Dataset | IterableDataset:
    """
    The dataset with its images left as `{"bytes", "path"}`, for a collator that decodes them: once, and broken ones
    reported. A dataset that decodes images itself raises at a broken one.

    Args:
        dataset (`Dataset` or `IterableDataset`): With columns of `Image()`, or lists of them; others are left as they
            are.
        columns (`Sequence[str]`, defaults to `image` and `neg_image`): Which.
    """
    there = image_columns(dataset.features)
    return as_images(dataset, [name for name in columns if name in there], decode=False)

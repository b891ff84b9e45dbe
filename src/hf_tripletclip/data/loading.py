# SPDX-License-Identifier: Apache-2.0
"""`load_tripletdata`: any triplet dataset with our column names and types."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from datasets import (
    Dataset,
    DatasetDict,
    Image,
    IterableDataset,
    IterableDatasetDict,
    Value,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetNotFoundError

from hf_tripletclip.data.schema import CAPTION_COLUMNS, COLUMNS, IMAGE_COLUMNS

AnyDataset: TypeAlias = Dataset | IterableDataset | DatasetDict | IterableDatasetDict


def load_tripletdata(
    name_or_path: str | os.PathLike[str],
    *,
    split: str | None = None,
    streaming: bool = False,
    columns: Mapping[str, str] | None = None,
    required_columns: Sequence[str] = (),
    **kwargs: Any,
) -> AnyDataset:
    """
    Load a triplet dataset with the columns `image`, `caption`, `neg_image`, `neg_caption`, images as `Image()` and
    captions as strings.

    Args:
        name_or_path (`str` or `os.PathLike`):
            `"scenes"` for the embedded data; a folder or file: parquet, an image folder with metadata, WebDataset tars
            whose members are `KEY.image`, `KEY.caption`, `KEY.neg_image` and `KEY.neg_caption` (the layout of the
            published TripletCLIP data), what `save_to_disk` wrote; or the id of a Hub dataset.
        split (`str`, *optional*): The split; all of them, as a dict, by default.
        streaming (`bool`, defaults to `False`): Whether to read the rows as they are asked for.
        columns (`Mapping[str, str]`, *optional*): Our name -> the dataset's own, where they differ.
        required_columns (`Sequence[str]`): Columns that the dataset must have.
        kwargs: For `datasets.load_dataset` (`revision`, `token`, `cache_dir`, ...), or for `load_scenes`.

    Returns:
        `Dataset` or `IterableDataset`, or a dict of them by split.

    Raises:
        FileNotFoundError: The path does not exist.
        ValueError: There is no such split, it is empty, or a column is missing.
    """
    name = os.fspath(name_or_path)
    if name == "scenes":
        from hf_tripletclip.data.scenes import load_scenes

        dataset: AnyDataset = load_scenes(split, **kwargs)
    else:
        dataset = _load(name, split, streaming, kwargs)
    parts = dataset if isinstance(dataset, (DatasetDict, IterableDatasetDict)) else {str(split): dataset}
    for key, part in parts.items():
        try:
            part = _with_our_columns(part, dict(columns or {}))
            check_columns(part, required_columns)
            if isinstance(part, Dataset) and len(part) == 0:
                raise ValueError("it has no rows")
        except ValueError as error:
            raise ValueError(f"{name} (split {key!r}): {error}") from error
        parts[key] = part
    return dataset if isinstance(dataset, (DatasetDict, IterableDatasetDict)) else parts[str(split)]


def _load(name: str, split: str | None, streaming: bool, kwargs: dict[str, Any]) -> AnyDataset:
    path = Path(name)
    source: dict[str, Any] = {"path": name}
    if path.is_file():
        builder = {".parquet": "parquet", ".tar": "webdataset", ".json": "json", ".jsonl": "json", ".csv": "csv"}
        if path.suffix not in builder:
            raise ValueError(f"{name} is no {', '.join(builder)} file.")
        source = {"path": builder[path.suffix], "data_files": name}
    elif any((path / marker).exists() for marker in ("dataset_dict.json", "state.json")):
        dataset = load_from_disk(name)
        if split is None:
            return dataset
        splits = dataset if isinstance(dataset, DatasetDict) else {str(dataset.split or "train"): dataset}
        if split not in splits:
            raise ValueError(f"{name} has no split {split!r}; it has {', '.join(splits)}.")
        return splits[split]
    elif not path.exists() and (path.is_absolute() or name.startswith(".") or name.count("/") > 1):
        raise FileNotFoundError(f"The dataset path {name} does not exist.")
    try:
        return load_dataset(**source, split=split, streaming=streaming, **kwargs)
    except (DatasetNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{name!r} is neither a path that exists nor a dataset of the Hub that can be reached: {error}"
        ) from error
    except ValueError as error:
        if "corresponds to no data" in str(error):
            raise ValueError(f"{name} (split {split!r}) has no rows.") from error
        raise


def _with_our_columns(dataset: Dataset | IterableDataset, columns: dict[str, str]) -> Dataset | IterableDataset:
    names = dataset.column_names
    if names is None:  # a stream without known columns: look at a row
        names = list(next(iter(dataset), {}))
    if unknown := [theirs for theirs in columns.values() if theirs not in names]:
        raise ValueError(f"`columns` names {unknown}, which it does not have; it has {names}")
    renames = {theirs: ours for ours, theirs in columns.items() if theirs != ours}
    if taken := [ours for ours in renames.values() if ours in names and ours not in renames]:
        dataset = dataset.remove_columns(taken)  # a column of our name that `columns` says is another
    if renames:  # in two steps: a stream refuses names that change places
        dataset = dataset.rename_columns({theirs: f"_our_{ours}" for theirs, ours in renames.items()})
        dataset = dataset.rename_columns({f"_our_{ours}": ours for ours in renames.values()})

    features = dataset.features
    if features is None:
        return dataset  # the collator takes whatever the rows hold
    # WebDataset members of unknown extensions come as binary.
    for name in IMAGE_COLUMNS:
        if name in features and not isinstance(features[name], Image):
            dataset = dataset.cast_column(name, Image())
    binary = [
        name
        for name in CAPTION_COLUMNS
        if isinstance(features.get(name), Value) and features[name].dtype in ("binary", "large_binary")
    ]
    if binary:
        target = dataset.features.copy()
        target.update({name: Value("string") for name in binary})
        dataset = dataset.map(
            _decode_captions, batched=True, fn_kwargs={"names": binary}, input_columns=None, features=target
        )
    return dataset


def _decode_captions(batch: dict[str, list[Any]], names: list[str]) -> dict[str, list[str | None]]:
    """Captions as text; what is not UTF-8 becomes `None`, which the collator reports."""

    def decode(value: bytes | None) -> str | None:
        try:
            return None if value is None else value.decode("utf-8")
        except UnicodeDecodeError:
            return None

    return {name: [decode(value) for value in batch[name]] for name in names}


def check_columns(dataset: Any, columns: Sequence[str]) -> None:
    """Raise `ValueError` where a dataset lacks one of the columns; a stream of unknown columns passes."""
    names = getattr(dataset, "column_names", None)
    if names is None and hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset):
        names = list(dataset[0])
    if names is None:
        return
    if missing := [name for name in columns if name not in names]:
        raise ValueError(
            f"it lacks {', '.join(map(repr, missing))}; it has {', '.join(map(repr, names))}. "
            'If they are there under other names, say so with `columns`, such as {"neg_caption": "foil"}.'
            if set(missing) <= set(COLUMNS)
            else f"it lacks {missing}"
        )


def undecoded(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """The dataset with its images left as bytes, for a collator that decodes them: once, and broken ones reported."""
    features = dataset.features or {}
    for name in IMAGE_COLUMNS:
        if isinstance(features.get(name), Image):
            dataset = dataset.cast_column(name, Image(decode=False))
    return dataset

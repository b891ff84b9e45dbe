# SPDX-License-Identifier: Apache-2.0
"""`load_tripletdata`: any triplet dataset with our column names and types."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import (
    Dataset,
    DatasetBuilder,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    LargeList,
    List,
    Value,
    concatenate_datasets,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError, NonMatchingSplitsSizesError
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from hf_tripletclip.data.places import Home, image_columns, settle
from hf_tripletclip.data.presets import resolve_columns
from hf_tripletclip.data.reading import is_url
from hf_tripletclip.data.schema import CAPTION_COLUMNS, COLUMNS, ERROR, IMAGE_COLUMNS
from hf_tripletclip.data.tars import open_tars

AnyDataset: TypeAlias = Dataset | IterableDataset | DatasetDict | IterableDatasetDict

# File name's end -> `datasets`' builder.
BUILDERS = {".parquet": "parquet", ".tar": "webdataset", ".json": "json", ".jsonl": "json", ".csv": "csv"}
# Arguments of `load_dataset` that say how to load, not what; and those that our reader of tars heeds too.
OF_LOADING = ("keep_in_memory", "num_proc", "verification_mode", "save_infos")
OF_TARS = ("keep_in_memory", "num_proc", "token", "cache_dir")


def load_tripletdata(
    name_or_path: str | os.PathLike[str],
    *,
    split: str | None = None,
    streaming: bool = False,
    columns: Mapping[str, str] | str | None = None,
    required_columns: Sequence[str] = (),
    **kwargs: Any,
) -> AnyDataset:
    """
    Load a triplet dataset with the columns `image`, `caption`, `neg_image`, `neg_caption`, images as `Image()` and
    captions as strings. A row may have several hard negative captions: a list of strings, empty where it has none.

    Broken rows are kept as they are, for [`TripletCollator`] to skip and to report. Captions that are not UTF-8 become
    `None`, and a column `__error__` says so. Images are not looked at:
    [`~hf_tripletclip.data.loading.undecoded`] leaves them as bytes for the collator. A tar that ends too early gives
    the rows before its end and one more without contents, whose `__key__` is the file and whose `__error__` says what
    is wrong with it.

    Args:
        name_or_path (`str` or `os.PathLike`):
            `"scenes"` for the embedded data; a folder, a file or a pattern of files (`"data/*.tar"`): parquet, an
            image folder with metadata (columns `image_file_name`, `neg_image_file_name`), WebDataset tars whose
            members are `KEY.image`, `KEY.caption`, `KEY.neg_image` and `KEY.neg_caption` (the layout of the published
            TripletCLIP data), what `save_to_disk` wrote; or the id of a Hub dataset.
        split (`str`, *optional*): The split; all of them, as a dict, by default.
        streaming (`bool`, defaults to `False`): Whether to read the rows as they are asked for.
        columns (`Mapping[str, str]` or `str`, *optional*):
            Our name -> the dataset's own, where they differ; or the name of a preset, one of `"tripletclip"`,
            `"bivlc"`, `"trohn-img"`, `"winoground"` and `"colorswap"`.
        required_columns (`Sequence[str]`): Columns that the dataset must have.
        kwargs: For `datasets.load_dataset` (`revision`, `token`, `cache_dir`, ...), for `datasets.load_from_disk`, or
            for `load_scenes`.

    Returns:
        `Dataset` or `IterableDataset`, or a dict of them by split.

    Raises:
        FileNotFoundError: The path does not exist, or the Hub has no such dataset or cannot be reached.
        ValueError: There is no such split or preset, `columns` has a name that is none of ours, a split is empty (of a
            stream this is known only when it is read) or cannot be read, or a column is missing or of the wrong type.
    """
    name = os.path.expanduser(os.fspath(name_or_path))
    renames = resolve_columns(columns)
    if name == "scenes":
        from hf_tripletclip.data.scenes import load_scenes

        dataset: AnyDataset = _streamed(load_scenes(split, **kwargs), streaming)
        home = Home()
    else:
        dataset, renames, home = load_raw(name, split, streaming, renames, kwargs)
    parts = dataset if isinstance(dataset, (DatasetDict, IterableDatasetDict)) else {str(split): dataset}
    for key, part in parts.items():
        try:
            part = _with_our_columns(part, renames, home)
            check_columns(part, required_columns)
            if isinstance(part, Dataset) and len(part) == 0:
                raise ValueError("it has no rows")
        except ValueError as error:
            raise ValueError(f"{name} (split {key!r}): {error}") from error
        parts[key] = part
    return dataset if isinstance(dataset, (DatasetDict, IterableDatasetDict)) else parts[str(split)]


def not_found(name: str, error: Exception) -> FileNotFoundError:
    """What is raised of a dataset that `datasets` does not find."""
    return FileNotFoundError(
        f"{name!r} is neither a path that exists nor a dataset of the Hub that can be reached: {error}"
    )


def load_raw(
    name: str, split: str | None, streaming: bool, columns: dict[str, str], kwargs: dict[str, Any]
) -> tuple[AnyDataset, dict[str, str], Home]:
    """
    The dataset with its own columns, those that are still to be renamed, and where paths of images may lead: those in
    columns of the type `Image` have been resolved. Raises as [`load_tripletdata`].
    """
    path = Path(name)
    source: dict[str, Any] = {"path": name}
    pattern = "://" in name or (glob.has_magic(name) and not path.exists())
    if path.is_file() or pattern:
        if path.suffix not in BUILDERS:
            raise ValueError(f"{name} is no {', '.join(BUILDERS)} file.")
        source = {"path": BUILDERS[path.suffix], "data_files": name}
    elif any((path / marker).exists() for marker in ("dataset_dict.json", "state.json")):
        home = Home.of((), name)
        return _with_images_in(home, _from_disk(name, split, streaming, kwargs)), columns, home
    elif not path.exists() and (
        path.is_absolute()
        or name.startswith(".")
        or name.count("/") > 1
        or path.suffix in BUILDERS
        or name[-1:] == "/"
    ):
        raise FileNotFoundError(f"The dataset path {name} does not exist.")
    try:
        of_builder = {key: value for key, value in kwargs.items() if key not in OF_LOADING}
        builder = load_dataset_builder(**source, **of_builder)
        home = _home(builder, name, kwargs)
        if isinstance(builder, WebDataset):
            ours = {key: value for key, value in kwargs.items() if key in OF_TARS}
            return open_tars(builder, name, split, streaming, columns, **ours), {}, home  # its rows hold no paths
        loaded = load_dataset(**source, split=split, streaming=streaming, **kwargs)
        return _with_images_in(home, loaded), columns, home
    except (DatasetNotFoundError, ConnectionError) as error:
        raise not_found(name, error) from error
    except NonMatchingSplitsSizesError as error:
        raise ValueError(f"{name}: {_other_sizes(error)}") from error
    except DatasetGenerationError as error:
        raise ValueError(f"{name} cannot be read: {_what_is_damaged(name, error.__cause__ or error)}") from error
    except ValueError as error:
        if "corresponds to no data" in str(error):
            raise ValueError(f"{name} (split {split!r}) has no rows.") from error
        if "Couldn't infer the same data file format" in str(error):
            raise ValueError(
                f"{name} holds no dataset, such as parquet, JSON lines, or images with metadata."
            ) from error
        if isinstance(error, pa.ArrowInvalid):
            raise ValueError(f"{name} cannot be read: {_what_is_damaged(name, error)}") from error
        raise


def _home(builder: DatasetBuilder, name: str, kwargs: Mapping[str, Any]) -> Home:
    """Where the images of a dataset may lie, by the files that its rows are in."""
    files = [str(file) for split in (builder.config.data_files or {}).values() for file in split]
    path = Path(name)
    if path.is_dir():
        folder: str | None = str(path.resolve())
        inside = os.path.join(path.resolve(), "")
        outside = [file for file in files if not is_url(file) and not os.path.normpath(file).startswith(inside)]
        named = "the folder"
    else:
        folder = str(kwargs["data_dir"]) if kwargs.get("data_dir") and Path(kwargs["data_dir"]).is_dir() else None
        if glob.has_magic(name) and "://" not in name:  # what the pattern names is all the user's
            folder = os.path.join(*itertools.takewhile(lambda part: not glob.has_magic(part), path.absolute().parts))
        of_hub = builder.repo_id is not None and not kwargs.get("data_files")
        outside = [file for file in files if of_hub and not is_url(file)]
        named = "the repository"
    if outside:
        raise ValueError(
            f"{name}: its card names data outside {named}, such as {outside[0]}, which is not read. Give `data_files` "
            "if that is yours."
        )
    return Home.of(files, folder, repository=builder.repo_id)


def _with_images_in(home: Home, dataset: AnyDataset) -> AnyDataset:
    """The dataset with the paths of its images resolved, in columns that are typed as images."""
    if isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        return type(dataset)({key: _with_images_in(home, part) for key, part in dataset.items()})
    columns = image_columns(dataset.features)
    return _retyped(settle(_retyped(dataset, columns, decode=False), columns, home), columns, decode=True)


def _retyped(dataset: Dataset | IterableDataset, columns: Sequence[str], decode: bool) -> Dataset | IterableDataset:
    for name in columns:
        feature = dataset.features[name]
        image = Image(decode=decode)
        dataset = dataset.cast_column(name, type(feature)(image) if isinstance(feature, (List, LargeList)) else image)
    return dataset


def _other_sizes(error: NonMatchingSplitsSizesError) -> str:
    """Which splits have other numbers of rows than the card says."""
    found = re.findall(r"name='([^']*)', num_bytes=\d+, num_examples=(\d+)", str(error))  # it has no other form
    listed = "; ".join(
        f"the card promises {int(promised):,} rows of {split}, the files hold {int(rows):,}"
        for (split, promised), (_, rows) in zip(found[::2], found[1::2], strict=True)
    )
    return (
        f"{listed}: a file is missing, or was changed. Bring it back, or delete `dataset_info` from the card's "
        "README.md if the dataset is meant to be like this."
    )


def damaged_files(name: str | os.PathLike[str]) -> list[str]:
    """The parquet files of a folder, a file or a pattern that are cut short or no parquet, each with what is wrong."""
    path = Path(name).expanduser()
    if path.is_dir():
        files = sorted(path.rglob("*.parquet"))
    else:
        files = [path] if path.is_file() else [Path(found) for found in sorted(glob.glob(os.fspath(name)))]
    damaged = []
    for file in files:
        if file.suffix == ".parquet":
            try:
                pq.read_metadata(file)
            except (pa.ArrowException, OSError) as error:
                damaged.append(f"{file}: {str(error).splitlines()[0].removesuffix('.')}")
    return damaged


def _what_is_damaged(name: str, error: BaseException) -> str:
    problem = str(error).splitlines()[0].removesuffix(".") if str(error) else type(error).__name__
    if "BatchSize must be greater than 0" in problem:
        return "one of its files has no rows"
    return "; ".join(damaged_files(name)) or problem


def _from_disk(name: str, split: str | None, streaming: bool, kwargs: dict[str, Any]) -> AnyDataset:
    saved = load_from_disk(name, **kwargs)
    if isinstance(saved, Dataset):  # one that says no split is `train`, as `load_dataset` calls a lone file
        saved = DatasetDict({str(saved.split or "train"): saved})
    if split is not None and split not in saved:
        raise ValueError(f"{name} has no split {split!r}; it has {', '.join(saved)}.")
    return _streamed(saved if split is None else saved[split], streaming)


def _streamed(dataset: Dataset | DatasetDict, streaming: bool) -> AnyDataset:
    if not streaming:
        return dataset
    if isinstance(dataset, Dataset):
        return dataset.to_iterable_dataset()
    return IterableDatasetDict({key: part.to_iterable_dataset() for key, part in dataset.items()})


def _with_our_columns(
    dataset: Dataset | IterableDataset, columns: dict[str, str], home: Home
) -> Dataset | IterableDataset:
    names = dataset.column_names
    if names is None:  # a stream without known columns: look at a row
        names = list(next(iter(dataset), {}))
    if unknown := [theirs for theirs in columns.values() if theirs not in names]:
        raise ValueError(f"`columns` names {unknown}, which it does not have; it has {names}")
    # A stream decodes the images of each row that it renames or maps, and stops at a broken one: only types that are
    # not decoded on the way there.
    decoded = {name: feature for name, feature in (dataset.features or {}).items() if isinstance(feature, Image)}
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
    captions = [name for name in CAPTION_COLUMNS if name in features and not _is_text(features[name])]
    if captions:
        dataset = _with_text(dataset, captions)
    targets = {renames.get(name, name): feature for name, feature in decoded.items()}
    for name in IMAGE_COLUMNS:
        if name in features and name not in targets and not _is_value(features[name], "null"):
            if _is_value(features[name]) and not _is_value(features[name], "string", "binary", "large"):
                raise ValueError(f"its column {name!r} holds {features[name].dtype}, no images")
            targets[name] = Image()
            dataset = settle(dataset.cast_column(name, Image(decode=False)), [name], home)
    for name, feature in targets.items():
        dataset = dataset.cast_column(name, feature)
    return dataset


def _is_value(feature: Any, *kinds: str) -> bool:
    return isinstance(feature, Value) and (not kinds or feature.dtype.startswith(kinds))


def _is_text(feature: Any) -> bool:
    """Whether captions need no decoding; what is no text at all is left to the collator, which reports it."""
    if isinstance(feature, (List, LargeList)):
        return False  # where a row has none it may be null
    return not _is_value(feature, "binary", "large", "fixed_size_binary", "null")


def _with_text(dataset: Dataset | IterableDataset, names: list[str]) -> Dataset | IterableDataset:
    features = dataset.features.copy()
    for name in names:
        several = isinstance(features[name], (List, LargeList))
        features[name] = List(Value("string")) if several else Value("string")
    lists = [name for name in names if isinstance(features[name], List)]
    features[ERROR] = Value("string")
    arguments = {"names": names, "lists": lists}
    if isinstance(dataset, IterableDataset):
        # Types are told afterwards: a stream that was mapped to `features` does not heed later casts, so its images
        # could not be left undecoded. Few rows at a time, because a batch holds their images too.
        mapped = dataset.map(_decode_captions, batched=True, batch_size=16, fn_kwargs=arguments)
        return mapped.cast(features)
    # Only the captions are written anew: the images of a large dataset stay in the file that they are in.
    text = dataset.select_columns(names).map(
        _decode_captions,
        batched=True,
        fn_kwargs=arguments,
        features=Features({name: features[name] for name in [*names, ERROR]}),
    )
    rest = dataset.remove_columns([name for name in [*names, ERROR] if name in dataset.column_names])
    return concatenate_datasets([rest, text], axis=1).select_columns(list(features)) if rest.column_names else text


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
            decoded[name] = [[decode(value, row, name) for value in few or ()] for row, few in enumerate(batch[name])]
        else:
            decoded[name] = [decode(value, row, name) for row, value in enumerate(batch[name])]
    return {**decoded, ERROR: errors}


def check_columns(dataset: Any, columns: Sequence[str]) -> None:
    """Raise `ValueError` where a dataset lacks one of the columns; a stream of unknown columns passes."""
    names = getattr(dataset, "column_names", None)
    if names is None and hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset):
        names = list(dataset[0])
    if names is None:
        return
    if missing := [name for name in columns if name not in names]:
        message = f"it lacks {', '.join(map(repr, missing))}; it has {', '.join(map(repr, names))}."
        if set(missing) <= set(COLUMNS):
            message += ' If they are there under other names, say so with `columns`, such as {"neg_caption": "foil"}.'
        raise ValueError(message)


def undecoded(dataset: Dataset | IterableDataset, columns: Sequence[str] = IMAGE_COLUMNS) -> Dataset | IterableDataset:
    """
    The dataset with its images left as `{"bytes", "path"}`, for a collator that decodes them: once, and broken ones
    reported. A dataset that decodes images itself raises at a broken one.

    Args:
        dataset (`Dataset` or `IterableDataset`): With `Image()` columns; others are left as they are.
        columns (`Sequence[str]`, defaults to `image` and `neg_image`): Which.
    """
    features = dataset.features or {}
    for name in columns:
        if isinstance(features.get(name), Image):
            dataset = dataset.cast_column(name, Image(decode=False))
    return dataset

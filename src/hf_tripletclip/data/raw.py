# SPDX-License-Identifier: Apache-2.0
"""Load any dataset with its own columns; only the paths of its images are resolved."""

from __future__ import annotations

import contextlib
import glob
import itertools
import logging
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import (
    Dataset,
    DatasetBuilder,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    Value,
    are_progress_bars_disabled,
    concatenate_datasets,
    disable_progress_bars,
    enable_progress_bars,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import (
    DatasetGenerationCastError,
    DatasetGenerationError,
    DatasetNotFoundError,
    NonMatchingSplitsSizesError,
)
from datasets.packaged_modules.csv.csv import Csv
from datasets.packaged_modules.webdataset.webdataset import WebDataset
from datasets.table import CastError
from fsspec.implementations.local import LocalFileSystem

from hf_tripletclip.data.folders import (
    METADATA,
    csv_separator,
    data_files,
    image_column,
    merged_splits,
    unlisted_pictures,
)
from hf_tripletclip.data.places import ImagePlaces, as_images, image_columns, may_be_images, resolve_paths
from hf_tripletclip.data.reading import is_url
from hf_tripletclip.data.tars import open_tars

logger = logging.getLogger(__name__)

AnyDataset: TypeAlias = Dataset | IterableDataset | DatasetDict | IterableDatasetDict

# Suffix of a file -> `datasets`' builder.
BUILDERS = {
    ".parquet": "parquet",
    ".tar": "webdataset",
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".tsv": "csv",
}
OTHER_FILES = (".txt", ".ndjson", ".arrow", ".gz", ".zip", ".xlsx", ".xls")  # suffixes that no Hub id has either
# Arguments of `load_dataset` that say how to load, not what to load.
LOADING_ARGUMENTS = ("keep_in_memory", "num_proc", "verification_mode", "save_infos")
# Arguments of `load_dataset` that our tar reader takes too.
TAR_ARGUMENTS = ("keep_in_memory", "num_proc", "token", "cache_dir")
# Arguments of `load_dataset` that describe the layout of a CSV file.
CSV_ARGUMENTS = ("sep", "delimiter", "dialect", "names", "header", "skiprows", "comment", "quotechar", "quoting")
LARGE = 2**30  # bytes; reading a larger local dataset takes a while
ROWS_AT_A_TIME = 10_000  # rows of a CSV file that are inspected at a time, for the types of its columns
# Texts that pandas takes for a missing number.
NO_NUMBER = [
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"),
    *("NULL", "NaN", "None", "n/a", "nan", "null"),
]
PLAIN_SPLIT = re.compile(r"[\w.-]+")  # without "[:10%]" or "+"


def not_found(name: str, error: Exception) -> FileNotFoundError:
    """The error for a dataset that `datasets` does not find."""
    return FileNotFoundError(
        f"{name!r} is neither a path that exists nor a dataset of the Hub that can be reached: {error}"
    )


def check_local_path(name: str) -> None:
    """
    Check, without asking the Hub, that a name which can only be a local path exists.

    Raises:
        FileNotFoundError: The name can only be a local path, and there is no such file.
    """
    path = Path(name)
    if "://" in name or path.exists():
        return
    if glob.has_magic(name):
        if not LocalFileSystem().glob(name):
            raise FileNotFoundError(f"No file matches {name}.")
        return
    only_local = path.is_absolute() or name.startswith(".") or name.count("/") > 1 or name[-1:] == "/"
    if only_local or path.suffix.lower() in (*BUILDERS, *OTHER_FILES):
        raise FileNotFoundError(f"The dataset path {name} does not exist.")


def absolute_folder(name: str) -> str:
    """The absolute path of a local folder, so that `datasets` can derive the dataset's name; other names unchanged."""
    return os.path.abspath(name) if os.path.isdir(name) else name


def load_raw(
    name: str,
    split: str | None,
    streaming: bool,
    columns: dict[str, str],
    kwargs: dict[str, Any],
    *,
    images: str | os.PathLike[str] | None = None,
    pictures: Sequence[str] = (),
    texts: Sequence[str] = (),
) -> tuple[AnyDataset, dict[str, str]]:
    """
    Load a dataset with its own columns.

    Args:
        name, split, streaming, columns, kwargs, images: As in [`load_tripletdata`].
        pictures (`Sequence[str]`): Columns that hold images, whatever their type. Columns of the type `Image`, and
            metadata columns such as `file_name` (which are renamed), hold images anyway.
        texts (`Sequence[str]`): Columns that hold text, even if a CSV file has numbers there.

    Returns:
        The dataset, and the renames of `columns` that are still to be made.

    Raises:
        FileNotFoundError, ValueError: As in [`load_tripletdata`].
    """
    path = Path(name)
    if images is not None and not Path(images).expanduser().is_dir():
        raise FileNotFoundError(f"The folder of images {os.fspath(images)} does not exist.")
    source: dict[str, Any] = {"path": absolute_folder(name)}
    pattern = "://" in name or (glob.has_magic(name) and not path.exists())
    check_local_path(name)
    if path.is_file() or pattern:
        if path.suffix not in BUILDERS:
            raise ValueError(f"{name} is not a file of a known kind: {', '.join(BUILDERS)}.")
        source = {"path": BUILDERS[path.suffix], "data_files": name if pattern else glob.escape(name)}
        if path.suffix == ".tsv" and not kwargs.keys() & {"sep", "delimiter"}:
            source["sep"] = "\t"
    elif any((path / marker).exists() for marker in ("dataset_dict.json", "state.json")):
        places = ImagePlaces.of((), name, images)
        saved = _from_disk(name, split, streaming, kwargs)
        return _each(saved, lambda part: _with_images(part, places, pictures)), columns
    elif path.is_dir() and not kwargs.keys() & {"data_files", "data_dir", "name"}:
        source |= as_arguments(data_files(path))
        if unlisted := unlisted_pictures(path):
            listed = ", ".join(unlisted[:3]) + (", ..." if len(unlisted) > 3 else "")
            logger.warning(f"{len(unlisted)} pictures of {name} are in no metadata, and so in no row: {listed}")
        if len(splits := merged_splits(path)) > 1:
            logger.warning(
                f"{name} has folders of pictures for {' and '.join(splits)}, but only one metadata file for them, so "
                "all their rows are in one split. To separate the splits, put a metadata file into each folder."
            )
    try:
        builder_kwargs = {key: value for key, value in kwargs.items() if key not in LOADING_ARGUMENTS}
        builder = load_dataset_builder(**source, **builder_kwargs)
        folder = _own_folder(builder, name, kwargs)
        by_split = {str(key): [str(file) for file in of] for key, of in (builder.config.data_files or {}).items()}
        if split is not None and by_split and PLAIN_SPLIT.fullmatch(split) and split not in (*by_split, "all"):
            raise ValueError(f"{name} has no split {split!r}; it has {', '.join(by_split)}.")
        if isinstance(builder, WebDataset):
            ours = {key: value for key, value in kwargs.items() if key in TAR_ARGUMENTS}
            return open_tars(builder, name, split, streaming, columns, **ours), {}  # its rows hold no paths
        kinds: dict[str, str] = {}
        if isinstance(builder, Csv) and not kwargs.keys() & CSV_ARGUMENTS:
            local = [file for files in by_split.values() for file in files if os.path.isfile(file)]
            separator = _separator_of(local, kwargs.get("encoding"), builder.config.sep)
            if separator != builder.config.sep:
                source["sep"] = builder.config.sep = separator
        if isinstance(builder, Csv) and not kwargs.keys() & {"converters", "features", "keep_default_na", "na_values"}:
            kinds = _csv_kinds({file for files in by_split.values() for file in files if not is_url(file)}, builder)
            kinds |= {name: "string" for name in (*texts, *pictures) if name in kinds or not kinds}
            # In text, "null", "NA" and "None" are words; only an empty field is missing.
            converters: dict[str, Any] = {"string": str, "mixed": _number}
            source["converters"] = {name: converters[kind] for name, kind in kinds.items() if kind in converters}
            source["na_values"] = {name: [""] if kind == "string" else NO_NUMBER for name, kind in kinds.items()}
            source["keep_default_na"] = False
        loaded = load_dataset(**source, split=split, streaming=streaming, **kwargs)
        types = Features({name: Value("float64" if kind == "mixed" else kind) for name, kind in kinds.items()})
        parts = loaded if isinstance(loaded, (DatasetDict, IterableDatasetDict)) else {str(split): loaded}
        for key, part in parts.items():
            files = by_split.get(key, [file for files in by_split.values() for file in files])
            folders = {os.path.dirname(file) for file in files if not is_url(file)}
            if len(folders) > 1 and key in by_split and _has_paths(part, pictures):
                # Equal names may be different pictures in different folders.
                groups = [[file for file in files if os.path.dirname(file) == one] for one in sorted(folders)]
            else:
                groups = [files]
            done = []
            for group in groups:
                if len(groups) > 1:
                    options = {"path": builder.name, **as_arguments({key: group})}
                    options |= {option: value for option, value in source.items() if option not in options}
                    part = load_dataset(**options, split=key, streaming=streaming, **kwargs)
                if part.features is None and set(column_names(part)) == set(types):
                    part = part.cast(types)  # a stream of CSV files
                places = ImagePlaces.of(group, folder, images, builder.repo_id)
                further: list[str] = []
                if pictures or (group and all(os.path.basename(file) in METADATA for file in group)):
                    part, further = _with_image_columns(part, keep=columns.values())
                done.append(_with_images(part, places, [*pictures, *further]))
            parts[key] = done[0] if len(done) == 1 else concatenate_datasets(done)
        return loaded if isinstance(loaded, (DatasetDict, IterableDatasetDict)) else parts[str(split)], columns
    except (DatasetNotFoundError, ConnectionError) as error:
        raise not_found(name, error) from error
    except FileNotFoundError as error:
        if path.is_dir() and glob.has_magic(os.path.abspath(name)):
            raise ValueError(
                f"{name} cannot be read: `datasets` takes *, ? and [ in the path for a pattern. Rename the folder."
            ) from error
        raise
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
        if isinstance(error, (pa.ArrowInvalid, pd.errors.EmptyDataError, pd.errors.ParserError)):
            raise ValueError(f"{name} cannot be read: {_what_is_damaged(name, error)}") from error
        raise


@contextlib.contextmanager
def without_bars(name: str) -> Iterator[None]:
    """Hide the progress bars of `datasets` for small local files, whose reading it calls a download."""
    if are_progress_bars_disabled() or not Path(name).exists() or _is_large(Path(name)):
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _is_large(path: Path) -> bool:
    total = 0
    for folder, _, files in os.walk(path) if path.is_dir() else [(str(path.parent), [], [path.name])]:
        for file in files:
            with contextlib.suppress(OSError):
                total += os.path.getsize(os.path.join(folder, file))
        if total > LARGE:
            return True
    return False


def as_arguments(files: Mapping[str, Sequence[str]] | None) -> dict[str, Any]:
    """
    Files by split as arguments of `datasets.load_dataset`, escaped and absolute, because it takes names for patterns,
    and relative names for files inside the folder that it is given.
    """
    if files is None:
        return {}
    whole = {split: [file if is_url(file) else os.path.abspath(file) for file in of] for split, of in files.items()}
    return {"data_files": {split: [glob.escape(file) for file in of] for split, of in whole.items()}}


def _separator_of(files: Sequence[str], encoding: str | None, default: str) -> str:
    """
    The separator of these CSV files, or the default if there are none on this machine.

    Raises:
        ValueError: They have different separators, but `datasets` reads all files with the same one.
    """
    used = {file: csv_separator(file, encoding or "utf-8-sig") for file in files if file.endswith((".csv", ".tsv"))}
    first = next(iter(used), "")
    if other := next((file for file in used if used[file] != used[first]), None):
        raise ValueError(
            f"{first} separates its columns by {used[first]!r}, but {other} by {used[other]!r}: use one separator in "
            "all files."
        )
    return default if not used else used[first]


def _csv_kinds(files: Collection[str], builder: Csv) -> dict[str, str]:
    """
    The columns of local CSV files and their types; `mixed` if some rows have integers and others fractions. All rows
    are read, unless the first ones hold no numbers: `datasets` takes the type of the first rows and fails at later
    rows of another type.
    """
    options = {key: value for key, value in builder.config.pd_read_csv_kwargs.items() if key != "chunksize"}
    kinds: dict[str, str] = {}
    names: dict[str, None] = {}
    for file in sorted(files):
        try:
            with pd.read_csv(file, **options, chunksize=ROWS_AT_A_TIME) as frames:
                for frame in frames:
                    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes the first fields for row names
                        raise _TooManyFields
                    names |= dict.fromkeys(map(str, frame))
                    for name, column in frame.items():
                        kind = str(column.dtype) if pd.api.types.is_numeric_dtype(column) else "string"
                        before = kinds.get(str(name), kind)
                        there = column.dropna()
                        if len(there) == 0 or (before == "int64" and kind == "float64" and (there % 1 == 0).all()):
                            continue  # integers, some of which are missing
                        kinds[str(name)] = _common(before, kind)
                    if not any(pd.api.types.is_numeric_dtype(column) for _, column in frame.items()):
                        break
        except _TooManyFields:
            separator = "a comma" if options.get("sep") == "," else repr(options.get("sep"))
            raise ValueError(
                f"{file}: its rows have more fields than its header has names. Put text that holds {separator} in "
                "quotes."
            ) from None
        except UnicodeDecodeError as error:  # a stream would not name the file
            logger.warning(f"{file} is not UTF-8 ({error.reason}): save it as UTF-8, or give its `encoding`.")
        except (OSError, ValueError):  # reported when the rows are read
            continue
    return {name: kinds.get(name, "string") for name in names}  # an empty column may hold text


class _TooManyFields(Exception):
    """A row has more fields than there are columns."""


def _common(first: str, second: str) -> str:
    """The type of a column that has values of both types."""
    if first == second:
        return first
    return "mixed" if {first, second} <= {"int64", "uint64", "float64", "mixed"} else "string"


def _number(text: str) -> float:
    """The value of a field in a column of numbers."""
    return math.nan if text.strip() in NO_NUMBER else float(text)


def _own_folder(builder: DatasetBuilder, name: str, kwargs: Mapping[str, Any]) -> str | None:
    """
    The folder of a local dataset; `None` if only files are given, whose folders count then.

    Raises:
        ValueError: The dataset's card names files outside its folder or repository.
    """
    files = [str(file) for split in (builder.config.data_files or {}).values() for file in split]
    path = Path(name)
    folder = str(kwargs["data_dir"]) if kwargs.get("data_dir") and Path(kwargs["data_dir"]).is_dir() else None
    outside: list[str] = []
    if path.is_dir():
        folder = str(path.resolve())
        inside = [os.path.join(start, "") for start in (folder, path.absolute())]
        outside = [file for file in files if not is_url(file) and not os.path.normpath(file).startswith(tuple(inside))]
    elif glob.has_magic(name) and "://" not in name and not path.exists():
        folder = os.path.join(*itertools.takewhile(lambda part: not glob.has_magic(part), path.absolute().parts))
    elif builder.repo_id is not None:
        outside = [file for file in files if not is_url(file)]
    if outside and not kwargs.get("data_files"):
        raise ValueError(
            f"{name}: its card names data outside the {'folder' if path.is_dir() else 'repository'}, such as "
            f"{outside[0]}, which is not read. If these files are yours, give them as `data_files`."
        )
    return folder


def _each(dataset: AnyDataset, change: Callable[[Any], Any]) -> AnyDataset:
    """Apply a change to a dataset, or to the datasets of all splits."""
    if isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        return type(dataset)({key: change(part) for key, part in dataset.items()})
    return change(dataset)


def column_names(dataset: Any) -> list[str]:
    """The columns of a dataset; if a stream does not know them, the columns of its first row."""
    return dataset.column_names if dataset.column_names is not None else list(next(iter(dataset), {}))


def _has_paths(dataset: Dataset | IterableDataset, pictures: Sequence[str]) -> bool:
    """Whether images may be paths, judging by the types of the columns."""
    features = dataset.features
    if features is None or any(image_column(name) for name in features):
        return True
    return any(isinstance(features.get(name), Value) and "string" in features[name].dtype for name in pictures)


def _with_images(
    dataset: Dataset | IterableDataset, places: ImagePlaces, pictures: Sequence[str]
) -> Dataset | IterableDataset:
    """The dataset with the paths of its images resolved, and these columns as images."""
    features = dataset.features
    if features is None:  # a stream of a CSV file that is not on this machine
        columns = [name for name in dict.fromkeys(pictures) if name in column_names(dataset)]
        return resolve_paths(dataset, columns, places)
    columns = image_columns(features)
    columns += [
        name
        for name in dict.fromkeys(pictures)
        if name in features and name not in columns and may_be_images(features[name], places)
    ]
    undecoded = as_images(dataset, columns, decode=False)
    return as_images(resolve_paths(undecoded, columns, places), columns, decode=True)


def _with_image_columns(dataset: Any, keep: Collection[str]) -> tuple[Any, list[str]]:
    """Rename metadata columns such as `file_name` to `image`; the dataset, and the new names."""
    names = column_names(dataset)
    renames = {
        name: ours
        for name in names
        if (ours := image_column(name)) is not None and ours not in names and name not in keep
    }
    return (dataset.rename_columns(renames) if renames else dataset), list(renames.values())


def _other_sizes(error: NonMatchingSplitsSizesError) -> str:
    """A message that names the splits whose number of rows differs from the card's."""
    # The error holds these numbers only in its text.
    sizes = re.findall(r"name='([^']*)', num_bytes=\d+, num_examples=(\d+)", str(error))
    listed = "; ".join(
        f"the card promises {int(promised):,} rows of {split}, the files hold {int(rows):,}"
        for (split, promised), (_, rows) in zip(sizes[::2], sizes[1::2], strict=True)
    )
    return (
        f"{listed}: a file is missing, or was changed. Restore it, or delete `dataset_info` from the card's "
        "README.md if the dataset is complete."
    )


def damaged_files(name: str | os.PathLike[str]) -> list[str]:
    """The damaged parquet files of a folder, a file or a pattern, each with the reason."""
    path = Path(name).expanduser()
    if path.is_dir():
        files = sorted(path.rglob("*.parquet"))
    else:
        files = [path] if path.is_file() else [Path(match) for match in sorted(glob.glob(os.fspath(name)))]
    damaged = []
    for file in files:
        if file.suffix == ".parquet":
            try:
                pq.read_metadata(file)
            except (pa.ArrowException, OSError) as error:
                damaged.append(f"{file}: {str(error).splitlines()[0].removesuffix('.')}")
    return damaged


def _what_is_damaged(name: str, error: BaseException) -> str:
    if columns := _differing_columns(error):
        one, other, file = columns
        return (
            f"its files have different columns, {', '.join(one)}, and {', '.join(other)} in {file}. Name one file, or "
            "keep files of the same columns in a folder"
        )
    problem = str(error).splitlines()[0].removesuffix(".") if str(error) else type(error).__name__
    if "BatchSize must be greater than 0" in problem:
        return "one of its files has no rows"
    return "; ".join(damaged_files(name)) or problem


def _differing_columns(error: BaseException) -> tuple[list[str], list[str], str] | None:
    """If files of a split have different columns: those of the first, those of another, and which one that is."""
    text = str(error)
    cast = error.__context__ if isinstance(error, DatasetGenerationCastError) else error
    if isinstance(cast, CastError):
        file = re.split(r", \[|\n", text.partition("generating data using")[2].strip())[0]
        return cast.requested_column_names, cast.table_column_names, file or "another"
    if isinstance(error, pa.ArrowInvalid) and text.startswith("Schema at index"):  # files that were read as one
        one, _, other = text.partition("\n")[2].partition("\nvs\n")
        first, second = ([line.split(":")[0] for line in part.splitlines() if ":" in line] for part in (one, other))
        return (second, first, "another") if set(first) != set(second) else None
    return None


def _from_disk(name: str, split: str | None, streaming: bool, kwargs: dict[str, Any]) -> AnyDataset:
    saved = load_from_disk(name, **kwargs)
    if isinstance(saved, Dataset):  # without a split it is `train`, as `load_dataset` calls a single file
        saved = DatasetDict({str(saved.split or "train"): saved})
    if split is not None and split not in saved:
        raise ValueError(f"{name} has no split {split!r}; it has {', '.join(saved)}.")
    return as_streams(saved if split is None else saved[split], streaming)


def as_streams(dataset: Dataset | DatasetDict, streaming: bool) -> AnyDataset:
    """The dataset, or a stream of it if `streaming`."""
    if not streaming:
        return dataset
    if isinstance(dataset, Dataset):
        return dataset.to_iterable_dataset()
    return IterableDatasetDict({key: part.to_iterable_dataset() for key, part in dataset.items()})

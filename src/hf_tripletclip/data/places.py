# SPDX-License-Identifier: Apache-2.0
"""Where the images of a dataset may lie: paths in its rows must lead into its own folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Image, IterableDataset, LargeList, List, Value, concatenate_datasets
from datasets.fingerprint import Hasher
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from hf_tripletclip.data.reading import ARCHIVES, NO_FILE, REFUSED, is_url

OUTSIDE = "image outside the dataset's folder"
REPOSITORY = re.compile(r"hf://datasets/(?P<id>[^@/]+(?:/[^@/]+)?)(?=[@/])")
ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class ImagePlaces:
    """
    The places where the images of a dataset may lie.

    Args:
        bases (`tuple[str, ...]`): Folders in which relative paths are looked up, in this order.
        folders (`tuple[str, ...]`): Folders into which paths may lead, with symbolic links resolved.
        repositories (`tuple[str, ...]`): Ids of the Hub datasets to which URLs may lead.
        coco (`bool`, defaults to `False`): Whether numbers name COCO's pictures, because a folder of images is given.
    """

    bases: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    coco: bool = False

    @classmethod
    def of(
        cls,
        files: Iterable[str],
        folder: str | None = None,
        images: str | os.PathLike[str] | None = None,
        repository: str | None = None,
    ) -> ImagePlaces:
        """
        The places for the images of a dataset.

        Args:
            files: The data files, local paths or URLs.
            folder (`str`, *optional*): The dataset's folder. Defaults to the folders of the local files.
            images (`str` or `os.PathLike`, *optional*): Another folder of images, in which relative paths are looked
                up first.
            repository (`str`, *optional*): The id of the Hub dataset.
        """
        files = [file.rpartition("::")[2] for file in files]
        repositories = {match["id"] for file in files if (match := REPOSITORY.match(file))}
        if repository is not None:
            repositories.add(repository)
        beside = sorted({os.path.dirname(os.path.abspath(file)) for file in files if not is_url(file)})
        given = [os.path.abspath(os.path.expanduser(images))] if images is not None else []
        bases = [*given, *beside, *([os.path.abspath(folder)] if folder is not None else [])]
        allowed = [*given, *(beside if folder is None else [folder])]
        allowed += [
            os.path.join(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="dataset"))
            for name in repositories
        ]
        real = [os.path.realpath(path) for path in allowed]
        real += [str(blobs) for path in real if (blobs := _blobs(Path(path))) is not None]
        return cls(tuple(dict.fromkeys(bases)), tuple(dict.fromkeys(real)), tuple(sorted(repositories)), bool(given))

    def find(self, path: str) -> str:
        """The file that a path in a row names. If the path is not allowed, a text that says so when it is decoded."""
        if "\0" in path:
            return f"{REFUSED}{NO_FILE}: {path!r}"
        if is_url(path):
            return self._find_url(path)
        candidates = [os.path.realpath(os.path.join(base, path)) for base in self.bases or ("",)]
        inside = [candidate for candidate in candidates if self.holds(candidate)]
        if not inside:
            return f"{REFUSED}{OUTSIDE}: {path}; if it is yours, give its folder as `images`"
        there = [candidate for candidate in inside if os.path.exists(candidate)]
        return there[0] if there else inside[0]

    def _find_url(self, path: str) -> str:
        *archives, last = path.split("::")
        allowed = all(archive.partition("://")[0] in ARCHIVES for archive in archives)
        if not is_url(last):
            file = self.find(last)
            if file.startswith(REFUSED):
                return file
            last = file
        else:
            match = REPOSITORY.match(last)
            allowed &= match is not None and match["id"] in self.repositories and ".." not in last.split("/")
        return "::".join([*archives, last]) if allowed else f"{REFUSED}{OUTSIDE}: {path} is not fetched"

    def holds(self, path: str) -> bool:
        """Whether a path without symbolic links is in one of the folders."""
        return any(os.path.commonpath([folder, path]) == folder for folder in self.folders)


def _blobs(folder: Path) -> Path | None:
    """The folder to which the symbolic links in a snapshot of `huggingface_hub` lead; `None` for other folders."""
    for parent in (folder, *folder.parents):
        if parent.parent.name == "snapshots" and (blobs := parent.parent.parent / "blobs").is_dir():
            return blobs
    return None


def image_columns(features: Features | None) -> list[str]:
    """The columns whose type is an image or a list of images."""
    return [name for name, feature in (features or {}).items() if isinstance(_inner(feature), Image)]


def may_be_images(feature: Any, places: ImagePlaces) -> bool:
    """Whether a column of another type may hold images: paths, contents, or numbers of COCO's pictures."""
    inner = _inner(feature)
    if isinstance(inner, Value):
        numbers = places.coco and inner.dtype.startswith(("int", "uint"))
        return numbers or (
            inner.dtype.endswith(("string", "binary")) and (inner is feature or "string" in inner.dtype)
        )
    return isinstance(feature, dict) and bool(feature.keys() & {"bytes", "path"})


def _inner(feature: Any) -> Any:
    return feature.feature if isinstance(feature, (List, LargeList)) else feature


def as_images(dataset: Any, columns: Sequence[str], decode: bool) -> Any:
    """The dataset with these columns cast to images or lists of images. Columns of numbers stay as they are."""
    for name in columns:
        feature, image = dataset.features[name], Image(decode=decode)
        if not (isinstance(feature, Value) and feature.dtype.startswith(("int", "uint"))):
            dataset = dataset.cast_column(name, image if feature is _inner(feature) else type(feature)(image))
    return dataset


def resolve_paths(
    dataset: Dataset | IterableDataset, columns: Sequence[str], places: ImagePlaces
) -> Dataset | IterableDataset:
    """
    The dataset with the paths of its images resolved. Each path then names a file in an allowed folder, or holds the
    reason why it was refused, which shows when it is decoded. Images in the rows themselves stay there.

    Args:
        dataset (`Dataset` or `IterableDataset`): A dataset that leaves these columns undecoded.
        columns (`Sequence[str]`): Columns of images.
        places ([`ImagePlaces`]): Where paths may lead.
    """
    if not columns:
        return dataset
    features = dataset.features
    if features is not None:  # numbers become images
        numbers = [name for name in columns if isinstance(features[name], Value)]
        features = Features({**features, **dict.fromkeys(numbers, Image(decode=False))})
    if isinstance(dataset, IterableDataset):
        mapped = dataset.map(_resolve_row, fn_kwargs={"columns": list(columns), "find": places.find})
        return mapped.cast(features) if features is not None else mapped
    for name in columns:
        chunks, changed = [], False
        for table in dataset.select_columns([name]).with_format("arrow").iter(batch_size=ROWS_AT_ONCE):
            for chunk in table[name].chunks:
                resolved = _resolve_array(chunk, places.find)
                changed |= resolved is not chunk
                chunks.append(resolved)
        if changed:
            order = dataset.column_names
            column = Dataset(  # in memory: only the paths, contents of images stay in their file
                pa.table({name: pa.chunked_array(chunks)}),
                fingerprint=Hasher.hash([dataset._fingerprint, name, places]),
            ).cast(Features({name: features[name]}))
            rest = dataset.remove_columns([name])
            dataset = concatenate_datasets([rest, column], axis=1) if rest.column_names else column
            dataset = dataset.select_columns(order)
    return dataset


def _resolve_row(row: dict[str, Any], columns: list[str], find: Callable[[str], str]) -> dict[str, Any]:
    return {name: _resolve_value(row.get(name), find) for name in columns}


def _resolve_value(value: Any, find: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return [_resolve_value(one, find) for one in value]
    if isinstance(value, int):
        return {"bytes": None, "path": _find_coco(value, find)}
    if isinstance(value, str):
        value = {"path": value}
    if not isinstance(value, dict):
        return value
    if value.get("bytes") is not None:
        # Without its path: if a local file has that name, `datasets` drops the contents and reads the file.
        return {"bytes": value["bytes"], "path": None}
    return {"bytes": None, "path": None if value.get("path") is None else find(value["path"])}


def _resolve_array(array: Any, find: Callable[[str], str]) -> Any:
    """The array with its paths resolved; the same object if no image is a path."""
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        values = array.flatten()
        resolved = _resolve_array(values, find)
        if resolved is values:
            return array
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        offsets = pa.array([0, *lengths.cumsum()], pa.int64() if pa.types.is_large_list(array.type) else pa.int32())
        return type(array).from_arrays(offsets, resolved, mask=array.is_null())
    if pa.types.is_integer(array.type):
        files = [None if code is None else _find_coco(code, find) for code in array.to_pylist()]
        contents = pa.nulls(len(files), pa.binary())
        return pa.StructArray.from_arrays([contents, pa.array(files, pa.string())], ["bytes", "path"])
    contents, paths = pc.struct_field(array, "bytes"), pc.struct_field(array, "path")
    followed = pc.and_(pc.is_null(contents), pc.is_valid(paths))
    if not pc.any(followed).as_py():
        return array
    files = [
        path if path is None or not follow else find(path)
        for path, follow in zip(paths.to_pylist(), followed.to_pylist(), strict=True)
    ]
    return pa.StructArray.from_arrays(
        [contents, pa.array(files, pa.string())], ["bytes", "path"], mask=array.is_null()
    )


def _find_coco(code: int, find: Callable[[str], str]) -> str:
    """The file of a COCO picture: the first of its possible names that exists, else the first name."""
    files = (find(name) for name in _coco_names(code))
    first = next(files)
    return first if os.path.exists(first) else next((path for path in files if os.path.exists(path)), first)


def _coco_names(code: int) -> list[str]:
    """COCO's file names for a picture: since 2017, and before."""
    return [f"{code:012d}.jpg", f"COCO_train2014_{code:012d}.jpg", f"COCO_val2014_{code:012d}.jpg"]

# SPDX-License-Identifier: Apache-2.0
"""
WebDataset tars, even broken ones, as `datasets` objects.

`datasets`' own reader takes the types from the first five samples. It fails at a sample that lacks a member, at a
repeated member and at a file that is cut short, and it does not notice all such cuts.
"""

from __future__ import annotations

import gzip
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, cast

from datasets import (
    Dataset,
    DatasetDict,
    DownloadConfig,
    DownloadManager,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    NamedSplit,
    ReadInstruction,
    Value,
    concatenate_datasets,
)
from datasets.fingerprint import Hasher
from datasets.packaged_modules.webdataset.webdataset import WebDataset, base_plus_ext

from hf_tripletclip.data.reading import MAX_BYTES
from hf_tripletclip.data.schema import CAPTION_COLUMNS, COLUMNS, ERROR, FILE, IMAGE_COLUMNS

KEY, URL = "__key__", "__url__"  # `datasets`' names
TEXT_EXTENSIONS = ("txt", "text", "json", "cls", "id")
SAMPLES_LOOKED_AT = 20  # samples that are inspected for their members
READER = "2"  # part of the cache's key: raise it when the reader's rows change

# Long part of `tarfile`, but undocumented.
END_OF_ARCHIVE = tarfile.EOFHeaderError  # type: ignore[attr-defined]
HEADER_ERROR = tarfile.HeaderError
NO_HEADER = (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError)  # type: ignore[attr-defined]
BROKEN_TAR = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


class _CutShort(tarfile.ReadError):
    """The file ends where another header is expected."""


class _Damaged(tarfile.ReadError):
    """A header is damaged."""


class _Header(tarfile.TarInfo):
    """A header that raises errors: `tarfile` itself takes a missing or broken header for the end of the file."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> _Header:
        try:
            return super().fromtarfile(tarfile)
        except END_OF_ARCHIVE:  # a regular end
            raise
        except NO_HEADER as error:
            raise _CutShort("its end is missing") from error
        except HEADER_ERROR as error:
            raise _Damaged(f"a header is damaged, {error}") from error


def open_tars(
    builder: WebDataset,
    name: str,
    split: str | None,
    streaming: bool,
    columns: Mapping[str, str],
    *,
    token: str | bool | None = None,
    cache_dir: str | None = None,
    num_proc: int | None = None,
    keep_in_memory: bool = False,
) -> Dataset | IterableDataset | DatasetDict | IterableDatasetDict:
    """
    Read the tars of a `datasets` builder with our reader.

    Args:
        builder (`WebDataset`): The builder, which knows the files by split.
        name (`str`): The dataset's name in messages.
        split (`str`, *optional*): One split; without `streaming` also a part such as `"train[:10%]"`.
        streaming (`bool`): Whether to read the tars only when rows are needed.
        columns (`Mapping[str, str]`): Our name -> the member's extension.
        token, cache_dir, num_proc, keep_in_memory: As in `datasets.load_dataset`.

    Raises:
        ValueError: There is no such split, or there are no such members.
    """
    by_split = {str(key): files for key, files in builder.config.data_files.items()}

    def read(key: str) -> Dataset | IterableDataset:
        files = by_split[key]
        names = [str(file) for file in files]
        tars = names
        if not streaming and any("://" in tar for tar in names):
            manager = DownloadManager(download_config=DownloadConfig(token=token, cache_dir=_downloads(cache_dir)))
            tars = manager.download(names)
        members = _members(tars, token)
        if not members:
            raise ValueError(
                f"{name} (split {key!r}) has no rows: none of its {len(tars)} tars has a readable sample."
            )
        if absent := [original for original in columns.values() if original not in members]:
            raise ValueError(f"`columns` names {absent}, which it does not have; it has {members}")
        names_by_member = _our_names(members, columns)
        features = _features(names_by_member)
        arguments = {
            "tars": tars,
            "names": names,
            # One hash of all files of the split: others may lie next to the tars, so files cannot be matched to tars.
            "versions": [f"{READER} {Hasher.hash(files.origin_metadata)}"] * len(names),
            "columns": names_by_member,
            "token": token,
        }
        if streaming:
            return IterableDataset.from_generator(
                read_tars, features=features, gen_kwargs=arguments, split=NamedSplit(key)
            )
        return Dataset.from_generator(
            read_tars,
            features=features,
            gen_kwargs=arguments,
            split=NamedSplit(key),
            cache_dir=cast(str, cache_dir),
            keep_in_memory=keep_in_memory,
            num_proc=num_proc,
        )

    if split is None:
        parts = {key: read(key) for key in by_split}
        return IterableDatasetDict(parts) if streaming else DatasetDict(parts)
    if split in by_split:
        return read(split)
    wanted = {part.partition("[")[0].strip() for part in re.split(r"\+", split)}
    if streaming or not wanted <= set(by_split):
        raise ValueError(f"{name} has no split {split!r}; it has {', '.join(by_split)}.")
    whole = {key: cast(Dataset, read(key)) for key in by_split if key in wanted}
    parts_read = ReadInstruction.from_spec(split).to_absolute({key: len(part) for key, part in whole.items()})
    return concatenate_datasets([whole[part.splitname].select(range(part.from_, part.to)) for part in parts_read])


def _downloads(cache_dir: str | None) -> str | None:
    return None if cache_dir is None else os.path.join(cache_dir, "downloads")


def _members(tars: Iterable[str], token: str | bool | None) -> list[str]:
    """Extensions of the members of the first samples, in the first tar that has any; our own columns come first."""
    for tar in tars:
        members: dict[str, None] = {}
        keys: set[str] = set()
        try:
            for key, member, _ in _files(tar, token):
                keys.add(key)
                if len(keys) > SAMPLES_LOOKED_AT:
                    break
                members[member] = None
        except BROKEN_TAR:
            pass  # reported when the rows are read
        if members:
            return [*(name for name in COLUMNS if name in members), *(name for name in members if name not in COLUMNS)]
    return []


def _our_names(members: list[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Member -> column. If `columns` names another member for a column, a member with the column's name is dropped."""
    ours = {original: name for name, original in columns.items()}
    return {member: ours.get(member, member) for member in members if member in ours or member not in columns}


def _features(columns: Mapping[str, str]) -> Features:
    features = Features()
    for member, column in columns.items():
        extension = member.rsplit(".", 1)[-1].lower()
        if column in IMAGE_COLUMNS or (column not in COLUMNS and extension in WebDataset.IMAGE_EXTENSIONS):
            features[column] = Image()
        elif column in CAPTION_COLUMNS or extension in TEXT_EXTENSIONS:
            features[column] = Value("string")
        else:
            features[column] = Value("binary")
    return Features({**features, KEY: Value("string"), URL: Value("string"), ERROR: Value("string")})


def read_tars(
    tars: list[str], names: list[str], versions: list[str], columns: dict[str, str], token: str | bool | None = None
) -> Iterator[dict[str, Any]]:
    """
    The rows of tars: one row per sample, with null for missing members, and one row per tar that ends too early or
    cannot be read, which holds only the reason in `__error__`. `__error__` also tells what is wrong with a member.

    Args:
        tars (`list[str]`): Paths or URLs.
        names (`list[str]`): Names of the tars in rows and reports.
        versions (`list[str]`): Versions of the files, which become part of the cache's key.
        columns (`dict[str, str]`): Member's extension -> column.
        token (`str` or `bool`, *optional*): Token for the Hub.
    """
    features = _features(columns)
    empty = dict.fromkeys(features)
    for tar, name in zip(tars, names, strict=True):
        sample: dict[str, Any] = {}
        seen: set[str] = set()
        whole = 0
        try:
            for key, member, content in _files(tar, token):
                if sample and sample[KEY] != key:
                    yield sample
                    whole += 1
                    sample = {}
                if not sample:
                    sample, seen = {**empty, KEY: key, URL: name}, set()
                if (column := columns.get(member)) is None:
                    continue
                value, problem = _value(features[column], content)
                if column in seen:
                    value, problem = None, "member is there twice"
                seen.add(column)
                sample[column] = value
                if problem:
                    sample[ERROR] = "\n".join([*filter(None, [sample[ERROR]]), f"{column}: {problem}"])
        except BROKEN_TAR as error:
            detail = str(error)
            if sample and seen >= set(columns.values()):  # complete: only later samples are lost
                yield sample
                whole += 1
            elif sample:
                detail += f", in sample {sample[KEY]}"
            yield {
                **empty,
                KEY: name,
                URL: name,
                ERROR: f"{FILE}: {_what(error, tar)}: {detail}, {whole} samples kept",
            }
        else:
            if sample:
                yield sample


def _what(error: BaseException, tar: str) -> str:
    # `tarfile` has no separate error for a file that ends inside a member.
    cut = isinstance(error, (_CutShort, EOFError)) or "unexpected end" in str(error)
    return "tar cut short" if cut or ("://" not in tar and os.path.getsize(tar) == 0) else "damaged tar"


def _value(feature: Any, member: BinaryIO) -> tuple[Any, str | None]:
    content = member.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        return None, f"member too large: more than {MAX_BYTES:,} bytes"
    if isinstance(feature, Image):
        # Without a path: if a local file has that name, `datasets` drops the contents and reads the file.
        return {"bytes": content, "path": None}, None
    if feature.dtype != "string":
        return content, None
    try:
        return content.decode("utf-8"), None
    except UnicodeDecodeError:
        return None, "caption is not UTF-8"


def _files(tar: str, token: str | bool | None) -> Iterator[tuple[str, str, Any]]:
    """Key, extension and contents (as a file) of each member. Hidden files are skipped."""
    with _open(tar, token) as file:
        # Local files can be read at any position, remote ones only from beginning to end.
        mode: Any = "r|*" if "://" in tar else "r:*"
        try:
            archive = tarfile.open(fileobj=file, mode=mode, tarinfo=_Header)  # noqa: SIM115 - below
        except tarfile.TarError as error:  # its own message lists all compressions that were tried
            raise _Damaged("it has no header of a tar") from error
        with archive:
            for info in archive:
                archive.members = []  # type: ignore[attr-defined] # otherwise all headers stay in memory
                if not info.isreg() or os.path.basename(info.name).startswith((".", "__")):
                    continue
                key, member = base_plus_ext(info.name)
                if key is not None:
                    yield key, member, cast(BinaryIO, archive.extractfile(info))


def _open(tar: str, token: str | bool | None) -> Any:
    if "://" not in tar:
        return open(tar, "rb")
    if tar.startswith("hf://"):
        from huggingface_hub import HfFileSystem

        return HfFileSystem(token=token).open(tar, "rb", block_size=0)
    import fsspec

    return fsspec.open(tar, "rb").open()

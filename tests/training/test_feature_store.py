# SPDX-License-Identifier: Apache-2.0
"""Rows in a folder: shared by processes, bounded, and never other numbers than were put in."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import pickle
from pathlib import Path

import pytest
import torch

from hf_tripletclip.training import feature_store
from hf_tripletclip.training.feature_store import FeatureStore

NAME = "image-0123456789abcdef"
WIDTH = 24


def key_of(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=16).digest()


def row_of(number: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(number)).to(dtype)


def filled(root: Path, numbers: range, limit: int = 10**9, dtype: torch.dtype = torch.float32) -> FeatureStore:
    store = FeatureStore(root, NAME, limit)
    for number in numbers:
        store.add(key_of(number), row_of(number, dtype))
    store.flush()
    return store


def numbers_in(store: FeatureStore, numbers: range) -> list[int]:
    """Which rows are there, all as they were put in."""
    found = {number: store.get(key_of(number)) for number in numbers}
    there = {number: row for number, row in found.items() if row is not None}
    for number, row in there.items():
        assert torch.equal(row, row_of(number, row.dtype)), number
    return list(there)


def size_of(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_are_readable_at_once_and_by_other_stores_once_written(tmp_path, dtype):
    store, other = FeatureStore(tmp_path, NAME, 10**9), FeatureStore(tmp_path, NAME, 10**9)
    store.add(key_of(1), row_of(1, dtype))
    assert numbers_in(store, range(3)) == [1]
    assert numbers_in(other, range(3)) == []
    store.flush()
    assert numbers_in(store, range(3)) == numbers_in(other, range(3)) == [1]
    assert other.get(key_of(1)).dtype == dtype
    filled(tmp_path, range(2, 5), dtype=dtype)
    assert numbers_in(store, range(9)) == numbers_in(other, range(9)) == [1, 2, 3, 4]
    assert numbers_in(pickle.loads(pickle.dumps(other)), range(9)) == [1, 2, 3, 4]  # as a worker that is spawned


def test_rows_are_written_before_too_many_are_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_store, "ROWS_AT_ONCE", 3)
    store = FeatureStore(tmp_path, NAME, 10**9)
    for number in range(7):
        store.add(key_of(number), row_of(number))
    assert numbers_in(FeatureStore(tmp_path, NAME, 10**9), range(7)) == list(range(6))
    monkeypatch.setattr(feature_store, "SECONDS_AT_ONCE", -1.0)
    store.add(key_of(7), row_of(7))
    assert numbers_in(FeatureStore(tmp_path, NAME, 10**9), range(8)) == list(range(8))


def fill_from(root: Path, start: int, limit: int) -> None:
    for first in range(start, start + 60, 5):
        filled(root, range(first, first + 5), limit)


@pytest.mark.parametrize("limit", [10**9, 12_000])
def test_processes_fill_one_folder_at_once_and_the_limit_is_that_of_all(tmp_path, limit):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fill_from, args=(tmp_path, start, limit)) for start in (0, 30, 60)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    there = numbers_in(FeatureStore(tmp_path, NAME, limit), range(200))
    assert not list(tmp_path.rglob("*.tmp"))
    assert size_of(tmp_path) <= limit
    assert there == list(range(120)) if limit == 10**9 else 20 < len(there) < 120


@pytest.mark.parametrize("limit", [0, 500, 1_000, 2_000, 5_000, 30_000])
def test_the_limit_holds_to_the_byte_and_is_reported_once(tmp_path, limit, caplog):
    filled(tmp_path, range(1000, 1005), 1_500)
    other = size_of(tmp_path)
    store = FeatureStore(tmp_path, "text-0123456789abcdef", limit)
    for first in range(0, 150, 10):
        for number in range(first, first + 10):
            store.add(key_of(number), row_of(number))
        store.flush()
    assert size_of(tmp_path) <= max(limit, other)
    assert store.full == (limit < 30_000)
    assert caplog.text.count("is as large as `cache_limit_gb` allows") == store.full
    assert min((limit - other - 15 * 512) // 120, 150) <= len(numbers_in(store, range(150)))


@pytest.mark.parametrize("at", ["features", "keys", "sums", "header", "length", "cut", "empty", "text"])
def test_a_damaged_file_is_never_read_and_is_removed(tmp_path, at, caplog):
    filled(tmp_path, range(20))
    filled(tmp_path, range(20, 30))
    path = next(path for path in (tmp_path / NAME).iterdir() if path.stat().st_size > 2_000)
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    # The larger elements come first: features, then keys and sums.
    places = {"features": start + 100, "keys": start + 20 * WIDTH * 4 + 40, "sums": start + 20 * (WIDTH * 4 + 16) + 5}
    places |= {"header": 30, "length": 2}
    if at in places:
        content[places[at]] ^= 0x40
    path.write_bytes({"cut": content[:-40], "empty": b"", "text": b"not what it was"}.get(at, content))
    store = FeatureStore(tmp_path, NAME, 10**9)
    there = numbers_in(store, range(30))
    assert set(range(20, 30)) <= set(there)
    if at in ("keys", "sums", "features"):
        assert set(there) < set(range(30))
    if at != "keys":  # one that is changed is nobody's
        assert not path.exists()
        assert caplog.text.count("is damaged and is removed") == 1
    for number in range(30):  # of a file that is removed, also those that were read before
        store.add(key_of(number), row_of(number))
    store.flush()
    assert numbers_in(FeatureStore(tmp_path, NAME, 10**9), range(30)) == list(range(30))


def test_a_file_of_another_store_is_not_used(tmp_path, caplog):
    filled(tmp_path, range(5))
    other = tmp_path / "image-fedcba9876543210"
    (tmp_path / NAME).rename(other)
    assert numbers_in(FeatureStore(tmp_path, other.name, 10**9), range(5)) == []
    assert "is damaged and is removed" in caplog.text


def test_unfinished_files_are_removed_and_foreign_files_are_not(tmp_path):
    filled(tmp_path, range(5))
    left, others = tmp_path / NAME / "abc.safetensors.tmp", tmp_path / "somebody" / "abc.safetensors.tmp"
    others.parent.mkdir()
    for path in (left, others, tmp_path / "notes.tmp"):
        path.write_bytes(b"half")
    filled(tmp_path, range(5, 6))
    assert not left.exists()
    assert others.exists()
    assert (tmp_path / "notes.tmp").exists()


@pytest.mark.parametrize("where", ["write_bytes", "mkdir"])
def test_a_full_disk_is_reported_in_one_line_and_only_the_cache_is_lost(tmp_path, monkeypatch, caplog, where):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = FeatureStore(tmp_path, NAME, 10**9)
    monkeypatch.setattr(Path, where, full)
    for number in range(3):
        store.add(key_of(number), row_of(number))
        store.flush()
    assert store.full
    assert caplog.text.count("could not be written: [Errno 28] No space left on device") == 1
    assert numbers_in(store, range(3)) == []
    assert not list(tmp_path.rglob("*.safetensors*"))

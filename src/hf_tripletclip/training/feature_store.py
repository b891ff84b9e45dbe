# SPDX-License-Identifier: Apache-2.0
"""A folder of feature rows by key, which several processes and runs may fill and read at the same time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.utils import WeakFileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from transformers.utils import logging

from hf_tripletclip.utils.files import as_os_error

logger = logging.get_logger(__name__)

KEY_BYTES, SUM_BYTES = 16, 8
# A file is written after so many rows or seconds: a killed run has to compute no more than these again.
ROWS_AT_ONCE = 4096
SECONDS_AT_ONCE = 60.0
LOCK_FILE = ".lock"
SECONDS_OF_WAITING = 120.0  # for another process to finish writing
SUFFIX, STAGED = ".safetensors", ".safetensors.tmp"
FOLDER = re.compile(r"(image|text)-[0-9a-f]{16}")  # of a store: all else in `root` is ignored
HEADER = 512  # bytes of a file beside its rows, at most


@dataclass
class _File:
    """A file of rows, mapped into memory: only the rows that are used are read."""

    path: Path
    keys: torch.Tensor  # uint8 (rows, 16)
    sums: torch.Tensor  # uint8 (rows, 8)
    features: torch.Tensor  # (rows, width)
    sound: bool = True


class FeatureStore:
    """
    Rows of features in the folder `root/name`. Each file is written whole under a new name and never changed, so
    readers need no lock. Each row has a checksum, which is compared when the row is read: a damaged file is removed,
    and its rows count as missing.

    Args:
        root (`Path`): The folder that the limit is for; several stores may share it.
        name (`str`): Name of the store, see `FOLDER`.
        limit (`int`): Bytes that all stores in `root` may take, whoever wrote them. Beyond it, or when the disk is
            full, no more rows are kept, with a warning.

    Attributes:
        full (`bool`): Whether that has happened.
    """

    def __init__(self, root: Path, name: str, limit: int) -> None:
        self.root, self.name, self.limit = root, name, limit
        self.folder = root / name
        self.full = False
        self._fresh: dict[bytes, torch.Tensor] = {}  # not written yet
        self._written = time.monotonic()
        self._files: list[_File] = []
        self._names: set[str] = set()
        self._seen: int | None = None  # when the folder had been changed at the last look
        self._heads = np.empty(0, np.uint64)  # the first halves of all keys, sorted
        self._places = np.empty(0, np.int64)  # the file and the row of each key

    def __getstate__(self) -> dict[str, Any]:
        """What a worker that is not forked gets: it looks into the folder itself."""
        return {"root": self.root, "name": self.name, "limit": self.limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def get(self, key: bytes) -> torch.Tensor | None:
        """The row of a key, `(width,)`; `None` if it is missing. It may be a part of a file: do not change it."""
        found = self._fresh.get(key)
        if found is None:
            found = self._read(key)
        if found is None and self._look_again():
            found = self._read(key)
        return found

    def add(self, key: bytes, features: torch.Tensor) -> None:
        """Keep a row of shape `(width,)` on the CPU. It is written together with others, at the latest by `flush`."""
        if self.full:
            return
        self._fresh[key] = features
        if len(self._fresh) >= ROWS_AT_ONCE or time.monotonic() - self._written > SECONDS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are not written yet."""
        self._written = time.monotonic()
        if not self._fresh:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(self.root / LOCK_FILE, timeout=SECONDS_OF_WAITING):
                path = self._write()
        except (OSError, SafetensorError) as error:
            self._stop(f"could not be written: {as_os_error(error) or error}")
            return
        self._fresh = {}
        if path is not None:
            self._adopt([path])

    def _write(self) -> Path | None:
        """Write as many of the new rows into a file as there is room for."""
        used = _bytes_in(self.root)
        keys, rows = list(self._fresh), list(self._fresh.values())
        each = KEY_BYTES + SUM_BYTES + rows[0].numel() * rows[0].element_size()
        room = max(self.limit - used - HEADER, 0) // each
        if room < len(keys):
            self._stop(
                f"is as large as `cache_limit_gb` allows ({self.limit / 1e9:g} GB): raise it, or remove folders of "
                "models that are not used any more"
            )
            keys, rows = keys[:room], rows[:room]
        if not keys:
            return None
        sums = b"".join(self._sum(key, row) for key, row in zip(keys, rows, strict=True))
        content = save(
            {
                "keys": _as_tensor(b"".join(keys), KEY_BYTES),
                "sums": _as_tensor(sums, SUM_BYTES),
                "features": torch.stack(rows),
            }
        )
        path = self.folder / f"{uuid.uuid4().hex}{SUFFIX}"
        staged = self.folder / f"{path.stem}{STAGED}"
        try:
            staged.write_bytes(content)
            os.replace(staged, path)
        finally:
            staged.unlink(missing_ok=True)
        return path

    def _stop(self, why: str) -> None:
        self.full, self._fresh = True, {}
        logger.warning(
            f"The cache of locked towers in {self.root} {why}. Outputs that are not in it are computed each time."
        )

    def _sum(self, key: bytes, row: torch.Tensor) -> bytes:
        digest = hashlib.blake2b(f"{self.name} {row.dtype} ".encode() + key, digest_size=SUM_BYTES)
        digest.update(row.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.digest()

    # ---- Reading ----

    def _read(self, key: bytes) -> torch.Tensor | None:
        head = np.frombuffer(key, np.uint64, 1)[0]
        at = int(np.searchsorted(self._heads, head))
        while at < len(self._heads) and self._heads[at] == head:  # several files may have it
            number, row = divmod(int(self._places[at]), 2**32)
            file = self._files[number]
            if file.sound and file.keys[row].numpy().tobytes() == key:
                features = file.features[row]
                if self._sum(key, features) == file.sums[row].numpy().tobytes():
                    return features
                self._discard(file.path, len(file.keys))
                file.sound = False
            at += 1
        return None

    def _look_again(self) -> bool:
        """Read the names of new files; tells whether there are any."""
        try:
            changed = os.stat(self.folder).st_mtime_ns
            if changed == self._seen:
                return False
            names = sorted(name for name in os.listdir(self.folder) if name.endswith(SUFFIX))
        except FileNotFoundError:
            return False
        self._seen = changed
        new = [self.folder / name for name in names if name not in self._names]
        self._adopt(new)
        return bool(new)

    def _adopt(self, paths: list[Path]) -> None:
        places = [self._places]
        heads = [self._heads]
        for path in paths:
            self._names.add(path.name)
            if (file := self._open(path)) is None:
                continue
            rows = np.arange(len(file.keys), dtype=np.int64)
            places.append(rows + len(self._files) * 2**32)
            heads.append(file.keys.numpy().view(np.uint64)[:, 0])
            self._files.append(file)
        if len(heads) > 1:
            unsorted = np.concatenate(heads)
            order = np.argsort(unsorted, kind="stable")
            self._heads, self._places = unsorted[order], np.concatenate(places)[order]

    def _open(self, path: Path) -> _File | None:
        try:
            with safe_open(path, "pt") as file:
                keys, sums, features = (file.get_tensor(name) for name in ("keys", "sums", "features"))
        except FileNotFoundError:  # another process has removed it
            return None
        except (SafetensorError, OSError) as error:
            self._discard(path, None, str(error))
            return None
        shapes = (keys.shape, sums.shape, features.shape[:1])
        rows = len(features)
        if shapes != ((rows, KEY_BYTES), (rows, SUM_BYTES), (rows,)) or {keys.dtype, sums.dtype} != {torch.uint8}:
            self._discard(path, rows)
            return None
        return _File(path, keys, sums, features)

    def _discard(self, path: Path, rows: int | None, why: str = "it has changed since it was written") -> None:
        what = "its rows are" if rows is None else f"its {rows} rows are"
        logger.warning(f"{path} is damaged and is removed ({why}); {what} computed again.")
        with contextlib.suppress(OSError):  # if it cannot be removed, it is still passed over
            path.unlink(missing_ok=True)


def _as_tensor(content: bytes, width: int) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, width)


def _bytes_in(root: Path) -> int:
    """Bytes of all stores. The lock is held, so files that a process was writing when it died can be removed."""
    total = 0
    for folder in root.iterdir():
        for path in folder.iterdir() if FOLDER.fullmatch(folder.name) else ():
            with contextlib.suppress(FileNotFoundError):  # another process has removed a damaged file
                if path.name.endswith(STAGED):
                    path.unlink()
                else:
                    total += path.stat().st_size
    return total

# SPDX-License-Identifier: Apache-2.0
"""A complete new dataset takes the place of an old one: at any moment, a reader sees the one or the other."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from hf_tripletclip.generation.plan import (
    ASSETS_FOLDER,
    DATA_FOLDER,
    LEFT_OUT_FILE,
    LOCK_FILE,
    LOGS_FOLDER,
    MINING_PAGE,
    NEIGHBOURS_FOLDER,
    PLAN_FILE,
    REPORT_FILE,
    WORK_FOLDER,
)
from hf_tripletclip.utils.files import CARD_FILE

DATASET = (
    PLAN_FILE,
    DATA_FOLDER,
    NEIGHBOURS_FOLDER,
    LEFT_OUT_FILE,
    CARD_FILE,
    MINING_PAGE,
    ASSETS_FOLDER,
    REPORT_FILE,
)
READY_FOLDER = "ready"  # in the work folder: a whole dataset that only has to be moved
REPLACED_FOLDER = "replaced"  # in the work folder: what it takes the place of
EXCHANGE, HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of Linux


def put_in_place(staged: Path, output: Path) -> None:
    """
    Make a whole dataset that lies in the work folder that of the output folder, whose lock the caller holds.

    If there was one before and the system can do it (Linux, on most local disks), both folders change names in one
    step, and files in the output that are no part of a dataset are in both. Elsewhere the new files are moved one by
    one; if that is interrupted, [`finish_replacing`] ends it.
    """
    if (output / REPORT_FILE).exists() and _exchange_folders(staged, output.resolve()):
        return
    ready = output / WORK_FOLDER / READY_FOLDER
    os.replace(staged, ready)  # from here on the new dataset counts
    finish_replacing(output)


def finish_replacing(output: Path) -> None:
    """End a replacement that was interrupted, and remove the rest of the old dataset; the caller has the lock."""
    work = output / WORK_FOLDER
    beside = _beside(output.resolve())
    if (beside / WORK_FOLDER / LOCK_FILE).is_file() and os.path.samefile(
        beside / WORK_FOLDER / LOCK_FILE, work / LOCK_FILE
    ):
        os.replace(beside, _empty(work / REPLACED_FOLDER))
    ready = work / READY_FOLDER
    if ready.is_dir():
        if (ready / REPORT_FILE).exists():  # the last one to be moved; without it the output is not finished
            (output / REPORT_FILE).unlink(missing_ok=True)
        for name in DATASET:
            if not (ready / name).exists():
                continue  # it is in place
            if (output / name).is_dir():
                os.replace(output / name, _empty(work / REPLACED_FOLDER) / name)
            os.replace(ready / name, output / name)
        shutil.rmtree(ready)
    shutil.rmtree(work / REPLACED_FOLDER, ignore_errors=True)


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _beside(output: Path) -> Path:
    """Where the other folder lies for the moment in which names are exchanged: a folder and one in it cannot be."""
    return output.with_name(f".{output.name}.replaced")


def _exchange_folders(staged: Path, output: Path) -> bool:
    """Exchange the folders, or leave everything as it is and say no."""
    exchange, beside = _system_call(), _beside(output)
    if exchange is None or beside.exists():
        return False
    try:
        if output in (here := Path.cwd(), *here.parents):
            return False  # who stands in the folder would be left standing in the old one
        _share(output, staged)
        os.rename(staged, beside)
    except OSError:  # no hard links, another disk, or a parent folder that is not ours to write
        return False
    if not exchange(beside, output):
        os.rename(beside, staged)
        return False
    finish_replacing(output)
    return True


def _share(output: Path, staged: Path) -> None:
    """Give the new folder all that is in the old one and no part of the dataset; files are the same by hard links."""
    for path in output.iterdir():
        if path.name not in (*DATASET, WORK_FOLDER):
            _link(path, staged / path.name)
    work = staged / WORK_FOLDER
    work.mkdir()
    for name in (LOCK_FILE, LOGS_FOLDER):
        if (output / WORK_FOLDER / name).exists():
            _link(output / WORK_FOLDER / name, work / name)
    shutil.copystat(output, staged)


def _link(path: Path, target: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.copytree(path, target, symlinks=True, copy_function=os.link)
    else:
        os.link(path, target, follow_symlinks=False)


def _system_call() -> Callable[[Path, Path], bool] | None:
    """What exchanges two names; `None` if the system has no such call."""
    if sys.platform != "linux":
        return None
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None

    def exchange(one: Path, other: Path) -> bool:
        return call(HERE, os.fsencode(one), HERE, os.fsencode(other), EXCHANGE) == 0

    return exchange

# SPDX-License-Identifier: Apache-2.0
"""Directories that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path


def check_target(target: Path, overwrite: bool, sources: Iterable[str | os.PathLike[str]] = ()) -> None:
    """
    Check that a directory may be written.

    Args:
        target (`Path`): The directory.
        overwrite (`bool`): Whether what is there is to be replaced.
        sources (`Iterable[str | os.PathLike]`): What is read for it, directories or Hub ids.

    Raises:
        FileExistsError: It exists and is not empty, and is not to be replaced.
        ValueError: It is one of the sources, or one of them lies inside it.
    """
    for source in filter(os.path.exists, sources):
        place = Path(source).resolve()
        if place == target or target in place.parents:
            raise ValueError(f"{target} would be replaced, and {source} is read for it: name another target.")
    if target.exists() and not overwrite and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(
            f"{target} exists and is not an empty directory: name another, or replace it with `overwrite` "
            "(`--overwrite`)."
        )


# How libraries in Rust (tokenizers: a plain `Exception`; safetensors: `SafetensorError`) name an error of the system.
OF_RUST = re.compile(r"\(os error (\d+)\)")
# How torch names it: a `RuntimeError` without a number.
OF_TORCH = ("PytorchStreamWriter failed writing", "inline_container.cc", "iostream error")


def as_os_error(error: BaseException) -> OSError | None:
    """The error of the system, such as a full disk, that a library raised as another kind; `None` for others."""
    if isinstance(error, OSError):
        return error
    text = str(error)
    if (named := OF_RUST.search(text)) is not None:
        number = int(named[1])
        return OSError(number, os.strerror(number))
    if isinstance(error, RuntimeError) and any(part in text for part in OF_TORCH):
        return OSError(f"a file could not be written whole: {text.splitlines()[0]}")
    return None


@contextlib.contextmanager
def whole_directory(target: Path) -> Iterator[Path]:
    """
    A new directory beside the target, which takes its place at the end of the block; after an error the target is as
    it was.

    Raises:
        OSError: It cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    new, old = staging / "new", staging / "old"
    try:
        new.mkdir()  # not `staging` itself, which only its owner may read
        yield new
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(new, target)
        except BaseException:
            if old.exists():
                os.replace(old, target)
            raise
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)
        with contextlib.suppress(OSError):  # it stays where it still holds the old target
            staging.rmdir()
        if not isinstance(error, OSError) and (of_system := as_os_error(error)) is not None:
            raise OSError(f"{target} could not be written: {of_system}") from error
        raise
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)
    staging.rmdir()

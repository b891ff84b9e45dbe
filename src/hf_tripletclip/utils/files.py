# SPDX-License-Identifier: Apache-2.0
"""Files: read with errors that name them, written whole or not at all, and cleaned for the Hub of tokens and paths."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub.constants import REPOCARD_NAME

from hf_tripletclip.utils.redact import HUB_TOKEN, MARK

CARD_FILE = REPOCARD_NAME
# How libraries in Rust (tokenizers: a plain `Exception`; safetensors: `SafetensorError`) name an error of the system.
OF_RUST = re.compile(r"\(os error (\d+)\)")
# How torch names it: a `RuntimeError` without a number.
OF_TORCH = ("PytorchStreamWriter failed writing", "inline_container.cc", "iostream error")


def read_text(path: str | os.PathLike[str], name: str | None = None) -> str:
    """
    Read a text with its line breaks unchanged, and without a byte order mark.

    Args:
        path (`str` or `os.PathLike`): The file.
        name (`str`, *optional*): The file's name in errors; its path by default.

    Raises:
        OSError: The file does not exist or cannot be read.
        ValueError: The file is not UTF-8; the message says where.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name or path} is not UTF-8: byte {error.start}: {error.reason}") from error


def read_json(path: str | os.PathLike[str], shown: str | None = None) -> Any:
    """
    Read a JSON file.

    Args:
        path (`str` or `os.PathLike`): The file.
        shown (`str`, *optional*): What an error calls it; its path by default.

    Raises:
        OSError: The file does not exist or cannot be read.
        ValueError: The file is not valid JSON; the message says where.
    """
    shown = os.fspath(path) if shown is None else shown
    text = read_text(path, shown)
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{shown} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{shown} is not valid JSON: it is nested too deeply") from error


def read_json_object(path: str | os.PathLike[str], shown: str | None = None) -> dict[str, Any]:
    """
    Read a file that holds a JSON object.

    Args:
        path (`str` or `os.PathLike`): The file.
        shown (`str`, *optional*): What an error calls it; its path by default.

    Raises:
        OSError: The file does not exist or cannot be read.
        ValueError: The file is not valid JSON, or not an object.
    """
    shown = os.fspath(path) if shown is None else shown
    content = read_json(path, shown)
    if not isinstance(content, dict):
        raise ValueError(f"{shown} must hold a JSON object, it holds a {type(content).__name__}.")
    return content


def replace_text(path: Path, text: str) -> None:
    """Write a text, with its line breaks unchanged, in one step: readers never see a partly written file."""
    staged = path.with_name(f".{path.name}.tmp")
    staged.write_bytes(text.encode("utf-8"))
    os.replace(staged, path)


def without_tokens(text: str, token: str | bool | None = None) -> str:
    """
    Replace Hub tokens in a text that goes to the Hub: the given token, and everything that looks like one. For texts
    from other sources, [`~hf_tripletclip.utils.redact.redact`] knows more forms.
    """
    if isinstance(token, str) and token:
        text = text.replace(token, MARK)
    return HUB_TOKEN.sub(MARK, text)


def without_paths(value: Any) -> Any:
    """JSON values with absolute paths cut to their last part, so that they do not reveal this machine's folders."""
    if isinstance(value, dict):
        return {name: without_paths(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_paths(part) for part in value]
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value


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
        with contextlib.suppress(OSError):  # it stays if it still holds the old target
            staging.rmdir()
        if not isinstance(error, OSError) and (of_system := as_os_error(error)) is not None:
            raise OSError(f"{target} could not be written: {of_system}") from error
        raise
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)
    staging.rmdir()

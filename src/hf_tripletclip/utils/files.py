# SPDX-License-Identifier: Apache-2.0
"""Read and write small files, and remove tokens and local paths from what goes to the Hub."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub.constants import REPOCARD_NAME

from hf_tripletclip.utils.redact import HUB_TOKEN, MARK

CARD_FILE = REPOCARD_NAME


def read_text(path: Path, name: str | None = None) -> str:
    """
    Read a text with its line breaks unchanged, and without a byte order mark.

    Args:
        path (`Path`): The file.
        name (`str`, *optional*): The file's name in errors; its path by default.

    Raises:
        ValueError: The file is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name or path} is not UTF-8 text: {error}") from error


def load_json(path: Path) -> Any:
    """
    Read a JSON file.

    Raises:
        ValueError: The file is not valid JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """
    Read a file that holds a JSON object.

    Raises:
        ValueError: The file is not valid JSON, or not an object.
    """
    content = load_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object.")
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

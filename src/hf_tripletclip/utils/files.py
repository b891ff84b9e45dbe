# SPDX-License-Identifier: Apache-2.0
"""Files that go to the Hub: read with errors that name them, and without tokens and paths of this machine."""

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
    A text with its line breaks as they are, and without a byte order mark.

    Args:
        path (`Path`): The file.
        name (`str`, *optional*): What an error calls it; its path by default.

    Raises:
        ValueError: It is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name or path} is not UTF-8 text: {error}") from error


def load_json(path: Path) -> Any:
    """
    What a JSON file holds.

    Raises:
        ValueError: It is no JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """
    A file that holds a JSON object.

    Raises:
        ValueError: It does not.
    """
    content = load_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object.")
    return content


def replace_text(path: Path, text: str) -> None:
    """Write a text with its line breaks as they are; whoever reads the file meanwhile gets the old one whole."""
    staged = path.with_name(f".{path.name}.tmp")
    staged.write_bytes(text.encode("utf-8"))
    os.replace(staged, path)


def without_tokens(text: str, token: str | bool | None = None) -> str:
    """
    A text for the Hub in which what looks like its tokens is blanked, and the one given whatever it looks like. For
    what others say, [`~hf_tripletclip.utils.redact.redact`] knows more forms.
    """
    if isinstance(token, str) and token:
        text = text.replace(token, MARK)
    return HUB_TOKEN.sub(MARK, text)


def without_paths(value: Any) -> Any:
    """JSON values whose absolute paths are cut to their last part: where things lie here is nobody's business."""
    if isinstance(value, dict):
        return {name: without_paths(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_paths(part) for part in value]
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value

# SPDX-License-Identifier: Apache-2.0
"""What visitors give: pictures and captions, checked before a model sees them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from hf_tripletclip.data.decoding import BrokenValue, decode_caption, decode_image

MAX_MEGABYTES = 10  # of an uploaded file
MAX_BYTES = MAX_MEGABYTES * 2**20
MAX_PIXELS = 40_000_000  # of a picture: a small file may be a huge one
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # Pillow knows more, and runs other programs for some
MAX_CAPTIONS = 50
MAX_CHARACTERS = 1_000  # of a caption
NO_PICTURE = "There is no picture yet: drop one, or choose an example."


class DemoError(ValueError):
    """What a visitor gave cannot be used; the message says why and what to do."""


def check_image(upload: Any, folders: Sequence[str | os.PathLike[str]] = ()) -> str:
    """
    The path of an uploaded picture.

    Args:
        upload (`dict`, *optional*): Gradio's record of the file, with its `path`; `None` where nothing was uploaded.
            Whoever sends it writes what they like, and Gradio itself checks only some records.
        folders (`Sequence[str or os.PathLike]`): Where the file must lie, links followed. Without any, every file is
            refused.

    Raises:
        DemoError: There is none in the folders, it is too large, or it is no picture that can be read. Of another
            file it does not tell whether that exists.
    """
    path = _within(upload.get("path") if isinstance(upload, dict) else None, folders)
    if path is None:
        raise DemoError(NO_PICTURE)
    if os.path.getsize(path) > MAX_BYTES:
        raise DemoError(f"The file is larger than {MAX_MEGABYTES} MB: give a smaller one.")
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise DemoError(_too_many_pixels()) from None
    except Exception:  # corrupt headers raise all kinds
        raise DemoError(f"The file is no picture that can be read: give a {either(FORMATS)}.") from None
    if width * height > MAX_PIXELS:
        raise DemoError(_too_many_pixels(f"{width} x {height}"))
    try:
        decode_image(path)
    except BrokenValue as error:
        raise DemoError(f"The file is no picture that can be read: {error}.") from None
    return path


def _within(path: Any, folders: Sequence[str | os.PathLike[str]]) -> str | None:
    """The real path of a regular file that lies in one of the folders, else `None`."""
    if not isinstance(path, str):
        return None
    try:
        found = Path(path).resolve()
        inside = any(found.is_relative_to(Path(folder).resolve()) for folder in folders)
        return str(found) if inside and found.is_file() else None
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, links in a circle
        return None


def _too_many_pixels(size: str | None = None) -> str:
    this = f"The picture has {size} pixels, which" if size else "The picture"
    return f"{this} is more than {MAX_PIXELS // 1_000_000} million pixels: give a smaller one."


def either(names: Sequence[str]) -> str:
    """Names as a sentence lists them."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def read_captions(text: str | None, kind: str = "caption") -> list[str]:
    """
    The captions of a text field, one per line: without empty lines and without repetitions.

    Args:
        text (`str`, *optional*): What was typed.
        kind (`str`, defaults to `"caption"`): What messages call one.

    Raises:
        DemoError: It is no text, there are too many, or one is no text or too long to be a caption.
    """
    if not isinstance(text, str | None):  # a request need not come from the page
        raise DemoError(f"A {kind} is text, one per line.")
    captions = list(dict.fromkeys(" ".join(line.split()) for line in (text or "").splitlines()))
    captions = [caption for caption in captions if caption]
    if len(captions) > MAX_CAPTIONS:
        raise DemoError(f"There are {len(captions)} {kind}s: give at most {MAX_CAPTIONS}.")
    for caption in captions:
        try:
            decode_caption(caption)
        except BrokenValue as error:
            raise DemoError(f"A {kind} cannot be used: {error}.") from None
        if len(caption) > MAX_CHARACTERS:
            raise DemoError(f"A {kind} has {len(caption)} characters: give at most {MAX_CHARACTERS}.")
    return captions

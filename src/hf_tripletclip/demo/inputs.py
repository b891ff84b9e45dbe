# SPDX-License-Identifier: Apache-2.0
"""A visitor's input: pictures and captions, checked before a model sees them, and hard negatives written by rules."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from hf_tripletclip.data.decoding import BrokenValue, decode_caption, decode_image
from hf_tripletclip.generation.captions.language import is_english
from hf_tripletclip.generation.captions.rules import RuleCaptions
from hf_tripletclip.generation.wordnet import load_wordnet

MAX_MEGABYTES = 10  # of an uploaded file
MAX_BYTES = MAX_MEGABYTES * 2**20
MAX_PIXELS = 40_000_000  # of a picture: a small file may hold a huge one
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # Pillow reads more formats, and runs other programs for some
MAX_CAPTIONS = 50
MAX_NEGATIVES = 8  # written by rules for a caption
MAX_CHARACTERS = 1_000  # of a caption
NO_PICTURE = "There is no picture yet: drop one, or choose an example."


class DemoError(ValueError):
    """A visitor's input cannot be used; the message says why and what to do."""


def check_image(upload: Any, folders: Sequence[str | os.PathLike[str]] = ()) -> str:
    """
    Check an uploaded picture, and return its path.

    Args:
        upload (`dict`, *optional*): Gradio's record of the file, with its `path`; `None` if nothing was uploaded. A
            sender can write anything into the record, and Gradio checks only some records.
        folders (`Sequence[str or os.PathLike]`): Folders in which the file must lie, after links are resolved. If
            there are none, every file is refused.

    Raises:
        DemoError: There is no such file in the folders, it is too large, or it cannot be read as a picture. The
            message does not tell whether a file outside the folders exists.
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
        raise DemoError(f"The file cannot be read as a picture: give a {either(FORMATS)}.") from None
    if width * height > MAX_PIXELS:
        raise DemoError(_too_many_pixels(f"{width} x {height}"))
    try:
        decode_image(path)
    except BrokenValue as error:
        raise DemoError(f"The file cannot be read as a picture: {error}.") from None
    return path


def _within(path: Any, folders: Sequence[str | os.PathLike[str]]) -> str | None:
    """The real path of a file if it is a regular file in one of the folders, else `None`."""
    if not isinstance(path, str):
        return None
    try:
        real = Path(path).resolve()
        inside = any(real.is_relative_to(Path(folder).resolve()) for folder in folders)
        return str(real) if inside and real.is_file() else None
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, links in a circle
        return None


def _too_many_pixels(size: str | None = None) -> str:
    size = f"{size} pixels, " if size else ""
    return f"The picture has {size}more than {MAX_PIXELS // 1_000_000} million pixels: give a smaller one."


def either(names: Sequence[str]) -> str:
    """Names as a list in a sentence, such as "PNG, GIF or BMP"."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def read_captions(text: str | None, kind: str = "caption") -> list[str]:
    """
    The captions of a text field, one per line, without empty lines and without repetitions.

    Args:
        text (`str`, *optional*): The content of the field.
        kind (`str`, defaults to `"caption"`): The word for one of them in messages.

    Raises:
        DemoError: The content is no text, there are too many captions, or one of them is unusable or too long.
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


class NegativeWriter:
    """
    Writes hard negatives by [`~hf_tripletclip.generation.captions.rules.RuleCaptions`], which needs WordNet.

    Args:
        number (`int`, defaults to 8): The most hard negatives to write for a caption.

    Attributes:
        problem (`str`, *optional*): Why it cannot write, and what to install; `None` if WordNet is there.
    """

    def __init__(self, number: int = MAX_NEGATIVES) -> None:
        self.number = number
        self.problem: str | None = None
        try:
            load_wordnet()
        except (ImportError, OSError) as error:
            self.problem = str(error)

    def write(self, caption: str, seed: int = 0) -> dict[str, str]:
        """
        Hard negatives of a caption.

        Args:
            caption (`str`): The caption.
            seed (`int`, defaults to 0): Another seed leads to other changes.

        Returns:
            `dict[str, str]`: Negative -> its kind, one of `NEGATIVE_TYPES`.

        Raises:
            DemoError: WordNet is missing, the caption is not English, or no rule applies.
        """
        if self.problem is not None:
            raise DemoError(f"The rules cannot write hard negatives here, so type some yourself. {self.problem}.")
        if not is_english(caption):
            raise DemoError("The rules know English only, so type hard negatives yourself, one per line.")
        made = dict(RuleCaptions(seed=seed, num_negatives=self.number).negatives(caption, caption))
        if not made:
            raise DemoError(
                "No rule applies to this caption: the rules know everyday English nouns, attributes and relations. "
                "Type hard negatives yourself, one per line."
            )
        return made

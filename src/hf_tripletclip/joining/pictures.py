# SPDX-License-Identifier: Apache-2.0
"""Two pictures as one square: side by side, or one above the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from typing import Any

from PIL import Image

from hf_tripletclip.data.decoding import BrokenValue, decode_image
from hf_tripletclip.generation.images.encoding import encode_image

AT_ONCE = 32  # pictures that a worker gets


def is_wide(content: bytes, size: int) -> bool | str:
    """
    Whether a picture is at least as wide as high, as it is shown; or why it cannot be read. It is decoded whole.

    Args:
        content (`bytes`): The file.
        size (`int`): JPEG files are decoded at a fraction of their size, if that leaves both sides at least so long.
    """
    try:
        width, height = decode_image(content, size).size
    except BrokenValue as error:
        return str(error)
    return width >= height


def join_pictures(first: bytes, second: bytes, stacked: bool, size: int, format: str, quality: int) -> bytes:
    """
    Two pictures as one, each resized to one half of a square whatever its shape.

    Args:
        first, second (`bytes`): The files, from left to right or from above to below.
        stacked (`bool`): One above the other, as suits wide pictures; otherwise side by side.
        size (`int`): Side of the square in pixels.
        format, quality: As of [`~hf_tripletclip.generation.images.encoding.encode_image`].

    Returns:
        `bytes`: The file.

    Raises:
        BrokenValue: One cannot be read.
    """
    half = (size, size // 2) if stacked else (size // 2, size)
    whole = Image.new("RGB", (size, size))
    for place, content in enumerate((first, second)):
        part = decode_image(content, size).resize(half, Image.Resampling.BICUBIC)
        whole.paste(part, (0, place * half[1]) if stacked else (place * half[0], 0))
    return encode_image(whole, None, format, quality)


def each(function: Callable[[Any], Any], values: Iterable[Any], pool: ProcessPoolExecutor | None) -> Iterator[Any]:
    """Apply a function to each value, in order, by the workers of the pool; few values are in memory at a time."""
    remaining = iter(values)
    workers = 1 if pool is None else 4 * getattr(pool, "_max_workers", 1)
    while some := list(islice(remaining, AT_ONCE * workers)):
        yield from map(function, some) if pool is None else pool.map(function, some, chunksize=AT_ONCE // 4)


def unpacked(arguments: tuple[Any, ...]) -> bytes:
    """[`join_pictures`] of one tuple, for `each`."""
    return join_pictures(*arguments)

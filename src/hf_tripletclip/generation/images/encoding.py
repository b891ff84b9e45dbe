# SPDX-License-Identifier: Apache-2.0
"""How drawn pictures are stored, and which of them are none."""

from __future__ import annotations

import io

from PIL import Image, ImageOps

FORMATS = ("jpeg", "webp", "png")
SMALLEST = 16  # pixels, of a stored picture
SAME = 4  # of 255: JPEG makes so little of a picture of one colour


def check_encoding(size: int | None, format: str, quality: int) -> None:
    """
    Check the settings of [`encode_image`] before anything is drawn.

    Raises:
        ValueError: One of them is out of range.
    """
    if format not in FORMATS:
        raise ValueError(f"`format` is {format!r}; pictures are stored as {', '.join(FORMATS)}.")
    if not 1 <= quality <= 100:
        raise ValueError(f"`quality` is {quality}; give 1 to 100.")
    if size is not None and size < SMALLEST:
        raise ValueError(f"`image_size` is {size}; give at least {SMALLEST}, or `None` to store pictures as drawn.")


def encode_image(image: Image.Image, size: int | None, format: str, quality: int) -> bytes:
    """
    An image as a file, in RGB and without metadata: the same pixels give the same bytes with the same
    Pillow.

    Args:
        image (`PIL.Image.Image`): The picture.
        size (`int`, *optional*): Its shorter side as stored, in pixels; the aspect ratio is kept. `None` stores it as
            it is.
        format (`str`): `jpeg`, `webp` or `png`.
        quality (`int`): Of JPEG and WebP, 1 to 100. PNG loses nothing.

    Returns:
        `bytes`: The file.

    Raises:
        ValueError: A setting is out of range.
    """
    check_encoding(size, format, quality)
    picture = ImageOps.exif_transpose(image).convert("RGB")
    picture.info = {}  # profiles, comments and times would be written too
    if size is not None and min(picture.size) != size:
        shorter = min(picture.size)
        width, height = (max(size, round(side * size / shorter)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format=format.upper(), **({} if format == "png" else {"quality": quality}))
    return buffer.getvalue()


def image_problem(image: Image.Image) -> str | None:
    """
    Why a picture is none: it is black, as safety checkers and decoders that overflow in half precision return, or of
    one colour. `None` of any other.
    """
    extrema = image.convert("RGB").getextrema()
    lows, highs = zip(*extrema, strict=True)
    if max(highs) <= SAME:
        return "blank image: it is black"
    if all(high - low <= SAME for low, high in zip(lows, highs, strict=True)):
        return "blank image: it has one colour only"
    return None

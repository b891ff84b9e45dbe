# SPDX-License-Identifier: Apache-2.0
"""RGB images of any bit depth, with or without transparency."""

from __future__ import annotations

import numpy as np
from PIL import Image

from hf_tripletclip.data.reading import BrokenValue

WHITE = (255, 255, 255, 255)  # what transparent pictures lie on
BIT_DEPTHS = (8, 10, 12, 14, 16, 24, 32)  # of cameras, scanners and detectors
MIN_LEVELS = 16  # of 255: a picture of fewer is one colour to the eye


def to_rgb(image: Image.Image) -> Image.Image:
    """
    The image in RGB, 8 bits a channel.

    What is transparent shows white. More than 8 bits are scaled: integers by the smallest usual bit depth (8, 10, 12,
    14, 16, 24, 32) that holds the largest value, numbers from 0 to 1 by 255, other numbers above 255 by the largest.
    Where fewer than 16 levels would be left of more, or values are negative, the picture's own range becomes black to
    white. So the same scene may come out brighter or darker than another of the same file format; 8-bit images never
    do.

    Raises:
        BrokenValue: It has values that are no finite numbers.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        levels = np.asarray(image)
        grey = Image.fromarray(to_levels(levels))
        transparent = image.info.get("transparency")  # of 16 bits grey
        if isinstance(transparent, int):
            grey.paste(255, mask=Image.fromarray((levels == transparent).astype(np.uint8) * 255))
        return grey.convert("RGB")
    if image.has_transparency_data:
        # Colours that are multiplied by their opacity are converted to such that are not, and those to all others.
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
        image = (image if straight is None else image.convert(straight)).convert("RGBA")
        ground = Image.new("RGBA", image.size, WHITE)
        ground.alpha_composite(image)
        return ground.convert("RGB")
    return image.convert("RGB")


def to_levels(values: np.ndarray) -> np.ndarray:
    """
    Grey levels, `(H, W)` uint8, of numbers of any kind; see [`to_rgb`] for the scale.

    Raises:
        BrokenValue: They are not finite, or no numbers.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if values.dtype.kind not in "iuf":
        raise BrokenValue(f"unreadable image: an array of {values.dtype} is no image")
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise BrokenValue("unreadable image: it has values that are no finite numbers")
    low, high = float(numbers.min()), float(numbers.max())
    black, white = _range(numbers, values.dtype.kind == "f")
    if low < high and (high - low) * 255 < MIN_LEVELS * (white - black):
        black, white = low, high
    return np.clip(np.rint((numbers - black) * (255 / (white - black))), 0, 255).astype(np.uint8)


def _range(numbers: np.ndarray, fractions: bool) -> tuple[float, float]:
    """What becomes black, and what becomes white."""
    low, high = float(numbers.min()), float(numbers.max())
    if low < 0:
        return (-1, 1) if fractions and low >= -1 and high <= 1 else (low, max(high, low + 1))
    if fractions and high <= 1:
        return 0, 1
    if not fractions or (numbers == np.rint(numbers)).all():
        return 0, next((float(2**bits - 1) for bits in BIT_DEPTHS if high < 2**bits), high)
    if high <= 255 and _spread(numbers, 0, 255) >= MIN_LEVELS:
        return 0, 255
    # Light as it was measured: a lamp may be a thousand times as bright as the scene.
    dark, bright = (float(value) for value in np.percentile(numbers, (1, 99)))
    return (dark, bright) if _spread(numbers, 0, high) < MIN_LEVELS and dark < bright else (0, high)


def _spread(numbers: np.ndarray, black: float, white: float) -> float:
    """Levels that the bulk of the picture would fill."""
    dark, bright = np.percentile(numbers, (1, 99))
    return float(bright - dark) * 255 / (white - black)

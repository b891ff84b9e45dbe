# SPDX-License-Identifier: Apache-2.0
"""Convert images of any bit depth, with or without transparency, to RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image

from hf_tripletclip.data.reading import BrokenValue

WHITE = (255, 255, 255, 255)  # background of transparent pictures
BIT_DEPTHS = (8, 10, 12, 14, 16, 24, 32)  # of cameras, scanners and detectors
MIN_LEVELS = 16  # of 255: a picture with fewer levels looks like a single colour


def to_rgb(image: Image.Image) -> Image.Image:
    """
    Convert an image to RGB with 8 bits per channel.

    Transparent pixels become white. Images of more than 8 bits are scaled: integers by the smallest usual bit depth
    (8, 10, 12, 14, 16, 24, 32) that holds the largest value, numbers from 0 to 1 by 255, and other numbers above 255
    by the largest. If fewer than 16 levels would be left, or values are negative, the picture's own range is stretched
    from black to white. Two such images of one scene may therefore differ in brightness; 8-bit images are never
    scaled.

    Raises:
        BrokenValue: Some values are not finite numbers.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        levels = np.asarray(image)
        grey = Image.fromarray(to_levels(levels))
        transparent = image.info.get("transparency")  # the transparent level of a 16-bit grey image
        if isinstance(transparent, int):
            grey.paste(255, mask=Image.fromarray((levels == transparent).astype(np.uint8) * 255))
        return grey.convert("RGB")
    if image.has_transparency_data:
        # Modes whose colours are multiplied by their opacity convert only to the modes without that.
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
        image = (image if straight is None else image.convert(straight)).convert("RGBA")
        ground = Image.new("RGBA", image.size, WHITE)
        ground.alpha_composite(image)
        return ground.convert("RGB")
    return image.convert("RGB")


def to_levels(values: np.ndarray) -> np.ndarray:
    """
    Convert numbers of any kind to grey levels, `(H, W)` uint8; see [`to_rgb`] for the scale.

    Raises:
        BrokenValue: The values are not numbers, or not finite.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if values.dtype.kind not in "iuf":
        raise BrokenValue(f"unreadable image: an array of {values.dtype} is not an image")
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise BrokenValue("unreadable image: some values are not finite numbers")
    low, high = float(numbers.min()), float(numbers.max())
    black, white = _range(numbers, values.dtype.kind == "f")
    if low < high and (high - low) * 255 < MIN_LEVELS * (white - black):
        black, white = low, high
    return np.clip(np.rint((numbers - black) * (255 / (white - black))), 0, 255).astype(np.uint8)


def _range(numbers: np.ndarray, fractions: bool) -> tuple[float, float]:
    """The values that become black and white."""
    low, high = float(numbers.min()), float(numbers.max())
    if low < 0:
        return (-1, 1) if fractions and low >= -1 and high <= 1 else (low, max(high, low + 1))
    if fractions and high <= 1:
        return 0, 1
    if not fractions or (numbers == np.rint(numbers)).all():
        return 0, next((float(2**bits - 1) for bits in BIT_DEPTHS if high < 2**bits), high)
    if high <= 255 and _spread(numbers, 0, 255) >= MIN_LEVELS:
        return 0, 255
    # Measured light: a lamp may be a thousand times as bright as the rest of the scene.
    dark, bright = (float(value) for value in np.percentile(numbers, (1, 99)))
    return (dark, bright) if _spread(numbers, 0, high) < MIN_LEVELS and dark < bright else (0, high)


def _spread(numbers: np.ndarray, black: float, white: float) -> float:
    """The range of levels that the middle 98 % of the pixels would fill."""
    dark, bright = np.percentile(numbers, (1, 99))
    return float(bright - dark) * 255 / (white - black)

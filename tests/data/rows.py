# SPDX-License-Identifier: Apache-2.0
"""Rows of small pictures."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from tests.data.conftest import CAPTIONS


def picture(colour: str = "red", size: int = 32) -> Image.Image:
    return Image.new("RGB", (size, size), colour)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def make_row(index: int = 0, **changes) -> dict:
    row = {
        "id": f"row-{index}",
        "image": picture("red"),
        "caption": CAPTIONS[index % 3],
        "neg_image": picture("blue"),
        "neg_caption": CAPTIONS[(index + 1) % 3],
    }
    return {**row, **changes}


def random_picture(seed: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from PIL import Image

from hf_tripletclip.data.decoding import BrokenValue
from hf_tripletclip.joining.pictures import each, is_wide, join_pictures


def stored(colour: str, size: tuple[int, int], format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("sizes", [((30, 20), (40, 10)), ((5, 70), (300, 200))])
@pytest.mark.parametrize("stacked", [True, False])
def test_each_picture_has_a_half_in_its_order(stacked, sizes):
    content = join_pictures(stored("red", sizes[0]), stored("blue", sizes[1], "JPEG"), stacked, 32, "png", 95)
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    assert pixels.shape == (32, 32, 3)
    pixels = pixels if stacked else pixels.transpose(1, 0, 2)
    np.testing.assert_array_equal(pixels[:16], np.full((16, 32, 3), (255, 0, 0)))
    assert np.abs(pixels[16:].astype(int) - (0, 0, 255)).max() < 4
    assert content == join_pictures(stored("red", sizes[0]), stored("blue", sizes[1], "JPEG"), stacked, 32, "png", 95)


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_other_formats(format):
    content = join_pictures(stored("red", (20, 20)), stored("blue", (20, 20)), True, 32, format, 90)
    assert Image.open(io.BytesIO(content)).format == format.upper()


def test_the_shape_is_that_which_is_shown():
    assert is_wide(stored("red", (30, 20)), 32) is True
    assert is_wide(stored("red", (20, 20)), 32) is True
    assert is_wide(stored("red", (20, 30)), 32) is False
    turned = Image.Exif()
    turned[0x0112] = 6
    assert is_wide(stored("red", (30, 20), "JPEG", exif=turned), 32) is False
    assert "unreadable image" in is_wide(stored("red", (30, 20))[:40], 32)
    with pytest.raises(BrokenValue, match="unreadable image"):
        join_pictures(stored("red", (30, 20)), b"no picture", True, 32, "png", 95)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_value_in_its_order(workers):
    contents = [stored("red", (30 + number % 2, 30)) for number in range(300)]
    wanted = [is_wide_of_8(content) for content in contents]
    if not workers:
        assert list(each(is_wide_of_8, contents, None)) == wanted
        return
    with ProcessPoolExecutor(workers) as pool:
        assert list(each(is_wide_of_8, iter(contents), pool)) == wanted


def is_wide_of_8(content: bytes) -> bool | str:
    return is_wide(content, 8)

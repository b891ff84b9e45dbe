# SPDX-License-Identifier: Apache-2.0
"""Storing pictures and telling blank ones."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from hf_tripletclip.generation.images.encoding import FORMATS, check_encoding, encode_image, image_problem


def picture(width: int = 96, height: int = 64) -> Image.Image:
    gradient = Image.radial_gradient("L").resize((width, height))
    return Image.merge("RGB", [gradient, gradient.rotate(90), gradient.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("format", FORMATS)
def test_format_and_pixels(format):
    content = encode_image(picture(), None, format, 95)
    image = opened(content)
    assert (image.format, image.size, image.mode) == (format.upper(), (96, 64), "RGB")
    difference = np.abs(np.asarray(image).astype(int) - np.asarray(picture()).astype(int))
    assert difference.max() == 0 if format == "png" else difference.mean() < 4


@pytest.mark.parametrize(
    ("size", "drawn", "stored"),
    [(32, (96, 64), (48, 32)), (32, (64, 96), (32, 48)), (32, (64, 64), (32, 32)), (128, (64, 64), (128, 128))],
)
def test_the_shorter_side_gets_the_size(size, drawn, stored):
    assert opened(encode_image(picture(*drawn), size, "png", 95)).size == stored


def test_resized_with_lanczos():
    expected = picture(64, 64).resize((32, 32), Image.Resampling.LANCZOS)
    assert opened(encode_image(picture(64, 64), 32, "png", 95)).tobytes() == expected.tobytes()


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_pixels_give_the_same_bytes_whatever_the_metadata(format):
    written = io.BytesIO()
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "made today")
    picture().save(written, format="PNG", pnginfo=info, dpi=(300, 300), icc_profile=b"profile")
    tagged = opened(written.getvalue())
    assert "icc_profile" in tagged.info
    assert encode_image(tagged, 32, format, 90) == encode_image(picture(), 32, format, 90)


def test_quality_matters_where_something_is_lost():
    sizes = {format: [len(encode_image(picture(), None, format, q)) for q in (20, 95)] for format in FORMATS}
    assert sizes["jpeg"][0] < sizes["jpeg"][1]
    assert sizes["webp"][0] < sizes["webp"][1]
    assert sizes["png"][0] == sizes["png"][1]


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK"])
def test_other_modes_are_stored_as_rgb(mode):
    assert opened(encode_image(picture().convert(mode), None, "jpeg", 95)).mode == "RGB"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((64, "gif", 95), "`format` is 'gif'; pictures are stored as jpeg, webp, png"),
        ((64, "jpeg", 0), "`quality` is 0"),
        ((64, "jpeg", 101), "`quality` is 101"),
        ((8, "jpeg", 95), "`image_size` is 8"),
    ],
)
def test_wrong_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_encoding(*arguments)
    with pytest.raises(ValueError, match=message):
        encode_image(picture(), *arguments)


def test_black_and_uniform_pictures_are_problems():
    assert image_problem(Image.new("RGB", (32, 32))) == "blank image: it is black"
    assert image_problem(Image.new("RGBA", (32, 32), (0, 0, 0, 255))) == "blank image: it is black"
    assert image_problem(Image.new("RGB", (32, 32), (200, 30, 70))) == "blank image: it has one colour only"
    assert image_problem(Image.new("L", (32, 32), 255)) == "blank image: it has one colour only"
    stored = opened(encode_image(Image.new("RGB", (32, 32), (200, 30, 70)), None, "jpeg", 50))
    assert image_problem(stored) == "blank image: it has one colour only"


def test_a_dark_picture_is_none():
    assert image_problem(picture()) is None
    night = Image.new("RGB", (32, 32))
    night.putpixel((5, 5), (60, 60, 60))
    assert image_problem(night) is None

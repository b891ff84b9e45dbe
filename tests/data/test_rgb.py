# SPDX-License-Identifier: Apache-2.0
"""Pictures of any bit depth, with and without transparency, stay recognisable in RGB."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from hf_tripletclip.data.decoding import BrokenValue, decode_image
from hf_tripletclip.data.rgb import to_levels

RAMP = np.tile(np.arange(256, dtype=np.uint8), (32, 1))


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def grey(value) -> np.ndarray:
    image = decode_image(value)
    assert image.mode == "RGB"
    pixels = np.asarray(image).astype(int)
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[:, :, 0]


def ramp_of(kind: str) -> np.ndarray:
    ramp = RAMP.astype(np.float64)
    return {
        "uint8": RAMP,
        "8 bits in uint16": RAMP.astype(np.uint16),
        "8 bits in int32": RAMP.astype(np.int32),
        "8 bits in int64": RAMP.astype(np.int64),
        "10 bits": (ramp * 1023 / 255).astype(np.uint16),
        "12 bits": (ramp * 4095 / 255).astype(np.uint16),
        "16 bits": RAMP.astype(np.uint16) * 257,
        "16 bits, big-endian": (RAMP.astype(np.uint16) * 257).astype(">u2"),
        "16 bits in int32": RAMP.astype(np.int32) * 257,
        "31 bits": (ramp * (2**32 - 1) / 255).astype(np.uint32),
        "signed": RAMP.astype(np.int16) * 16 - 1000,
        "0 to 1": (ramp / 255).astype(np.float32),
        "0 to 1, double": ramp / 255,
        "0 to 1, half": (ramp / 255).astype(np.float16),
        "-1 to 1": (ramp / 127.5 - 1).astype(np.float32),
        "0 to 255": ramp.astype(np.float32),
        "0 to 65535": (ramp * 257).astype(np.float32),
        "fractions": (ramp * 3.7).astype(np.float32),
        "a narrow range": (0.4 + ramp / 255 / 1000).astype(np.float32),
        "a narrow range of 16 bits": (30_000 + RAMP.astype(np.uint16)),
    }[kind]


KINDS = (
    *("uint8", "8 bits in uint16", "8 bits in int32", "8 bits in int64", "10 bits", "12 bits", "16 bits"),
    *("16 bits, big-endian", "16 bits in int32", "31 bits", "signed", "0 to 1", "0 to 1, double", "0 to 1, half"),
    *("-1 to 1", "0 to 255", "0 to 65535", "fractions", "a narrow range", "a narrow range of 16 bits"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_grey_of_any_depth_is_scaled(kind):
    values = ramp_of(kind)
    np.testing.assert_allclose(grey(values), RAMP, atol=2)
    np.testing.assert_allclose(grey(values[:, :, None]), RAMP, atol=2)
    if values.dtype not in (np.dtype(">u2"), np.dtype(np.uint32)):
        np.testing.assert_allclose(grey(torch.from_numpy(values)), RAMP, atol=2)
    if values.dtype in (np.uint16, np.int32, np.float32):
        image = Image.fromarray(values)
        np.testing.assert_allclose(grey(image), RAMP, atol=2)
        np.testing.assert_allclose(grey(encoded(image, "TIFF")), RAMP, atol=2)
    if values.dtype == np.uint16:
        np.testing.assert_allclose(grey(encoded(Image.fromarray(values), "PNG")), RAMP, atol=2)


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        # whole numbers: the smallest usual bit depth that holds them
        *(("uint16", [0, 2**bits - 1], [0, 255]) for bits in (8, 10, 12, 14, 16)),
        *(("uint16", [0, 2**bits], [0, 64]) for bits in (8, 10, 12, 14)),
        ("uint32", [0, 2**23, 2**24 - 1], [0, 128, 255]),
        ("uint32", [0, 2**16], [0, 255]),  # of 24 bits too few levels: its own range
        ("uint32", [0, 2**24, 2**27], [0, 32, 255]),
        ("uint32", [0, 2**31, 2**32 - 1], [0, 128, 255]),
        ("int64", [0, 2**40, 2**41], [0, 128, 255]),
        ("float32", [0, 75, 300], [0, 19, 75]),  # 10 bits, too
        # 16 of 255 levels are a picture, fewer are stretched
        ("uint16", [100, 115], [0, 255]),
        ("uint16", [100, 116], [100, 116]),
        # fractions: to 1, to 255, or light as it was measured
        ("float32", [0, 0.25, 1], [0, 64, 255]),
        ("float32", [0, 0.25, 0.5], [0, 64, 128]),
        ("float32", [0, 0.5, 1.5], [0, 85, 255]),
        ("float32", [0.5, 100.25, 200.5], [0, 100, 200]),
        ("float64", [0, 100.2, 254.9], [0, 100, 255]),
        ("float64", [0.5, 16.5] * 200, [0, 16] * 200),
        ("float64", [0.5, 16.25] * 200, [8, 255] * 200),
        ("float64", [0, 100.2, 510.5], [0, 50, 255]),
        ("float64", [0, 2, 510.5] + [0, 2] * 200, [0, 255, 255] + [0, 255] * 200),
        ("float64", [0, 40, 510.5] + [0, 40] * 200, [0, 20, 255] + [0, 20] * 200),
        # below zero: from -1 to 1, or the own range
        ("float32", [-1, 0, 1], [0, 128, 255]),
        ("float32", [-1, 0], [0, 128]),
        ("float32", [-0.5, 0, 0.5], [64, 128, 191]),
        ("float32", [-0.5, -0.45], [0, 255]),  # too few levels of it
        ("float32", [-0.5, 0, 1.5], [0, 64, 255]),
        ("float32", [-1.5, -0.5, 0.5], [0, 128, 255]),
        ("int16", [-1, 0], [0, 255]),
        ("int16", [-100, -49, 2], [0, 128, 255]),
        # one colour
        ("int16", [-5, -5], [0, 0]),
        ("float32", [0.5, 0.5], [128, 128]),
        ("float32", [300.5, 300.5], [255, 255]),
        ("bool", [False, True], [0, 255]),
    ],
)
def test_exact_levels(dtype, values, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_levels(np.array([values], dtype)).tolist() == [expected]


def test_measured_light():
    scene = np.tile(np.linspace(0, 0.9, 256, dtype=np.float32), (32, 1))
    scene[0, 0] = 900.5  # a lamp
    pixels = grey(encoded(Image.fromarray(scene), "TIFF"))
    assert pixels[5].max() > 250 > 5 > pixels[5].min()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value):
    values = np.full((8, 8), 0.5, np.float32)
    values[3, 3] = value
    for form in (values, Image.fromarray(values), encoded(Image.fromarray(values), "TIFF")):
        with pytest.raises(BrokenValue, match="not finite numbers"):
            decode_image(form)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.float32, bool])
@pytest.mark.parametrize("level", [0, 1])
def test_a_single_colour_stays_a_single_colour(dtype, level):
    assert len(np.unique(grey(np.full((8, 8), level, dtype)))) == 1


@pytest.mark.parametrize("value", [np.zeros((4, 4), complex), np.full((4, 4), "a"), np.zeros((4, 4), object)])
def test_arrays_that_are_no_images(value):
    with pytest.raises(BrokenValue, match="unreadable image"):
        decode_image(value)


def drawing(mode: str) -> Image.Image:
    """A black square on transparent ground."""
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (4, 4, 12, 12))
    if mode in ("P", "P in bytes"):
        image = image.quantize(4)
        if mode == "P in bytes":
            flat = Image.new("P", (16, 16), 0)
            flat.putpalette([0, 0, 0, 0, 0, 0])
            flat.paste(1, (4, 4, 12, 12))
            flat.info["transparency"] = b"\0\xff"
            return flat
        return image
    if mode == "RGB with a key":
        flat = Image.new("RGB", (16, 16), (0, 0, 1))
        flat.paste((0, 0, 0), (4, 4, 12, 12))
        flat.info["transparency"] = (0, 0, 1)
        return flat
    if mode == "L with a key":
        flat = Image.new("L", (16, 16), 1)
        flat.paste(0, (4, 4, 12, 12))
        flat.info["transparency"] = 1
        return flat
    if mode == "1 with a key":
        flat = Image.new("1", (16, 16), 1)
        flat.paste(0, (4, 4, 12, 12))
        flat.info["transparency"] = 1
        return flat
    if mode == "16 bits with a key":
        values = np.full((16, 16), 300, np.uint16)
        values[4:12, 4:12] = 0
        flat = Image.fromarray(values)
        flat.info["transparency"] = 300
        return flat
    return image.convert("LA").convert(mode) if mode == "La" else image.convert(mode)


MODES = ["RGBA", "LA", "PA", "La", "RGBa", "P", "P in bytes", "RGB with a key", "L with a key", "1 with a key"]


@pytest.mark.parametrize("mode", [*MODES, "16 bits with a key"])
def test_transparent_pixels_become_white(mode):
    image = drawing(mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forms = [decode_image(image)]
        if mode in ("RGBA", "LA", "P", "P in bytes") or mode.endswith("a key"):
            forms.append(decode_image(encoded(image, **{k: v for k, v in image.info.items() if k == "transparency"})))
        if mode == "RGBA":
            forms += [decode_image(np.asarray(image)), decode_image(encoded(image, "WEBP", lossless=True))]
            forms += [decode_image(encoded(image, "TIFF")), decode_image(encoded(image, "GIF"))]
    for form in forms:
        assert form.mode == "RGB"
        assert form.getpixel((0, 0)) == (255, 255, 255)
        assert form.getpixel((8, 8)) == (0, 0, 0)


def test_half_transparent():
    image = decode_image(Image.new("RGBA", (8, 8), (255, 0, 0, 128)))
    assert image.getpixel((0, 0)) == pytest.approx((255, 127, 127), abs=1)


# Pillow's own writers cut 16 bits off above 255, and write a TIFF file that nothing reads.
WRITTEN_WRONG = [("I;16", "WEBP"), ("I;16", "GIF"), ("I;16", "AVIF"), ("YCbCr", "TIFF")]


@pytest.mark.filterwarnings("ignore:Saving I mode images as PNG")
def test_every_mode_that_a_format_writes_shows_the_picture():
    """Left dark, right light, in every mode of every format that is read."""
    tried = 0
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"):
        base = Image.new("L", (32, 32), 40)
        base.paste(220, (16, 0, 32, 32))
        if mode == "I;16":
            image = Image.fromarray(np.asarray(base).astype(np.uint16) * 257)
        else:
            image = base.convert("RGB").convert(mode) if mode not in ("I", "F", "1") else base.convert(mode)
        for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"):
            if (mode, kind) in WRITTEN_WRONG:
                continue
            try:
                content = encoded(image, kind)
            except (OSError, ValueError, KeyError):
                continue  # it does not write this mode
            decoded = np.asarray(decode_image(content)).astype(int)
            assert decoded[:, 20:].mean() - decoded[:, :12].mean() > 120, (mode, kind)
            tried += 1
        decoded = np.asarray(decode_image(image)).astype(int)
        assert decoded[:, 20:].mean() - decoded[:, :12].mean() > 120, mode
    assert tried > 35

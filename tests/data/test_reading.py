# SPDX-License-Identifier: Apache-2.0
"""Files that are opened as images, and files that are not."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import tarfile
import zipfile
import zlib

import pytest
from PIL import EpsImagePlugin, Image, ImageOps

from hf_tripletclip.data import load_tripletdata, reading, tars
from hf_tripletclip.data.decoding import BrokenValue, decode_image
from hf_tripletclip.data.loading import undecoded


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def picture(width: int = 32, height: int = 24) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), "red")
    image.paste("blue", (width // 2, 0, width, height))
    return image


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PCX", "SGI", "TGA", "DDS", "IM", "PDF"])
def test_other_formats_are_not_opened(monkeypatch, kind, tmp_path):
    def no_programs(*arguments, **options):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "check_call", no_programs)
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", no_programs)
    content = encoded(picture(), kind)
    with pytest.raises(BrokenValue, match=r"unreadable image: (.* files are not read, only JPEG, PNG|not a format)"):
        decode_image(content)
    (tmp_path / "picture.png").write_bytes(content)  # whatever its name says
    with pytest.raises(BrokenValue, match="unreadable image"):
        decode_image(tmp_path / "picture.png")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "the file is empty"), (b"404", "not a format that"), (b"<html></html>", "not a format")],
)
def test_files_of_failed_downloads(content, reason):
    with pytest.raises(BrokenValue, match=f"unreadable image: {reason}"):
        decode_image(content)


def test_an_eps_file_that_was_opened_elsewhere():
    with pytest.raises(BrokenValue, match="EPS files are not read"):
        decode_image(Image.open(io.BytesIO(encoded(picture(), "EPS"))))


@pytest.mark.parametrize("kind", reading.FORMATS)
def test_the_formats_that_are_read(kind):
    if kind == "QOI" and "QOI" not in Image.SAVE:
        pytest.skip("this Pillow does not write it")
    options = {"save_all": True} if kind == "MPO" else {}
    image = decode_image(encoded(picture(), kind, **options))
    assert image.mode == "RGB"
    left, right = image.getpixel((3, 3)), image.getpixel((28, 20))
    assert left[0] > 200 > 90 > left[2]
    assert right[2] > 200 > 90 > right[0]


def test_only_regular_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path, reason in (
        ("/dev/zero", "no regular file: /dev/zero is a device or a pipe"),
        (tmp_path / "pipe.png", "no regular file: .*pipe.png is a device or a pipe"),
        (tmp_path, "no regular file: .* is a folder"),
        (tmp_path / "absent.png", "no such file: .*absent.png"),
        ("a\0b.png", "no such file"),
        ("x" * 5000, "file cannot be read: .*too long"),
        ("http://127.0.0.1:9/x.png", "image at a URL: http://127.0.0.1:9/x.png is not fetched"),
        ("file:///etc/hostname", "image at a URL"),
        ("zip://x.png::http://127.0.0.1:9/x.zip", "image at a URL"),
        ("tar://x.png::/dev/zero", "image at a URL"),
        ("zip://x.png::/dev/zero", "no regular file: /dev/zero is no archive"),
        ("zip://x.png::/no/such.zip", "no such file: /no/such.zip"),
    ):
        with pytest.raises(BrokenValue, match=reason):
            decode_image(path)


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr("hf_tripletclip.data.reading.MAX_BYTES", 100_000)
    monkeypatch.setattr("hf_tripletclip.data.tars.MAX_BYTES", 100_000)


def test_the_size_limit_is_the_documented_one(tmp_path):
    limit = 256 * 2**20 + 2**16
    assert tars.MAX_BYTES == reading.MAX_BYTES == limit
    file = tmp_path / "sparse.png"
    file.touch()
    os.truncate(file, limit)
    reading._check_regular(os.stat(file), "it")
    os.truncate(file, limit + 1)
    with pytest.raises(BrokenValue, match="has 268,500,993 bytes, the limit is 268,500,992"):
        decode_image(file)


def test_files_that_are_too_large(tmp_path, small_limit):
    large = tmp_path / "large.png"
    large.write_bytes(encoded(picture()))
    os.truncate(large, 100_000)  # Pillow passes over what follows the picture
    assert decode_image(large).size == decode_image(large.read_bytes()).size == (32, 24)
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        archive.write(large, "large.png")
    assert decode_image(f"zip://large.png::{tmp_path / 'whole.zip'}").size == (32, 24)
    large.write_bytes(encoded(picture()))
    os.truncate(large, 100_001)
    with pytest.raises(BrokenValue, match=r"image too large: .*large\.png has 100,001 bytes, the limit is 100,000"):
        decode_image(large)
    with pytest.raises(BrokenValue, match="image too large: 100,001 bytes"):
        decode_image(large.read_bytes())
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large.png", bytes(10_000_000))
    assert (tmp_path / "bomb.zip").stat().st_size < 20_000
    with pytest.raises(BrokenValue, match=r"image too large: zip://large\.png.* has more than 100,000 bytes"):
        decode_image(f"zip://large.png::{tmp_path / 'bomb.zip'}")
    with pytest.raises(BrokenValue, match=r"no such file: zip://other\.png"):
        decode_image(f"zip://other.png::{tmp_path / 'bomb.zip'}")


@pytest.mark.parametrize("streaming", [False, True])
def test_members_of_tars_that_are_too_large(tmp_path, small_limit, monkeypatch, streaming):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with tarfile.open(tmp_path / "rows.tar.gz", "w:gz") as tar:
        for key, size in (("1", 100_001), ("2", 100_000)):
            for extension, content in (("image", bytes(size)), ("caption", b"a cat")):
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    (tmp_path / "rows.tar.gz").rename(tmp_path / "rows.tar")
    large, small = undecoded(load_tripletdata(tmp_path / "rows.tar", split="train", streaming=streaming))
    assert large["image"] is None
    assert large["__error__"] == "image: member too large: more than 100,000 bytes"
    assert len(small["image"]["bytes"]) == 100_000


def chunk(name: bytes, content: bytes, good: bool = True) -> bytes:
    check = zlib.crc32(name + content) ^ (not good)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


PROFILE = b"icc\0\0" + zlib.compress(bytes(3_000_000))
PNG_METADATA = {
    "zTXt over 1 MB": chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(3_000_000))),
    "iTXt over 1 MB": chunk(b"iTXt", b"comment\0\1\0\0\0" + zlib.compress(bytes(3_000_000))),
    "iCCP over 1 MB": chunk(b"iCCP", PROFILE),
    "iCCP of an unknown method": chunk(b"iCCP", b"icc\0\7" + b"x" * 9),
    "zTXt of an unknown method": chunk(b"zTXt", b"comment\0\7" + b"x" * 9),
    "wrong check sum": chunk(b"tEXt", b"comment\0hello", good=False),
    "broken EXIF": chunk(b"eXIf", b"MM\0\x2a\xff\xff\xff\xff" + b"junk"),
    "EXIF with a wrong check sum": chunk(b"eXIf", b"junk", good=False),
    "EXIF that is text": chunk(b"eXIf", b"hello"),
    "short pHYs": chunk(b"pHYs", b"\0"),
    "short sRGB": chunk(b"sRGB", b""),
    "short gAMA": chunk(b"gAMA", b"\1"),
    "short cHRM": chunk(b"cHRM", b"\1\2\3"),
    "short acTL": chunk(b"acTL", b"\1"),
    "unknown": chunk(b"abCD", b"what", good=False),
}


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", PNG_METADATA)
def test_metadata_of_a_png_does_not_matter(kind, place):
    whole = encoded(picture())
    cut = 33 if place == "before" else len(whole) - 12  # behind the header, or before the end
    image = decode_image(whole[:cut] + PNG_METADATA[kind] + whole[cut:])
    assert image.tobytes() == picture().tobytes()


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


ORIENTED = Image.Exif()
ORIENTED[0x0112] = 6
JPEG_METADATA = {
    "broken EXIF": segment(0xE1, b"Exif\0\0MM\0\x2a\xff\xff\xff\xff" + b"junk"),
    "EXIF that is text": segment(0xE1, b"Exif\0\0hello"),
    "empty EXIF": segment(0xE1, b"Exif\0\0"),
    "bad ICC": segment(0xE2, b"ICC_PROFILE\0\1\1junk"),
    "ICC without numbers": segment(0xE2, b"ICC_PROFILE\0"),
    "broken MPF": segment(0xE2, b"MPF\0junk"),
    "broken MPF with a header": segment(0xE2, b"MPF\0MM\0\x2a\0\0\0\x08\xff\xff"),
    "broken Photoshop": segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\xff\xff\xff\xff"),
    "short JFIF": segment(0xE0, b"JFIF\0\1"),
    "short Adobe": segment(0xEE, b"Adobe\0"),
    "broken XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta"),
}


@pytest.mark.parametrize("kind", JPEG_METADATA)
def test_metadata_of_a_jpeg_does_not_matter(kind):
    whole = encoded(picture(), "JPEG")
    image = decode_image(whole[:2] + JPEG_METADATA[kind] + whole[2:])
    assert image.tobytes() == Image.open(io.BytesIO(whole)).tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
def test_orientation(kind):
    image = decode_image(encoded(picture(), kind, exif=ORIENTED))
    assert image.size == (24, 32)  # turned clockwise: what was on the left is above
    assert image.getpixel((12, 4))[0] > 200 > 90 > image.getpixel((12, 28))[0]


def test_orientation_with_broken_metadata():
    whole = encoded(picture(), "JPEG", exif=ORIENTED)
    assert decode_image(whole[:2] + JPEG_METADATA["ICC without numbers"] + whole[2:]).size == (24, 32)
    whole = encoded(picture(), exif=ORIENTED)
    assert decode_image(whole[:33] + PNG_METADATA["iCCP over 1 MB"] + whole[33:]).size == (24, 32)


@pytest.mark.filterwarnings("ignore:Metadata Warning")
@pytest.mark.parametrize("value", [0, 9, 1000, (6, 6), (9,)])
def test_an_orientation_that_means_nothing(value):
    exif = Image.Exif()
    exif[0x0112] = value
    content = exif.tobytes()
    whole = encoded(picture(), "JPEG")
    assert decode_image(whole[:2] + segment(0xE1, content) + whole[2:]).size in [(32, 24), (24, 32)]


@pytest.mark.parametrize("kind", [kind for kind in reading.FORMATS if kind not in ("QOI", "MPO")])
def test_files_that_are_cut_short_are_refused_or_whole(kind):
    noise = Image.effect_noise((64, 64), 100).convert("RGB")
    whole = encoded(noise, kind)
    for share in (0.05, 0.3, 0.6, 0.9):
        with pytest.raises(BrokenValue):
            decode_image(whole[: int(len(whole) * share)])


def test_bombs():
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(BrokenValue, match="image too large"):
        decode_image(bomb)
    damaged = bomb[:33] + PNG_METADATA["wrong check sum"] + bomb[33:]  # also when it is read again without metadata
    with pytest.raises(BrokenValue):
        decode_image(damaged)


def test_a_file_that_holds_two_images():
    with pytest.raises(BrokenValue, match="EPS"):
        decode_image(encoded(picture(), "EPS") + encoded(picture()))
    image = decode_image(encoded(picture()) + encoded(picture(), "EPS"))
    assert image.tobytes() == picture().tobytes()


@pytest.mark.parametrize(("size", "read"), [((1, 100), True), ((100, 1), True), ((1, 101), False), ((203, 2), False)])
def test_strips(size, read):
    for value in (Image.new("RGB", size), encoded(Image.new("RGB", size))):
        if read:
            assert decode_image(value).size == size
        else:
            with pytest.raises(BrokenValue, match=f"image too large: a strip of {size[0]} x {size[1]}"):
                decode_image(value)


@pytest.mark.parametrize("value", range(1, 9))
def test_every_orientation_is_that_of_pillow(value):
    exif = Image.Exif()
    exif[0x0112] = value
    image = Image.frombytes("RGB", (3, 2), bytes(range(18)))
    whole = encoded(image, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(whole)))
    assert decode_image(whole).tobytes() == expected.tobytes()
    assert decode_image(whole).size == expected.size
    assert decode_image(whole, as_stored=True).tobytes() == image.tobytes()

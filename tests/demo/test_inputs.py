# SPDX-License-Identifier: Apache-2.0
"""Pictures and captions of visitors."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from hf_tripletclip.demo import inputs
from hf_tripletclip.demo.inputs import MAX_BYTES, NO_PICTURE, DemoError, check_image, either, read_captions


def test_a_picture_is_taken(picture):
    assert check_image({"path": picture, "orig_name": "picture.png"}, [Path(picture).parent]) == picture


@pytest.mark.parametrize(
    "upload", [None, {}, {"path": None}, {"path": "/does/not/exist.png"}, {"path": "\0"}, {"path": 5}, "text"]
)
def test_no_picture(upload, uploads):
    with pytest.raises(DemoError, match="no picture yet"):
        check_image(upload, [uploads, "/does/not"])


def test_a_picture_elsewhere_looks_like_one_that_does_not_exist(picture, uploads, tmp_path):
    elsewhere = tmp_path / "elsewhere.png"
    elsewhere.write_bytes(Path(picture).read_bytes())
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "link.png").symlink_to(elsewhere)
    (tmp_path / "given" / "circle.png").symlink_to(tmp_path / "given" / "circle.png")
    os.mkfifo(tmp_path / "given" / "pipe.png")
    for path in ("elsewhere.png", "given/link.png", "given/../elsewhere.png", "given-too.png", "given/circle.png",
                 "given/pipe.png", "given", "given/none.png"):  # fmt: skip
        with pytest.raises(DemoError, match=f"^{NO_PICTURE}$"):
            check_image({"path": str(tmp_path / path)}, [tmp_path / "given"])
    with pytest.raises(DemoError, match="no picture yet"):
        check_image({"path": picture})  # nothing is allowed that is not named
    (tmp_path / "other").symlink_to(uploads)
    assert check_image({"path": picture}, [tmp_path / "other"]) == picture  # the folder may be a link


def test_a_renamed_text_file(text_file):
    with pytest.raises(DemoError, match="cannot be read as a picture: give a JPEG, PNG"):
        check_image({"path": text_file}, [Path(text_file).parent])


def test_a_truncated_picture(picture, tmp_path):
    path = tmp_path / "cut.png"
    path.write_bytes(Path(picture).read_bytes()[:90])
    with pytest.raises(DemoError, match="cannot be read as a picture"):
        check_image({"path": str(path)}, [tmp_path])


def test_a_format_that_is_not_allowed(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(path, format="TIFF")
    with pytest.raises(DemoError, match="give a JPEG"):
        check_image({"path": str(path)}, [tmp_path])


def test_a_large_file(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(bytes(MAX_BYTES + 1))
    with pytest.raises(DemoError, match="larger than 10 MB"):
        check_image({"path": str(path)}, [tmp_path])


def _png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [6_400, 60_000])  # above our limit, and where Pillow refuses by itself
def test_too_many_pixels_are_refused_by_the_header(tmp_path, side, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(_png_header(side, side))
    monkeypatch.setattr(inputs, "decode_image", lambda path: pytest.fail("it was decoded"))
    with pytest.raises(DemoError, match="more than 40 million pixels"):
        check_image({"path": str(path)}, [tmp_path])


def test_captions_are_lines():
    assert read_captions(" a cat \n\n a   dog\na cat\n") == ["a cat", "a dog"]
    assert read_captions("") == read_captions(None) == read_captions(" \n ") == []


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("\n".join(map(str, range(51))), "51 captions: give at most 50"),
        ("a" * 1_001, "1001 characters: give at most 1000"),
        ("\udc80", "not UTF-8"),
        ({"path": "a"}, "A caption is text"),
        (["a"], "A caption is text"),
    ],
    ids=["too many", "too long", "surrogate", "a file", "a list"],
)
def test_captions_that_are_refused(typed, message):
    with pytest.raises(DemoError, match=message):
        read_captions(typed)


def test_either():
    assert either(["A", "B", "C"]) == "A, B or C"

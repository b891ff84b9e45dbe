# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import os

import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from hf_tripletclip.data.decoding import BrokenValue
from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.evaluation.images import ImageCell, ImageFile, find_image


def png(colour: str, size: tuple[int, int] = (8, 6)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="PNG")
    return buffer.getvalue()


def test_files(tmp_path):
    path = tmp_path / "red.png"
    image = ImageFile(str(path))
    assert not image.exists()
    missing = image.version()
    with pytest.raises(BrokenValue, match=r"no such file: .*red\.png"):
        image.load()
    path.write_bytes(png("red"))
    assert image.exists()
    assert image.name == "red.png"
    assert image.load().getpixel((0, 0)) == (255, 0, 0)
    first = image.version()
    assert first != missing
    os.utime(path, ns=(0, 0))
    assert image.version() != first
    assert not ImageFile(str(tmp_path)).exists()  # a folder is no image


def test_a_box_is_a_part_of_a_file(tmp_path):
    picture = Image.new("RGB", (10, 10), "red")
    picture.paste("blue", (4, 2, 9, 8))
    picture.save(tmp_path / "both.png")
    whole, part = ImageFile(str(tmp_path / "both.png")), ImageFile(str(tmp_path / "both.png"), (4, 2, 9, 8))
    assert part != whole
    assert part.version() != whole.version()
    assert part.name == "both.png[4, 2, 9, 8]"
    assert part.load().size == (5, 6)
    assert part.load().getcolors() == [(30, (0, 0, 255))]


def test_cells_of_the_same_contents_are_one_image():
    rows = [
        {"bytes": png("red"), "path": "a.png"},
        {"bytes": png("blue"), "path": None},
        {"bytes": png("red"), "path": "b"},
    ]
    data = undecoded(Dataset.from_dict({"image": rows}).cast_column("image", ImageFeature()), ("image",))
    first, second, third = ImageCell.of_column(data, "image")
    assert first == third
    assert len({first, second, third}) == 2
    assert ImageCell.of(data, 1, "image") == second
    assert second.load().getpixel((0, 0)) == (0, 0, 255)
    assert second.version() != first.version()
    assert third.name == "image of row 2"
    assert first.exists()


def test_missing_cells_differ_and_are_broken():
    data = Dataset.from_dict({"image": [None, None, {"bytes": b"junk", "path": None}]})
    data = undecoded(data.cast_column("image", ImageFeature()), ("image",))
    one, other, junk = ImageCell.of_column(data, "image")
    assert one != other
    with pytest.raises(BrokenValue, match="missing image"):
        one.load()
    with pytest.raises(BrokenValue, match="not a format that Pillow knows"):
        junk.load()


def test_images_are_found_in_the_first_folder_that_has_them(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "b" / "x.png").write_bytes(png("red"))
    folders = [tmp_path / "a", tmp_path / "b"]
    assert find_image(folders, "x.png") == ImageFile(str(tmp_path / "b" / "x.png"))
    assert find_image(folders, "absent.png") == ImageFile(str(tmp_path / "a" / "absent.png"))

# SPDX-License-Identifier: Apache-2.0
"""Paths in the rows of a dataset must lead into its own folder."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, List
from PIL import Image as PILImage

from hf_tripletclip.data import BrokenRows, TripletCollator, build_processor, load_tripletdata
from hf_tripletclip.data.decoding import BrokenValue, decode_image
from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.data.places import ImagePlaces
from hf_tripletclip.data.raw import load_raw
from hf_tripletclip.data.validate import validate
from hf_tripletclip.generation.source import Source


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    PILImage.new("RGB", (8, 8), colour).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset's folder with a picture, and a private picture outside it."""
    (tmp_path / "private.png").write_bytes(png("black"))
    own = tmp_path / "data"
    (own / "images").mkdir(parents=True)
    (own / "images" / "red.png").write_bytes(png("red"))
    (own / "images" / "link.png").symlink_to(tmp_path / "private.png")
    (own / "images" / "short.png").symlink_to("red.png")
    os.mkfifo(own / "images" / "pipe.png")
    with zipfile.ZipFile(own / "images.zip", "w") as archive:
        archive.writestr("red.png", png("red"))
    return own


REFUSED = {
    "absolute": ("{outside}/private.png", "image outside the dataset's folder"),
    "above": ("../private.png", "image outside the dataset's folder"),
    "above from below": ("images/../../private.png", "image outside the dataset's folder"),
    "link": ("images/link.png", "image outside the dataset's folder"),
    "device": ("/dev/zero", "image outside the dataset's folder"),
    "file URL": ("file://{outside}/private.png", "image outside the dataset's folder"),
    "local URL": ("local://{outside}/private.png", "image outside the dataset's folder"),
    "http": ("http://127.0.0.1:9/x.png", "image outside the dataset's folder"),
    "https in zip": ("zip://x.png::https://127.0.0.1:9/x.zip", "image outside the dataset's folder"),
    "another repository": ("hf://datasets/other/name@main/x.png", "image outside the dataset's folder"),
    "zip elsewhere": ("zip://x.png::{outside}/other.zip", "image outside the dataset's folder"),
    "simplecache": ("simplecache::file://{outside}/private.png", "no such file"),
    "nul": ("images/red.png\0", "no such file"),
    "absent": ("images/absent.png", "no such file"),
    "pipe": ("images/pipe.png", "no regular file"),
    "folder": ("images", "no regular file"),
    "below a file": ("images/red.png/x.png", "no such file"),
}
ALLOWED = ["images/red.png", "images/short.png", "{own}/images/red.png", "zip://red.png::{own}/images.zip"]


def write(folder: Path, layout: str, paths: list[str]) -> Path:
    """A dataset of these image paths, after a first row that holds a picture itself."""
    rows = [{"id": f"row-{index}", "image": {"bytes": None, "path": path}} for index, path in enumerate(paths)]
    for row in rows:
        row |= {"caption": "a cat", "neg_image": {"bytes": png("blue"), "path": "images/red.png"}}
    if layout == "jsonl":
        flat = [{**row, "image": row["image"]["path"], "neg_image": "images/red.png"} for row in rows]
        (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, flat)))
        return folder / "rows.jsonl"
    features = Dataset.from_list(rows).features
    if layout == "typed parquet":
        features |= {"image": Image(), "neg_image": Image()}
    # Not `Dataset.to_parquet`, which follows the paths itself.
    pq.write_table(pa.Table.from_pylist(rows, Features(features).arrow_schema), folder / "rows.parquet")
    return folder / "rows.parquet"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("layout", ["jsonl", "parquet", "typed parquet"])
def test_paths_stay_in_the_datasets_folder(folder, layout, streaming):
    places = {"outside": folder.parent, "own": folder}
    kinds = {name: (path.format(**places), reason) for name, (path, reason) in REFUSED.items()}
    paths = [path for path, _ in kinds.values()] + [path.format(**places) for path in ALLOWED]
    file = write(folder, layout, paths)
    data = undecoded(load_tripletdata(file, split="train", streaming=streaming))
    broken = BrokenRows(folder / "broken.jsonl")
    processor = build_processor(["a cat"], image_size=8)
    _, usable = TripletCollator(processor, columns=("image", "caption"), broken_rows=broken).collate(list(data))
    found = {int(report["key"].removeprefix("row-")): report["reason"].partition(":")[0] for report in broken}
    assert found == {index: reason for index, (_, reason) in enumerate(kinds.values())}
    assert len(usable) == len(ALLOWED)
    for row in usable:
        assert decode_image(row["image"]).getpixel((0, 0)) == (255, 0, 0)
        assert decode_image(row["neg_image"]).getpixel((0, 0)) == ((255, 0, 0) if layout == "jsonl" else (0, 0, 255))


def test_every_room_refuses_the_same(folder):
    file = write(folder, "typed parquet", ["images/red.png", str(folder.parent / "private.png"), "/dev/zero"])
    report = validate(file, num_workers=0, progress=False)
    assert report.counts == {"image outside the dataset's folder in image": 2}
    assert report.splits["train"].keys == {"image outside the dataset's folder in image": ["row-1", "row-2"]}
    source = Source(str(file)).open()
    assert [
        problem and problem.partition(":")[2].partition(":")[0].strip() for problem in source.problems("train", 0, 3)
    ] == [
        None,
        "image outside the dataset's folder in image",
        "image outside the dataset's folder in image",
    ]
    copied = source.read("train", 0, 3, ["image"])["image"]
    assert [image["bytes"] for image in copied] == [png("red"), None, None]
    raw, _ = load_raw(str(file), "train", False, {}, {})
    (_, outside, device) = undecoded(raw)["image"][:]
    for image in (outside, device):
        with pytest.raises(BrokenValue, match="outside the dataset's folder"):
            decode_image(image)


@pytest.mark.parametrize("streaming", [False, True])
def test_pictures_in_rows_are_not_replaced_by_files_of_the_same_name(folder, monkeypatch, streaming):
    monkeypatch.chdir(folder / "images")
    rows = [{"image": {"bytes": png("blue"), "path": "red.png"}, "caption": "a cat"}]
    Dataset.from_list(rows).cast_column("image", Image()).to_parquet(folder / "rows.parquet")
    with tarfile.open(folder / "rows.tar", "w") as tar:
        for name, content in (("red.png", png("blue")), ("red.caption", b"a cat"), ("/etc/hostname", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    for name, columns in (("rows.parquet", None), ("rows.tar", {"image": "png"})):
        data = undecoded(load_tripletdata(folder / name, split="train", streaming=streaming, columns=columns))
        assert next(iter(data))["image"]["bytes"] == png("blue")


@pytest.mark.parametrize("streaming", [False, True])
def test_image_folders_and_snapshots_of_the_hub(folder, tmp_path, streaming):
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / "ab12").write_bytes(png("red"))
    (snapshot / "1.png").symlink_to("../../blobs/ab12")
    (snapshot / "2.png").symlink_to(tmp_path / "private.png")
    lines = [{"file_name": f"{name}.png", "caption": "a cat"} for name in (1, 2)]
    (snapshot / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    one, two = undecoded(load_tripletdata(snapshot, split="train", streaming=streaming))
    assert decode_image(one["image"]).getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(BrokenValue, match=r"outside the dataset's folder: .*2\.png"):
        decode_image(two["image"])


@pytest.mark.parametrize("streaming", [False, True])
def test_image_folders_in_archives(tmp_path, streaming):
    (tmp_path / "data").mkdir()
    with zipfile.ZipFile(tmp_path / "data" / "all.zip", "w") as archive:
        archive.writestr("1.png", png("red"))
        archive.writestr("metadata.jsonl", json.dumps({"file_name": "1.png", "caption": "a cat"}))
    (row,) = undecoded(load_tripletdata(tmp_path / "data", split="train", streaming=streaming))
    assert row["image"]["path"].startswith("zip://1.png::")
    assert decode_image(row["image"]).getpixel((0, 0)) == (255, 0, 0)


def test_lists_of_images(folder):
    lists = [["images/red.png", "../private.png"], [], None, [None]]
    rows = [{"images": value and [path and {"path": path, "bytes": None} for path in value]} for value in lists]
    schema = Features({"images": List(Image())}).arrow_schema
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "rows.parquet")
    loaded, _ = load_raw(str(folder / "rows.parquet"), "train", False, {}, {})
    assert loaded.features == {"images": List(Image())}
    found = loaded.cast_column("images", List(Image(decode=False)))["images"][:]
    assert [value if value is None else len(value) for value in found] == [2, 0, None, 1]
    assert decode_image(found[0][0]).size == (8, 8)
    with pytest.raises(BrokenValue, match="outside"):
        decode_image(found[0][1])


def test_urls_of_the_datasets_own_repository():
    home = ImagePlaces.of(["hf://datasets/me/own@0123/data.parquet"])
    assert home.find("hf://datasets/me/own@0123/1.png") == "hf://datasets/me/own@0123/1.png"
    assert home.find("zip://1.png::hf://datasets/me/own@main/a.zip") == "zip://1.png::hf://datasets/me/own@main/a.zip"
    for path in ("hf://datasets/me/own2@0123/1.png", "hf://me/own/1.png", "hf://datasets/me/own@0123/../../x/1.png"):
        assert home.find(path).startswith("[refused] image outside the dataset's folder")
    cache = next(folder for folder in home.folders if folder.endswith("datasets--me--own"))
    assert home.find(f"{cache}/snapshots/0123/1.png").endswith("1.png")
    assert home.find(f"{cache}2/snapshots/0123/1.png").startswith("[refused]")


def test_a_card_that_names_data_elsewhere(tmp_path):
    (tmp_path / "private.csv").write_text("caption\nsecret\n")
    (tmp_path / "data").mkdir()
    card = "---\nconfigs:\n- config_name: default\n  data_files: {}\n---\n"
    for path in (tmp_path / "private.csv", "../private.csv"):
        (tmp_path / "data" / "README.md").write_text(card.format(path))
        with pytest.raises(ValueError, match=r"its card names data outside the folder, such as .*private\.csv"):
            load_tripletdata(tmp_path / "data")


def test_a_moved_dataset_finds_its_pictures(folder, tmp_path):
    write(folder, "typed parquet", ["images/red.png"])
    (row,) = undecoded(load_tripletdata(folder / "rows.parquet", split="train"))
    shutil.move(folder, tmp_path / "moved")
    with pytest.raises(BrokenValue, match=r"no such file: .*data/images/red\.png"):
        decode_image(row["image"])
    (row,) = undecoded(load_tripletdata(tmp_path / "moved" / "rows.parquet", split="train"))
    assert decode_image(row["image"]).size == (8, 8)

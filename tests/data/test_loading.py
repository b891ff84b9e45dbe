# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Features, Image, IterableDataset, Value
from PIL import Image as PILImage

from hf_tripletclip.data import check_columns, load_tripletdata
from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.data.schema import COLUMNS
from hf_tripletclip.objectives import base


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    PILImage.new("RGB", (8, 8), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def table(rows: int = 4, **renamed: str) -> Dataset:
    columns = {
        "image": [{"bytes": png("red"), "path": None}] * rows,
        "caption": [f"a red cat {index}" for index in range(rows)],
        "neg_image": [{"bytes": png("blue"), "path": None}] * rows,
        "neg_caption": [f"a blue cat {index}" for index in range(rows)],
    }
    data = Dataset.from_dict(columns).cast_column("image", Image()).cast_column("neg_image", Image())
    return data.rename_columns(renamed) if renamed else data


def check(data: Dataset | IterableDataset, rows: int = 4) -> None:
    listed = list(data)
    assert len(listed) == rows
    for name in ("image", "neg_image"):
        assert isinstance(data.features[name], Image)
        assert isinstance(listed[0][name], PILImage.Image)
    for name in ("caption", "neg_caption"):
        assert data.features[name] == Value("string")
    assert listed[1]["caption"] == "a red cat 1"
    assert listed[1]["neg_image"].getpixel((0, 0)) == (0, 0, 255)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_the_columns_are_those_of_the_objectives():
    assert tuple(base.COLUMNS.values()) == COLUMNS


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_file_and_folder(tmp_path, streaming):
    (tmp_path / "set").mkdir()
    table().to_parquet(tmp_path / "set" / "train-0.parquet")
    check(load_tripletdata(tmp_path / "set", split="train", streaming=streaming))
    check(load_tripletdata(tmp_path / "set" / "train-0.parquet", streaming=streaming)["train"])


def test_saved_to_disk(tmp_path):
    DatasetDict({"train": table(), "test": table(2)}).save_to_disk(tmp_path / "set")
    loaded = load_tripletdata(tmp_path / "set")
    check(loaded["train"])
    assert len(load_tripletdata(tmp_path / "set", split="test")) == 2


def write_tar(path: Path, rows: int, broken: int | None = None) -> None:
    with tarfile.open(path, "w") as archive:
        for index in range(rows):
            members = {
                "image": png("red"),
                "caption": f"a red cat {index}".encode(),
                "neg_image": png("blue"),
                "neg_caption": b"\xff\xfe" if index == broken else f"a blue cat {index}".encode(),
            }
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{index:06d}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("streaming", [False, True])
def test_published_tars(tmp_path, streaming):
    (tmp_path / "set").mkdir()
    write_tar(tmp_path / "set" / "shard-0.tar", 4, broken=2)
    data = load_tripletdata(tmp_path / "set", split="train", streaming=streaming)
    check(data)
    # Invalid UTF-8 becomes a missing caption, which the collator reports; the other rows are kept.
    assert [row["neg_caption"] for row in data] == ["a blue cat 0", "a blue cat 1", None, "a blue cat 3"]


def test_image_folder_with_metadata(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    lines = []
    for index in range(4):
        for side, colour in (("image", "red"), ("neg_image", "blue")):
            (folder / f"{side}-{index}.png").write_bytes(png(colour))
        names = {"image_file_name": f"image-{index}.png", "neg_image_file_name": f"neg_image-{index}.png"}
        lines.append(json.dumps({**names, "caption": f"a red cat {index}", "neg_caption": f"a blue cat {index}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    check(load_tripletdata(folder, split="train"))


def test_other_peoples_names(tmp_path):
    path = tmp_path / "train.parquet"
    table(image="picture", neg_caption="foil").to_parquet(path)
    check(load_tripletdata(path, split="train", columns={"image": "picture", "neg_caption": "foil"}))
    # A column of our name may hold something else, or the two may have changed places.
    table(image="neg_image", neg_image="image").to_parquet(path)
    check(load_tripletdata(path, split="train", columns={"image": "neg_image", "neg_image": "image"}))


def test_errors_say_what_is_there(tmp_path):
    path = tmp_path / "train.parquet"
    table(neg_caption="foil").to_parquet(path)
    with pytest.raises(
        ValueError, match=r"lacks 'neg_caption'; it has 'image', 'caption', 'neg_image', 'foil'.*columns"
    ):
        load_tripletdata(path, split="train", required_columns=("image", "neg_caption"))
    with pytest.raises(ValueError, match=r"names \['fool'\]"):
        load_tripletdata(path, split="train", columns={"neg_caption": "fool"})
    with pytest.raises(FileNotFoundError, match="/no/such/folder does not exist"):
        load_tripletdata("/no/such/folder")
    with pytest.raises(
        FileNotFoundError, match=r"nobody/nothing.*neither a path that exists nor a dataset of the Hub"
    ):
        load_tripletdata("nobody/nothing")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"notes\.txt is no \.parquet"):
        load_tripletdata(tmp_path / "notes.txt")
    features = Features({"image": Image(), "caption": Value("string")})
    Dataset.from_dict({"image": [], "caption": []}, features=features).to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match="no rows"):
        load_tripletdata(tmp_path / "empty.parquet", split="train")


def test_undecoded_images_are_bytes(tmp_path):
    row = undecoded(table())[0]
    assert row["image"]["bytes"] == png("red")


def test_check_columns_of_any_dataset():
    check_columns(table(), COLUMNS)
    check_columns([{"image": 1}], ("image",))
    with pytest.raises(ValueError, match="lacks 'caption'"):
        check_columns([{"image": 1}], ("image", "caption"))

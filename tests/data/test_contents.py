# SPDX-License-Identifier: Apache-2.0
"""The digest that tells datasets apart."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from hf_tripletclip.data import load_tripletdata, shuffled
from hf_tripletclip.data.contents import contents
from hf_tripletclip.data.loading import undecoded
from tests.data.test_tars import write_tar


def picture(shade: int) -> dict[str, object]:
    file = io.BytesIO()
    PILImage.new("RGB", (4, 4), (shade, 0, 0)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": "a.png"}


def make(captions=("a", "b", None), shades=(1, 2, 3)) -> Dataset:
    table = {"image": [picture(shade) for shade in shades], "caption": list(captions), "id": list(range(len(shades)))}
    return Dataset.from_dict(
        table, features=Features({"image": Image(), "caption": Value("string"), "id": Value("int64")})
    )


def test_equal_contents_have_equal_digests_however_loaded(tmp_path):
    here = contents(make())
    assert here.startswith("3 rows, ")
    assert contents(undecoded(make())) == here
    make().to_parquet(tmp_path / "train-0.parquet")
    assert contents(load_tripletdata(tmp_path)["train"]) == here
    make().save_to_disk(tmp_path / "saved")
    assert contents(Dataset.load_from_disk(tmp_path / "saved")) == here


@pytest.mark.parametrize(
    "other",
    [make(captions=("a", "c", None)), make(shades=(1, 2, 4)), make().select([0, 1]), make().select([0, 2, 1])],
    ids=["caption", "picture", "fewer", "order"],
)
def test_other_contents_have_other_digests(other):
    assert contents(other) != contents(make())


def test_columns_that_do_not_count_and_lists():
    assert contents(make().rename_column("id", "number"), ["image", "caption"]) == contents(
        make(), ["image", "caption"]
    )
    lists = Features({"caption": List(Value("string"))})
    one, two = (Dataset.from_dict({"caption": value}, features=lists) for value in ([["a", "b"]], [["a"]]))
    assert contents(one) != contents(two)


def test_streams_by_their_files(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    write_tar(tmp_path / "here" / "shard-0.tar", 4)
    shutil.copyfile(tmp_path / "here" / "shard-0.tar", tmp_path / "there" / "shard-0.tar")
    streams = {name: load_tripletdata(tmp_path / name, split="train", streaming=True) for name in ("here", "there")}
    assert contents(streams["here"]) == contents(streams["there"]) == contents(shuffled(streams["here"], 0))
    write_tar(tmp_path / "there" / "shard-0.tar", 4, first=50)
    assert contents(load_tripletdata(tmp_path / "there", split="train", streaming=True)) != contents(streams["here"])


def test_other_datasets_by_their_length():
    assert contents([1, 2]) != contents([1, 2, 3])


def test_paths_count_by_their_name_and_file(tmp_path):
    made = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        path = Path(tmp_path / folder / "x.png")
        PILImage.new("RGB", (4, 4)).save(path)
        made.append(
            Dataset.from_dict({"image": [{"bytes": None, "path": str(path)}]}, features=Features({"image": Image()}))
        )
    assert contents(made[0]) == contents(made[1])
    PILImage.new("RGB", (4, 4), "red").save(tmp_path / "b" / "x.png")
    assert contents(made[0]) != contents(made[1])


def test_every_path_counts():
    def of(changed: str) -> str:
        paths = [changed if row == 1 else f"{row}.png" for row in range(130)]  # of row 1 no bytes are looked at
        rows = [{"bytes": None, "path": path} for path in paths]
        return contents(Dataset.from_dict({"image": rows}, features=Features({"image": Image()})))

    assert of("1.png") == of("elsewhere/1.png") != of("2.png")

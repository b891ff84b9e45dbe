# SPDX-License-Identifier: Apache-2.0
"""Sources of pairs: what is read of them, and what tells them apart."""

from __future__ import annotations

import json
import pickle

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Value

from hf_tripletclip.data import load_scenes
from hf_tripletclip.generation.source import Source
from tests.data.test_tars import write_tar
from tests.generation.stages_for_tests import png, source_row, write_source

SCENES = {"train_size": 6, "validation_size": 3, "test_size": 7, "image_size": 32, "seed": 3, "nouns": 12}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_scenes_are_those_that_load_scenes_makes(tmp_path):
    made = load_scenes(**SCENES, cache_dir=tmp_path / "scenes", num_proc=1)
    opened = Source(scenes=SCENES).open()
    assert opened.sizes == {"train": 6, "validation": 3, "test": 7}
    assert opened.features == Features({"image": Image(), "caption": Value("string"), "held_out": Value("bool")})
    for split in opened.sizes:
        expected = made[split].cast_column("image", Image(decode=False))[2:3]
        rows = opened.read(split, 2, 3, ["caption", "image", "held_out"])
        assert rows == {name: expected[name] for name in ("id", "caption", "image", "held_out")}
    assert opened.problems("test", 0, 7) == [None] * 7


def test_rows_of_parquet_in_any_order_of_reading(tmp_path):
    opened = Source(str(write_source(tmp_path / "pairs", train=7, test=3))).open()
    assert opened.sizes == {"train": 7, "test": 3}
    for start, stop in ((0, 7), (2, 5), (6, 7)):
        rows = [source_row("train", row) for row in range(start, stop)]
        assert opened.read("train", start, stop, ["caption", "image"]) == {
            "id": [row["id"] for row in rows],
            "caption": [row["caption"] for row in rows],
            # without the path, which would stand for the bytes where a file of that name lies around
            "image": [{"bytes": row["image"]["bytes"], "path": None} for row in rows],
        }
    assert opened.read("test", 1, 2, []) == {"id": ["test-0001"]}
    with pytest.raises(KeyError):
        opened.read("validation", 0, 1, [])


def test_an_image_folder_with_metadata(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for row in range(3):
        (folder / f"{row}.png").write_bytes(png(row))
    lines = [json.dumps({"file_name": f"{row}.png", "text": f"picture {row}"}) for row in range(3)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    opened = Source(str(folder), columns={"caption": "text"}).open()
    assert opened.read("train", 1, 3, ["image", "caption"]) == {
        "id": ["train-000000001", "train-000000002"],
        "image": [{"bytes": png(1), "path": None}, {"bytes": png(2), "path": None}],
        "caption": ["picture 1", "picture 2"],
    }


def test_tars_of_the_published_layout(tmp_path):
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "00000.tar", 3)
    write_tar(tmp_path / "tars" / "00001.tar", 2, first=3)
    opened = Source(str(tmp_path / "tars")).open()
    assert opened.sizes == {"train": 5}
    rows = opened.read("train", 0, 5, ["image", "caption"])
    assert len(set(rows["id"])) == 5
    assert all(isinstance(caption, str) for caption in rows["caption"])
    assert opened.problems("train", 0, 5) == [None] * 5


def test_what_is_wrong_with_rows(tmp_path):
    missing = tmp_path / "pairs" / "missing.png"
    broken = {
        1: {"caption": " "},
        2: {"caption": None},
        3: {"image": {"bytes": png(1)[:40], "path": None}},
        4: {"image": None},
        5: {"image": {"bytes": None, "path": str(missing)}},
        6: {"id": None},
    }
    opened = Source(str(write_source(tmp_path / "pairs", broken, train=8))).open()
    problems = opened.problems("train", 0, 8)
    assert [problem and ":".join(problem.split(":")[:2]) for problem in problems] == [
        None,
        "source: empty caption in caption",
        "source: missing caption in caption",
        "source: unreadable image in image",
        "source: missing image in image",
        "source: no such file in image",
        None,
        None,
    ]
    assert opened.problems("train", 3, 5) == problems[3:5]
    assert opened.read("train", 6, 7, [])["id"] == ["train-000000006"]


def test_a_caption_that_is_no_utf_8_is_named_by_the_loader_s_reason(tmp_path):
    features = Features({"image": Image(), "caption": Value("binary")})
    rows = [{"image": {"bytes": png(row), "path": None}, "caption": text} for row, text in enumerate((b"ok", b"\xff"))]
    (tmp_path / "pairs").mkdir()
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "pairs" / "train.parquet")
    opened = Source(str(tmp_path / "pairs")).open()
    assert opened.problems("train", 0, 2) == [None, "source: caption is not UTF-8"]


def test_splits_and_first_rows(tmp_path):
    folder = str(write_source(tmp_path / "pairs", train=7, validation=5, test=3))
    assert Source(folder, splits=("test", "train")).open().sizes == {"test": 3, "train": 7}
    assert Source(folder, max_rows=5).open().sizes == {"train": 5, "validation": 5, "test": 3}
    assert Source(scenes=SCENES, max_rows=4, splits=("validation", "test")).open().sizes == {
        "validation": 3,
        "test": 4,
    }
    for source in (Source(folder, splits=("dev",)), Source(splits=("dev",))):
        with pytest.raises(ValueError, match="has no split 'dev'; it has train, validation, test"):
            source.open()
    with pytest.raises(ValueError, match="`max_rows` is 0"):
        Source(folder, max_rows=0).open()


def test_errors_of_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Source(str(tmp_path / "nowhere")).open()
    Dataset.from_dict({"image": [{"bytes": png(1), "path": None}]}).to_parquet(tmp_path / "uncaptioned.parquet")
    with pytest.raises(ValueError, match="lacks 'caption'"):
        Source(str(tmp_path / "uncaptioned.parquet")).open()
    with pytest.raises(ValueError, match="say nothing about the source"):
        Source(str(tmp_path), scenes={"nouns": 12}).open()
    with pytest.raises(ValueError, match="takes no shape"):
        Source(scenes={"shape": 1}).open()
    with pytest.raises(ValueError, match="train_size"):
        Source(scenes={"train_size": 0}).open()


def test_a_source_is_opened_once_and_anew_when_asked(tmp_path):
    folder = write_source(tmp_path / "pairs", train=3)
    opened = Source(str(folder)).open()
    assert pickle.loads(pickle.dumps(Source(str(folder)))).open() is opened
    write_source(folder, train=4)
    assert Source(str(folder)).open() is opened
    assert Source(str(folder)).open(again=True).sizes == {"train": 4}


def test_what_tells_sources_apart(tmp_path):
    folder = write_source(tmp_path / "pairs", train=4)
    identity = Source(str(folder)).open().identity()
    assert json.loads(json.dumps(identity)) == identity
    assert Source(str(folder)).open(again=True).identity() == identity
    write_source(folder, {2: {"caption": "another"}}, train=4)
    changed = Source(str(folder)).open(again=True).identity()
    assert {name for name in identity if identity[name] != changed[name]} == {"captions"}
    assert Source(str(folder), max_rows=2).open().identity()["rows"] == {"train": 2}
    scenes = Source(scenes=SCENES).open().identity()
    assert scenes != Source(scenes={**SCENES, "seed": 4}).open().identity()
    assert scenes["rows"] == {"train": 6, "validation": 3, "test": 7}


def write_captions(folder, captions, keys=None, chunk=None):
    """A source without its images, which these tests do not look at."""
    folder.mkdir(exist_ok=True)
    table = pa.table({"caption": captions, **({} if keys is None else {"key": keys})})
    images = pa.array([{"bytes": b"", "path": None}] * len(captions))
    table = table.append_column("image", images)
    pq.write_table(table, folder / "train.parquet", row_group_size=chunk or len(captions))
    return Source(str(folder)).open(again=True)


def test_each_caption_and_the_order_of_rows_tell_sources_apart(tmp_path, monkeypatch):
    captions = [f"caption {row}" for row in range(3000)]
    captions[7] = None
    identity = write_captions(tmp_path / "pairs", captions).identity()
    assert write_captions(tmp_path / "pairs", captions, chunk=100).identity() == identity
    for places, values in (
        ([1001], ["another"]),
        ([2000, 2001], [captions[2001], captions[2000]]),
        ([2000, 2001], ["caption 2000c", "aption 2001"]),  # the same letters in a row
        ([7], [""]),
    ):
        other = list(captions)
        for place, value in zip(places, values, strict=True):
            other[place] = value
        changed = write_captions(tmp_path / "pairs", other).identity()
        assert {name for name in identity if identity[name] != changed[name]} == {"captions"}, places
    same = ["one"] * 4
    keys = [write_captions(tmp_path / "pairs", same, list(order)).identity() for order in ("abcd", "abdc")]
    assert {name for name in identity if keys[0][name] != keys[1][name]} == {"keys"}  # images changed places
    monkeypatch.setattr("hf_tripletclip.generation.source.HASHED_ROWS", 3)
    assert write_captions(tmp_path / "pairs", same, list("abcd")).identity() != keys[1]


def test_the_order_of_the_splits_tells_sources_apart(tmp_path):
    folder = str(write_source(tmp_path / "pairs", train=4, test=2))
    orders = [("train", "test"), ("test", "train")]
    identities = [Source(folder, splits=splits).open().identity() for splits in orders]
    assert [identity["splits"] for identity in identities] == [list(splits) for splits in orders]
    orders = [("train", "validation"), ("validation", "train")]
    assert [Source(scenes=SCENES, splits=splits).open().identity()["splits"] for splits in orders] == [
        list(splits) for splits in orders
    ]


@pytest.mark.parametrize("keys", [["a", "b", "a", None], [7, 8, 7, None], [["x"], ["y"], ["x"], None]])
def test_rows_that_share_a_key_have_ids_of_their_own(tmp_path, keys):
    opened = write_captions(tmp_path / "pairs", ["one", "two", "three", "four"], keys)
    ids = opened.read("train", 0, 4, [])["id"]
    assert ids == [*(f"{key}-{row:09d}" for row, key in enumerate(keys[:3])), "train-000000003"]
    assert opened.read("train", 2, 4, [])["id"] == ids[2:]
    alone = write_captions(tmp_path / "other", ["one", "two", "three"], ["a", None, "b"])
    assert alone.read("train", 0, 3, [])["id"] == ["a", "train-000000001", "b"]


def test_tars_that_both_number_from_zero(tmp_path):
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "00000.tar", 3)
    write_tar(tmp_path / "tars" / "00001.tar", 2)
    ids = Source(str(tmp_path / "tars")).open().read("train", 0, 5, [])["id"]
    assert len(set(ids)) == 5
    assert [row_id[-10:] for row_id in ids] == [f"-{row:09d}" for row in range(5)]


def test_paths_become_absolute_and_names_stay(tmp_path, monkeypatch):
    write_source(tmp_path / "pairs", train=2)
    monkeypatch.chdir(tmp_path)
    assert Source("pairs").located().name == str(tmp_path / "pairs")
    assert Source("pairs/*.parquet").located().name == str(tmp_path / "pairs" / "*.parquet")
    for name in ("scenes", "user/pairs", "hf://datasets/user/pairs/*.parquet"):
        assert Source(name).located().name == name
    assert Source("pairs/*.parquet").located().open().sizes == {"train": 2}

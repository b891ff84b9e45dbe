# SPDX-License-Identifier: Apache-2.0
"""Small directories with the layouts of methods' training data, and lists that are written as text."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pictures

from hf_tripletclip.data import TripletCollator, build_processor, load_tripletdata
from hf_tripletclip.data.decoding import captions_in, decode_image
from hf_tripletclip.data.presets import LISTS_AS_TEXT, PRESETS, UNRELATED_COLUMNS
from hf_tripletclip.data.validate import validate
from hf_tripletclip.mining.pairs import read_pairs

COLOURS = ("red", "green", "blue")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pictures.new("RGB", (8, 8), COLOURS[number]).save(path)


def written(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows([header, *rows])
    return path


NEGATIVES = [
    ["A yak holding a child's umbrella.", 'a "petting" child'],
    ["one, with a comma"],
    [],
]


def negclip(folder: Path) -> tuple[Path, dict]:
    """`train_neg_clip.tsv`: a column of row numbers without a name, and lists in Python's notation."""
    names = [f"coco/val2014/COCO_val2014_{number:012d}.jpg" for number in range(3)]
    for number, name in enumerate(names):
        picture(folder / name, number)
    rows = [
        [number, f"caption {number}", name, str(NEGATIVES[number]), str([2 - number, 1])]
        for number, name in enumerate(names)
    ]
    return written(folder / "train_neg_clip.tsv", ["", "title", "filepath", "neg_caption", "neg_image"], rows), {}


def degla(folder: Path) -> tuple[Path, dict]:
    """`DeGLA.json`: a list of objects, and COCO's pictures of 2014 by their numbers."""
    for number in range(3):
        picture(folder / "train2014" / f"COCO_train2014_{number + 40:012d}.jpg", number)
    rows = [
        {"image_id": number + 40, "original": f"caption {number}", "enhanced": [f"{kind} {number}" for kind in "abcd"]}
        for number in range(3)
    ]
    (folder / "DeGLA.json").write_text(json.dumps(rows))
    return folder / "DeGLA.json", {"images": folder / "train2014"}


def cc3m(folder: Path) -> tuple[Path, dict]:
    """`train_with_cap.csv`, with tabs."""
    for number in range(3):
        picture(folder / f"training/{number}.jpg", number)
    rows = [[f"training/{number}.jpg", f"caption {number}"] for number in range(3)]
    return written(folder / "train_with_cap.csv", ["file", "caption"], rows), {}


def read_clip(folder: Path) -> tuple[Path, dict]:
    """Parquet with pictures in the rows, and several sentences for each."""
    table = {
        "images": [Pictures.new("RGB", (8, 8), colour) for colour in COLOURS],
        "sentences": [[f"caption {number}", f"other {number}"] for number in range(3)],
        "cocoid": [10, 11, 12],
    }
    features = Features({"images": Image(), "sentences": List(Value("string")), "cocoid": Value("int64")})
    Dataset.from_dict(table, features=features).to_parquet(folder / "train.parquet")
    return folder / "train.parquet", {}


SHAPES = {"negclip": negclip, "degla": degla, "tsvlc": cc3m, "dac": cc3m, "read-clip": read_clip}
WANTED = {
    "negclip": {"caption": [f"caption {number}" for number in range(3)], "neg_caption": NEGATIVES},
    "degla": {
        "caption": [f"caption {number}" for number in range(3)],
        "neg_caption": [[f"{kind} {number}" for kind in "abcd"] for number in range(3)],
    },
    "tsvlc": {"caption": [f"caption {number}" for number in range(3)]},
    "dac": {"caption": [f"caption {number}" for number in range(3)]},
    "read-clip": {"caption": [[f"caption {number}", f"other {number}"] for number in range(3)]},
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("preset", SHAPES)
def test_training_data_of_methods_can_be_loaded(tmp_path, preset, streaming):
    path, options = SHAPES[preset](tmp_path / "data" if preset != "read-clip" else tmp_path)
    loaded = load_tripletdata(path, split="train", streaming=streaming, columns=preset, **options)
    rows = list(loaded)
    for column, wanted in WANTED[preset].items():
        assert [row[column] for row in rows] == wanted
    for row, colour in zip(rows, COLOURS, strict=True):
        image = decode_image(row["image"])  # a stream of JSON has no types
        channels = dict(zip(COLOURS, image.getpixel((4, 4)), strict=True))
        assert max(channels, key=channels.get) == colour
    assert "neg_image" not in rows[0]
    assert (loaded.features or {"image": Image()})["image"] == Image()


@pytest.mark.parametrize("preset", SHAPES)
def test_all_its_rows_can_be_used_and_mined(tmp_path, preset):
    path, options = SHAPES[preset](tmp_path / "data" if preset != "read-clip" else tmp_path)
    report = validate(path, columns=preset, num_workers=0, progress=False, **options)
    assert report.ok, report
    (pairs,) = read_pairs(str(path), columns=preset, **{name: str(value) for name, value in options.items()})
    assert len(pairs) == (6 if preset == "read-clip" else 3)
    assert not pairs.problems


def test_batches_hold_negatives_of_negclip(tmp_path):
    path, _ = negclip(tmp_path / "data")
    rows = load_tripletdata(path, split="train", columns="negclip")
    processor = build_processor(["a caption"], image_size=8)
    batch = TripletCollator(processor, columns=("image", "caption", "neg_caption"))(list(rows))
    assert batch["negative_mask"].tolist() == [[True, True], [True, False], [False, False]]
    assert len(batch["negative_input_ids"]) == 3


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("column", ["neg_caption", "paraphrase", "dense_caption"])
@pytest.mark.parametrize("ends", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_texts_that_are_all_lists_are_lists(tmp_path, column, streaming, ends):
    picture(tmp_path / "1.png", 0)
    cells = ["['a', \"b's\"]", '["c", null]', "", "[]", "['d, e']", "['a dog'\n 'a cat']"]
    path = tmp_path / f"rows{ends}"
    if ends in (".jsonl", ".parquet"):
        table = Dataset.from_list([{"image": "1.png", "caption": "[one]", column: cell} for cell in cells])
        (table.to_json if ends == ".jsonl" else table.to_parquet)(path)
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if ends == ".tsv" else ",")
            writer.writerows([["image", "caption", column], *(["1.png", "[one]", cell] for cell in cells)])
    rows = list(load_tripletdata(path, split="train", streaming=streaming))
    assert [row[column] for row in rows] == [["a", "b's"], ["c", None], [], [], ["d, e"], ["a dog", "a cat"]]
    assert {row["caption"] for row in rows} == {"[one]"}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("cells", [["['a']", "a plain one"], ["[sic] a cat", "a dog"], ["[1, 2]", "[3]"], ["", ""]])
def test_texts_of_which_some_are_not_lists_stay_texts(tmp_path, cells, streaming):
    picture(tmp_path / "1.png", 0)
    rows = [["1.png", "a caption", cell] for cell in cells]
    path = written(tmp_path / "rows.tsv", ["image", "caption", "neg_caption"], rows)
    found = [row["neg_caption"] or "" for row in load_tripletdata(path, split="train", streaming=streaming)]
    assert found == cells


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ("['a', 'b']", ["a", "b"]),
        ('["a", null]', ["a", None]),
        ("['a', None]", ["a", None]),
        (" [] ", []),
        ("a", None),
        ("[a]", None),
        ("['a'", None),
        ("['a' 'b']", ["a", "b"]),  # as NumPy and pandas print arrays
        ("['a dog' \"b's\"\n 'c']", ["a dog", "b's", "c"]),
        ("['a \" \" b', '']", ['a " " b', ""]),
        ("['a' 'b', 'c']", None),  # a comma was forgotten, or is none
        ("['a' None]", None),
        ("['a' 'b]", None),
        ("[['a']]", None),
        ("['a', 1]", None),
        ("[__import__('os')]", None),
        ("[" * 10_000 + "]" * 10_000, None),
    ],
)
def test_captions_in_a_text(text, captions):
    assert captions_in(text) == captions


def test_numbers_are_cocos_pictures_of_any_year(tmp_path):
    names = ["000000000007.jpg", "COCO_train2014_000000000008.jpg", "COCO_val2014_000000000009.jpg"]
    for number, name in enumerate(names):
        picture(tmp_path / "coco" / name, number)
    rows = [{"image": number + 7, "caption": "a"} for number in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for streaming in (False, True):
        report = validate(tmp_path / "rows.jsonl", images=tmp_path / "coco", num_workers=0, progress=False)
        assert (report.rows, report.broken) == (4, 1)
        loaded = load_tripletdata(
            tmp_path / "rows.jsonl", split="train", images=tmp_path / "coco", streaming=streaming
        )
        first = loaded.take(3)
        assert [decode_image(row["image"]).size for row in first] == [(8, 8)] * 3


def test_special_columns_belong_to_presets():
    assert UNRELATED_COLUMNS.keys() | LISTS_AS_TEXT.keys() <= PRESETS.keys()

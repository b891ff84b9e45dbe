# SPDX-License-Identifier: Apache-2.0
"""One's own table of an image and captions, in every kind of file."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset

from hf_tripletclip.evaluation.arguments import main
from hf_tripletclip.evaluation.benchmark import MissingImages
from hf_tripletclip.evaluation.benchmarks.captions import Captions
from hf_tripletclip.results.result import format_result
from tests.evaluation.benchmarks import HandEncoder, write_csv, write_images, write_table

ROWS = [
    {"image": "photos/0.png", "caption": "a red cat", "neg_caption": "a blue cat", "foil": "", "category": "colour"},
    {
        "image": "photos/1.png",
        "caption": "a dog, red",
        "neg_caption": "a blue dog",
        "foil": "null",
        "category": "colour",
    },
    {"image": "photos/2.png", "caption": "a cat", "neg_caption": "a dog", "foil": "a red dog", "category": "object"},
]


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "photos", ["0.png", "1.png", "2.png"])
    return tmp_path


def as_csv(folder):
    return write_csv(folder / "own.csv", ROWS)


def as_jsonl(folder):
    lines = [{"image": row["image"], "captions": texts(row), "category": row["category"]} for row in ROWS]
    (folder / "own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "own.jsonl"


def as_json(folder):
    (folder / "own.json").write_text(json.dumps([{k: v for k, v in row.items() if v} for row in ROWS]))
    return folder / "own.json"


def as_semicolons(folder):
    lines = [";".join(ROWS[0])] + [";".join(row.values()) for row in ROWS]
    (folder / "own.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    return folder / "own.csv"


def as_parquet(folder):
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    columns["image"] = [str(folder / name) for name in columns["image"]]
    return write_table(folder / "own.parquet", columns, "image")


def texts(row):
    return [text for name, text in row.items() if name not in ("image", "category") and text]


@pytest.mark.parametrize("layout", [as_csv, as_jsonl, as_json, as_semicolons, as_parquet])
def test_every_kind_of_file(folder, layout, model, processor, naive):
    result = Captions(data=str(layout(folder)))(model, processor, progress=False)
    right = []
    for row in ROWS:
        first, *others = naive.scores(folder / row["image"], texts(row))
        right.append(all(first > other for other in others))
    assert result.predictions["accuracy"] == right
    assert result.metrics["micro"] == pytest.approx(sum(right) / 3)
    assert result.metrics["colour"] == pytest.approx(sum(right[:2]) / 2)
    assert result.metrics["macro"] == pytest.approx((sum(right[:2]) / 2 + right[2]) / 2)
    assert result.chance["micro"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 3) / 3)  # ragged; "null" is a word
    assert result.chance["colour"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert result.primary == "macro"
    assert set(result.intervals) >= {"macro", "micro"}
    assert {"longest caption", "shortest caption", "text tower"} <= set(result.baselines)
    assert (result.counts["rows"], result.counts["missing"]) == (3, 0)


def test_ties_lose_and_without_categories_there_is_accuracy(folder, collapsed, processor):
    rows = [{name: row[name] for name in ("image", "caption", "neg_caption")} for row in ROWS]
    result = Captions(data=str(write_csv(folder / "own.csv", rows)))(collapsed, processor, progress=False)
    assert (result.metrics["accuracy"], result.metrics["tie_rate"], result.primary) == (0.0, 1.0, "accuracy")
    assert "columns: image image; true caption; others neg_caption" in format_result(result)


def test_columns_that_are_named(folder, model, processor):
    rows = [{"bad": "a dog", "good": "a cat", "picture": "0.png", "group": 7}]
    settings = {"image_column": "picture", "caption_columns": ["bad", "good"], "category_column": "group"}
    data = str(write_csv(folder / "own.csv", rows))
    benchmark = Captions(data=data, images=str(folder / "photos"), true_column="good", **settings)
    (item,) = benchmark.items()
    assert (item.captions, item.category) == (("a cat", "a dog"), "7")
    assert item.images[0].exists()
    (first,) = Captions(data=data, images=str(folder / "photos"), **settings).items()
    assert first.captions == ("a dog", "a cat")
    table = Dataset.from_list([{**row, "picture": str(folder / "photos" / row["picture"])} for row in rows])
    assert Captions(data=table, images=str(folder), true_column="good", **settings).items()[0].images[0].exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"image": "x", "caption": "a"}], r"which columns are captions\? .* there are image, caption"),
        ([{"image": "x", "caption": "a", "caption_language": "en"}], r"which columns are captions\?"),
        ([{"image": "x", "neg_caption": "a", "caption": "b"}], "is called 'neg_caption': .*true_column=caption"),
        (
            [{"caption": "a", "neg_caption": "b"}],
            r"no column is called image, .*--option BENCHMARK\.image_column=COLUMN\); there are caption",
        ),
        (
            [{"image": "photos/0.png", "caption": "", "foil": "b"}],
            "1 of 1 rows cannot be used: .*row 0: empty caption",
        ),
        ([{"image": "photos/0.png", "caption": "a", "foil": ""}], "no other caption than the true one"),
        ([{"image": "photos/0.png", "caption": "a", "foil": "a"}], "the true caption is also one of the others"),
        ([{"image": "", "caption": "a", "foil": "b"}], "row 0: no image"),
        ([{"image": "photos/0.png", "caption": "a", "foil": "b", "category": "macro"}], "category is called 'macro'"),
    ],
)
def test_what_cannot_be_asked_is_said(folder, rows, words):
    with pytest.raises(ValueError, match=words):
        Captions(data=str(write_csv(folder / "own.csv", rows))).items()


def test_files_that_are_none(folder):
    (folder / "own.csv").write_text("image,caption,foil\nphotos/0.png,a dog, running,a cat\n")
    with pytest.raises(ValueError, match="row 0: 4 values for 3 columns: put quotes around"):
        Captions(data=str(folder / "own.csv")).items()
    (folder / "own.jsonl").write_text('{"image": "x"}\n{nothing}\n')
    with pytest.raises(ValueError, match="is not valid JSON: line 2, column 2"):
        Captions(data=str(folder / "own.jsonl")).items()
    with pytest.raises(FileNotFoundError, match=r"the image folder .* does not exist"):
        Captions(data=str(as_csv(folder)), images=str(folder / "nowhere")).items()


def test_missing_images_and_broken_rows_are_counted(folder, model, processor):
    rows = [*ROWS, {**ROWS[0], "image": "photos/9.png"}, {**ROWS[0], "caption": " "}]
    data = str(write_csv(folder / "own.csv", rows))
    with pytest.raises(ValueError, match="1 of 5 rows cannot be used"):
        Captions(data=data)(model, processor, progress=False)
    with pytest.raises(MissingImages, match=r"photos/9\.png"):
        Captions(data=str(write_csv(folder / "other.csv", rows[:4])))(model, processor, progress=False)
    result = Captions(data=data, allow_missing=True)(model, processor, progress=False)
    assert {name: result.counts[name] for name in ("rows", "missing", "broken")} == {
        "rows": 3,
        "missing": 1,
        "broken": 1,
    }


def test_the_command_line_needs_no_code(folder, model, processor, capsys, monkeypatch):
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    moved = write_csv(folder / "csv" / "own.csv", ROWS)
    flags = [
        "--benchmarks",
        "captions",
        "--data",
        str(moved),
        "--images",
        str(folder),
        "--output",
        str(folder / "out"),
    ]
    assert main([*flags, "--disable_tqdm", str(folder / "model")]) == 0  # the model after the flags
    assert "columns: image image; true caption; others neg_caption, foil; category category" in capsys.readouterr().out


def test_scores_that_are_written_down(folder, model, processor):
    scores = {"0.png": {"a red cat": 0.5, "a blue cat": 0.4}, "1.png": {"a dog, red": 0.5, "a blue dog": 0.5}}
    scores["1.png"]["null"] = 0.1
    scores["2.png"] = {"a cat": 0.5, "a dog": 0.1, "a red dog": 0.6}
    result = Captions(data=str(as_csv(folder)))(HandEncoder.of_scores(model, processor, {**scores}))
    assert result.predictions["accuracy"] == [True, False, False]


def test_a_column_called_captions_in_a_csv_is_no_list(folder):
    rows = [{"image": row["image"], "captions": row["caption"], "negative": row["neg_caption"]} for row in ROWS]
    items = Captions(data=str(write_csv(folder / "own.csv", rows))).items()
    assert items[0].captions == ("a red cat", "a blue cat")


def test_columns_may_be_written_in_other_ways(folder):
    rows = [{"File name": row["image"], "Caption": row["caption"], "Neg caption": row["neg_caption"], "Kind": "x"}
            for row in ROWS]  # fmt: skip
    first, *_ = Captions(data=str(write_csv(folder / "own.csv", rows))).items()
    assert (first.captions, first.category) == (("a red cat", "a blue cat"), "x")
    (folder / "own.jsonl").write_text('{"image": "photos/0.png", "caption": "a", "negatives": ["b", "c"]}')
    assert Captions(data=str(folder / "own.jsonl")).items()[0].captions == ("a", "b", "c")


@pytest.mark.parametrize(
    ("column", "ids", "keys"),
    [
        ("id", ["q-7", "q-2", " q-9 "], ["q-7", "q-2", "q-9"]),
        ("ID", [7, 2, 0], ["7", "2", "0"]),
        ("id", ["q", "q", "r"], ["0", "1", "2"]),  # of the pictures, say: they name no row
        ("id", ["q", None, ""], ["0", "1", "2"]),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "dataset"])
def test_an_id_names_the_rows(folder, column, ids, keys, kind):
    rows = [{column: name, **row} for name, row in zip(ids, ROWS, strict=True)]
    if kind == "csv":
        data = str(write_csv(folder / "own.csv", rows))
    elif kind == "jsonl":
        (folder / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
        data = str(folder / "own.jsonl")
    else:
        data = Dataset.from_list(rows)
    benchmark = Captions(data=data, images=str(folder) if kind == "dataset" else None)
    assert [item.key for item in benchmark.checked_items()] == keys
    assert [item.captions[0] for item in benchmark.checked_items()] == ["a red cat", "a dog, red", "a cat"]


@pytest.mark.parametrize(("content", "message"), [("", "has no rows"), ("[" * 100_000, "nested too deeply")])
def test_files_without_rows(folder, content, message):
    (folder / "own.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        Captions(data=str(folder / "own.json")).items()

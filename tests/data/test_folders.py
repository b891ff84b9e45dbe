# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder hold rows, and which pictures belong to them."""

from __future__ import annotations

import csv
import io
import json
import logging
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from datasets import are_progress_bars_disabled
from PIL import Image as PILImage

from hf_tripletclip.data import load_tripletdata
from hf_tripletclip.data.decoding import BrokenValue, decode_image
from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.data.raw import load_raw, without_bars
from hf_tripletclip.data.validate import format_report, validate

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "lime": (0, 255, 0)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    PILImage.new("RGB", (8, 8), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def read(name: Path, streaming: bool, **options) -> dict[str, list[tuple[str, str]]]:
    """Split -> caption and colour of each row."""
    loaded = load_tripletdata(name, streaming=streaming, required_columns=["image", "caption"], **options)
    names = {colour: name for name, colour in COLOURS.items()}
    return {
        split: [(row["caption"], names[decode_image(row["image"]).getpixel((0, 0))]) for row in undecoded(part)]
        for split, part in loaded.items()
    }


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_names_of_pictures_make_no_splits(tmp_path, kind, streaming):
    names = ["photo of a train.png", "test tubes.png", "val-d'isère.png", "dev.png", "images/eval 1.png", "a.png"]
    for name in names:
        write(tmp_path / "data" / name, png("red"))
    write_table(
        tmp_path / "data" / f"metadata.{kind}", [{"file_name": name, "caption": f"a {name}"} for name in names]
    )
    assert read(tmp_path / "data", streaming) == {"train": [(f"a {name}", "red") for name in names]}


@pytest.mark.parametrize("streaming", [False, True])
def test_folders_make_splits_and_each_has_its_pictures(tmp_path, streaming):
    for folder, colour in (("train/cats", "red"), ("train/dogs", "blue"), ("test", "lime"), ("dev-1", "red")):
        write(tmp_path / "data" / folder / "train 1.png", png(colour))
        write_table(
            tmp_path / "data" / folder / "metadata.csv", [{"file_name": "train 1.png", "caption": f"in {folder}"}]
        )
    write(tmp_path / "data" / "__MACOSX" / "metadata.csv", "file_name,caption\nno,no\n")
    write(tmp_path / "data" / ".cache" / "metadata.csv", "file_name,caption\nno,no\n")
    assert read(tmp_path / "data", streaming) == {
        "train": [("in train/cats", "red"), ("in train/dogs", "blue")],
        "validation": [("in dev-1", "red")],
        "test": [("in test", "lime")],
    }


def test_pictures_that_no_row_names_are_counted(tmp_path, caplog):
    for name in ("1.png", "2.png", "sub/3.jpg", ".hidden.png"):
        write(tmp_path / "data" / name, png("red"))
    write_table(tmp_path / "data" / "metadata.jsonl", [{"file_name": "1.png", "caption": "a"}])
    with caplog.at_level(logging.WARNING):
        load_tripletdata(tmp_path / "data")
    assert "2 pictures of" in caplog.text
    assert "2.png" in caplog.text
    report = validate(tmp_path / "data", num_workers=0, progress=False)
    assert report.left_out == ["2.png", "sub/3.jpg"]
    assert "2 pictures are in no row: 2.png, sub/3.jpg" in format_report(report)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_metadata_row_that_leads_out_of_the_folder_is_one_broken_row(tmp_path, streaming):
    write(tmp_path / "private.png", png("red"))
    write(tmp_path / "data" / "1.png", png("blue"))
    rows = [{"file_name": name, "caption": "a"} for name in ("../private.png", "1.png", "2.png")]
    write_table(tmp_path / "data" / "metadata.jsonl", rows)
    outside, good, absent = undecoded(load_tripletdata(tmp_path / "data", split="train", streaming=streaming))
    assert decode_image(good["image"]).size == (8, 8)
    with pytest.raises(BrokenValue, match=r"image outside the dataset's folder: \.\./private\.png"):
        decode_image(outside["image"])
    with pytest.raises(BrokenValue, match=r"no such file: .*data/2\.png"):
        decode_image(absent["image"])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_paths_are_relative_to_the_file_that_names_them(tmp_path, monkeypatch, kind, streaming):
    (tmp_path / "elsewhere" / "images").mkdir(parents=True)
    write(tmp_path / "elsewhere" / "images" / "1.png", png("lime"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    write(tmp_path / "data" / "images" / "1.png", png("red"))
    file = tmp_path / "data" / f"pairs.{kind}"
    if kind == "tsv":
        file.write_text("image\tcaption\nimages/1.png\ta, b\n")
    else:
        write_table(file, [{"image": "images/1.png", "caption": "a, b"}])
    assert read(file, streaming) == {"train": [("a, b", "red")]}
    if kind != "tsv":
        assert read(tmp_path / "data", streaming) == {"train": [("a, b", "red")]}  # the folder, too


@pytest.mark.parametrize("streaming", [False, True])
def test_tables_beside_pictures(tmp_path, streaming):
    for split, colour in (("train", "red"), ("test", "blue")):
        write(tmp_path / "data" / f"{split}_images" / "test.png", png(colour))
        write_table(tmp_path / "data" / f"{split}.csv", [{"image": f"{split}_images/test.png", "caption": split}])
    write_table(tmp_path / "data" / "rest.csv", [{"image": "test_images/test.png", "caption": "rest"}])
    assert read(tmp_path / "data", streaming) == {
        "train": [("rest", "blue"), ("train", "red")],
        "test": [("test", "blue")],
    }
    write_table(tmp_path / "data" / "more.jsonl", [{"image": "a", "caption": "b"}])
    with pytest.raises(ValueError, match=r"holds tables of several kinds \(rest.csv, more.jsonl\): give the file"):
        read(tmp_path / "data", streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_the_same_name_in_each_folder_is_another_picture(tmp_path, streaming):
    for folder, colour in (("a", "red"), ("b", "blue")):
        write(tmp_path / "data" / folder / "1.png", png(colour))
        write_table(tmp_path / "data" / folder / "pairs.csv", [{"image": "1.png", "caption": folder}])
    assert read(tmp_path / "data", streaming) == {"train": [("a", "red"), ("b", "blue")]}
    assert read(tmp_path / "data" / "*" / "pairs.csv", streaming) == {"train": [("a", "red"), ("b", "blue")]}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_images_of_its_own(tmp_path, streaming):
    write(tmp_path / "photos" / "1.png", png("red"))
    write(tmp_path / "data" / "1.png", png("blue"))
    write(tmp_path / "data" / "2.png", png("blue"))
    absolute = str(tmp_path / "photos" / "1.png")
    rows = [{"image": name, "caption": "a"} for name in ("1.png", "2.png", absolute)]
    file = write_table(tmp_path / "data" / "pairs.csv", rows)
    assert read(file, streaming, images=tmp_path / "photos") == {"train": [("a", "red"), ("a", "blue"), ("a", "red")]}
    with pytest.raises(FileNotFoundError, match=r"The folder of images .*nowhere does not exist"):
        read(file, streaming, images=tmp_path / "nowhere")
    report = validate(file, num_workers=0, progress=False)
    assert report.counts == {"image outside the dataset's folder in image": 1}
    assert validate(file, images=tmp_path / "photos", num_workers=0, progress=False).ok


@pytest.mark.parametrize("streaming", [False, True])
def test_words_that_look_like_missing_values(tmp_path, streaming):
    captions = ["null", "NA", "None", "nan", "n/a", "#N/A", "a cat", "", "12"]
    write(tmp_path / "None.png", png("red"))
    lines = [
        {"image": "None.png", "caption": text, "score": score}
        for text, score in zip(captions, "1NA2345678"[:1] + "123456780", strict=False)
    ]
    lines[1]["score"] = "NA"
    lines[2]["score"] = "0.5"
    for name in ("pairs.csv", "metadata.csv"):
        rows = [
            {
                ("file_name" if name == "metadata.csv" else key) if key == "image" else key: value
                for key, value in line.items()
            }
            for line in lines
        ]
        file = write_table(tmp_path / name, rows)
        loaded = list(undecoded(load_tripletdata(file, split="train", streaming=streaming)))
        assert [row["caption"] for row in loaded] == [text or None for text in captions]
        assert loaded[2]["score"] == 0.5
        assert loaded[1]["score"] != loaded[1]["score"] or loaded[1]["score"] is None
        assert decode_image(loaded[0]["image"]).size == (8, 8)


@pytest.mark.parametrize("streaming", [False, True])
def test_captions_that_are_numbers(tmp_path, streaming):
    write(tmp_path / "1.png", png("red"))
    file = write_table(tmp_path / "pairs.csv", [{"image": "1.png", "caption": "007"}])
    assert read(file, streaming) == {"train": [("007", "red")]}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("first", "late", "expected"),
    [
        ("7", "0.5", (7.0, 0.5)),
        ("7", "abc", ("7", "abc")),
        ("0.5", "abc", ("0.5", "abc")),
        ("7", "", (7, None)),
        ("", "3", (None, 3.0)),
        ("7", ("3", ""), (7, None)),
        ("7", ("3", "", "0.5"), (7.0, 0.5)),
        ("7", "9" * 20, ("7", "9" * 20)),
    ],
)
def test_a_column_of_a_csv_file_that_changes_late(tmp_path, monkeypatch, first, late, expected, streaming):
    monkeypatch.setattr("hf_tripletclip.data.raw.ROWS_AT_A_TIME", 5)
    write(tmp_path / "1.png", png("red"))
    late = late if isinstance(late, tuple) else (late, late)
    rows = [{"image": "1.png", "caption": "a", "score": value} for value in [*[first] * 10, *late]]
    file = write_table(tmp_path / "pairs.csv", rows)
    # as many rows as `datasets` takes the types from
    loaded = load_tripletdata(file, split="train", streaming=streaming, chunksize=5)
    scores = [row["score"] for row in undecoded(loaded)]
    assert (scores[0], scores[-1]) == expected
    if first:  # a column that begins with nothing is an integer in a stream, a fraction else
        assert [type(scores[0]), type(scores[-1])] == list(map(type, expected))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_csv_file_that_is_not_utf_8(tmp_path, caplog, streaming):
    write(tmp_path / "1.png", png("red"))
    file = write(tmp_path / "pairs.csv", "image,caption\n1.png,café\n".encode("latin-1"))
    with pytest.raises(ValueError, match="can't decode byte"):
        read(file, streaming)
    assert "pairs.csv is not UTF-8 (unexpected end of data): save it as UTF-8, or give its `encoding`" in caplog.text
    assert read(file, streaming, encoding="latin-1") == {"train": [("café", "red")]}


@pytest.mark.parametrize("names", [["train/1.png", "test/2.png"], ["1.png", "val2017/2.png"]])
def test_one_metadata_file_for_several_split_folders_is_reported(tmp_path, caplog, names):
    for name in names:
        write(tmp_path / "data" / name, png("red"))
    write_table(tmp_path / "data" / "metadata.csv", [{"file_name": name, "caption": "a"} for name in names])
    assert len(read(tmp_path / "data", False)["train"]) == 2
    assert "put a metadata file into each folder" in caplog.text


@pytest.mark.parametrize("streaming", [False, True])
def test_files_of_img2dataset_next_to_tars_are_ignored(tmp_path, streaming):
    for shard in ("00000", "00001"):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for extension, content in (("png", png("red")), ("txt", shard.encode()), ("json", b"{}")):
                info = tarfile.TarInfo(f"{shard}0.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        write(tmp_path / f"{shard}_stats.json", json.dumps({"count": 1}))
        pd.DataFrame({"url": ["http://x"], "key": [shard]}).to_parquet(tmp_path / f"{shard}.parquet")
    columns = {"image": "png", "caption": "txt"}
    assert read(tmp_path, streaming, columns=columns) == {"train": [("00000", "red"), ("00001", "red")]}
    if streaming:
        part = load_tripletdata(tmp_path, split="train", streaming=True, columns=columns)
        assert part.num_shards == 2


def test_errors_list_only_columns_of_the_file(tmp_path):
    file = write_table(tmp_path / "pairs.csv", [{"image": "1.png", "caption": "a"}])
    with pytest.raises(ValueError, match=r"it lacks 'neg_caption'; it has 'image', 'caption'\. If"):
        load_tripletdata(file, required_columns=["neg_caption"])


def test_trohn_img_needs_coco(tmp_path):
    rows = [
        {
            "image_id": 42,
            "caption": "a",
            "negative_caption": "b",
            "negative_image": {"bytes": png("blue"), "path": None},
        }
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
    write(tmp_path / "train2017" / "000000000042.jpg", png("red"))
    for streaming in (False, True):
        options = {"columns": "trohn-img", "streaming": streaming, "images": tmp_path / "train2017"}
        (row,) = undecoded(load_tripletdata(tmp_path / "train.parquet", split="train", **options))
        assert decode_image(row["image"]).getpixel((0, 0)) == (255, 0, 0)
        assert decode_image(row["neg_image"]).getpixel((0, 0)) == (0, 0, 255)
        assert row["neg_caption"] == "b"
        with pytest.raises(
            ValueError, match=r"its column 'image' holds int64, not images; if they are .* COCO's .*`images`"
        ):
            load_tripletdata(tmp_path / "train.parquet", split="train", columns="trohn-img", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_missing_split_is_an_error(tmp_path, streaming):
    write(tmp_path / "1.png", png("red"))
    write_table(tmp_path / "pairs.csv", [{"image": "1.png", "caption": "a"}])
    for name in (tmp_path, tmp_path / "pairs.csv"):
        with pytest.raises(ValueError, match=r"has no split 'test'; it has train\.$"):
            load_tripletdata(name, split="test", streaming=streaming)


def test_validate_distinguishes_missing_from_corrupt(tmp_path):
    write(tmp_path / "corrupt.png", b"no image")
    file = write_table(
        tmp_path / "pairs.csv", [{"image": name, "caption": "a"} for name in ("absent.png", "corrupt.png", "gone.png")]
    )
    report = validate(file, num_workers=0, progress=False)
    assert report.counts == {"no such file in image": 2, "unreadable image in image": 1}
    text = format_report(report)
    assert "NoneType" not in text
    assert "column image: Image" in text
    assert "column caption: string" in text
    assert f"2 × no such file in image: 'a' ({tmp_path / 'absent.png'}), 'a' ({tmp_path / 'gone.png'})" in text


def test_a_small_local_folder_shows_no_bars(tmp_path, capfd):
    for number in range(20):
        write(tmp_path / "data" / f"{number}.png", png("red"))
        write_table(tmp_path / "data" / f"{number}.csv", [{"image": f"{number}.png", "caption": "a"}])
    assert len(load_tripletdata(tmp_path / "data", split="train")) == 20
    printed = capfd.readouterr().err
    assert "ownloading" not in printed
    assert "it/s" not in printed
    assert "examples/s" not in printed


@pytest.mark.parametrize("streaming", [False, True])
def test_unclear_folders_are_errors(tmp_path, streaming):
    write(tmp_path / "commas.csv", "image,caption\n1.png,a cat, a dog\n")
    with pytest.raises(ValueError, match=r"commas\.csv: its rows have more fields .* in quotes"):
        load_tripletdata(tmp_path / "commas.csv", streaming=streaming)
    for name in ("metadata.csv", "b/metadata.jsonl"):
        write_table(tmp_path / "kinds" / name, [{"file_name": "1.png", "caption": "a"}])
    with pytest.raises(ValueError, match=r"metadata of several kinds \(b/metadata.jsonl, metadata.csv\)"):
        load_tripletdata(tmp_path / "kinds", streaming=streaming)
    write(tmp_path / "card" / "README.md", "---\n: : bad [\n---\n")
    write(tmp_path / "card" / "pairs.csv", "image,caption\n1.png,a\n")
    with pytest.raises(ValueError, match=r"The header of .*README\.md is not valid YAML"):
        load_tripletdata(tmp_path / "card", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_names_are_not_taken_for_patterns(tmp_path, streaming):
    folder = tmp_path / "a [1] \u00fc"
    write(folder / "im [1].png", png("red"))
    file = write_table(folder / "p [x].csv", [{"image": "im [1].png", "caption": "a"}])
    assert read(file, streaming) == read(folder, streaming) == {"train": [("a", "red")]}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_of_file_names_holds_images_only_if_images_are_expected(tmp_path, streaming):
    write(tmp_path / "1.png", png("red"))
    file = write_table(tmp_path / "pairs.csv", [{"file_name": "1.png", "caption": "a"}])
    assert read(file, streaming) == {"train": [("a", "red")]}
    raw, _ = load_raw(str(file), "train", streaming, {}, {})
    assert list(raw) == [{"file_name": "1.png", "caption": "a"}]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_pattern_allows_files_below_its_first_folder(tmp_path, streaming):
    write(tmp_path / "data" / "shared" / "1.png", png("red"))
    write(tmp_path / "private.png", png("blue"))
    for folder in ("a", "b"):
        rows = [{"image": "../shared/1.png", "caption": folder}]
        write_table(tmp_path / "data" / folder / "pairs.csv", rows)
    assert read(tmp_path / "data" / "*" / "pairs.csv", streaming) == {"train": [("a", "red"), ("b", "red")]}
    file = write_table(tmp_path / "data" / "a" / "pairs.csv", [{"image": "../../private.png", "caption": "a"}])
    assert validate(tmp_path / "data" / "[a]" / "pairs.csv", num_workers=0, progress=False).broken == 1
    assert validate(file, num_workers=0, progress=False).broken == 1


@pytest.mark.parametrize(("large", "shown"), [(2, True), (3, False)])
@pytest.mark.parametrize("name", ["set", "set/b.csv"])
def test_bars_are_shown_for_large_datasets(tmp_path, monkeypatch, large, shown, name):
    write(tmp_path / "set" / "b.csv", "abc")
    monkeypatch.setattr("hf_tripletclip.data.raw.LARGE", large)
    with without_bars(str(tmp_path / name)):
        assert are_progress_bars_disabled() is not shown
    assert not are_progress_bars_disabled()


@pytest.mark.parametrize("streaming", [False, True])
def test_tables_alone_and_with_json_about_them(tmp_path, streaming):
    write(tmp_path / "plain" / "train.csv", "caption\na\n")
    write(tmp_path / "plain" / "rest.csv", "caption\nb\n")
    loaded = load_tripletdata(tmp_path / "plain", split="train", streaming=streaming)
    assert [row["caption"] for row in loaded] == ["b", "a"]
    write(tmp_path / "data" / "1.png", png("red"))
    write_table(tmp_path / "data" / "pairs.csv", [{"image": "1.png", "caption": "a"}])
    write(tmp_path / "data" / "about.json", '{"made": "by hand"}')
    assert read(tmp_path / "data", streaming) == {"train": [("a", "red")]}

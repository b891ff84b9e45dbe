# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from hf_tripletclip.data import BrokenRows, load_tripletdata
from hf_tripletclip.data.validate import SplitReport, ValidationReport, format_report, validate
from tests.data.test_tars import png, write_tar


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def damaged(tmp_path):
    """Two splits of tars: 5 broken rows of 106 and a cut file."""
    folder = tmp_path / "set"
    bomb = io.BytesIO()
    Image.new("1", (20000, 20000)).save(bomb, format="PNG")
    write_tar(
        folder / "train" / "a.tar",
        100,
        image={3: png("red")[:40], 50: bomb.getvalue()},
        caption={99: b"\xff", 3: b""},
        neg_image={20: None},
    )
    headers = write_tar(folder / "train" / "b.tar", 5, first=200)
    content = (folder / "train" / "b.tar").read_bytes()
    (folder / "train" / "b.tar").write_bytes(content[: headers[16].offset])
    write_tar(folder / "test" / "a.tar", 2, neg_caption={1: b" "})
    return folder


@pytest.mark.parametrize("num_workers", [0, 2])
def test_everything_is_counted_by_split_and_reason(damaged, tmp_path, num_workers):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in damaged.rglob("*") if path.is_file()}
    found = BrokenRows(tmp_path / "broken.jsonl")
    report = validate(damaged, num_workers=num_workers, broken_rows=found, progress=False)
    train, test = report.splits["train"], report.splits["test"]
    assert (train.rows, train.broken, train.files, train.ok) == (104, 4, 1, False)
    assert (test.rows, test.broken, test.files, test.ok) == (2, 1, 0, False)
    assert train.counts == {
        "unreadable image in image": 1,
        "empty caption in caption": 1,
        "missing image in neg_image": 1,
        "image too large in image": 1,
        "caption is not UTF-8 in caption": 1,
        "tar cut short": 1,
    }
    assert train.keys["empty caption in caption"] == ["000003"]
    assert train.keys["tar cut short"] == [str(damaged / "train" / "b.tar")]
    assert (report.rows, report.broken, report.ok, report.exit_status()) == (106, 5, False, 1)
    assert report.counts["empty caption in neg_caption"] == 1
    assert found.counts() == report.counts
    text = format_report(report)
    assert "train: 104 rows, 4 of them broken" in text
    assert "column image: Image" in text
    assert "1 × tar cut short: " in text
    assert "5 of 106 rows are broken; training skips and reports them." in text
    assert "1 file is damaged: a tar is read up to the damage" in text
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in damaged.rglob("*") if path.is_file()}
    assert after == before


def test_a_dataset_without_faults(tmp_path, capsys):
    write_tar(tmp_path / "a.tar", 40)
    report = validate(tmp_path / "a.tar", split="train", num_workers=1)
    assert (report.ok, report.exit_status(), report.counts, report.rows) == (True, 0, {}, 40)
    assert format_report(report).endswith("All 40 rows can be used.")
    assert "checking train" in capsys.readouterr().err


def test_only_the_first_keys_are_kept(tmp_path):
    write_tar(tmp_path / "a.tar", 10, caption=dict.fromkeys(range(8), b""))
    split = validate(tmp_path / "a.tar", num_workers=0, progress=False, max_keys=2).splits["train"]
    assert split.counts == {"empty caption in caption": 8}
    assert split.keys["empty caption in caption"] == ["000000", "000001"]
    assert "8 × empty caption in caption: 000000, 000001, ..." in format_report(
        validate(tmp_path / "a.tar", num_workers=0, progress=False, max_keys=2)
    )


def test_several_captions_and_other_names(tmp_path):
    columns = {"picture": pa.array([png("red")] * 3), "caption": pa.array(["a"] * 3)}
    columns["foils"] = pa.array([["a", ""], [], None])
    pq.write_table(pa.table(columns), tmp_path / "set.parquet")
    names = {"image": "picture", "neg_caption": "foils"}
    report = validate(tmp_path / "set.parquet", columns=names, num_workers=0, progress=False)
    split = report.splits["train"]
    assert (split.rows, split.broken, split.counts) == (3, 0, {})
    assert split.changed == {"empty caption in neg_caption": 1}
    assert split.columns == {"image": "Image", "caption": "string", "neg_caption": "list of string"}
    assert report.ok
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="has none of the columns image"):
        validate(tmp_path / "other.parquet", num_workers=0, progress=False)


LISTS = [["a", "b"], ["", "b"], [None, "c"], [], ["", None], None]


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("column", ["neg_caption", "paraphrase", "dense_caption"])
def test_any_number_of_captions_per_row_is_allowed(tmp_path, column, binary):
    values = [few and [one.encode() if binary and one is not None else one for one in few] for few in LISTS]
    table = {"image": [png("red")] * len(LISTS), "caption": [f"row {row}" for row in range(len(LISTS))]}
    pq.write_table(pa.table({**table, column: values}), tmp_path / "set.parquet")
    split = validate(tmp_path / "set.parquet", num_workers=0, progress=False).splits["train"]
    assert (split.rows, split.broken, split.ok) == (len(LISTS), 0, True)
    assert split.changed == {f"empty caption in {column}": 2}


@pytest.mark.parametrize("binary", [False, True])
def test_of_several_captions_one_must_be_usable(tmp_path, binary):
    """Lists of captions are those of `laclip`: one of them is drawn."""
    values = [few and [one.encode() if binary and one is not None else one for one in few] for few in LISTS]
    foils = ["x", "b", "c", "d", "e", "f"]
    table = pa.table({"image": [png("red")] * len(LISTS), "caption": values, "neg_caption": foils})
    pq.write_table(table, tmp_path / "set.parquet")
    found = BrokenRows(tmp_path / "broken.jsonl")
    split = validate(tmp_path / "set.parquet", num_workers=0, progress=False, broken_rows=found).splits["train"]
    assert (split.rows, split.broken) == (len(LISTS), 3)
    assert split.counts == {"missing caption in caption": 3}
    assert split.keys["missing caption in caption"] == ["'d'", "'e'", "'f'"]
    assert split.changed == {"empty caption in caption": 2}
    assert split.useless == {"the same as the positive in neg_caption": 2}
    assert split.keys["empty caption in caption"] == ["'b'", "'e'"]  # the first that says something
    assert found.counts()["missing caption in caption"] == 3


def test_a_file_that_cannot_be_read_to_its_end(tmp_path):
    images = pa.array([Image.effect_noise((64, 64), 90).tobytes()] * 400)
    table = pa.table({"image": images, "caption": pa.array([str(row) for row in range(400)])})
    pq.write_table(table, tmp_path / "set.parquet", row_group_size=100, use_dictionary=False, compression="zstd")
    group = pq.ParquetFile(tmp_path / "set.parquet").metadata.row_group(2).column(0)
    content = bytearray((tmp_path / "set.parquet").read_bytes())
    start = group.data_page_offset
    content[start : start + 400] = b"\xff" * 400
    (tmp_path / "set.parquet").write_bytes(content)
    report = validate(tmp_path / "set.parquet", num_workers=0, progress=False)
    split = report.splits["train"]
    assert (report.exit_status(), split.files) == (1, 1)
    assert split.rows < 400
    assert split.counts["a file or the rest of it cannot be read"] == 1
    (detail,) = split.keys["a file or the rest of it cannot be read"]
    assert detail.startswith("OSError ")  # what it is, and what its message says
    assert "\n" not in detail
    assert "training stops at other files" in format_report(report)


def test_damaged_files_without_readable_rows_are_reported():
    text = format_report(ValidationReport("set", {"train": SplitReport(files=2)}))
    assert "There are no rows.\n2 files are damaged: " in text


def write_with_card(folder, files: int = 3, rows: int = 10):
    """A dataset of several parquet files whose card says how many rows there are."""
    for number in range(files):
        captions = [f"caption {number} {row}" for row in range(rows)]
        texts = {"caption": pa.array(captions), "neg_caption": pa.array([f"no {text}" for text in captions])}
        columns = {"image": pa.array([png("red")] * rows), **texts}
        (folder / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), folder / "data" / f"train-{number}.parquet")
    card = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
        "dataset_info": {
            "features": [
                {"name": "image", "dtype": "binary"},
                *({"name": name, "dtype": "string"} for name in ("caption", "neg_caption")),
            ],
            "splits": [{"name": "train", "num_bytes": 1000, "num_examples": files * rows}],
        },
    }
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")


def test_rows_that_the_card_promises_but_are_missing(tmp_path):
    folder = tmp_path / "set"
    write_with_card(folder)
    assert validate(folder, num_workers=0, progress=False).ok
    (folder / "data" / "train-1.parquet").unlink()
    report = validate(folder, num_workers=0, progress=False)
    split = report.splits["train"]
    assert (split.rows, split.promised, report.exit_status()) == (20, 30, 1)
    text = format_report(report)
    assert "the card promises 30 rows: a file is missing, or was changed" in text
    assert text.endswith("The number of rows differs from the card's in train. Training refuses such a dataset.")
    with pytest.raises(ValueError, match="the card promises 30 rows of train, the files hold 20: a file is missing"):
        load_tripletdata(folder)


def test_a_damaged_file_is_named_and_does_not_hide_others(tmp_path):
    folder = tmp_path / "set"
    write_with_card(folder)
    path = folder / "data" / "train-0.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    report = validate(folder, num_workers=0, progress=False)
    split = report.splits["train"]
    assert (split.rows, split.files, report.exit_status()) == (20, 1, 1)
    assert any(line.startswith(str(path)) for line in split.keys["a file or the rest of it cannot be read"])
    assert f"{path}: " in format_report(report)
    with pytest.raises(ValueError, match=rf"cannot be read: {re.escape(str(path))}: "):
        load_tripletdata(folder)


def test_one_damaged_file_without_a_card(tmp_path):
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 cut short")
    for load in (load_tripletdata, validate):
        with pytest.raises(ValueError, match=rf"cannot be read: {re.escape(str(tmp_path / 'cut.parquet'))}: "):
            load(tmp_path / "cut.parquet")


def test_negatives_that_equal_the_positive_are_counted(tmp_path):
    red, blue = png("red"), png("blue")
    columns = {
        "id": pa.array(["a", "b", "c", "d"]),
        "image": pa.array([red] * 4),
        "caption": pa.array(["a cat", "a dog", "a bird", "a fish"]),
        "neg_image": pa.array([blue, red, blue, blue]),
        "neg_caption": pa.array([["a dog"], ["a cat"], ["a bird", "a fish"], []]),
    }
    pq.write_table(pa.table(columns), tmp_path / "set.parquet")
    report = validate(tmp_path / "set.parquet", num_workers=0, progress=False)
    split = report.splits["train"]
    assert split.useless == {"the same as the positive in neg_image": 1, "the same as the positive in neg_caption": 1}
    assert split.keys == {
        "the same as the positive in neg_image": ["b"],
        "the same as the positive in neg_caption": ["c"],
    }
    assert report.ok  # they can be used
    assert (
        "1 × the same as the positive in neg_caption (used, but nothing can be learned from it): c"
        in format_report(report)
    )


def test_a_corrupt_picture_is_named_with_its_path_and_the_reason(tmp_path):
    (tmp_path / "cut.png").write_bytes(png("red")[:50])
    (tmp_path / "none.png").write_bytes(b"no picture")
    rows = "".join(f"{name}.png,caption {name}\n" for name in ("cut", "none", "absent"))
    (tmp_path / "set.csv").write_text(f"image,caption\n{rows}")
    text = format_report(validate(tmp_path / "set.csv", num_workers=0, progress=False))
    cut, none = (re.escape(str(tmp_path / name)) for name in ("cut.png", "none.png"))
    assert re.search(
        rf"'caption cut' \({cut}: \w.*\), 'caption none' \({none}: not a format that Pillow knows\)", text
    )
    assert f"'caption absent' ({tmp_path / 'absent.png'})" in text
    pq.write_table(pa.table({"key": ["a"], "image": pa.array([b"no picture"])}), tmp_path / "set.parquet")
    text = format_report(validate(tmp_path / "set.parquet", num_workers=0, progress=False))
    assert "1 × unreadable image in image: a (not a format that Pillow knows)" in text


@pytest.mark.parametrize("num_workers", [0, 1])
def test_rows_without_a_key_and_a_caption_are_numbered(tmp_path, num_workers):
    images = [png("red")] * 70
    images[33], images[66] = b"no picture", None
    captions = [None if row in (33, 66, 40) else "a cat" for row in range(70)]
    pq.write_table(pa.table({"image": pa.array(images), "caption": pa.array(captions)}), tmp_path / "set.parquet")
    found = BrokenRows(tmp_path / "broken.jsonl")
    report = validate(tmp_path / "set.parquet", num_workers=num_workers, progress=False, broken_rows=found)
    keys = report.splits["train"].keys
    assert keys["missing caption in caption"] == ["row 33", "row 40", "row 66"]
    assert keys["unreadable image in image"] == ["row 33 (not a format that Pillow knows)"]
    assert keys["missing image in image"] == ["row 66"]
    assert {row["key"] for row in found} == {"row 33", "row 40", "row 66"}
    assert "the first is row 0" in format_report(report)


def test_internal_columns_are_not_reported(tmp_path):
    data = {"other": pa.array(["a"]), "__error__": pa.array([None], pa.string())}
    pq.write_table(pa.table(data), tmp_path / "set.parquet")
    with pytest.raises(ValueError, match=r"it has other\. If they"):
        validate(tmp_path / "set.parquet", num_workers=0, progress=False)
    with pytest.raises(ValueError, match=r"which it does not have; it has \['other'\]"):
        load_tripletdata(tmp_path / "set.parquet", columns={"caption": "nope"})


@pytest.mark.parametrize("ends", [".csv", ".tsv"])
def test_a_table_without_anything_in_it_is_named(tmp_path, ends):
    (tmp_path / f"rows{ends}").write_text("")
    with pytest.raises(ValueError, match=rf"rows\{ends} cannot be read: "):
        validate(tmp_path / f"rows{ends}", num_workers=0, progress=False)


@pytest.mark.parametrize(("column", "lacks"), [("image", "caption"), ("caption", "image")])
def test_a_dataset_without_pairs_is_not_called_usable(tmp_path, column, lacks):
    values = [png("red"), png("blue")] if column == "image" else ["a dog", "a cat"]
    pq.write_table(pa.table({column: values}), tmp_path / "rows.parquet")
    report = validate(tmp_path / "rows.parquet", num_workers=0, progress=False)
    assert not report.ok
    text = format_report(report)
    assert f"has no column '{lacks}', which training needs" in text
    assert "can be used" not in text

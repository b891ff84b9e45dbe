# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_tripletclip.data import BrokenRows
from hf_tripletclip.data.validate import format_report, validate
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
    assert "5 of 106 rows are broken, 1 files are damaged" in text
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
    assert split.keys == {"empty caption in caption": ["000000", "000001"]}
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
    assert split.counts["the rest of the split cannot be read"] == 1

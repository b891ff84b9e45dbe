# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Image
from PIL import Image as PILImage

from hf_tripletclip.generation.inspect.rows import read_sample
from hf_tripletclip.utils.pages.pictures import THUMBNAIL, thumbnail
from tests.data.test_tars import png, write_tar
from tests.generation.inspect.datasets_to_look_at import scored_rows, write_dataset, write_rows


def keys(sample):
    return [row.key for row in sample.rows]


def test_a_small_dataset_is_read_whole(tmp_path):
    train, test = read_sample(write_dataset(tmp_path / "set"), progress=False)
    assert (train.name, train.total, train.read, train.how) == ("train", 200, 200, "all rows")
    assert (test.name, test.read, test.whole) == ("test", 40, True)
    assert dict(train.captions) == {"empty caption in neg_caption": 1}
    assert dict(train.images) == {"unreadable image in image": 1, "missing image in neg_image": 1}
    assert train.keys["missing image in neg_image"] == ["row-00051"]
    assert len(train.rows) == 199
    assert len(train.looks) == 200
    row = train.rows[7]
    assert (row.split, row.key, row.kinds, row.generator) == (
        "train",
        "row-00007",
        ["replace_att"],
        "rules + diffusers:tiny",
    )
    assert set(row.scores) == {"clip_score", "neg_clip_score", "cross_clip_score", "image_similarity"}
    assert "image_similarity" not in train.rows[10].scores


@pytest.mark.parametrize("row_group", [20, 500])
def test_of_a_large_stream_evenly_spread_parts_are_read(tmp_path, row_group):
    path = write_rows(tmp_path / "set.parquet", scored_rows(4000), row_group=row_group)
    (sample,) = read_sample(path, max_rows=800, max_images=50, progress=False)
    assert (sample.read, len(sample.rows), len(sample.looks), sample.whole) == (800, 800, 50, False)
    assert len(set(keys(sample))) == 800
    places = sorted(int(key.removeprefix("row-")) for key in keys(sample))
    for quarter in range(4):  # of the dataset: each gives about as many
        assert 150 <= sum(1000 * quarter <= place < 1000 * (quarter + 1) for place in places) <= 250
    assert f"of {4000 // row_group} files or row groups" in sample.how or sample.how.startswith(
        "the first rows of each"
    )


def test_parts_that_are_short_make_room_for_others(tmp_path):
    for number, rows in enumerate((5, 300, 5)):
        write_tar(tmp_path / "set" / f"{number}.tar", rows, first=1000 * number)
    (sample,) = read_sample(tmp_path / "set", max_rows=250, progress=False)
    assert sample.read == 250
    assert [sum(key.startswith(f"00{number}") for key in keys(sample)) for number in range(3)] == [5, 240, 5]
    (whole,) = read_sample(tmp_path / "set", max_rows=310, progress=False)
    assert (whole.read, whole.total, whole.whole) == (310, 310, True)


def test_an_arrow_dataset_is_read_at_even_distances(tmp_path):
    data = Dataset.from_list(scored_rows(1000)).cast_column("image", Image()).cast_column("neg_image", Image())
    data.save_to_disk(tmp_path / "set")
    (sample,) = read_sample(tmp_path / "set", max_rows=100, progress=False)
    assert keys(sample) == [f"row-{10 * place:05d}" for place in range(100)]
    assert (sample.total, sample.how) == (1000, "every 10th row")


def test_the_seed_chooses_the_images(tmp_path):
    path = write_rows(tmp_path / "set.parquet", scored_rows(300))

    def chosen(seed):
        (sample,) = read_sample(path, max_images=20, seed=seed, progress=False)
        return [look.row.key for look in sample.looks]

    assert chosen(0) == chosen(0)
    assert chosen(0) != chosen(1)
    assert len(chosen(0)) == 20


def test_broken_tars_and_files(tmp_path):
    write_tar(tmp_path / "a.tar", 20, caption={3: b"\xff"}, image={4: None})
    headers = write_tar(tmp_path / "b.tar", 5, first=200)
    (tmp_path / "b.tar").write_bytes((tmp_path / "b.tar").read_bytes()[: headers[16].offset])
    (sample,) = read_sample(tmp_path / "*.tar", progress=False)
    assert dict(sample.files) == {"tar cut short": 1}
    assert dict(sample.captions) == {"caption is not UTF-8 in caption": 1}
    assert dict(sample.images) == {"missing image in image": 1}
    assert sample.read == 24

    table = pa.table({"image": [png("red")] * 400, "caption": [f"{row} cats" for row in range(400)]})
    pq.write_table(table, tmp_path / "set.parquet", row_group_size=100, use_dictionary=False, compression="zstd")
    damaged = pq.ParquetFile(tmp_path / "set.parquet").metadata.row_group(2).column(1)
    content = bytearray((tmp_path / "set.parquet").read_bytes())
    size = damaged.total_compressed_size
    content[damaged.data_page_offset : damaged.data_page_offset + size] = b"\xff" * size
    (tmp_path / "set.parquet").write_bytes(content)
    (sample,) = read_sample(tmp_path / "set.parquet", progress=False)
    assert dict(sample.files) == {"the rest of a file cannot be read": 1}
    assert sample.read == 300  # the row groups after the damaged one too
    assert sample.columns == ("image", "caption")


def test_several_negatives_and_other_names(tmp_path):
    rows = [
        {"image": {"bytes": png("red"), "path": None}, "caption": "a", "neg_caption": ["b", "", "c"], "id": "one"},
        {"image": {"bytes": png("red"), "path": None}, "caption": "a", "neg_caption": None, "id": "two"},
    ]
    rows[0]["negative_type"] = ["swap_obj", "add_obj", "add_att"]
    rows[1]["negative_type"] = None
    (sample,) = read_sample(write_rows(tmp_path / "set.parquet", rows), progress=False)
    assert [(row.negatives, row.kinds) for row in sample.rows] == [(["b", "c"], ["swap_obj", "add_att"]), ([], [])]
    assert dict(sample.left_out) == {"empty caption in neg_caption": 1}

    pq.write_table(pa.table({"text": ["a cat"], "foil": [b"a dog"]}), tmp_path / "other.parquet")
    names = {"caption": "text", "neg_caption": "foil"}
    (sample,) = read_sample(tmp_path / "other.parquet", columns=names, progress=False)
    assert [(row.caption, row.negatives, row.kinds) for row in sample.rows] == [("a cat", ["a dog"], [None])]
    with pytest.raises(ValueError, match="it lacks 'caption'"):
        read_sample(tmp_path / "other.parquet", progress=False)


def test_thumbnails_are_small():
    uri = thumbnail(PILImage.effect_noise((900, 300), 90).convert("RGB"))
    kind, _, content = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    assert PILImage.open(io.BytesIO(base64.b64decode(content))).size == (THUMBNAIL, 59)
    small = thumbnail(PILImage.new("RGB", (8, 8))).partition(",")[2]
    assert PILImage.open(io.BytesIO(base64.b64decode(small))).size == (8, 8)

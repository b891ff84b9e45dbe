# SPDX-License-Identifier: Apache-2.0
"""What of the evaluation is trained on, and what stands in the training data twice."""

from __future__ import annotations

import copy
import hashlib
import io
import json
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, IterableDataset, Value, concatenate_datasets
from PIL import Image as Pillow

from hf_tripletclip.data import shuffled
from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.evaluation.registry import build_benchmark
from hf_tripletclip.training.overlap import describe_twins, find_overlap, pictures_of

FEATURES = Features(
    {"image": Image(), "caption": Value("string"), "neg_image": Image(), "neg_caption": Value("string")}
)


def png(number: int) -> bytes:
    content = io.BytesIO()
    Pillow.new("RGB", (8, 8), (number, 255 - number, 7 * number % 256)).save(content, "PNG")
    return content.getvalue()


def data(*numbers: int, folder: Path | None = None, caption: str = "picture {}") -> Dataset:
    """Rows with the pictures of these numbers, in the rows or as files of a folder."""
    rows = []
    for number in numbers:
        row = {"caption": caption.format(number), "neg_caption": f"no picture {number}"}
        for name, content in (("image", png(number)), ("neg_image", png(number + 100))):
            if folder is None:
                row[name] = {"bytes": content, "path": None}
            else:
                folder.mkdir(exist_ok=True)
                path = folder / f"{name}{number}.png"
                path.write_bytes(content)
                row[name] = {"bytes": None, "path": str(path)}
        rows.append(row)
    return Dataset.from_list(rows, features=FEATURES)


def test_rows_and_pictures_that_are_trained_on_are_counted(tmp_path):
    train = data(*range(20))
    assert find_overlap(train, {"the test data": data(*range(30, 40)), "none": None}) == []
    [sentence] = find_overlap(train, {"the test data": data(3, 4, 30), "others": data(31)})
    assert sentence.startswith("2 of 3 rows of the test data have a picture that is also trained on, and 2 a caption")
    # the same picture under other words, and as a file elsewhere
    [sentence] = find_overlap(train, {"x": data(5, 31, folder=tmp_path / "a", caption="another view of {}")})
    assert sentence.startswith("1 of 2 rows of x have a picture that is also trained on, and 1 a caption")
    other = data(5, 31, caption="another view of {}").remove_columns("neg_caption")
    assert "and 0 a caption" in find_overlap(data(*range(20), folder=tmp_path / "b"), {"x": other})[0]
    # a negative picture of the training is the picture of an evaluation
    negative = (
        data(7).rename_columns({"image": "neg_image", "neg_image": "image"}).select_columns(["image", "caption"])
    )
    assert find_overlap(train, {"x": negative})[0].startswith("1 of 1 rows of x")


def test_the_number_of_files_that_are_looked_up_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_tripletclip.training.overlap.MAX_FILES", 7)
    [sentence] = find_overlap(data(*range(20), folder=tmp_path), {"x": data(*range(20))})
    assert sentence.startswith("7 of 20 rows")
    assert "(of the first 7 training rows)" in sentence


def test_pictures_are_not_copied_to_know_their_length():
    train = undecoded(concatenate_datasets([data(1, 2), data(3)]))
    there = [piece.field("bytes").buffers()[-1].address for piece in train.data.table["image"].chunks]
    assert len(there) > 1
    assert {picture.value.buffers()[-1].address for picture in pictures_of(train, ["image"])} == set(there)
    assert [picture.digest() for picture in pictures_of(train, ["image"])] == [
        hashlib.sha256(png(number)).hexdigest() for number in (1, 2, 3)
    ]


def test_of_large_data_a_part_is_read_and_the_message_says_so(monkeypatch):
    monkeypatch.setattr("hf_tripletclip.training.overlap.MAX_READ", 5)
    [sentence] = find_overlap(data(*range(20)), {"x": data(*range(20))})
    assert sentence.startswith("5 of 20 rows")
    assert "(of the first 5 training rows)" in sentence
    monkeypatch.setattr("hf_tripletclip.training.overlap.MAX_EVALUATED", 5)
    assert "of 5 rows" in find_overlap(data(*range(20)), {"x": data(*range(20))})[0]


def test_a_benchmark_of_training_rows_is_reported(tmp_path):
    train = data(*range(12))
    train.to_parquet(tmp_path / "test-0.parquet")
    benchmark = build_benchmark("triplets", options={"data": str(tmp_path), "split": "test"})
    assert find_overlap(train, {benchmark.title: benchmark})[0].startswith("12 of 12 rows of")


def test_repeated_rows_are_reported_before_training():
    assert describe_twins(data(*range(20)), 10) is None
    five = data(*[number for number in range(8) for _ in range(5)])
    found = describe_twins(five, 40)
    assert found.startswith("Of 40 training rows 40 have the picture of another row and 40 the caption.")
    assert "In a batch of 40 about 40.0 rows meet their picture and 40.0 their caption again" in found
    expected = 10 * (1 - (1 - 9 / 39) ** 4)
    assert f"In a batch of 10 about {expected:.1f} rows" in describe_twins(five, 10)
    assert describe_twins(iter(()), 10) is None


@pytest.mark.parametrize("stored", ["in rows", "in files"])
def test_the_beginning_of_a_stream_is_compared(tmp_path, monkeypatch, caplog, stored):
    train = data(*range(20), folder=tmp_path / "pictures" if stored == "in files" else None)
    stream = train.to_iterable_dataset(num_shards=2)
    [sentence] = find_overlap(stream, {"x": data(3, 4, 30), "others": data(31)})
    assert sentence.startswith("2 of 3 rows of x have a picture that is also trained on, and 2 a caption with it: ")
    assert (
        "and 0 a caption" in find_overlap(stream, {"x": data(3, caption="other {}").remove_columns("neg_caption")})[0]
    )
    monkeypatch.setattr("hf_tripletclip.training.overlap.MAX_STREAMED", 4)
    [sentence] = find_overlap(stream, {"x": data(*range(20))})
    assert sentence.startswith("4 of 20 rows of x")
    assert "(of the first 4 training rows)" in sentence
    with caplog.at_level("INFO", logger="hf_tripletclip"):
        assert find_overlap(stream, {"x": data(19)}) == []
    assert "the first 4 rows were compared to what is evaluated: no picture is in both" in caplog.text
    monkeypatch.setattr("hf_tripletclip.training.overlap.MAX_SECONDS", -1.0)
    assert find_overlap(stream, {"x": data(0)}) == []
    assert [row["caption"] for row in stream] == train["caption"][:]  # from its beginning


def test_comparing_a_stream_takes_no_row_from_training():
    stream = shuffled(data(*range(20)).to_iterable_dataset(num_shards=2), seed=0, buffer_size=4)
    whole = [row["caption"] for row in stream]
    half = iter(stream)
    first = [next(half)["caption"] for _ in range(7)]
    state = copy.deepcopy(stream.state_dict())
    del half
    resumed = shuffled(data(*range(20)).to_iterable_dataset(num_shards=2), seed=0, buffer_size=4)
    resumed.load_state_dict(state)
    assert find_overlap(resumed, {"x": data(3)})
    assert first + [row["caption"] for row in resumed] == whole


def test_missing_pictures_are_passed_over(tmp_path):
    data(1, folder=tmp_path)
    paths = [str(tmp_path / "image1.png"), str(tmp_path / "absent.png"), "https://example.org/a.png", None]
    rows = [{"image": path and {"bytes": None, "path": path}} for path in paths]
    table = Dataset.from_list(rows, features=Features({"image": Image()}))
    [found] = pictures_of(table)
    assert (found.row, found.digest()) == (0, hashlib.sha256(png(1)).hexdigest())
    assert list(pictures_of(Dataset.from_dict({"image": [3]}))) == []
    [binary] = pictures_of(Dataset.from_dict({"image": [png(2)]}))
    assert (binary.size, binary.digest()) == (len(png(2)), hashlib.sha256(png(2)).hexdigest())


def test_a_benchmark_of_files_is_compared(tmp_path):
    data(1, 2, folder=tmp_path)
    rows = {str(n): {"filename": f"image{n}.png", "caption": f"picture {n}", "negative_caption": "x"} for n in (1, 2)}
    (tmp_path / "swap_att.json").write_text(json.dumps(rows))
    benchmark = build_benchmark("sugarcrepe", options={"annotations": str(tmp_path)})
    [sentence] = find_overlap(data(2, 3), {"sugarcrepe": benchmark})
    assert sentence.startswith("1 of 2 rows of sugarcrepe have a picture that is also trained on, and 1 a caption")


def test_the_beginning_of_a_shuffled_stream_is_read_without_filling_its_buffer(monkeypatch):
    read = []

    def rows():
        for number in range(20):
            read.append(number)
            yield {"image": {"bytes": png(number), "path": None}, "caption": f"picture {number}"}

    stream = IterableDataset.from_generator(rows, features=Features({"image": Image(), "caption": Value("string")}))
    monkeypatch.setattr("hf_tripletclip.training.overlap.MAX_STREAMED", 4)
    for one in (shuffled(stream, seed=0, buffer_size=20), stream.shuffle(seed=0, buffer_size=20)):
        read.clear()
        assert find_overlap(one, {"x": data(3)})
        assert len(read) < 10
        assert sorted(row["caption"] for row in one) == sorted(f"picture {number}" for number in range(20))


def test_a_stream_of_decoded_pictures_is_not_called_compared(caplog):
    stream = data(*range(5)).to_iterable_dataset().map(lambda row: row, features=None)
    assert stream.features is None
    with caplog.at_level("INFO", logger="hf_tripletclip"):
        assert find_overlap(stream, {"x": data(3)}) == []
    assert "was not compared to what is evaluated" in caplog.text
    assert "no picture is in both" not in caplog.text

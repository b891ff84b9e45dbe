# SPDX-License-Identifier: Apache-2.0
"""Shares of the pictures that become splits of their own."""

from __future__ import annotations

import io

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image, PngImagePlugin

from hf_tripletclip.generation.run import generate
from hf_tripletclip.generation.splitting import Shares
from tests.generation.stages_for_tests import png, settings, write_source

ROWS, PICTURES = 120, 30


def again(picture):
    """The same pixels in another file, with other metadata."""
    buffer, about = io.BytesIO(), PngImagePlugin.PngInfo()
    about.add_text("comment", "saved again")
    Image.open(io.BytesIO(picture)).save(buffer, format="PNG", pnginfo=about, compress_level=1)
    return buffer.getvalue()


def source(folder, order=range(ROWS), split="train"):
    """Four captions of each picture, two of them with the picture in another file; one row is broken."""
    rows = []
    for row in order:
        picture = png(row % PICTURES)
        stored = again(picture) if row >= 2 * PICTURES else picture
        caption = "" if row == 7 else f"a cat number {row}"
        rows.append({"id": f"row-{row:03d}", "image": {"bytes": stored, "path": None}, "caption": caption})
    return write_source(folder, dict(enumerate(rows)), **{split: len(rows)})


def made(output):
    """Split -> ids."""
    files = sorted((output / "data").iterdir())
    found = {path.name.split("-")[0]: [] for path in files}
    for path in files:
        found[path.name.split("-")[0]] += pq.read_table(path, columns=["id"])["id"].to_pylist()
    return found


def make(pairs, output, validation=0.2, test=0.3, **given):
    return generate(
        settings(pairs, output, plain=None, validation_share=validation, test_share=test, lengths=None, **given),
        progress=False,
    )


def pictures(ids):
    return {int(name[4:]) % PICTURES for name in ids}


def test_all_rows_of_a_picture_are_on_one_side_whatever_the_order(tmp_path, own_cache):
    report = make(source(tmp_path / "pairs"), tmp_path / "out", rows_per_file=25)
    splits = made(tmp_path / "out")
    assert list(report.kept) == ["train", "validation", "test"]
    assert {split: len(ids) for split, ids in splits.items()} == report.kept
    assert sum(report.kept.values()) == ROWS - 1
    assert report.left_out == {"source: empty caption in caption": 1}
    sides = {split: pictures(ids) for split, ids in splits.items()}
    assert sum(map(len, sides.values())) == len(set().union(*sides.values())) == PICTURES
    assert all(ids == sorted(ids) for ids in splits.values())  # rows keep their order
    other = make(source(tmp_path / "turned", reversed(range(ROWS))), tmp_path / "other", unit_rows=50)
    assert {split: pictures(ids) for split, ids in made(tmp_path / "other").items()} == sides
    assert other.kept == report.kept
    loaded = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(loaded[split]) for split in loaded} == report.kept
    card = (tmp_path / "out" / "README.md").read_text()
    assert "asked for were validation 20.0% and test 30.0% of the pictures" in card


def test_shares_of_many_pictures_are_met():
    shares, counts = Shares(validation=0.1, test=0.2), {"train": 0, "validation": 0, "test": 0}
    for number in range(10_000):
        counts[shares.split_of(f"{(number * 0x9E3779B97F4A7C15) % 2**64:016x}")] += 1
    assert counts == {"train": pytest.approx(7000, rel=0.02), "validation": pytest.approx(1000, rel=0.05),
                      "test": pytest.approx(2000, rel=0.05)}  # fmt: skip
    # A picture of the smaller test set is in the larger one too.
    smaller = Shares(test=0.1)
    for number in range(1000):
        picture = f"{(number * 0x9E3779B97F4A7C15) % 2**64:016x}"
        assert smaller.split_of(picture) != "test" or Shares(test=0.2).split_of(picture) == "test"
    assert not Shares()


def test_another_share_makes_no_unit_again(tmp_path, own_cache):
    pairs, output, log = source(tmp_path / "pairs"), tmp_path / "out", tmp_path / "log"
    with pytest.raises(ValueError, match="no such setting"):
        make(pairs, output, reversed={"raise_at": "row-119"})
    given = settings(pairs, output, plain=None, lengths=None, test_share=0.5, log=str(log))
    with pytest.raises(FileExistsError, match=r"output.validation_share was 0.2 and is 0.0"):
        generate(given, progress=False)
    report = generate(given, progress=False, overwrite=True)
    assert list(report.kept) == ["train", "test"]
    assert len(log.read_text().splitlines()) == 1 + ROWS % 8 + 8  # the setup, and the rows of the last unit


@pytest.mark.parametrize(
    ("validation", "test", "message"),
    [(-0.1, 0.0, "`validation_share` is -0.1"), (0.0, 1.0, "`test_share` is 1.0"), (0.0, float("nan"), "is nan"),
     (0.5, 0.5, "1 together, which leaves no row for training")],
)  # fmt: skip
def test_shares_that_are_none(pairs, tmp_path, validation, test, message):
    with pytest.raises(ValueError, match=message):
        make(pairs, tmp_path / "out", validation, test)
    assert not (tmp_path / "out").exists()


def test_a_source_with_splits_of_its_own(pairs, tmp_path):
    with pytest.raises(ValueError, match=r"has the splits train, test already: .* such as `--splits train`"):
        make(pairs, tmp_path / "out")
    report = make(pairs, tmp_path / "out", source_options={"splits": ("test",)}, validation=0.0, test=0.5)
    assert sum(report.kept.values()) == 5
    assert set(report.kept) <= {"train", "test"}


def test_a_split_that_no_picture_fell_into_is_said(pairs, tmp_path, caplog):
    report = make(pairs, tmp_path / "out", source_options={"max_rows": 1, "splits": ("train",)})
    empty = {"train", "validation", "test"} - set(report.kept)
    assert len(empty) == 2
    for split in empty:
        assert f"No picture fell into the split {split!r}" in caplog.text


def test_the_embedded_data_can_be_split_too(tmp_path):
    from hf_tripletclip.generation.arguments import parse_generation_arguments

    argv = ["--splits", "train", "--test_share", "0.4", "--output", str(tmp_path / "out")]
    options = '{"train_size": 20, "image_size": 32, "nouns": 12}'
    _, given = parse_generation_arguments([*argv, "--scenes_options", options])
    report = generate(given, progress=False)
    assert sum(report.kept.values()) == 20
    assert list(report.kept) == ["train", "test"]

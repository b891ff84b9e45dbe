# SPDX-License-Identifier: Apache-2.0
"""What is read as pairs of which dataset, and which images are the same."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset

from hf_tripletclip.mining.pairs import read_pairs, stored_image, text_identity
from tests.evaluation.benchmarks import picture, write_images, write_json
from tests.mining import copy_of, write_photographs


def test_a_list_of_captions_is_a_pair_each_and_columns_are_kept(photographs):
    (pairs,) = read_pairs(str(photographs))
    assert (pairs.split, len(pairs), len(pairs.images)) == ("train", 40, 20)
    assert pairs.keys[:3] == ["train-000000000-0", "train-000000000-1", "train-000000001-0"]
    assert pairs.image_of[:4] == [0, 0, 1, 1]
    assert pairs.dataset["licence"][pairs.rows[5]] == "licence 2"
    assert set(pairs.further) == {"licence"}


def test_a_table_by_its_file_and_another_folder_of_images(photographs, tmp_path):
    moved = tmp_path / "elsewhere.jsonl"
    moved.write_bytes((photographs / "captions.jsonl").read_bytes())
    (pairs,) = read_pairs(str(moved), images=str(photographs))
    assert pairs.captions == read_pairs(str(photographs))[0].captions
    assert pairs.digest() == read_pairs(str(photographs))[0].digest()  # it does not depend on where things lie


def test_the_same_picture_under_two_names_and_the_same_key(tmp_path, own_cache):
    folder = write_photographs(
        tmp_path / "data",
        [("a.png", ["one"]), ("b.png", ["two"]), ("c.png", ["three"]), ("d.png", ["four"]), ("c.png", ["five"])],
        id=["k1", "k1", "k2", "k3", "k4"],
    )
    copy_of(folder / "pictures/a.png", folder / "pictures/d.png")
    (pairs,) = read_pairs(str(folder))
    assert len(pairs.images) == 3
    assert pairs.image_of == [0, 1, 2, 0, 2]
    assert pairs.groups == [0, 0, 2]  # a and b have one key
    assert pairs.keys == ["k1", "k1-row1", "k2", "k3", "k4"]


def test_karpathys_and_cocos_files(tmp_path):
    images = write_images(tmp_path / "images", ["a.png", "b.png"])
    entries = [
        {"filename": f"{name}.png", "split": split, "sentences": [{"raw": f"{name} one"}, {"raw": f"{name} two"}]}
        for name, split in (("a", "train"), ("b", "test"))
    ]
    path = write_json(tmp_path / "dataset_flickr8k.json", {"images": entries, "dataset": "flickr8k"})
    first, second = read_pairs(str(path), splits=["train", "test"], images=str(images))
    assert (first.captions, second.captions) == (["a one", "a two"], ["b one", "b two"])
    assert stored_image(first.images[0])["bytes"] == (images / "a.png").read_bytes()
    coco = {
        "images": [{"id": 7, "file_name": "a.png"}],
        "annotations": [{"image_id": 7, "caption": "seen"}],
    }
    (pairs,) = read_pairs(str(write_json(tmp_path / "captions_val2017.json", coco)), images=str(images))
    assert (pairs.keys, pairs.captions) == (["a.png-0"] if len(pairs) > 1 else ["a.png"], ["seen"])


def test_scenes_and_their_negatives_are_not_taken_over():
    pairs = read_pairs("scenes", splits=["test"], train_size=20, validation_size=8, test_size=8, num_proc=1)
    assert [(one.split, len(one)) for one in pairs] == [("test", 8)]
    assert set(pairs[0].further) == {"held_out"}


def test_broken_captions_and_images_are_told(tmp_path, own_cache):
    folder = write_photographs(tmp_path / "data", [("a.png", ["one", "", "two"]), ("b.png", []), ("c.png", ["three"])])
    (folder / "pictures/c.png").unlink()
    (pairs,) = read_pairs(str(folder))
    assert pairs.captions == ["one", "two", "three"]
    assert [(row, reason) for row, _, reason in pairs.problems] == [(0, "empty caption"), (1, "missing caption")]
    left = pairs.without({pairs.image_of[2]: "gone"})
    assert (left.captions, len(left.images)) == (["one", "two"], len(pairs.images) - 1)
    assert left.problems[-1] == (2, "train-000000002-0", "image cannot be read: gone") or left.problems[-1][
        2
    ].endswith("gone")
    assert [left.images[image].load().size for image in left.image_of]


def test_which_column(tmp_path, own_cache):
    table = Dataset.from_dict({"photo": [picture("a")], "words": ["one"]})
    table = table.cast_column("photo", __import__("datasets").Image())
    table.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(
        ValueError,
        match=r"no column is called caption.*: say which with `columns`, such as .*; there are photo, words",
    ):
        read_pairs(str(tmp_path / "rows.parquet"))
    (pairs,) = read_pairs(str(tmp_path / "rows.parquet"), columns={"image": "photo", "caption": "words"})
    assert pairs.captions == ["one"]


def test_the_digest_tells_captions_pictures_and_keys(photographs):
    (before,) = read_pairs(str(photographs))
    lines = (photographs / "captions.jsonl").read_text().splitlines()
    row = json.loads(lines[3])
    row["captions"][0] += " indeed"
    (photographs / "captions.jsonl").write_text("\n".join([*lines[:3], json.dumps(row), *lines[4:]]) + "\n")
    (after,) = read_pairs(str(photographs))
    assert after.digest() != before.digest()
    picture("another").save(photographs / "pictures/05.png")
    assert read_pairs(str(photographs))[0].digest() != after.digest()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("A cat.", "a  cat", True), ("a cat", "the cat", False), ("!!", "??", False), ("two cats", "Two Cats !", True)],
)
def test_equal_words(one, other, same):
    assert (text_identity(one) == text_identity(other)) == same

# SPDX-License-Identifier: Apache-2.0
"""What of a benchmark is in a training set."""

from __future__ import annotations

import io
import json
import random

import numpy as np
import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from hf_tripletclip.evaluation.benchmarks.sugarcrepe import SugarCrepe
from hf_tripletclip.evaluation.checks.leakage import MAX_DISTANCE, check_leakage, find_leakage, image_hashes, near
from hf_tripletclip.evaluation.images import ImageFile


def photograph(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Smooth colour fields with grain."""
    generator = np.random.default_rng(seed)
    fields = Image.fromarray(generator.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize(size, 3)
    grain = generator.normal(0, 6, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(fields) + grain, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


@pytest.fixture
def benchmark(tmp_path) -> SugarCrepe:
    """Four rows, of the images 139 (twice), 285 and 632."""
    folder = tmp_path / "sugarcrepe"
    folder.mkdir()
    for number in (139, 285, 632):
        photograph(number).save(folder / f"{number:012}.jpg", quality=95)
    rows = {
        "0": {"filename": "000000000139.jpg", "caption": "A cat.", "negative_caption": "A dog."},
        "3": {"filename": "000000000139.jpg", "caption": "A sofa.", "negative_caption": "A red sofa."},
        "4": {"filename": "000000000285.jpg", "caption": "A bear.", "negative_caption": "A goat."},
        "9": {"filename": "000000000632.jpg", "caption": "A bed.", "negative_caption": "A boat."},
    }
    (folder / "swap_obj.json").write_text(json.dumps(rows))
    return SugarCrepe(annotations=str(folder))


def training(images: list[bytes | None], paths: list[str | None] | None = None, **columns) -> Dataset:
    cells = [{"bytes": image, "path": path} for image, path in zip(images, paths or [None] * len(images), strict=True)]
    data = Dataset.from_dict({"image": cells, **columns})
    return data.cast_column("image", ImageFeature())


def test_each_kind_by_hand(benchmark):
    copy = encoded(photograph(285).resize((160, 120)), format="JPEG", quality=40)
    data = training(
        [encoded(photograph(1)), copy, encoded(photograph(2)), encoded(photograph(3))],
        ["COCO_val2014_000000000139.jpg", None, None, None],
        caption=["A hat.", "a  BEAR", "A bear", "nothing of it"],
        neg_caption=["A coat.", "A fox.", "A dog", "A red sofa"],
        id=["w", "x", "y", "z"],
    )
    report = find_leakage(data, benchmark, name="mine", progress=False)
    assert report.found == {
        "image id": {"training_rows": 1, "benchmark_rows": 2, "pairs": 2},
        "caption": {"training_rows": 3, "benchmark_rows": 3, "pairs": 4},
        "near duplicate": {"training_rows": 1, "benchmark_rows": 1, "pairs": 1},
    }
    assert report.counts == {"training_rows": 4, "benchmark_rows": 4, "unread_images": 0, "plain_images": 0}
    assert report.benchmark_keys == ["swap_obj/0", "swap_obj/3", "swap_obj/4"]
    listed = {(pair.kind, pair.training, pair.benchmark) for pair in report.pairs}
    assert listed == {
        ("image id", "w", "swap_obj/0"),
        ("image id", "w", "swap_obj/3"),
        ("caption", "x", "swap_obj/4"),
        ("caption", "y", "swap_obj/4"),
        ("caption", "y", "swap_obj/0"),
        ("caption", "z", "swap_obj/3"),
        ("near duplicate", "x", "swap_obj/4"),
    }
    text = report.format_table()
    assert "mine (4 rows) against sugarcrepe (4 rows): 3 rows of the benchmark" in text
    assert "image id: w = swap_obj/0 (000139)" in text
    assert json.loads(json.dumps(report.to_dict()))["found"] == report.found


def test_nothing_in_common(benchmark):
    data = training([encoded(photograph(1))], caption=["A hat"])
    report = find_leakage(data, benchmark, progress=False)
    assert all(set(numbers.values()) == {0} for numbers in report.found.values())
    assert report.benchmark_keys == report.pairs == []


@pytest.mark.parametrize(
    ("columns", "leaks"),
    [
        ({"cocoid": [139]}, True),
        ({"coco_id": ["139"]}, True),
        ({"__key__": ["000000000139"]}, True),
        ({"file_name": ["train2017/000000000139.jpg"]}, True),
        ({"coco_url": ["http://images.cocodataset.org/val2017/000000000139.jpg"]}, True),
        ({"__key__": ["000000139"]}, False),  # a counter of nine digits, as in the published tars
        ({"id": ["139"]}, False),
        ({"cocoid": [None]}, False),
        ({"file_name": ["0000000000139.jpg"]}, False),  # thirteen digits
        ({"file_name": ["100000000139.jpg"]}, False),
    ],
)
def test_what_is_an_id_of_coco(benchmark, columns, leaks):
    report = find_leakage(training([encoded(photograph(1))], **columns), benchmark, hashes=False)
    assert report.found["image id"]["benchmark_rows"] == (2 if leaks else 0)
    assert "near duplicate" not in report.found


def test_file_names_that_are_numbers(tmp_path, benchmark):
    folder = tmp_path / "sugarcrepe"
    rows = {}
    for number, name in enumerate(("1000092795.jpg", "2338917.jpg", "00001.jpg", "12345.jpg")):
        photograph(100 + number).save(folder / name)
        rows[str(number)] = {"filename": name, "caption": f"x{number}", "negative_caption": f"y{number}"}
    (folder / "swap_obj.json").write_text(json.dumps(rows))
    names = ["1000092795.png", "2338917.jpg", "00001.jpg", "12345.jpg"]
    report = find_leakage(training([encoded(photograph(1))] * 4, names), benchmark, hashes=False)
    assert report.benchmark_keys == ["swap_obj/0", "swap_obj/1"]


def test_images_that_cannot_be_compared_are_counted(benchmark, tmp_path):
    (tmp_path / "sugarcrepe" / "000000000632.jpg").unlink()
    data = training([b"junk", encoded(Image.new("RGB", (64, 64), "red")), encoded(Image.new("L", (64, 64), 7)), None])
    report = find_leakage(data, benchmark, progress=False)
    assert report.counts == {"training_rows": 4, "benchmark_rows": 4, "unread_images": 3, "plain_images": 2}
    assert report.found["near duplicate"]["pairs"] == 0  # plain images are not each other's copies
    assert "Not compared by hash: 5 images (3 missing or broken, 2 too plain)" in report.format_table()


def test_other_sizes_and_compressions_are_near_and_others_are_not(tmp_path):
    images = []
    for seed in range(12):
        picture = photograph(seed)
        picture.save(tmp_path / f"{seed}.png")
        picture.resize((480, 360)).save(tmp_path / f"{seed}-large.jpg", quality=50)
        picture.resize((112, 84)).save(tmp_path / f"{seed}-small.jpg", quality=30)
        images += [ImageFile(str(tmp_path / f"{seed}{end}")) for end in (".png", "-large.jpg", "-small.jpg")]
    hashes, unread, plain = image_hashes(images, progress=False)
    assert (unread, plain) == (0, 0)
    workers = image_hashes(images, num_workers=1, progress=False)[0]
    assert workers == hashes
    for one in images:
        for other in images:
            distance = (hashes[one] ^ hashes[other]).bit_count()
            same = one.name.split(".")[0].split("-")[0] == other.name.split(".")[0].split("-")[0]
            assert (distance <= MAX_DISTANCE) == same


@pytest.mark.parametrize("distance", [0, 1, 4, 7, 12])
def test_near_hashes_are_all_found(distance):
    generator = random.Random(distance)
    ours = list({generator.getrandbits(64) for _ in range(300)})
    theirs = set()
    for value in ours[:100]:
        for bit in generator.sample(range(64), generator.randrange(0, 15)):
            value ^= 1 << bit
        theirs.add(value)
    expected = {
        (one, other, (one ^ other).bit_count())
        for one in ours
        for other in theirs
        if (one ^ other).bit_count() <= distance
    }
    found = near(ours, list(theirs), distance)
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_near_hashes_in_parts(monkeypatch):
    hashes = list(range(64))  # all in one bucket of most bands
    expected = sorted(near(hashes, hashes, 2))
    monkeypatch.setattr("hf_tripletclip.evaluation.checks.leakage.CANDIDATES", 100)
    assert sorted(near(hashes, hashes, 2)) == expected
    assert len(expected) == sum((one ^ other).bit_count() <= 2 for one in hashes for other in hashes)
    assert near([], hashes, 2) == near(hashes, [], 2) == []


def test_a_hundred_thousand_hashes_take_seconds():
    import time

    generator = random.Random(0)
    ours = [generator.getrandbits(64) for _ in range(100_000)]
    theirs = [value ^ 0b1001 for value in ours[:2_000]]
    start = time.process_time()
    assert len(near(ours, theirs, MAX_DISTANCE)) == 2_000
    assert time.process_time() - start < 10


def test_training_sets_by_name(benchmark, tmp_path):
    data = training([encoded(photograph(285))], caption=["A hat"])
    (tmp_path / "data").mkdir()
    data.to_parquet(tmp_path / "data" / "train.parquet")
    report = check_leakage(benchmark, str(tmp_path / "data"), progress=False)
    assert report.training == str(tmp_path / "data")
    assert report.benchmark_keys == ["swap_obj/4"]
    assert check_leakage(benchmark, data, progress=False).training == "the training set"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        check_leakage(benchmark, str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="none of image, neg_image, caption, neg_caption"):
        check_leakage(benchmark, Dataset.from_dict({"text": ["a"]}))
    with pytest.raises(ValueError, match="`max_distance` is 64; give 0 to 12 bits"):
        check_leakage(benchmark, data, max_distance=64)


def test_without_imagehash_what_to_install_is_said(benchmark, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "imagehash", None)
    with pytest.raises(ImportError, match=r'pip install "hf_tripletclip\[leakage\]"'):
        find_leakage(training([encoded(photograph(1))]), benchmark, progress=False)

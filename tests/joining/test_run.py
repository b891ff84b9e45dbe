# SPDX-License-Identifier: Apache-2.0
"""Whole runs: the dataset that others open and every objective of captions trains on, and runs that are refused."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

import hf_tripletclip
from hf_tripletclip.cli import main
from hf_tripletclip.data import TripletCollator, build_processor, load_tripletdata
from hf_tripletclip.data.validate import validate
from hf_tripletclip.joining import JoinSettings, join
from hf_tripletclip.joining.words import joined
from hf_tripletclip.objectives import get_objective
from tests.generation.needs import needs_wordnet

pytestmark = needs_wordnet

QUIET = {"progress": False, "num_workers": 0}
ANIMALS = ("dog", "cat", "horse", "sheep", "cow", "elephant", "bird", "zebra")
PLACES = ("field", "beach", "road", "garden")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def animals(tmp_path):
    """16 pictures of two captions each, wide and high, each of a colour."""
    folder = tmp_path / "animals"
    folder.mkdir()
    rows = []
    for number in range(16):
        animal, place = ANIMALS[number % 8], PLACES[number // 4]
        colour = tuple(16 * number if channel == number % 3 else 255 - 16 * number for channel in range(3))
        Image.new("RGB", (40, 30) if number % 2 else (30, 40), colour).save(folder / f"{number:02d}.png")
        captions = [f"a {animal} walks through a {place}", f"one {animal} near a {place}"]
        rows.append({"image": f"{number:02d}.png", "captions": captions})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def files(folder) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file() and ".generation" not in path.parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def plain(caption: str) -> list[str]:
    """Its words, in no order."""
    return sorted(word for word in caption.replace(".", "").split() if word not in ("a", "an"))


def average(image: Image.Image, stacked: bool, half: int) -> np.ndarray:
    pixels = np.asarray(image.convert("RGB")).astype(float)
    pixels = pixels if stacked else pixels.transpose(1, 0, 2)
    middle = pixels.shape[0] // 2
    return pixels[:middle].mean((0, 1)) if half == 0 else pixels[middle:].mean((0, 1))


def test_rows_hold_two_pictures_and_what_is_said_of_both(animals, tmp_path):
    report = hf_tripletclip.join(animals, tmp_path / "joined", size=32, format="png", **QUIET)
    assert report.rows == 32
    assert sum(report.kept.values()) + sum(report.left_out.values()) == 32
    assert report.kept["train"] > 25
    rows = load_dataset(str(tmp_path / "joined"), split="train", cache_dir=str(tmp_path / "hub"))
    source = load_tripletdata(str(animals), split="train", columns={"caption": "captions"})
    of_key = {
        f"train-{number:09d}-{place}": (row["image"], caption)
        for number, row in enumerate(source)
        for place, caption in enumerate(row["caption"])
    }
    orders = Counter()
    for row in rows:
        (one, first), (other, second) = (of_key[key] for key in row["part_ids"])
        assert row["id"] == "+".join(row["part_ids"])
        assert row["caption"] == joined(first, second)
        assert row["paraphrase"] == joined(second, first)
        assert row["dense_caption"] == [first, second]
        assert row["image"].size == (32, 32)
        shapes = {picture.width >= picture.height for picture in (one, other)}
        assert len(shapes) == 1  # both wide or both high
        stacked = shapes.pop()
        halves = [average(row["image"], stacked, half) for half in (0, 1)]
        wanted = [np.asarray(picture).reshape(-1, 3).mean(0) for picture in (one, other)]
        assert not np.allclose(*wanted)
        straight = np.allclose(halves, wanted, atol=2)
        assert straight or np.allclose(halves, wanted[::-1], atol=2)
        orders["pictures", straight] += 1
        negative = row["neg_caption"]
        assert plain(negative) == plain(row["caption"])
        assert negative not in (row["caption"], row["paraphrase"])
        orders[row["negative_type"]] += 1
    assert min(orders["pictures", True], orders["pictures", False]) > 3
    assert set(rows["generator"]) == {"join:rules"}
    assert orders["swap_obj"] > 3
    assert validate(str(tmp_path / "joined"), num_workers=0, progress=False).exit_status() == 0
    card = (tmp_path / "joined/README.md").read_text()
    assert "`tripletclip join`" in card
    assert "two pictures as one" in card
    assert str(tmp_path) not in card


@pytest.mark.parametrize("settings", [{}, {"rounds": 3, "num_paraphrases": 3, "singles": True}])
def test_the_same_bytes_with_any_number_of_workers(animals, tmp_path, settings):
    written = []
    for workers in (0, 2):
        join(animals, tmp_path / str(workers) / "joined", num_workers=workers, size=32, progress=False, **settings)
        written.append(files(tmp_path / str(workers) / "joined"))
    assert written[0] == written[1]
    join(animals, tmp_path / "other", size=32, seed=1, **QUIET, **settings)
    data = "data/train-00000-of-00001.parquet"
    assert files(tmp_path / "other")[data] != written[0][data]


def test_rounds_paraphrases_and_single_pairs(animals, tmp_path):
    report = join(animals, tmp_path / "joined", size=32, rounds=3, num_paraphrases=2, singles=True, **QUIET)
    rows = load_dataset(str(tmp_path / "joined"), split="train", cache_dir=str(tmp_path / "hub"))
    assert len(rows) == report.kept["train"]
    assert len(set(rows["id"])) == len(rows)
    singles = [row for row in rows if len(row["part_ids"]) == 1]
    assert len(singles) == 32
    assert all(not row["neg_caption"] and not row["paraphrase"] for row in singles)
    assert {row["image"].size for row in singles} == {(40, 30), (30, 40)}
    numbers = Counter(row["part_ids"][0] for row in rows if len(row["part_ids"]) == 2)
    assert set(numbers.values()) <= {1, 2, 3}
    assert max(numbers.values()) == 3
    for row in rows:
        if len(row["part_ids"]) == 2:
            order, further = row["paraphrase"]
            animals_said = {word for word in ANIMALS if word in row["caption"].split()}
            assert order == joined(*row["dense_caption"][::-1])
            assert all(word in further for word in animals_said)  # other captions of the same two pictures
            assert not set(row["dense_caption"]) & {part.strip() for part in further.split(".")}


@pytest.mark.parametrize("settings", [{}, {"num_paraphrases": 3, "singles": True}])
@pytest.mark.parametrize(
    "objective", ["clic", "negclip", "tsvlc", "read_alignment", "dac", "ce_clip", "fsc_clip", "clip"]
)
def test_what_is_made_is_what_objectives_of_captions_take(animals, tmp_path, objective, settings):
    join(animals, tmp_path / "joined", size=32, **QUIET, **settings)
    rows = load_tripletdata(str(tmp_path / "joined"), split="train")
    columns = get_objective(objective).columns
    processor = build_processor([*ANIMALS, *PLACES, "a walks through one near"], image_size=16)
    collator = TripletCollator(processor, columns=columns, max_length=77)
    for start in (0, len(rows) - 6):
        batch, usable = collator.collate([rows[row] for row in range(start, start + 6)])
        assert len(usable) == 6
        assert len(batch["pixel_values"]) == 6


def test_what_cannot_be_joined_is_told(animals, tmp_path):
    Image.new("RGB", (40, 30)).save(animals / "99.png")
    (animals / "01.png").write_bytes((animals / "01.png").read_bytes()[:60])
    (animals / "02.png").unlink()
    further = [
        {"image": "99.png", "captions": ["Ein Hund läuft über die Straße"]},
        {"image": "99.png", "captions": [" ", "so it is"]},
    ]
    with open(animals / "captions.jsonl", "a") as file:
        file.write("\n" + "\n".join(map(json.dumps, further)))
    report = join(animals, tmp_path / "joined", size=32, **QUIET)
    lines = [json.loads(line) for line in (tmp_path / "joined/left_out.jsonl").read_text().splitlines()]
    reasons = Counter(line["reason"].split(":")[0] for line in lines)
    assert reasons["image cannot be read"] == report.left_out["image cannot be read"] == 4
    assert reasons["empty caption"] == 1
    assert reasons["English only"] == 1
    assert any(line["reason"].startswith("no word can be exchanged") for line in lines)
    assert len(lines) == sum(report.left_out.values()) == report.rows - report.kept["train"]
    assert all(line["split"] == "train" and line["id"] for line in lines)


@pytest.mark.parametrize("words", [8, 40])
def test_joined_captions_that_clip_does_not_read_to_their_end_are_counted(animals, tmp_path, caplog, words):
    lines = (animals / "captions.jsonl").read_text().splitlines()
    rows = [{**row, "captions": [f"{text} {'and so on ' * (words // 3)}" for text in row["captions"]]}
            for row in map(json.loads, lines)]  # fmt: skip
    (animals / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    logging.getLogger("hf_tripletclip").addHandler(caplog.handler)
    report = join(animals, tmp_path / "joined", size=32, **QUIET)
    logging.getLogger("hf_tripletclip").removeHandler(caplog.handler)
    kept = report.kept["train"]
    assert (f"{kept} of {kept} joined captions of train have more than 60 words" in caplog.text) == (words > 30)


def test_a_picture_without_another_of_its_shape(tmp_path):
    folder = tmp_path / "two"
    folder.mkdir()
    Image.new("RGB", (40, 30), "red").save(folder / "1.png")
    Image.new("RGB", (30, 40), "blue").save(folder / "2.png")
    table = [{"image": "1.png", "caption": "a dog on a road"}, {"image": "2.png", "caption": "a cat in a field"}]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, table)))
    with pytest.raises(
        ValueError,
        match=r"None of the 2 pairs can be joined with another: 2 × no partner: there is no other picture",
    ):
        join(folder, tmp_path / "joined", **QUIET)


def test_a_finished_run_is_kept_and_others_are_refused(animals, tmp_path):
    output = tmp_path / "joined"
    join(animals, output, size=32, **QUIET)
    before = files(output)
    assert join(animals, output, size=32, **QUIET).seconds == 0
    with pytest.raises(FileExistsError, match=r"made with other settings: join.size was 32 and is 64"):
        join(animals, output, size=64, **QUIET)
    assert files(output) == before
    join(animals, output, size=64, overwrite=True, **QUIET)
    assert load_tripletdata(str(output), split="train")[0]["image"].size == (64, 64)
    with pytest.raises(ValueError, match="is, holds or lies in the data"):
        join(animals, animals / "joined", **QUIET)
    with pytest.raises(FileNotFoundError):
        join(tmp_path / "nowhere", tmp_path / "other", **QUIET)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": 31}, "`size` is 31; give an even number"),
        ({"size": 8}, "give at least 16"),
        ({"rounds": 0}, "`rounds` is 0"),
        ({"num_paraphrases": 0}, "`num_paraphrases` is 0"),
        ({"tries": 0}, "`tries` is 0"),
        ({"format": "gif"}, "`format` is 'gif'"),
        ({"quality": 0}, "`quality` is 0"),
    ],
)
def test_settings_that_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        JoinSettings(**settings)


def test_arguments_that_are_refused(animals, tmp_path):
    with pytest.raises(TypeError, match="unexpected arguments number"):
        join(animals, tmp_path / "joined", number=3, **QUIET)
    with pytest.raises(ValueError, match="give `settings` or size, not both"):
        join(animals, tmp_path / "joined", settings=JoinSettings(), size=32)
    with pytest.raises(ValueError, match="`rows_per_file` is 0"):
        join(animals, tmp_path / "joined", rows_per_file=0, **QUIET)
    with pytest.raises(ValueError, match="`num_workers` is -1"):
        join(animals, tmp_path / "joined", num_workers=-1)


def test_the_command(animals, tmp_path, capsys):
    output = tmp_path / "joined"
    flags = [str(animals), "--output", str(output), "--size", "32", "--num_workers", "0", "--disable_tqdm"]
    assert main(["join", *flags, "--rows_per_file", "10", "--license", "cc0-1.0"]) == 0
    said = capsys.readouterr().out
    assert "of 32 rows: " in said
    assert f"The dataset is in {output}" in said
    assert len(list((output / "data").glob("train-*-of-*.parquet"))) == 4
    assert "license: cc0-1.0" in (output / "README.md").read_text()
    assert main(["join", *flags, "--rows_per_file", "10", "--license", "cc0-1.0"]) == 0
    assert "nothing was made" in capsys.readouterr().out
    assert main(["join", "--output", str(output)]) == 1
    assert "name a dataset" in capsys.readouterr().err
    assert main(["join", "scenes", "--images", "x"]) == 1
    assert "`scenes` has no revisions" in capsys.readouterr().err


def test_scenes(tmp_path):
    options = {"train_size": 60, "validation_size": 8, "test_size": 8}
    report = join("scenes", tmp_path / "joined", size=32, dataset_kwargs=options, splits=["train"], **QUIET)
    assert report.kept["train"] > 50

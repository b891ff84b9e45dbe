# SPDX-License-Identifier: Apache-2.0
"""The dataset: drawing, columns, cache."""

from __future__ import annotations

import importlib.util
from collections import Counter

import datasets
import numpy as np
import pytest

from hf_tripletclip.data import load_scenes
from hf_tripletclip.data.scenes import drawing
from hf_tripletclip.data.scenes.build import make_row
from hf_tripletclip.data.scenes.captions import describe
from hf_tripletclip.data.scenes.drawing import draw_scene
from hf_tripletclip.data.scenes.negatives import EXCLUSIVE
from hf_tripletclip.data.scenes.scene import is_held_out
from hf_tripletclip.data.scenes.vocabulary import COLOURS, NOUNS, choose_nouns
from hf_tripletclip.data.schema import NEGATIVE_TYPES
from tests.data.scenes.conftest import SIZES


def test_columns_and_rows(scenes):
    assert {split: len(rows) for split, rows in scenes.items()} == {"train": 1200, "validation": 40, "test": 70}
    train = scenes["train"]
    for name in ("image", "neg_image"):
        assert isinstance(train.features[name], datasets.Image)
        assert train[0][name].size == (32, 32)
    assert train[0]["source"] == "scenes"
    assert not any(train["held_out"])
    assert any(scenes["test"]["held_out"])
    assert train["id"][:2] == ["scenes-train-000000", "scenes-train-000001"]
    for index in (0, 7, 999):
        positive, negative, kind = make_row("train", index, 0, choose_nouns(24))
        row = train[index]
        assert (row["caption"], row["neg_caption"], row["negative_type"]) == (
            describe(positive),
            describe(negative),
            kind,
        )


def test_positive_and_negative_images_differ(scenes):
    for row in scenes["test"]:
        assert np.abs(np.asarray(row["image"], int) - np.asarray(row["neg_image"], int)).max() > 30


def test_one_process_makes_the_same_rows_as_two(scenes, tmp_path):
    single = load_scenes(**SIZES, image_size=32, num_proc=1, cache_dir=tmp_path)
    for split in scenes:
        for index in (0, len(scenes[split]) - 1):
            one, two = single[split][index], scenes[split][index]
            assert one.pop("image").tobytes() == two.pop("image").tobytes()
            assert one.pop("neg_image").tobytes() == two.pop("neg_image").tobytes()
            assert one == two


def test_the_second_call_reads_the_cache(scenes, tmp_path, monkeypatch):
    options = {"train_size": 20, "validation_size": 5, "test_size": 7, "cache_dir": tmp_path}
    first = load_scenes("test", **options)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert written
    monkeypatch.setattr("hf_tripletclip.data.scenes.build.make_row", None)  # would fail if it were called
    again = load_scenes("test", **options)
    assert again["caption"] == first["caption"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == written
    monkeypatch.undo()
    assert load_scenes("test", **options, seed=1)["caption"] != first["caption"]


def test_a_dataset_of_its_own_is_plain_parquet(scenes, tmp_path):
    load_scenes(train_size=20, validation_size=5, test_size=7, cache_dir=tmp_path)
    (file,) = tmp_path.rglob("*test*.parquet")
    rows = datasets.load_dataset("parquet", data_files=str(file), split="train", cache_dir=str(tmp_path / "other"))
    assert len(rows) == 7


def test_every_noun_has_ink():
    for noun in NOUNS:
        glyph = drawing._glyph(noun, 40)
        assert max(glyph.size) == 40
        coverage = np.asarray(glyph).mean() / 255
        assert 0.1 < coverage < 0.97, noun


def test_colours_are_drawn_where_the_objects_are():
    nouns = choose_nouns(24)
    for index in range(40):
        positive, *_ = make_row("train", index, 0, nouns)
        pixels = np.asarray(draw_scene(positive, 64, index), int).reshape(-1, 3)
        for thing in [thing for thing in positive.objects if thing.pattern == "plain"]:
            distance = np.abs(pixels - np.array(COLOURS[thing.colour])).max(axis=1)
            assert (distance < 12).sum() > 8, (describe(positive), thing)


def test_errors(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"no split 'dev'; it has train, validation, test"):
        load_scenes("dev")
    with pytest.raises(ValueError, match="test_size"):
        load_scenes(test_size=0)
    with pytest.raises(ValueError, match="image_size"):
        load_scenes(image_size=8)
    drawing._font_folder.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "hf_tripletclip\[scenes\]"'):
        load_scenes(cache_dir=tmp_path)
    drawing._font_folder.cache_clear()


def test_held_out_and_kind_are_those_of_the_row(scenes):
    nouns = choose_nouns(24)
    for split, rows in scenes.items():
        listed = rows.select_columns(["caption", "neg_caption", "held_out", "negative_type", "id"])[:70]
        for index in range(len(listed["id"])):
            positive, negative, kind = make_row(split, index, 0, nouns)
            assert listed["caption"][index] == describe(positive)
            assert listed["neg_caption"][index] == describe(negative)
            assert listed["held_out"][index] == (is_held_out(positive) or is_held_out(negative))
            assert listed["negative_type"][index] == kind
            assert listed["id"][index] == f"scenes-{split}-{index:06d}"
    assert set(scenes["test"]["negative_type"]) == set(NEGATIVE_TYPES)
    assert Counter(scenes["train"]["negative_type"]) == dict.fromkeys(EXCLUSIVE, 240)


def test_rows_depend_on_neither_the_sizes_nor_the_other_splits(scenes, tmp_path):
    small = load_scenes(train_size=30, validation_size=3, test_size=9, image_size=32, num_proc=1, cache_dir=tmp_path)
    for split, rows in small.items():
        names = [name for name in rows.column_names if "image" not in name]
        assert list(rows.select_columns(names)) == list(scenes[split].select_columns(names).select(range(len(rows))))
        assert rows[1]["image"].tobytes() == scenes[split][1]["image"].tobytes()


def test_options_change_what_they_say(tmp_path):
    options = {"train_size": 40, "validation_size": 5, "test_size": 7, "cache_dir": tmp_path}
    few = load_scenes("train", **options, nouns=4)
    assert len(few) == 40
    assert few[0]["image"].size == few[0]["neg_image"].size == (64, 64)
    words = {word for caption in few["caption"] for word in caption.split()}
    assert words & set(NOUNS) == {"cat", "fish", "bird", "spider"}
    other = load_scenes("train", **options, nouns=4, seed=3, image_size=48)
    assert other[0]["image"].size == (48, 48)
    assert not set(few["caption"]) & set(other["caption"])


def test_a_cache_serves_its_own_arguments_only(tmp_path):
    options = {"validation_size": 5, "test_size": 7, "image_size": 16, "cache_dir": tmp_path}
    first = load_scenes("train", **options, train_size=6)
    assert len(load_scenes("train", **options, train_size=8)) == 8
    assert load_scenes("train", **options, train_size=6)["caption"] == first["caption"]


def test_no_caption_of_the_made_splits_is_shared(scenes):
    captions = {split: {*rows["caption"], *rows["neg_caption"]} for split, rows in scenes.items()}
    assert not captions["train"] & captions["test"]
    assert not captions["train"] & captions["validation"]
    assert not captions["validation"] & captions["test"]

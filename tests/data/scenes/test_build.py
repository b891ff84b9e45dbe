# SPDX-License-Identifier: Apache-2.0
"""The rows of `make_row`, and the dataset that is made of them: columns, cache, processes."""

from __future__ import annotations

import hashlib
import importlib.util
import signal
import subprocess
import sys
from collections import Counter

import datasets
import multiprocess
import numpy as np
import pytest

from hf_tripletclip.data import load_scenes
from hf_tripletclip.data.scenes import build, drawing
from hf_tripletclip.data.scenes.build import MAX_SHARDS, SPLITS, caption_split, default_workers, make_row, shards_of
from hf_tripletclip.data.scenes.captions import describe
from hf_tripletclip.data.scenes.negatives import EXCLUSIVE
from hf_tripletclip.data.scenes.scene import Scene, describes, is_held_out
from hf_tripletclip.data.scenes.vocabulary import NOUNS, choose_nouns
from hf_tripletclip.data.schema import NEGATIVE_TYPES
from tests.data.scenes.conftest import ROWS, SIZES

# ---- Rows ----


def test_captions_are_true_of_their_own_image_only(rows_of):
    for split in SPLITS:
        for positive, negative, kind in rows_of[split]:
            assert describes(positive, positive)
            assert describes(negative, negative)
            crossed = (describes(positive, negative), describes(negative, positive))
            if kind in EXCLUSIVE:
                assert crossed == (False, False), (describe(positive), describe(negative))
            else:  # the shorter caption is true of the fuller image
                shorter_is_positive = len(describe(positive)) < len(describe(negative))
                assert crossed == (shorter_is_positive, not shorter_is_positive)


def test_kinds_alternate(rows_of):
    for split in ("train", "validation"):
        assert Counter(kind for *_, kind in rows_of[split]) == dict.fromkeys(EXCLUSIVE, ROWS[split] // 5)
    assert Counter(kind for *_, kind in rows_of["test"]) == dict.fromkeys(NEGATIVE_TYPES, 300)


def test_no_caption_of_one_split_occurs_in_another(rows_of):
    captions = {split: {describe(scene) for row in rows_of[split] for scene in row[:2]} for split in SPLITS}
    for split, found in captions.items():
        assert {caption_split(caption) for caption in found} == {split}
    assert not captions["train"] & captions["test"]
    assert not captions["train"] & captions["validation"]
    assert not captions["validation"] & captions["test"]


def test_training_never_shows_a_held_out_combination(rows_of):
    def combinations(rows: list[tuple[Scene, Scene, str]]) -> set[tuple[str, str]]:
        return {(thing.noun, thing.colour) for row in rows for scene in row[:2] for thing in scene.objects}

    assert not any(is_held_out(scene) for row in rows_of["train"] for scene in row[:2])
    held_out = [row for row in rows_of["test"] if is_held_out(row[0]) or is_held_out(row[1])]
    assert 0.15 < len(held_out) / len(rows_of["test"]) < 0.45
    unseen = combinations(rows_of["test"]) - combinations(rows_of["train"])
    assert [row for row in rows_of["test"] if unseen & combinations([row])] == held_out


def test_the_words_around_the_change_are_the_same(rows_of):
    for positive, negative, kind in rows_of["test"]:
        first, second = Counter(describe(positive).split()), Counter(describe(negative).split())
        changed = sum(((first - second) + (second - first)).values())
        if kind in ("swap_obj", "swap_att"):
            assert changed <= 4  # "a" and "an" may change with what comes after
        elif kind.startswith("replace"):
            assert changed <= 16


def test_either_side_of_an_addition_may_be_the_positive(rows_of):
    for kind in ("add_obj", "add_att"):
        longer = [
            len(describe(positive)) > len(describe(negative))
            for positive, negative, made in rows_of["test"]
            if made == kind
        ]
        assert len(longer) == 300
        assert abs(sum(longer) - 150) < 4 * 75**0.5  # four standard errors


def test_captions_are_the_same_on_every_machine(rows_of):
    captions = [describe(scene) for split in SPLITS for row in rows_of[split][:50] for scene in row[:2]]
    digest = hashlib.sha256("\n".join(captions).encode()).hexdigest()
    assert digest == "b27d2982510378ec3e25189bec946ce0bcd02ba03c07800078f31e079f4ece9a"
    assert make_row("train", 0, 1, choose_nouns(24)) != rows_of["train"][0]


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("scenes-train-000012", ("train", 12)),
        ("scenes-test-000000", ("test", 0)),
        ("scenes-validation-1234567", ("validation", 1_234_567)),
        ("scenes-train-12", None),
        ("scenes-train-0000012", None),
        ("scenes-train-1234567890123", None),
        ("scenes-dev-000012", None),
        ("a-scenes-train-000012", None),
    ],
)
def test_ids_name_rows(key, place):
    assert build.row_of(key) == place


# ---- The dataset ----


def test_sizes_and_columns(scenes):
    assert {split: len(rows) for split, rows in scenes.items()} == {"train": 1200, "validation": 40, "test": 70}
    train = scenes["train"]
    for name in ("image", "neg_image"):
        assert isinstance(train.features[name], datasets.Image)
        assert train[0][name].size == (32, 32)


def test_every_row_equals_make_row(scenes, rows_of):
    for split, rows in scenes.items():
        names = ["caption", "neg_caption", "negative_type", "held_out", "id", "source"]
        expected = [
            {
                "caption": describe(positive),
                "neg_caption": describe(negative),
                "negative_type": kind,
                "held_out": is_held_out(positive) or is_held_out(negative),
                "id": f"scenes-{split}-{index:06d}",
                "source": "scenes",
            }
            for index, (positive, negative, kind) in enumerate(rows_of[split][: len(rows)])
        ]
        assert list(rows.select_columns(names)) == expected
    assert any(scenes["test"]["held_out"])
    assert set(scenes["test"]["negative_type"]) == set(NEGATIVE_TYPES)
    assert Counter(scenes["train"]["negative_type"]) == dict.fromkeys(EXCLUSIVE, 240)


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


def test_the_cache_is_plain_parquet(scenes, tmp_path):
    load_scenes(train_size=20, validation_size=5, test_size=7, num_proc=1, cache_dir=tmp_path)
    (file,) = tmp_path.rglob("*test*.parquet")
    rows = datasets.load_dataset("parquet", data_files=str(file), split="train", cache_dir=str(tmp_path / "other"))
    assert len(rows) == 7


def test_errors(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"no split 'dev'; it has train, validation, test"):
        load_scenes("dev")
    with pytest.raises(ValueError, match="test_size"):
        load_scenes(test_size=0)
    with pytest.raises(ValueError, match="image_size"):
        load_scenes(image_size=8)
    for workers in (0, -1):
        with pytest.raises(ValueError, match=f"`num_proc` is {workers}; give at least 1"):
            load_scenes(num_proc=workers, cache_dir=tmp_path)
    drawing._font_folder.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "hf_tripletclip\[scenes\]"'):
        load_scenes(cache_dir=tmp_path)
    drawing._font_folder.cache_clear()


def test_rows_depend_on_neither_the_sizes_nor_the_other_splits(scenes, tmp_path):
    small = load_scenes(train_size=30, validation_size=3, test_size=9, image_size=32, num_proc=1, cache_dir=tmp_path)
    for split, rows in small.items():
        names = [name for name in rows.column_names if "image" not in name]
        assert list(rows.select_columns(names)) == list(scenes[split].select_columns(names).select(range(len(rows))))
        assert rows[1]["image"].tobytes() == scenes[split][1]["image"].tobytes()


def test_options_have_their_effect(tmp_path):
    options = {"train_size": 40, "validation_size": 5, "test_size": 7, "cache_dir": tmp_path}
    few = load_scenes("train", **options, nouns=4)
    assert len(few) == 40
    assert few[0]["image"].size == few[0]["neg_image"].size == (64, 64)
    words = {word for caption in few["caption"] for word in caption.split()}
    assert words & set(NOUNS) == {"cat", "fish", "bird", "spider"}
    other = load_scenes("train", **options, nouns=4, seed=3, image_size=48)
    assert other[0]["image"].size == (48, 48)
    assert not set(few["caption"]) & set(other["caption"])


def test_a_cache_is_used_only_for_its_own_arguments(tmp_path):
    options = {"validation_size": 5, "test_size": 7, "image_size": 16, "cache_dir": tmp_path}
    first = load_scenes("train", **options, train_size=6)
    assert len(load_scenes("train", **options, train_size=8)) == 8
    assert load_scenes("train", **options, train_size=6)["caption"] == first["caption"]


@pytest.mark.parametrize("rows", [1, 2, MAX_SHARDS - 1, MAX_SHARDS, MAX_SHARDS + 1, 1000, 20_000])
def test_shards_cover_every_row_once(rows):
    shards = shards_of(rows)
    assert [row for start, stop in shards for row in range(start, stop)] == list(range(rows))
    assert len(shards) == min(rows, MAX_SHARDS)
    lengths = [stop - start for start, stop in shards]
    assert max(lengths) - min(lengths) <= 1


def test_without_fork_there_is_one_worker(monkeypatch):
    monkeypatch.setattr(multiprocess, "get_start_method", lambda allow_none: "fork")
    # `datasets` gives the module of a builder an `os` of its own.
    monkeypatch.setattr(build.os, "sched_getaffinity", lambda pid: {0, 1, 5}, raising=False)
    assert default_workers() == 3
    for method in ("spawn", "forkserver"):
        monkeypatch.setattr(multiprocess, "get_start_method", lambda allow_none, method=method: method)
        assert default_workers() == 1
    monkeypatch.setattr(multiprocess, "get_start_method", lambda allow_none: None)  # not chosen yet: the first one
    monkeypatch.setattr(multiprocess, "get_all_start_methods", lambda: ["spawn", "fork"])
    assert default_workers() == 1


QUIET = """
import sys
from hf_tripletclip.data import load_scenes
print(len(load_scenes(
    "train", train_size=150, validation_size=3, test_size=7, image_size=16, num_proc=4, cache_dir=sys.argv[1]
)))
"""

KILLED = """
import os, signal, sys
from hf_tripletclip.data import load_scenes
from hf_tripletclip.data.scenes import build

make_row = build.make_row

def dies(split, index, *args):
    if split == "validation":  # all of train is written by then
        os.killpg(0, signal.SIGKILL)  # the workers too: orphans would wait forever
    return make_row(split, index, *args)

build.make_row = dies
load_scenes(train_size=150, validation_size=30, test_size=7, image_size=16, num_proc=2, cache_dir=sys.argv[1])
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        start_new_session=True,
    )


def test_more_workers_than_rows_print_only_progress(tmp_path):
    finished = run(QUIET, str(tmp_path))
    assert finished.stdout == "150\n", finished.stderr
    said = finished.stderr.replace("\r", "\n").splitlines()
    assert [line for line in said if line and not line.startswith("Generating ")] == []
    again = run(QUIET, str(tmp_path))
    assert (again.stdout, again.stderr) == ("150\n", "")


def test_a_killed_run_leaves_no_usable_cache(tmp_path):
    killed = run(KILLED, str(tmp_path))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    options = {"train_size": 150, "validation_size": 30, "test_size": 7, "image_size": 16, "num_proc": 1}
    left = {path.name for path in tmp_path.rglob("*.parquet")}
    assert any("train" in name and "00001" in name for name in left)  # of a second worker, which the next run lacks
    after, whole = (load_scenes(**options, cache_dir=folder) for folder in (tmp_path, tmp_path / "other"))
    for split in whole:
        assert after[split]["id"] == whole[split]["id"]
        assert after[split]["caption"] == whole[split]["caption"]

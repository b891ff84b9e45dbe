# SPDX-License-Identifier: Apache-2.0
"""The dataset that is written: its rows, columns, files and counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc

import pyarrow.parquet as pq
import pytest
from datasets import Features, Image, List, Value

from hf_tripletclip.data import load_tripletdata
from hf_tripletclip.generation.engine import StageStep
from hf_tripletclip.generation.publish import GenerationReport, _choose
from hf_tripletclip.generation.run import generate
from tests.data.test_tars import write_tar
from tests.generation.processes import environment, result
from tests.generation.stages_for_tests import png, settings, source_row, write_source


def make(source, output, overwrite=False, **given):
    return generate(settings(source, output, **given), overwrite=overwrite, progress=False)


def table(output, split):
    return [row for path in sorted((output / "data").glob(f"{split}-*")) for row in pq.read_table(path).to_pylist()]


def test_rows_columns_and_types(pairs, tmp_path):
    output = tmp_path / "out"
    make(pairs, output)
    rows = table(output, "test")
    assert list(rows[0]) == [
        "id",
        "image",
        "caption",
        "neg_image",
        "neg_caption",
        "negative_type",
        "generator",
        "seed",
        "clip_score",
        "neg_clip_score",
        "source",
    ]
    row = rows[3]
    expected = source_row("test", 3)
    assert {name: row[name] for name in ("id", "caption")} == {name: expected[name] for name in ("id", "caption")}
    assert row["image"] == {"bytes": expected["image"]["bytes"], "path": None}
    assert row["neg_caption"] == expected["caption"][::-1]
    assert row["neg_image"] == {"bytes": png(row["seed"]), "path": None}
    assert row["generator"] == "reversed + plain"
    assert row["source"] == "pairs"
    features = Features.from_arrow_schema(pq.read_schema(output / "data" / "test-00000-of-00001.parquet"))
    assert isinstance(features["image"], Image)
    assert isinstance(features["neg_image"], Image)
    assert features["neg_caption"] == features["negative_type"] == Value("string")
    assert features["seed"] == Value("int64")
    assert features["clip_score"] == Value("float32")


def test_files_of_a_size(pairs, tmp_path):
    make(pairs, tmp_path / "out", rows_per_file=9)
    names = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert names == [
        "test-00000-of-00001.parquet",
        *(f"train-{number:05d}-of-00003.parquet" for number in range(3)),
    ]
    sizes = [pq.read_metadata(tmp_path / "out" / "data" / name).num_rows for name in names]
    assert sizes == [5, 9, 9, 2]
    assert [row["id"] for row in table(tmp_path / "out", "train")] == [f"train-{row:04d}" for row in range(20)]


def test_rows_that_fail_are_left_out_and_counted(tmp_path, own_cache):
    source = write_source(tmp_path / "pairs", {4: {"caption": ""}, 5: {"image": None}}, train=12, test=3)
    output = tmp_path / "out"
    report = make(source, output, reversed={"refused": ["bird"]}, plain={"black": ["train-0000", "test-0000"]})
    reasons = {
        "captions: refusal": 4,  # birds: train 2, 8, 11, test 2; train 5 is broken before
        "images: black image": 2,
        "source: empty caption in caption": 1,
        "source: missing image in image": 1,
    }
    assert report.left_out == reasons
    assert list(report.left_out.values()) == sorted(reasons.values(), reverse=True)
    assert report.kept == {"train": 6, "test": 1}
    assert json.loads((output / "report.json").read_text()) == {
        "rows": 15,
        "kept": report.kept,
        "left_out": report.left_out,
    }
    lines = [json.loads(line) for line in (output / "left_out.jsonl").read_text().splitlines()]
    assert [(line["split"], line["row"]) for line in lines] == [
        *(("train", row) for row in (0, 2, 4, 5, 8, 11)),
        ("test", 0),
        ("test", 2),
    ]
    assert lines[1] == {"split": "train", "row": 2, "id": "train-0002", "reason": "captions: refusal"}
    card = (output / "README.md").read_text()
    assert "| source | 15 |" in card
    assert "| kept | 7 |" in card
    assert "| left out: captions: refusal | 4 |" in card
    assert [row["id"] for row in table(output, "train")] == [f"train-{row:04d}" for row in (1, 3, 6, 7, 9, 10)]


def test_filters_best_and_threshold(pairs, tmp_path):
    # A row's score is the length of its caption over 100; those of two digits are the longest.
    best = make(pairs, tmp_path / "best", filters={"best": 4})
    lengths = {row: len(source_row("train", row)["caption"]) for row in range(20)}
    longest = sorted(sorted(lengths, key=lambda row: -lengths[row])[:4])
    assert [row["id"] for row in table(tmp_path / "best", "train")] == [f"train-{row:04d}" for row in longest]
    assert best.kept == {"train": 4}  # a split of which nothing is left is none
    assert best.left_out == {"filter: best": 21}
    bound = 0.23
    report = make(pairs, tmp_path / "bound", filters={"min_clip_score": bound})
    assert report.kept["train"] == sum(length / 100 >= bound for length in lengths.values())
    assert report.left_out["filter: min_clip_score"] == 25 - sum(report.kept.values())
    scores = [row["clip_score"] for row in table(tmp_path / "bound", "train")]
    assert min(scores) > bound - 1e-6


def test_no_row_left_keeps_the_units(pairs, tmp_path):
    output = tmp_path / "out"
    with pytest.raises(ValueError, match=r"None of the 25 rows is left \(25 × filter: min_clip_score\)"):
        make(pairs, output, filters={"min_clip_score": 0.9})
    assert not (output / "report.json").exists()
    log = tmp_path / "log"
    report = generate(
        settings(pairs, output, filters={"min_clip_score": 0.1}, log=str(log)), overwrite=True, progress=False
    )
    assert report.kept == {"train": 20, "test": 5}
    assert not log.exists()  # nothing was made again


def test_filters_are_not_blamed_where_they_left_no_row_out(pairs, tmp_path):
    refused = {"refused": ["cat", "dog", "bird"]}
    with pytest.raises(ValueError, match=r"\(25 × captions: refusal\). The units are kept in .*generation\.$"):
        make(pairs, tmp_path / "out", reversed=refused, filters={"best": 3})
    with pytest.raises(ValueError, match="settings of filters may be changed with `--overwrite`"):
        make(pairs, tmp_path / "other", reversed={"refused": ["cat"]}, filters={"min_clip_score": 0.9})


def test_a_damaged_tar_is_named_without_its_folder(tmp_path, own_cache):
    tars = tmp_path / "private" / "tars"
    tars.mkdir(parents=True)
    write_tar(tars / "00000.tar", 3)
    write_tar(tars / "00001.tar", 3, first=3)
    whole = (tars / "00001.tar").read_bytes()
    (tars / "00001.tar").write_bytes(whole[: len(whole) // 2])
    output = tmp_path / "out"
    report = make(tars, output)
    lines = [json.loads(line) for line in (output / "left_out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["00001.tar"]
    assert report.left_out == {lines[0]["reason"]: 1}
    assert "private" not in (output / "left_out.jsonl").read_text()


def test_choosing_takes_little_memory_per_row(tmp_path, own_cache):
    rows, small = 4000, {"unit_rows": 100, "plain": None, "lengths": None}
    source = write_source(tmp_path / "pairs", train=rows)
    asked = settings(source, tmp_path / "out", reversed={"refused": ["bird"], "batch_size": 100}, **small)
    job = asked.job()
    StageStep(job, "captions").run(None)
    opened, units = job.source.open(), list(job.plan.units())
    _choose(job, opened, units[:2], asked.filters)
    tracemalloc.start()
    choice = _choose(job, opened, units, asked.filters)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert choice.counts() == {"captions: refusal": rows // 3}
    assert choice.kept(units[1])[:3] == [0, 2, 3]  # rows 100, 102 and 103
    assert peak / rows < 60


def test_several_negative_captions(pairs, tmp_path):
    make(pairs, tmp_path / "out", reversed={"several": True}, plain=None, lengths=None)
    loaded = load_tripletdata(tmp_path / "out", split="test")
    assert loaded.features["neg_caption"] == List(Value("string"))
    assert loaded[0]["neg_caption"] == ["tset fo 0 rebmun tac a", "TSET FO 0 REBMUN TAC A"]
    assert loaded[0]["negative_type"] == ["swap_obj", "swap_obj"]
    assert (
        "tset fo 0" in (tmp_path / "out" / "README.md").read_text()
        or "niart fo 0" in (tmp_path / "out" / "README.md").read_text()
    )


def test_what_the_source_says_of_negatives_that_are_replaced_is_dropped(pairs, tmp_path):
    make(pairs, tmp_path / "first" / "out")
    again = tmp_path / "again"
    make(tmp_path / "first" / "out", again, reversed=None, lengths=None, plain={"seed": 1})
    before, after = table(tmp_path / "first" / "out", "test"), table(again, "test")
    assert list(after[0]) == [name for name in before[0] if name != "neg_clip_score"]
    for name in ("id", "image", "caption", "neg_caption", "negative_type", "clip_score"):
        assert [row[name] for row in after] == [row[name] for row in before]
    assert all(new["seed"] != old["seed"] for new, old in zip(after, before, strict=True))
    assert after[0]["generator"] == "plain"


def test_scores_can_be_added_to_a_dataset_and_filtered_by(pairs, tmp_path):
    make(pairs, tmp_path / "first" / "out", lengths=None)
    report = make(tmp_path / "first" / "out", tmp_path / "scored", reversed=None, plain=None, filters={"best": 5})
    assert sum(report.kept.values()) == 5
    rows = table(tmp_path / "scored", "train")
    assert rows[0]["generator"] == "reversed + plain"  # who made the negatives, not who scored them
    # and by scores that the source has
    again = make(
        tmp_path / "scored", tmp_path / "less", reversed={"ending": "!"}, plain=None, lengths=None,
        filters={"min_clip_score": 0.01},
    )  # fmt: skip
    assert sum(again.kept.values()) == 5


def test_the_folder_opens_anywhere_without_this_package(pairs, tmp_path):
    make(pairs, tmp_path / "tripletdata")
    code = (
        "import sys\n"
        "sys.modules['hf_tripletclip'] = None\n"  # an import of it raises
        "from datasets import Image, Value, load_dataset\n"
        "dataset = load_dataset('tripletdata')\n"
        "assert {split: len(dataset[split]) for split in dataset} == {'train': 20, 'test': 5}, dataset\n"
        "features = dataset['train'].features\n"
        "assert isinstance(features['image'], Image) and isinstance(features['neg_image'], Image)\n"
        "assert features['caption'] == features['neg_caption'] == Value('string')\n"
        "row = dataset['test'][4]\n"
        "assert row['image'].size == (16, 16) and row['neg_image'].mode == 'RGB'\n"
        "assert row['caption'] == 'a dog number 4 of test' and row['neg_caption'] == row['caption'][::-1]\n"
        "assert row['id'] == 'test-0004' and row['source'] == 'pairs'\n"
        "stream = load_dataset('tripletdata', split='train', streaming=True)\n"
        "assert [row['id'] for row in stream] == dataset['train']['id'][:]\n"
        "import gc\n"
        "del stream\n"  # pyarrow aborts where it reads on while Python ends: apache/arrow issue 45214
        "gc.collect()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**environment(tmp_path / "hf"), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("rows", "seconds", "shown"),
    [(17, 100.0, "0.17"), (3, 2000.0, "0.0015"), (1, 1.0, "1"), (12345, 1.0, "12,345"), (96, 10.0, "10"),
     (95, 11.0, "8.6"), (0, 5.0, "0")],
)  # fmt: skip
def test_a_rate_is_told_however_low(rows, seconds, shown):
    assert f"; {seconds:.0f} s, {shown} rows/s" in GenerationReport(rows, {"train": rows}, seconds=seconds).summary()


def test_writing_that_was_interrupted_is_done_again(pairs, tmp_path, monkeypatch):
    make(pairs, tmp_path / "whole" / "out")
    output = tmp_path / "cut" / "out"
    for place in ("_write_left_out", "_write_rows", "put_in_place", "remove_work"):

        def fail(*arguments, **named):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(f"hf_tripletclip.generation.publish.{place}", fail)
            with pytest.raises(KeyboardInterrupt):
                make(pairs, output)
        assert (output / "report.json").exists() == (place == "remove_work")
    assert (output / ".generation" / "0-captions").exists()
    make(pairs, output)
    assert result(output) == result(tmp_path / "whole" / "out")


@pytest.mark.parametrize("name", ["plan.json", "data", "README.md", "report.json"])
def test_a_dataset_that_was_half_replaced_is_whole_after_the_next_call(pairs, tmp_path, monkeypatch, name):
    """Where the system cannot exchange folders; see `test_replacing.py` for all moments, and for where it can."""
    make(pairs, tmp_path / "whole" / "out", plain={"seed": 1})
    replace, output = os.replace, tmp_path / "out"
    make(pairs, output)

    def fail(staged, path):
        if path == output / name:
            raise KeyboardInterrupt
        replace(staged, path)

    with monkeypatch.context() as patch:
        patch.setattr("hf_tripletclip.generation.replacing._system_call", lambda: None)
        patch.setattr("os.replace", fail)
        with pytest.raises(KeyboardInterrupt):
            make(pairs, output, plain={"seed": 1}, overwrite=True)
    with pytest.raises(FileExistsError, match=r"images.seed was 1 and is 0"):
        make(pairs, output)
    assert make(pairs, output, plain={"seed": 1}).seconds == 0  # it is finished
    assert result(output) == result(tmp_path / "whole" / "out")


def test_columns_about_replaced_negatives_are_not_kept(pairs, tmp_path):
    make(pairs, tmp_path / "first")
    make(tmp_path / "first", tmp_path / "captions", plain=None, lengths=None)
    (row, *_) = table(tmp_path / "captions", "test")
    assert {"neg_caption", "negative_type"} <= row.keys()
    assert not {"neg_image", "seed", "neg_clip_score"} & row.keys()  # of the captions that are gone
    with pytest.raises(ValueError, match="needs neg_image"):
        settings(tmp_path / "first", tmp_path / "checked", plain=None).job()

# SPDX-License-Identifier: Apache-2.0
"""The engine: which rows a stage is given, and what becomes of what it returns."""

from __future__ import annotations

import dataclasses

import pytest

from hf_tripletclip.generation.engine import StageStep, ready, run_unit
from hf_tripletclip.generation.plan import Unit
from tests.generation.stages_for_tests import Lengths, Plain, Reversed, settings, source_row, write_source


def run_steps(job, tasks=1):
    for step in job.stages:
        for rank in range(tasks):
            StageStep(job, step).run(None, rank, tasks)


def logged(path, kind="row"):
    return [line.split()[2] for line in path.read_text().splitlines() if line.split()[1] == kind]


def test_each_step_reads_what_the_one_before_has_made(pairs, tmp_path):
    job = settings(pairs, tmp_path / "out").job()
    run_steps(job)
    source = job.source.open()
    rows = job.read(Unit(1, "train", 8, 16), ["caption", "neg_caption", "neg_image", "clip_score"], source)
    captions = [source_row("train", row)["caption"] for row in range(8, 16)]
    assert rows["caption"] == captions
    assert rows["neg_caption"] == [caption[::-1] for caption in captions]
    assert rows["error"] == [None] * 8
    assert all(image["bytes"].startswith(b"\x89PNG") for image in rows["neg_image"])
    assert rows["clip_score"] == pytest.approx([len(caption) / 100 for caption in captions])


def test_a_stage_is_given_its_columns_in_batches_of_its_size(pairs, tmp_path):
    job = settings(pairs, tmp_path / "out", lengths=None, plain=None).job()
    stage, seen = job.stages["captions"], []

    class Watched(Reversed):
        def __call__(self, batch):
            seen.append(batch)
            return super().__call__(batch)

    watched = Watched(batch_size=3)
    made = run_unit(job, "captions", watched, job.source.open(), Unit(0, "train", 0, 8))
    assert [len(batch["id"]) for batch in seen] == [3, 3, 2]
    assert all(set(batch) == {"id", "caption"} for batch in seen)
    assert set(made) == {"id", "neg_caption", "negative_type", "error"}
    assert made["id"] == [source_row("train", row)["id"] for row in range(8)]
    assert stage.batch_size == 4


def test_optional_columns_are_given_where_they_exist(pairs, tmp_path):
    class Scored(Lengths):
        requires = ("image", "caption")
        optional = ("neg_caption", "neg_image", "generator")

    job = settings(pairs, tmp_path / "out").job()
    job.stages["check-lengths"] = Scored()
    source = job.source.open()
    assert job.inputs("check-lengths", source) == ["image", "caption", "neg_caption", "neg_image"]
    assert job.inputs("captions", source) == ["caption"]
    assert job.origin("neg_image") == "images"
    assert job.origin("neg_image", before="images") is None
    assert job.origin("caption") is None


def test_failed_rows_are_not_given_on_and_keep_their_first_reason(pairs, tmp_path):
    log = tmp_path / "log"
    job = settings(
        pairs, tmp_path / "out", log=str(log), reversed={"refused": ["bird"]}, plain={"black": ["train-0000"]}
    ).job()
    run_steps(job)
    source = job.source.open()
    rows = [row for unit in job.plan.units() for row in zip(*job.read(unit, [], source).values(), strict=True)]
    reasons = {row_id: error for row_id, error in rows if error}
    birds = {f"{split}-{row:04d}" for split, n in (("train", 20), ("test", 5)) for row in range(n) if row % 3 == 2}
    assert set(reasons) == birds | {"train-0000"}
    assert reasons["train-0000"] == "images: black image"
    assert reasons["test-0002"] == "captions: refusal: I cannot reverse a bird number 2 of test"
    given = {stage: set() for stage in ("reversed", "plain", "lengths")}
    for line in log.read_text().splitlines():
        stage, what, value = line.split()
        if what == "row":
            given[stage].add(value)
    assert len(given["reversed"]) == 25
    assert given["plain"] == given["reversed"] - birds
    assert given["lengths"] == given["plain"] - {"train-0000"}


def test_broken_rows_of_the_source_are_given_to_no_stage(tmp_path, own_cache):
    broken = {1: {"caption": ""}, 5: {"image": {"bytes": b"no picture", "path": None}}}
    log = tmp_path / "log"
    job = settings(write_source(tmp_path / "pairs", broken, train=9), tmp_path / "out", log=str(log)).job()
    run_steps(job)
    rows = [job.read(unit, [], job.source.open()) for unit in job.plan.units()]
    reasons = {i: e for batch in rows for i, e in zip(batch["id"], batch["error"], strict=True) if e}
    assert set(reasons) == {"train-0001", "train-0005"}
    assert reasons["train-0001"] == "source: empty caption in caption"
    assert reasons["train-0005"].startswith("source: unreadable image in image")
    assert "row train-0001" not in log.read_text()
    assert "row train-0005" not in log.read_text()


def test_tasks_share_the_units_and_pass_over_those_that_are_done(pairs, tmp_path):
    log = tmp_path / "log"
    job = settings(pairs, tmp_path / "out", log=str(log), plain=None, lengths=None).job()
    StageStep(job, "captions").run(None, 1, 3)
    assert [unit.number for unit in job.plan.units() if job.files("captions").is_done(unit)] == [1]
    before = job.files("captions").path(Unit(1, "train", 8, 16)).stat()
    for rank in range(2):
        StageStep(job, "captions").run(None, rank, 2)
    rows = logged(log)
    assert len(rows) == len(set(rows)) == 25
    after = job.files("captions").path(Unit(1, "train", 8, 16)).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_nothing_is_loaded_where_nothing_is_to_be_done(pairs, tmp_path):
    log = tmp_path / "log"
    job = settings(pairs, tmp_path / "out", log=str(log), plain=None, lengths=None).job()
    StageStep(job, "captions").run(None)
    assert len(logged(log, "setup")) == 1
    StageStep(
        settings(pairs, tmp_path / "out", log=str(tmp_path / "2"), plain=None, lengths=None).job(), "captions"
    ).run(None)
    assert not (tmp_path / "2").exists()


def test_a_stage_is_set_up_once_per_process(tmp_path):
    log = tmp_path / "log"
    stage = Reversed(log=str(log))
    first = ready(stage, 0)
    assert first is not stage
    assert ready(dataclasses.replace(stage), 1) is first
    assert len(log.read_text().splitlines()) == 1
    # settings that do not change the rows change what is written where: another stage
    assert ready(dataclasses.replace(stage, log=str(tmp_path / "other")), 0) is not first
    assert ready(Plain(log=str(log)), 0).name == "plain"
    assert ready(stage, 0) is not first


def test_a_stage_that_loses_values_is_an_error(pairs, tmp_path):
    class Short(Reversed):
        def __call__(self, batch):
            return {name: values[:-1] for name, values in super().__call__(batch).items()}

    job = settings(pairs, tmp_path / "out").job()
    with pytest.raises(ValueError, match="reversed gave 3 values of 'neg_caption' for 4 rows"):
        run_unit(job, "captions", Short(), job.source.open(), Unit(0, "train", 0, 8))


def test_units_of_other_rows_are_not_paired_with_those_of_the_source(pairs, tmp_path):
    job = settings(pairs, tmp_path / "out").job()
    StageStep(job, "captions").run(None)
    write_source(pairs, {9: {"id": "another"}}, train=20)
    source = job.source.open(again=True)
    assert job.read(Unit(0, "train", 0, 8), [], source, before="images")["error"] == [None] * 8
    with pytest.raises(OSError, match=r"unit-000001.parquet is of other rows than 8 to 16 of 'train' in .*pairs are"):
        job.read(Unit(1, "train", 8, 16), ["neg_caption"], source, before="images")
    with pytest.raises(OSError, match="the source was changed"):
        StageStep(job, "images").run(None)


def test_several_negative_captions(pairs, tmp_path):
    job = settings(pairs, tmp_path / "out", plain=None, lengths=None, reversed={"several": True}).job()
    run_steps(job)
    rows = job.read(next(job.plan.units()), ["neg_caption"], job.source.open())
    assert rows["neg_caption"][0] == ["niart fo 0 rebmun tac a", "NIART FO 0 REBMUN TAC A"]

# SPDX-License-Identifier: Apache-2.0
"""Whole runs on this machine: what is checked before, refused, continued and started anew."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys

import pytest
from datasets import load_dataset
from filelock import FileLock

from hf_tripletclip.generation.captions.rules import RuleCaptions
from hf_tripletclip.generation.filters import FilterSettings
from hf_tripletclip.generation.run import GenerationSettings, generate
from hf_tripletclip.generation.source import Source
from hf_tripletclip.generation.wordnet import load_wordnet
from tests.generation.processes import RESULT, result, units
from tests.generation.stages_for_tests import Lengths, Plain, Reversed, png, settings, write_source

UNIT_1 = ".generation/1-images/unit-000001.parquet"


def made(log, stage="reversed"):
    """The rows that a stage was given."""
    return [line.split()[2] for line in log.read_text().splitlines() if line.startswith(f"{stage} row")]


def make(source, output, workers=1, overwrite=False, **given):
    return generate(settings(source, output, **given), workers=workers, overwrite=overwrite, progress=False)


def stopped(source, output, **given):
    """A run that a stage's error stops at the fourth unit of captions."""
    with pytest.raises(ValueError, match="no such setting at test-0003"):
        make(source, output, reversed={"raise_at": "test-0003"}, **given)
    return units(output)


def test_a_run_and_its_report(pairs, tmp_path):
    report = make(pairs, tmp_path / "out", reversed={"refused": ["bird"]})
    assert (report.rows, report.kept, report.left_out) == (25, {"train": 14, "test": 4}, {"captions: refusal": 7})
    assert report.summary().startswith("18 of 25 rows: 14 train, 4 test; ")
    assert "7 × captions: refusal" in report.summary()
    assert result(tmp_path / "out")


def test_a_finished_dataset_is_reported_at_once(pairs, tmp_path):
    log = tmp_path / "log"
    first = make(pairs, tmp_path / "out", log=str(log))
    before, events = result(tmp_path / "out"), log.read_text()
    again = make(pairs, tmp_path / "out", log=str(log))
    assert (again.kept, again.left_out, again.seconds) == (first.kept, first.left_out, 0.0)
    assert result(tmp_path / "out") == before
    assert log.read_text() == events


def test_a_stopped_run_goes_on_where_it_was(pairs, tmp_path):
    whole = tmp_path / "whole" / "out"
    make(pairs, whole)
    log, output = tmp_path / "log", tmp_path / "parts" / "out"
    done = stopped(pairs, output, log=str(log))
    assert sorted(done) == [f"0-captions/unit-{number:06d}.parquet" for number in range(3)]
    made = [line.split()[2] for line in log.read_text().splitlines() if line.startswith("reversed row")]
    kept = {f"train-{row:04d}" for row in range(20)}
    assert set(made) == kept | {f"test-{row:04d}" for row in range(4)}
    log.unlink()
    make(pairs, output, log=str(log))
    again = [line.split()[2] for line in log.read_text().splitlines() if line.startswith("reversed row")]
    assert sorted(again) == [f"test-{row:04d}" for row in range(5)]
    assert result(output) == result(whole)


@pytest.mark.parametrize("step", ["0-captions", "1-images"])
def test_damaged_units_are_named_and_made_again(pairs, tmp_path, caplog, step):
    make(pairs, tmp_path / "whole" / "out")
    output, log = tmp_path / "out", tmp_path / "log"
    with pytest.raises(ValueError, match="no such setting at test-0003"):
        make(pairs, output, plain={"raise_at": "test-0003"})
    for number in (0, 2):
        path = output / ".generation" / step / f"unit-{number:06d}.parquet"
        content = bytearray(path.read_bytes())
        content[10:40] = bytes(30)  # its footer is sound
        path.write_bytes(content)
    make(pairs, output, log=str(log))
    assert f"{step}/unit-000000.parquet is damaged" in caplog.text
    assert "It is made again." in caplog.text
    rows = [f"train-{row:04d}" for row in (*range(8), *range(16, 20))]
    assert sorted(made(log, "reversed")) == (rows if step == "0-captions" else [])
    assert set(rows) <= set(made(log, "plain")) if step == "1-images" else True
    assert result(output) == result(tmp_path / "whole" / "out")


def test_a_unit_that_is_removed_while_the_run_is_at_work_is_made_again(pairs, tmp_path, monkeypatch):
    make(pairs, tmp_path / "whole" / "out")
    output = tmp_path / "out"
    monkeypatch.setattr(Lengths, "begin", lambda self, batch: (output / UNIT_1).unlink(missing_ok=True))
    make(pairs, output)
    assert result(output) == result(tmp_path / "whole" / "out")


def write_pictures(folder, **changed):
    """An image folder, as photographs lie on a disk."""
    folder.mkdir(exist_ok=True)
    lines = []
    for row in range(12):
        name = f"{row:02d}.png"
        if not (folder / name).exists():
            (folder / name).write_bytes(png(row))
        lines.append(json.dumps({"file_name": name, "caption": f"a cat number {row}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def test_pictures_that_change_between_two_runs_are_noticed(tmp_path, own_cache):
    pictures, output = write_pictures(tmp_path / "pictures"), tmp_path / "out"
    with pytest.raises(ValueError, match="no such setting"):
        make(pictures, output, plain={"raise_at": "train-000000009"})
    (pictures / "03.png").write_bytes(png(99))
    with pytest.raises(FileExistsError, match=r"source.files was '\w+' and is '\w+'.*`--overwrite`"):
        make(pictures, output)
    make(pictures, output, overwrite=True)
    make(pictures, tmp_path / "new" / "out")
    assert result(output) == result(tmp_path / "new" / "out")
    (pictures / "notes.txt").write_text("of another kind")
    assert make(pictures, output).seconds == 0


@pytest.mark.parametrize("when", ["captions", "images", "write"])
def test_a_picture_that_changes_during_a_run_is_named(tmp_path, own_cache, monkeypatch, when):
    pictures, output = write_pictures(tmp_path / "pictures"), tmp_path / "out"
    stage, row = {"captions": (Reversed, 11), "images": (Plain, 0), "write": (Lengths, 0)}[when]

    def change(self, batch):
        if f"train-{row:09d}" in batch["id"]:
            (pictures / "03.png").write_bytes(png(99))

    monkeypatch.setattr(stage, "begin", change)
    with pytest.raises(
        OSError, match=r"The image of row 3 of 'train' in .*pictures was changed while this dataset was"
    ):
        make(pictures, output)
    assert not (output / "report.json").exists()


def test_a_caption_that_changes_during_a_run_is_named(pairs, tmp_path, monkeypatch):
    def change(self, batch):
        write_source(pairs, {9: {"caption": "another"}}, train=20, test=5)
        Source(str(pairs)).open(again=True)

    monkeypatch.setattr(Plain, "begin", change)
    with pytest.raises(OSError, match=r"The caption of row 9 of 'train' in .*pairs was changed"):
        make(pairs, tmp_path / "out")


@pytest.mark.parametrize("left", ["plan.tmp", "report.json.tmp"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_a_killed_run_left_of_its_own_stops_nobody(pairs, tmp_path, left, overwrite):
    output = tmp_path / "out"
    (output / ".generation").mkdir(parents=True)
    for name in (left, ".generation/lock", ".generation/plan.json.77.tmp"):
        (output / name).write_text("")
    make(pairs, output, overwrite=overwrite)
    assert result(output)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_start_that_the_disk_stops_is_repeated(pairs, tmp_path, monkeypatch, call):
    """At each call in turn, while the plan is written: a full disk, and then a kill."""
    own = getattr(os, call)
    for number in range(3):
        output, counted = tmp_path / str(number) / "out", itertools.count()

        def fail(*arguments, number=number, counted=counted):
            if next(counted) == number:
                raise OSError(28, "No space left on device")
            return own(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with contextlib.suppress(OSError):
                make(pairs, output, plain=None, lengths=None)
        assert make(pairs, output, plain=None, lengths=None).rows == 25
        assert {path.name for path in output.iterdir()} <= {*RESULT, "data", "assets", ".generation"}


@pytest.mark.parametrize("damaged", ["report.json", "plan.json"])
def test_a_damaged_report_or_plan_is_named_and_overwritten(pairs, tmp_path, damaged):
    make(pairs, tmp_path / "out")
    (tmp_path / "out" / damaged).write_bytes(b"\xff\x00" * 20)
    with pytest.raises(ValueError, match=rf"{damaged} is (damaged|no plan).*`--overwrite`"):
        make(pairs, tmp_path / "out")
    make(pairs, tmp_path / "out", overwrite=True)
    assert result(tmp_path / "out")


def test_no_progress_means_no_bar_of_any_library(pairs, tmp_path, capfd):
    import datasets

    datasets.enable_progress_bars()  # whatever an earlier test has left
    make(pairs, tmp_path / "out")
    assert "%|" not in capfd.readouterr().err
    assert "examples/s" not in capfd.readouterr().err
    assert not datasets.utils.are_progress_bars_disabled()


def test_changed_settings_are_refused_and_named(pairs, tmp_path):
    done = stopped(pairs, tmp_path / "out")
    changes = [
        ({"reversed": {"ending": "!"}}, r"captions.ending was '' and is '!'"),
        ({"reversed": {"batch_size": 2}}, r"captions.batch_size was 4 and is 2"),
        ({"plain": {"seed": 1}}, r"images.seed was 0 and is 1"),
        ({"plain": None, "lengths": None}, r"images.stage was 'plain' and is None"),
        ({"unit_rows": 4}, r"unit_rows was 8 and is 4"),
        ({"filters": {"best": 3}}, r"output.filters.best was None and is 3"),
        ({"source_options": {"max_rows": 10}}, r"source.rows.train was 20 and is 10"),
    ]
    for change, message in changes:
        with pytest.raises(FileExistsError, match=message) as error:
            make(pairs, tmp_path / "out", **change)
        assert "--overwrite" in str(error.value)
    assert units(tmp_path / "out") == done
    write_source(pairs, {2: {"caption": "something else"}}, train=20)
    with pytest.raises(FileExistsError, match=r"source.captions was"):
        make(pairs, tmp_path / "out")


def test_what_does_not_change_the_rows_may_change(pairs, tmp_path):
    stopped(pairs, tmp_path / "out")
    make(pairs, tmp_path / "out", reversed={"delay": 0.001}, workers=1)
    assert result(tmp_path / "out")


def test_overwriting_with_other_settings_gives_what_a_new_folder_would(pairs, tmp_path):
    make(pairs, tmp_path / "old" / "out")
    make(pairs, tmp_path / "new" / "out", reversed={"ending": "!"}, filters={"best": 7})
    make(pairs, tmp_path / "old" / "out", reversed={"ending": "!"}, filters={"best": 7}, overwrite=True)
    assert result(tmp_path / "old" / "out") == result(tmp_path / "new" / "out")


def test_overwriting_keeps_units_that_the_change_does_not_concern(pairs, tmp_path):
    log = tmp_path / "log"
    done = stopped(pairs, tmp_path / "out", log=str(log))
    log.unlink()
    make(pairs, tmp_path / "out", log=str(log), filters={"best": 7}, overwrite=True)
    assert sorted(line for line in log.read_text().splitlines() if line.startswith("reversed row")) == [
        f"reversed row test-{row:04d}" for row in range(5)
    ]
    assert len(done) == 3


def test_splits_in_another_order(pairs, tmp_path):
    (train, test), output = (("train", "test"), ("test", "train")), tmp_path / "old" / "out"
    stopped(pairs, output, source_options={"splits": train})
    with pytest.raises(FileExistsError, match=r"source.splits was \['train', 'test'\] and is \['test', 'train'\]"):
        make(pairs, output, source_options={"splits": test})
    make(pairs, output, source_options={"splits": test}, overwrite=True)
    make(pairs, tmp_path / "new" / "out", source_options={"splits": test})
    assert result(output) == result(tmp_path / "new" / "out")


def test_overwriting_a_finished_dataset_with_the_same_settings_makes_everything_again(pairs, tmp_path):
    log, output = tmp_path / "log", tmp_path / "out"
    make(pairs, output)
    before = result(output)
    make(pairs, output, log=str(log), overwrite=True)
    assert len(made(log)) == 25
    assert result(output) == before


def test_overwriting_again_continues_an_unfinished_run_of_the_same_settings(pairs, tmp_path):
    log, output = tmp_path / "log", tmp_path / "out"
    make(pairs, output, filters={"best": 3})
    done = stopped(pairs, output, overwrite=True)
    assert stopped(pairs, output, overwrite=True, log=str(log)) == done
    assert made(log) == [f"test-{row:04d}" for row in range(4)]
    log.unlink()
    make(pairs, output, overwrite=True, log=str(log))
    assert made(log) == [f"test-{row:04d}" for row in range(5)]
    make(pairs, tmp_path / "new" / "out")
    assert result(output) == result(tmp_path / "new" / "out")


def test_the_old_dataset_stays_until_the_new_one_is_whole(pairs, tmp_path):
    output = tmp_path / "out"

    def files():
        return {p: p.read_bytes() for p in output.rglob("*") if p.is_file() and ".generation" not in p.parts}

    make(pairs, output, license="mit")
    before = files()
    stopped(pairs, output, overwrite=True)
    assert files() == before
    with pytest.raises(FileExistsError, match=r"output.license was None and is 'mit'"):
        make(pairs, output, license="mit")  # would lose the units
    with pytest.raises(ValueError, match="None of the 25 rows is left"):
        make(pairs, output, filters={"min_clip_score": 0.9}, overwrite=True)
    assert files() == before
    make(pairs, output, overwrite=True)
    make(pairs, tmp_path / "new" / "out")
    assert result(output) == result(tmp_path / "new" / "out")


def test_an_overwriting_run_that_could_not_start_leaves_a_finished_dataset(pairs, tmp_path):
    report = make(pairs, tmp_path / "out", license="mit")
    before = result(tmp_path / "out")
    with pytest.raises(ValueError, match="no such setting"):
        make(pairs, tmp_path / "out", reversed={"raise_at": "train-0001"}, overwrite=True)
    with pytest.raises(FileExistsError, match=r"output.license was 'mit' and is None"):
        make(pairs, tmp_path / "out")
    assert make(pairs, tmp_path / "out", license="mit").kept == report.kept
    assert result(tmp_path / "out") == before


def test_an_output_that_is_part_of_the_source_is_refused(pairs, tmp_path, monkeypatch):
    make(pairs, tmp_path / "all" / "td")
    before = result(tmp_path / "all" / "td")
    (tmp_path / "link").symlink_to(tmp_path / "all")
    monkeypatch.chdir(tmp_path)
    for source, output in (
        ("all/td", "all/td"),
        ("all/td", tmp_path / "link" / "td"),  # the same
        ("all/td/data", "all/td"),  # the output holds the source
        ("all/td/data/*.parquet", "all/td"),
        ("all/td/data/train-00000-of-00001.parquet", "all/td"),
        ("all/td/data", "all"),
        ("all/td", "all/td/new"),  # it lies in the source, which would then be another
        ("all/**/*.parquet", "all/new"),
        (".", "new"),
    ):
        for overwrite in (False, True):
            with pytest.raises(ValueError, match=r"The output .* is, holds or lies in the source"):
                make(source, output, overwrite=overwrite)
    assert result(tmp_path / "all" / "td") == before
    assert not (tmp_path / "new").exists()
    for number, source in enumerate(("all/td/data/*.parquet", "all/td")):
        assert make(source, tmp_path / "all" / f"beside-{number}").rows == 25


def test_overwriting_leaves_what_is_not_ours(pairs, tmp_path):
    make(pairs, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    make(pairs, tmp_path / "out", filters={"best": 3}, overwrite=True)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert json.loads((tmp_path / "out" / "report.json").read_text())["kept"] == {"train": 3}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_holds_something_else_stays_as_it_is(pairs, tmp_path, overwrite):
    output = tmp_path / "out"
    (output / "data").mkdir(parents=True)
    for name in ("README.md", "plan.json", "data/train.parquet"):  # its names, but not a dataset of ours
        (output / name).write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds README.md, data, plan.json and is no dataset"):
        make(pairs, output, overwrite=overwrite)
    assert sorted(path.name for path in output.rglob("*")) == ["README.md", "data", "plan.json", "train.parquet"]


def test_a_run_that_could_not_start_is_put_right_without_overwriting(pairs, tmp_path):
    with pytest.raises(ValueError, match="no such setting at train-0001"):
        make(pairs, tmp_path / "out", reversed={"raise_at": "train-0001", "ending": "wrong"})
    report = make(pairs, tmp_path / "out")
    assert report.kept == {"train": 20, "test": 5}


def test_outputs_that_cannot_be_written(pairs, tmp_path):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "out", "/proc/out"):
        with pytest.raises(OSError, match="cannot be written"):
            make(pairs, output)


def test_a_second_run_at_the_same_time_is_refused(pairs, tmp_path):
    stopped(pairs, tmp_path / "out")
    with (
        FileLock(tmp_path / "out" / ".generation" / "lock"),
        pytest.raises(OSError, match="Another run is working on"),
    ):
        make(pairs, tmp_path / "out")
    make(pairs, tmp_path / "out")
    with FileLock(tmp_path / "out" / ".generation" / "lock", timeout=0):
        pass  # it was given back


def test_the_lock_is_given_back_after_an_error(pairs, tmp_path):
    with pytest.raises(ValueError, match="no such setting") as error:
        make(pairs, tmp_path / "out", reversed={"raise_at": "train-0001"})
    assert error.tb is not None  # its frames are alive
    with FileLock(tmp_path / "out" / ".generation" / "lock", timeout=0):
        pass


def test_everything_is_checked_before_work_starts(pairs, tmp_path):
    output = tmp_path / "out"
    source = Source(str(pairs))
    wrong = [
        ({"captions": None, "images": None}, "nothing to do"),
        ({"captions": Reversed(several=True)}, r"images \(plain\) reads one neg_caption per row, and here .* several"),
        ({"captions": None}, r"images \(plain\) needs neg_caption, which neither .*pairs nor a stage before it has"),
        ({"images": None, "checks": [Lengths()]}, r"check-lengths \(lengths\) needs neg_image"),
        ({"checks": [Lengths(), Lengths()]}, "named twice"),
        ({"filters": FilterSettings(min_vqa_score=0.5)}, "filters need vqa_score"),
        ({"unit_rows": 0}, "`unit_rows` is 0"),
        ({"rows_per_file": 0}, "`rows_per_file` is 0"),
        ({"source": Source(str(pairs), splits=("dev",))}, "no split 'dev'"),
    ]
    for change, message in wrong:
        given = {"source": source, "captions": Reversed(), "images": Plain(), **change}
        with pytest.raises(ValueError, match=message):
            generate(GenerationSettings(output=output, **given), progress=False)
    with pytest.raises(ValueError, match="`workers` is 0"):
        make(pairs, output, workers=0)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        make(tmp_path / "nowhere", output)
    assert not output.exists()


def test_what_is_not_installed_is_told_before_anything_is_made(pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path / "none"))
    load_wordnet.cache_clear()
    with pytest.raises(OSError, match="WNSEARCHDIR names"):
        generate(
            GenerationSettings(source=Source(name=str(pairs)), output=tmp_path / "out", captions=RuleCaptions()),
            progress=False,
        )
    load_wordnet.cache_clear()
    assert not (tmp_path / "out").exists()


def test_checks_of_several_negative_captions_of_the_source_are_refused(pairs, tmp_path):
    class Scored(Lengths):
        requires = ("image", "caption")
        optional = ("neg_caption",)

    make(pairs, tmp_path / "several", reversed={"several": True}, plain=None, lengths=None)
    source = Source(str(tmp_path / "several"))
    with pytest.raises(ValueError, match=r"check-lengths \(lengths\) reads one neg_caption per row"):
        GenerationSettings(source, tmp_path / "out", checks=[Scored()]).job()
    GenerationSettings(source, tmp_path / "out", captions=Reversed(), checks=[Scored()]).job()


def test_stages_are_left_as_they_were_given(pairs, tmp_path):
    stage = Reversed()
    stage.cache_dir = None  # as those that ask a server have it
    given = GenerationSettings(Source(str(pairs)), tmp_path / "one", captions=stage)
    assert given.job().stages["captions"].cache_dir == str(tmp_path / "one" / ".generation" / "answers-captions")
    assert stage.cache_dir is None


def test_relative_paths_mean_the_same_in_another_directory(pairs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = settings("pairs", "out").job()
    assert job.output == tmp_path / "out"
    monkeypatch.chdir("/")
    assert job.source.open().sizes == {"train": 20, "test": 5}


def test_a_source_that_was_changed_is_read_anew_in_the_same_process(pairs, tmp_path):
    make(pairs, tmp_path / "one")
    write_source(pairs, train=3)
    (pairs / "test-00000.parquet").unlink()
    assert make(pairs, tmp_path / "two").kept == {"train": 3}


def test_a_run_of_several_workers_is_the_same(tmp_path):
    """In a process of its own, for workers import the test's stages; see `tests/end_to_end/test_generate.py`."""
    code = (
        "import sys; from pathlib import Path\n"
        "from hf_tripletclip.generation.run import generate\n"
        "from tests.generation.stages_for_tests import settings, write_source\n"
        "if __name__ == '__main__':\n"
        "    base = Path(sys.argv[1])\n"
        "    pairs = write_source(base / 'pairs', train=20, test=5)\n"
        "    for workers in (1, 2, 3):\n"
        "        log = str(base / f'log-{workers}')\n"
        "        generate(settings(pairs, base / str(workers) / 'out', log=log), workers=workers, progress=False)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, os.path.join(root, "src")]),
        "HF_HOME": str(tmp_path),
    }
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, env=environment, timeout=120)
    results = [result(tmp_path / str(workers) / "out") for workers in (1, 2, 3)]
    assert results[0] == results[1] == results[2]
    for workers in (1, 2, 3):
        lines = (tmp_path / f"log-{workers}").read_text().splitlines()
        setups = [tuple(line.split()[::2]) for line in lines if " setup " in line]
        assert len(setups) == len(set(setups)) == 3 * workers  # each stage once in each of its processes
    dataset = load_dataset(str(tmp_path / "2" / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(dataset[split]) for split in dataset} == {"train": 20, "test": 5}

# SPDX-License-Identifier: Apache-2.0
"""`tripletclip generate` as its users run it: in processes of its own, that are killed, interrupted and starved."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from hf_tripletclip.data import load_scenes
from tests.generation.processes import alive_in_group, result, run, started, units, wait_until
from tests.generation.stages_for_tests import command, write_source

ROWS = {"train": 60, "test": 12}
UNITS = 8 + 2  # of each of the three steps
SLOW = {"reversed": {"delay": 0.1}, "plain": {"delay": 0.1}, "lengths": {"delay": 0.1}}
SCENES = {"train_size": 40, "validation_size": 9, "test_size": 21, "image_size": 32, "nouns": 12}
GENERATE = [sys.executable, "-m", "hf_tripletclip.cli", "generate"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A cache of datasets that these tests share."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source") / "pairs", {7: {"caption": ""}}, **ROWS)


@pytest.fixture(scope="module")
def whole(pairs, home, tmp_path_factory):
    """The files of a run that nothing interrupts."""
    output = tmp_path_factory.mktemp("whole") / "out"
    run(command(pairs, output, workers=1), home)
    return result(output)


def rows_of(output: Path) -> dict[str, list[str]]:
    files = {split: sorted((output / "data").glob(f"{split}-*")) for split in ROWS}
    return {
        split: [i for path in paths for i in pq.read_table(path)["id"].to_pylist()] for split, paths in files.items()
    }


def asked(log: Path, stage: str) -> list[str]:
    return [line.split()[2] for line in log.read_text().splitlines() if line.startswith(f"{stage} row")]


def kill_after(process: subprocess.Popen[str], output: Path, number: int, whole_group: bool) -> None:
    """Kill a run once so many units are there, and wait until none of its processes is left."""
    wait_until(lambda: len(units(output)) >= number or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        assert len(alive_in_group(process.pid)) > 2  # there are workers that could survive it
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    began = time.monotonic()
    wait_until(lambda: not alive_in_group(process.pid), seconds=10)
    assert time.monotonic() - began < 3


def test_kill_at_any_moment_and_the_same_command_again(pairs, home, whole, tmp_path):
    output, logs = tmp_path / "out", [tmp_path / f"log-{number}" for number in range(3)]
    moments = sorted(random.sample(range(1, 3 * UNITS - 2), 2))
    print(f"killed after {moments} of {3 * UNITS} units")
    done: dict[str, tuple[int, int]] = {}
    for moment, whole_group, log in zip(moments, random.sample((True, False), 2), logs, strict=False):
        with started(command(pairs, output, workers=2, log=str(log), **SLOW), home) as process:
            kill_after(process, output, moment, whole_group)
        now = units(output)
        assert done.items() <= now.items()  # the same files, not written again
        assert not (output / "report.json").exists()
        done = now
    # Another number of workers, and this time to its end.
    run(command(pairs, output, workers=3, log=str(logs[2])), home)
    assert result(output) == whole
    rows = rows_of(output)
    assert rows["test"] == [f"test-{row:04d}" for row in range(12)]
    assert rows["train"] == [f"train-{row:04d}" for row in range(60) if row != 7]
    for step, stage in enumerate(("reversed", "plain", "lengths")):
        finished = [int(name[-14:-8]) for name in done if name.startswith(f"{step}-")]
        rows_done = {
            f"{split}-{row:04d}"
            for number in finished
            for split, first in (("train", 8 * number), ("test", 8 * (number - 8)))
            for row in range(first, first + 8)
            if (split == "train") == (number < 8) and row < ROWS[split]
        }
        assert not rows_done & set(asked(logs[2], stage))


@pytest.mark.slow
def test_kills_again_and_again(pairs, home, whole, tmp_path):
    output, seconds = tmp_path / "out", 0.5
    for turn in range(40):
        with started(command(pairs, output, workers=2, **SLOW), home) as process:
            try:
                process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL) if turn % 2 else os.kill(process.pid, signal.SIGKILL)
                process.wait()  # and at once again: others of its processes may be alive
            else:
                break
        seconds = random.uniform(0.5, 6.0)
    assert process.returncode == 0
    assert result(output) == whole


@pytest.mark.parametrize("workers", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_the_number_of_workers_changes_nothing(pairs, home, whole, tmp_path, workers):
    run(command(pairs, tmp_path / "out", workers=workers, log=str(tmp_path / "log")), home)
    assert result(tmp_path / "out") == whole
    setups = [line.split()[::2] for line in (tmp_path / "log").read_text().splitlines() if " setup " in line]
    assert len(setups) == len({tuple(setup) for setup in setups}) == 3 * workers


@pytest.mark.slow
def test_changed_settings_are_refused_while_the_run_is_unfinished(pairs, home, tmp_path):
    output = tmp_path / "out"
    with started(command(pairs, output, **SLOW), home) as process:
        kill_after(process, output, 2, whole_group=True)
    done = units(output)
    refused = run(command(pairs, output, reversed={"ending": "!"}), home, status=1)
    assert "captions.ending was '' and is '!'" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert units(output) == done
    run(command(pairs, output, reversed={"ending": "!"}, overwrite=True), home)
    assert all(line.endswith("!") for line in pq.read_table(output / "data")["neg_caption"].to_pylist())


def test_overwriting_that_is_killed_and_repeated(pairs, home, whole, tmp_path):
    output, log = tmp_path / "out", tmp_path / "log"
    run(command(pairs, output, reversed={"ending": "!"}), home)
    before = result(output)
    with started(command(pairs, output, overwrite=True, **SLOW), home) as process:
        kill_after(process, output, UNITS + 1, whole_group=True)
    done = units(output)
    assert {name: (output / name).read_bytes() for name in before} == before
    run(command(pairs, output, overwrite=True, log=str(log)), home)
    assert len(done) > UNITS
    assert not asked(log, "reversed")
    assert result(output) == whole


@pytest.mark.slow
def test_a_second_run_at_the_same_time(pairs, home, whole, tmp_path):
    output = tmp_path / "out"
    with started(command(pairs, output, **SLOW), home) as process:
        wait_until(lambda: units(output))
        refused = run(command(pairs, output), home, status=1)
        assert "Another run is working on" in refused.stderr
        assert process.wait(timeout=60) == 0
    assert result(output) == whole


def test_a_killed_worker_is_one_clear_error(pairs, home, whole, tmp_path):
    output = tmp_path / "out"
    dying = {"reversed": {"delay": 0.05}, "plain": {"die_at": "train-0030", "delay": 0.05}}
    failed = run(command(pairs, output, **dying), home, status=1, timeout=60)
    (line,) = failed.stderr.strip().splitlines()
    assert line.startswith("error: A worker process ended with exit code -9")
    assert "--num_workers" in line
    done = units(output)
    assert len(done) >= UNITS
    run(command(pairs, output), home)
    assert result(output) == whole


def test_an_error_in_a_worker_ends_the_others_at_once(pairs, home, tmp_path):
    raising = {"reversed": {"raise_at": "train-0000", "delay": 5.0}}  # most of a minute for the other worker
    began = time.monotonic()
    with started(command(pairs, tmp_path / "out", **raising), home) as process:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert errors.strip() == "error: no such setting at train-0000"
        wait_until(lambda: not alive_in_group(process.pid), seconds=5)
    assert time.monotonic() - began < 20


def test_control_c(pairs, home, whole, tmp_path):
    output = tmp_path / "out"
    with started(command(pairs, output, **SLOW), home) as process:
        wait_until(lambda: units(output))
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 130
        assert errors == "interrupted\n"
        wait_until(lambda: not alive_in_group(process.pid), seconds=5)
    run(command(pairs, output), home)
    assert result(output) == whole


def test_a_limit_on_files_as_if_the_disk_were_full(pairs, home, tmp_path):
    output = tmp_path / "out"
    large = {"plain": {"size": 64}}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    failed = run(
        command(pairs, output, **large),
        home,
        status=1,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1])),
    )
    assert "error: " in failed.stderr
    assert "File too large" in failed.stderr
    assert "Traceback" not in failed.stderr
    done = units(output)
    assert len(done) == UNITS  # all captions, and no picture
    assert not list((output / ".generation").glob("*/*.tmp"))
    run(command(pairs, output, **large), home)
    run(command(pairs, tmp_path / "whole" / "out", **large), home)
    assert result(output) == result(tmp_path / "whole" / "out")


@pytest.mark.slow
def test_a_disk_that_is_full(pairs, home, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no right to mount: {mounted.stderr.strip()}")
    try:
        large = {"plain": {"size": 48}}
        failed = run(command(pairs, disk / "out", **large), home, status=1)
        assert "No space left on device" in failed.stderr
        assert "Traceback" not in failed.stderr
        done = units(disk / "out")
        assert len(done) >= UNITS
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        run(command(pairs, disk / "out", **large), home)
        run(command(pairs, tmp_path / "whole" / "out", **large), home)
        assert result(disk / "out") == result(tmp_path / "whole" / "out")
    finally:
        subprocess.run(["umount", disk], check=True)


def test_sources_and_outputs_that_are_wrong(home, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "uncaptioned").mkdir()
    (tmp_path / "uncaptioned" / "train.csv").write_text("image,text\na.png,a cat\n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("mine")
    uncaptioned = ["--data", "uncaptioned", "--output", "uncaptioned", "--overwrite"]
    rules = ["--neg_captions", "rules", "--neg_images", "none"]
    scenes = ["--scenes_options", json.dumps(SCENES)]
    for argv, message in (
        (["--data", "nowhere", *rules], "nowhere"),
        (["--data", "uncaptioned", *rules], "lacks 'caption'"),
        (["--data", "uncaptioned", "--columns", '{"caption": "text"}'], "name a source of negative captions"),
        ([*scenes, "--output", "file"], "cannot be written"),
        ([*scenes, "--output", "/proc/out"], "cannot be written"),
        ([*scenes, "--output", "taken"], "holds thesis.tex"),
        ([*scenes, "--num_workers", "0"], "`num_workers` is 0"),
        ([*uncaptioned, *rules], "is, holds or lies in the source"),
    ):
        failed = run([*GENERATE, "--output", "out", *argv], home, status=1, cwd=tmp_path)
        assert message in failed.stderr, failed.stderr
        assert "Traceback" not in failed.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "file", "taken", "thesis.tex", "train.csv", "uncaptioned",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def tripletdata(home, tmp_path_factory):
    """What the command makes of the built-in data."""
    folder = tmp_path_factory.mktemp("scenes")
    options = ["--neg_captions", "scenes", "--neg_images", "scenes", "--scenes_options", json.dumps(SCENES)]
    done = run(
        [*GENERATE, *options, "--output", "tripletdata", "--num_workers", "2", "--unit_rows", "10"], home, cwd=folder
    )
    assert "70 of 70 rows: 40 train, 9 validation, 21 test; " in done.stdout
    for step in ("captions", "images", "writing"):  # a bar over rows, with their rate
        assert f"{step}: 100%" in done.stderr
        assert "| 70/70 [" in done.stderr
        assert "rows/s]" in done.stderr
    return folder / "tripletdata"


def test_the_embedded_data_comes_out_as_load_scenes_makes_it(tripletdata, tmp_path):
    made = load_dataset(str(tripletdata), cache_dir=str(tmp_path / "cache"))
    expected = load_scenes(**SCENES, cache_dir=tmp_path / "scenes", num_proc=1)
    assert set(made) == set(expected)
    for split in expected:
        assert len(made[split]) == len(expected[split])
        for row, other in zip(made[split], expected[split], strict=True):
            assert {name: row[name] for name in other} == other


def test_training_takes_it_unchanged(example, tripletdata, tmp_path):
    flags = ["--dataset_name_or_path", str(tripletdata), "--processor_name_or_path", "train"]
    example.run(tmp_path / "run", *flags, "--max_steps", "2")
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2]

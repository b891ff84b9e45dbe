# SPDX-License-Identifier: Apache-2.0
"""Runs in separate processes, and the tables of their results."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scipy import stats

from hf_tripletclip.comparison.runs import Run, execute_all, flags_of, folder_of, hold_run, hold_settings
from hf_tripletclip.comparison.summary import differences, paired, summarize, table, write_summary

COLUMNS = {"group_score": "group", "text_score": "text"}


def run_of(root: Path, label: str, seed: int, code: str) -> Run:
    folder = folder_of(root, label, seed)
    return Run(label, seed, folder, (sys.executable, "-c", code.format(folder=str(folder))))


WRITES = "import json; open({folder!r} + '/metrics.json', 'w').write(json.dumps(dict(group_score={value})))"


def test_finished_runs_are_kept_and_failed_ones_named(tmp_path):
    runs = [run_of(tmp_path, "a b", seed, WRITES.replace("{value}", f"0.{seed}")) for seed in (1, 2)]
    done = []
    execute_all(runs, jobs=2, threads=1, progress=False, after=lambda: done.append(1))
    assert len(done) == 2
    assert [run.metrics()["group_score"] for run in runs] == [0.1, 0.2]
    before = runs[0].folder.stat().st_mtime_ns
    execute_all(runs, jobs=1, threads=1, progress=False, after=lambda: done.append(1))
    assert len(done) == 2
    assert runs[0].folder.stat().st_mtime_ns == before
    broken = run_of(tmp_path, "broken", 0, "print('first'); raise SystemExit('no such thing')")
    named = r"'broken' with seed 0 ended with status 1(?s:.*)broken-seed-0/log\.txt, ends with:\n(?s:.*)no such thing"
    with pytest.raises(ChildProcessError, match=named):
        execute_all([*runs, broken], jobs=1, threads=1, progress=False)
    silent = run_of(tmp_path, "silent", 0, "print('nothing was written')")
    with pytest.raises(ChildProcessError, match=r"status 0(?s:.*)nothing was written"):
        execute_all([silent], jobs=1, threads=1, progress=False)
    mute = run_of(tmp_path, "mute", 0, "pass")
    with pytest.raises(ChildProcessError, match=r"mute-seed-0/log\.txt, is empty\.$"):
        execute_all([mute], jobs=1, threads=1, progress=False)


def test_other_started_runs_are_finished_after_a_failure_and_no_more_start(tmp_path):
    slow = "import time; time.sleep(0.5); " + WRITES.replace("{value}", "0.5")
    runs = [run_of(tmp_path, "slow", 0, slow), run_of(tmp_path, "broken", 0, "raise SystemExit(3)")]
    later = [run_of(tmp_path, "later", seed, WRITES.replace("{value}", "0.1")) for seed in range(6)]
    with pytest.raises(ChildProcessError, match="'broken' with seed 0 ended with status 3"):
        execute_all([*runs, *later], jobs=2, threads=1, progress=False)
    assert runs[0].finished()
    assert not all(run.finished() for run in later)
    mended = run_of(tmp_path, "broken", 0, WRITES.replace("{value}", "0.2"))
    execute_all([runs[0], mended, *later], jobs=2, threads=1, progress=False)
    assert all(run.finished() for run in (mended, *later))


def test_flags_among_words():
    words = (
        "python",
        "-m",
        "script",
        "--a=1",
        "--b",
        "2",
        "--c-d",
        "3",
        "4",
        "--e",
        "--a",
        "5",
        "--f=g=h",
        "--n",
        "-1",
    )
    assert flags_of(words) == {"a": "5", "b": "2", "c_d": "3 4", "e": "", "f": "g=h", "n": "-1"}


def test_a_folder_holds_one_run(tmp_path):
    def run(*words, root=tmp_path):
        folder = root / "a-seed-0"
        return Run("a", 0, folder, (sys.executable, "-c", "", f"--output_dir={folder}", f"--data={root}/d", *words))

    run("--x=1").folder.mkdir()
    hold_run(run("--x=1"))
    hold_run(run("--x", "1"))
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "a-seed-0", moved / "a-seed-0")
    hold_run(run("--x=1", root=moved))
    below = Run("a", 0, Path("x/a-seed-0"), ("python", "--output_dir=x/a-seed-0", "--data=x/d", "--objective=x"))
    assert below.settings() == {"data": "./d", "objective": "x"}
    others = [run("--x=2", "--y=3")]
    for execute in (hold_run, lambda one: execute_all([one], jobs=1, threads=1, progress=False)):
        with pytest.raises(ValueError, match=r"another run than 'a' \(x: '1', not '2', y: None, not '3'\): give"):
            execute(others[0])


def test_runs_with_other_settings_are_not_compared_in_one_table(tmp_path):
    hold_settings(tmp_path, {"steps": 10, "flags": ("a",)})
    hold_run(run_of(tmp_path, "a", 0, ""))
    hold_settings(tmp_path, {"steps": 10, "flags": ["a"]})
    with pytest.raises(ValueError, match=r"other settings \(steps: 10, not 20\): give another"):
        hold_settings(tmp_path, {"steps": 20, "flags": ["a"]})


def test_a_mistaken_run_does_not_block_the_right_one(tmp_path):
    hold_settings(tmp_path, {"flags": "typo"})
    mistaken = run_of(tmp_path, "a", 0, "raise SystemExit('unknown flag: --typo')")
    mistaken = dataclasses.replace(mistaken, command=(*mistaken.command, "--typo"))
    with pytest.raises(ChildProcessError, match="unknown flag"):
        execute_all([mistaken], jobs=1, threads=1, progress=False)
    hold_settings(tmp_path, {"flags": "meant"})
    begun = run_of(tmp_path, "a", 0, "open({folder!r} + '/checkpoint', 'w'); raise SystemExit(1)")
    with pytest.raises(ChildProcessError):
        execute_all([begun], jobs=1, threads=1, progress=False)
    with pytest.raises(ValueError, match="another run than 'a'"):
        hold_run(mistaken)
    with pytest.raises(ValueError, match="holds runs with other settings"):
        hold_settings(tmp_path, {"flags": "typo"})


@pytest.mark.parametrize("content", ["", "{", "[]", '{"group_score": 0.'])
def test_damaged_files_are_named(tmp_path, content):
    run = run_of(tmp_path, "a", 0, "")
    run.folder.mkdir()
    for name in ("metrics.json", "run.json"):
        (run.folder / name).write_text(content)
    with pytest.raises(ValueError, match=r"a-seed-0/metrics\.json is damaged"):
        summarize([run], COLUMNS, "a")
    with pytest.raises(ValueError, match=r"a-seed-0/run\.json is damaged"):
        hold_run(run)


def test_a_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Cannot create the folder .*file .*: give another"):
        hold_settings(tmp_path / "file", {})


@pytest.fixture
def runs(tmp_path):
    values = {"clip": (0.2, 0.3, 0.25), "negclip": (0.3, 0.38, 0.36), "one": (0.5,)}
    found = []
    for label, of_seeds in values.items():
        for seed, value in enumerate(of_seeds):
            run = run_of(tmp_path, label, seed, "")
            run.folder.mkdir()
            (run.folder / "metrics.json").write_text(json.dumps({"group_score": value, "loss": 1.0}))
            found.append(run)
    return [*found, run_of(tmp_path, "waiting", 0, "")]


def test_means_deviations_and_paired_tests(runs):
    summary = summarize(runs, COLUMNS, "clip")
    assert summary.keys() == {"clip", "negclip", "one"}
    cell = summary["negclip"]["group_score"]
    assert (cell.mean, cell.seeds) == (pytest.approx(1.04 / 3), 3)
    expected = stats.ttest_rel((0.3, 0.38, 0.36), (0.2, 0.3, 0.25))
    found = cell.difference
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert summary["clip"]["group_score"].difference is None
    alone = summary["one"]["group_score"].difference
    assert alone.mean == pytest.approx(0.3)
    assert math.isnan(alone.p)


def test_equal_runs_need_no_test():
    assert paired((0.1, 0.2), (0.1, 0.2)).p == 1.0
    assert paired((0.3, 0.7, 0.2), (0.3, 0.7, 0.2)).p == 1.0
    alike = paired((0.3, 0.4, 0.7), (0.2, 0.3, 0.6))  # but for rounding
    assert (alike.p, alike.low, alike.high) == (0.0, alike.mean, alike.mean)
    assert paired((0.2, 0.3), (0.1, 0.2)).mean == pytest.approx(0.1)


def test_tables(runs, tmp_path):
    summary = summarize(runs, COLUMNS, "clip")
    assert "| negclip | 3 | 0.347 ± 0.042* |" in table(summary, COLUMNS)
    assert "| one | 1 | 0.500 |" in table(summary, COLUMNS)
    text = differences(summary, COLUMNS, "clip")
    assert "| negclip | +0.097 [+0.059, +0.135], p = 0.0082 |" in text
    assert "| one | +0.300 |" in text
    assert "| clip |" not in text.split("\n", 2)[2]
    written = write_summary(summary, COLUMNS, "clip", tmp_path, "# head")
    assert (tmp_path / "comparison.md").read_text() == written
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["one"]["group_score"]["difference"]["p"] is None
    assert (tmp_path / "comparison.png").stat().st_size > 0


def test_what_is_told_to_end_ends_its_runs(tmp_path):
    """A run waits in a process of its own; the process that started it gets a signal."""
    sleep = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    code = f"""
import sys
from pathlib import Path
from hf_tripletclip.comparison.runs import Run, execute_all
runs = [Run(name, 0, Path({str(tmp_path)!r}) / name, (sys.executable, "-c", {sleep!r})) for name in "ab"]
execute_all(runs, jobs=1, threads=1, progress=False)
"""
    parent = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 120
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.terminate()
    assert parent.wait(timeout=60) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert not (tmp_path / "b" / "log.txt").exists()

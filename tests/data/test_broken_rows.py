# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import subprocess
import sys

import pytest

from hf_tripletclip.data import BrokenRows


def report_many(rows: BrokenRows, worker: int) -> None:
    for index in range(200):
        rows.add(f"{worker}-{index}", "reason: " + "x" * 200)


def test_reports_of_several_processes_do_not_mix(tmp_path):
    rows = BrokenRows(tmp_path / "folder" / "broken.jsonl")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=report_many, args=(rows, worker)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(rows) == 800
    assert rows.counts() == {"reason": 800}


def test_nothing_is_written_before_the_first_report():
    rows = BrokenRows()
    assert not rows.path.exists()
    assert rows
    assert (len(rows), rows.counts(), rows.summary()) == (0, {}, "No broken rows.")
    rows.add("é", "empty caption")
    assert [dict(report) for report in rows] == [{"key": "é", "reason": "empty caption"}]
    rows.path.unlink()


def test_a_row_counts_once_per_reason(tmp_path):
    rows = BrokenRows(tmp_path / "broken.jsonl")
    for reason in ("empty caption", "empty caption", "unreadable image: truncated"):
        rows.add("row", reason)
    assert rows.counts() == {"empty caption": 1, "unreadable image": 1}
    assert len(BrokenRows(tmp_path / "broken.jsonl")) == 2  # a resumed run goes on with the same file
    assert str(tmp_path) in rows.summary()


def test_only_the_first_reports_are_logged(tmp_path, caplog):
    rows = BrokenRows(tmp_path / "broken.jsonl", max_warnings=2)
    for index in range(5):
        rows.add(f"row-{index}", "empty caption")
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("hf_tripletclip")]
    assert messages[:2] == ["Broken row row-0: empty caption", "Broken row row-1: empty caption"]
    assert messages[2:] == [f"More broken rows are listed in {rows.path}"]
    assert len(rows) == 5


def test_the_most_frequent_reason_comes_first(tmp_path):
    rows = BrokenRows(tmp_path / "broken.jsonl")
    for key, reason in enumerate(["missing image", "caption cut: 90", "caption cut: 80", "caption cut: 90"]):
        rows.add(str(key), reason)
    assert list(rows.counts().items()) == [("caption cut", 3), ("missing image", 1)]
    assert rows.summary() == (
        f"Rows skipped or changed: 3 × caption cut, 1 × missing image. They are listed in {rows.path}"
    )


@pytest.mark.parametrize("key", ["two\nlines", 'a "quoted" \\ key', "🦓", "not UTF-8 \udcff", "\u2028"], ids=ascii)
def test_any_key_is_read_back_unchanged(tmp_path, key, caplog):
    # The log of a test is sent to pytest-xdist, which takes UTF-8 only.
    caplog.set_level(logging.CRITICAL, logger="hf_tripletclip.data.broken_rows")
    rows = BrokenRows(tmp_path / "broken.jsonl")
    rows.add(key, key)
    rows.add("next", "empty caption")
    assert [report["key"] for report in rows] == [key, "next"]
    assert next(iter(rows))["reason"] == key


def test_a_copy_in_another_process_reports_to_the_same_file(tmp_path):
    rows = BrokenRows(tmp_path / "broken.jsonl")
    rows.add("here", "empty caption")
    pickle.loads(pickle.dumps(rows)).add("there", "empty caption")
    assert [report["key"] for report in rows] == ["here", "there"]


def test_rows_without_a_key_are_all_counted(tmp_path):
    rows = BrokenRows(tmp_path / "broken.jsonl")
    for _ in range(3):
        rows.add(None, "missing image", "image")
    assert len(rows) == 3
    assert rows.counts() == {"missing image in image": 3}


def test_rows_with_the_same_name_differ_by_their_digest(tmp_path):
    rows = BrokenRows(tmp_path / "broken.jsonl")
    for digest in ("1a", "2b", "1a"):
        rows.add("'a red cat'", "missing image", "image", digest=digest)
    assert rows.counts() == {"missing image in image": 2}


def test_details_do_not_make_a_row_count_again(tmp_path):
    rows = BrokenRows(tmp_path / "broken.jsonl")
    for detail in ("byte 7", "byte 8"):
        rows.add("row", f"unreadable image: {detail}", "image")
    assert len(rows) == 1


def test_changed_rows_do_not_count_as_broken(tmp_path):
    rows = BrokenRows(tmp_path / "broken.jsonl")
    rows.add("a", "caption cut: 90 tokens", "caption", skipped=False)
    assert len(rows) == 0
    rows.add("a", "missing image", "image")
    assert len(rows) == 1
    assert rows.counts(skipped=True) == {"missing image in image": 1}
    assert rows.counts(skipped=False) == {"caption cut in caption": 1}
    assert rows.counts() == {"caption cut in caption": 1, "missing image in image": 1}


def test_a_line_that_is_cut_short_does_not_hide_others(tmp_path):
    path = tmp_path / "broken.jsonl"
    BrokenRows(path).add("first", "empty caption")
    with open(path, "ab") as file:
        file.write(b'{"key": "second", "rea')  # its process was killed
    rows = BrokenRows(path)
    rows.add("third", "empty caption")
    assert [report["key"] for report in rows] == ["first", None, "third"]
    assert rows.counts() == {"empty caption": 2, "incomplete report": 1}


def test_a_long_reason_is_shortened(tmp_path):
    rows = BrokenRows(tmp_path / "broken.jsonl")
    rows.add("row", "unreadable image: " + "x" * 5000)
    assert len(next(iter(rows))["reason"]) < 1000


def test_the_first_reports_are_logged_whichever_worker_makes_them(tmp_path, monkeypatch):
    messages: list[str] = []
    monkeypatch.setattr("hf_tripletclip.data.broken_rows.logger.warning", messages.append)
    path = tmp_path / "broken.jsonl"
    BrokenRows(path).add("of an earlier run", "empty caption")
    messages.clear()
    rows = BrokenRows(path, max_warnings=2)
    rows.add("changed", "caption cut", skipped=False)  # does not count against the broken ones
    workers = [pickle.loads(pickle.dumps(rows)) for _ in range(5)]
    for index, worker in enumerate(workers):
        worker.add(f"row-{index}", "unreadable image: truncated", "image")
    assert messages == [
        "Changed row changed: caption cut",
        "Broken row row-0: unreadable image in image: truncated",
        "Broken row row-1: unreadable image in image: truncated",
        f"More broken rows are listed in {path}",
    ]


def test_the_temporary_file_is_removed_when_the_process_ends(tmp_path):
    code = (
        "from hf_tripletclip.data import BrokenRows\nimport os, sys\n"
        "rows = BrokenRows()\nrows.add('1', 'missing image')\n"
        "if os.fork() == 0:\n    sys.exit()\nos.wait()\nassert len(rows) == 1\nprint(rows.path)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
    assert list(tmp_path.glob("broken_rows-*")) == []

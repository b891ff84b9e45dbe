# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import multiprocessing

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

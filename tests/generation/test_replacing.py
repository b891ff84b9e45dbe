# SPDX-License-Identifier: Apache-2.0
"""A new dataset in the place of an old one, killed at every moment."""

from __future__ import annotations

import contextlib
import itertools
import os

import pytest

from hf_tripletclip.generation import replacing
from hf_tripletclip.generation.replacing import finish_replacing, put_in_place

FILES = (
    "plan.json", "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", "left_out.jsonl",
    "README.md", "assets/sample.png", "report.json",
)  # fmt: skip


class Killed(BaseException):
    """As `kill -9`: nothing catches it."""


def write(folder, files, content):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def dataset(output):
    """What each file of the dataset holds, and whether there are others."""
    found = {path.relative_to(output).as_posix(): path for path in output.rglob("*") if path.is_file()}
    return {name: path.read_text() for name, path in found.items() if not name.startswith((".generation/", "notes"))}


def both(parent):
    """A finished dataset with files of its user, the units of a new one, and the new one itself."""
    output = parent / "out"
    write(output, FILES, "old")
    write(output, ["notes.txt", "notes/more.txt"], "mine")
    (output / "notes" / "link").symlink_to("more.txt")
    write(output / ".generation", ["lock", "plan.json", "logs/write/task.log", "0-captions/unit-000000.parquet"], "")
    staged = output / ".generation" / "staged" / "out"
    write(staged, FILES, "new")
    return output, staged


def killed_at(number, patch):
    """Every call that changes the disk counts, and that of this number is not made any more."""
    counted = itertools.count()

    def counting(function):
        def call(*arguments, **named):
            if next(counted) == number:
                raise Killed
            return function(*arguments, **named)

        return call

    for name in ("rename", "replace", "unlink", "rmdir", "link", "mkdir"):
        patch.setattr(os, name, counting(getattr(os, name)))
    if (exchange := replacing._system_call()) is not None:
        patch.setattr(replacing, "_system_call", lambda: counting(exchange))
    return counted


@pytest.fixture(params=["exchanged", "moved"])
def way(request, monkeypatch, tmp_path):
    """Both ways to do it; only with the first is there no moment at which the dataset is neither."""
    if request.param == "moved":
        monkeypatch.setattr(replacing, "_system_call", lambda: None)
    else:
        for name in "ab":
            (tmp_path / name).mkdir()
        exchange = replacing._system_call()
        if exchange is None or not exchange(tmp_path / "a", tmp_path / "b"):
            pytest.skip("this system cannot exchange two folders in one step")
    return request.param


def test_at_every_moment_it_is_the_old_or_the_new_dataset(way, tmp_path, monkeypatch):
    old, new = (dict.fromkeys(FILES, content) for content in ("old", "new"))
    seen = []
    for number in itertools.count():
        output, staged = both(tmp_path / str(number))
        with monkeypatch.context() as patch:
            counted = killed_at(number, patch)
            with contextlib.suppress(Killed):
                put_in_place(staged, output)
        if way == "exchanged":
            assert dataset(output) in (old, new), f"killed before call {number}"
        finish_replacing(output)  # as the next run does first
        seen.append(dataset(output))
        assert seen[-1] in (old, new), f"killed before call {number}"
        assert (output / "notes.txt").read_text() == (output / "notes" / "link").read_text() == "mine"
        assert (output / ".generation" / "logs" / "write" / "task.log").is_file()
        if seen[-1] == old:  # nothing of the new one's units is lost: it is written again
            assert (output / ".generation" / "0-captions" / "unit-000000.parquet").is_file()
            again = output / ".generation" / "staged" / "again"
            write(again, FILES, "new")
            put_in_place(again, output)
            assert dataset(output) == new
        assert sorted(path.name for path in output.parent.iterdir()) == ["out"]
        if next(counted) <= number:  # no call was left to be killed at
            break
    assert number > 10
    assert seen == sorted(seen, key=lambda content: content == new)  # never back again


def test_an_exchange_that_the_disk_refuses_is_made_by_moving(tmp_path, monkeypatch):
    for number, refuse in enumerate(("link", "rename", "exchange", "beside")):
        output, staged = both(tmp_path / str(number))
        with monkeypatch.context() as patch:
            if refuse == "exchange":
                patch.setattr(replacing, "_system_call", lambda: lambda one, other: False)
            elif refuse == "beside":
                (output.parent / ".out.replaced").mkdir()  # somebody else's

            def fail(*arguments, **named):
                raise OSError("not on this disk")

            if hasattr(os, refuse):
                patch.setattr(os, refuse, fail)
            put_in_place(staged, output)
        assert set(dataset(output).values()) == {"new"}, refuse
        assert (output / "notes.txt").read_text() == "mine"
        assert (output.parent / ".out.replaced").exists() == (refuse == "beside")


def test_who_stands_in_the_folder_stays_in_it(tmp_path, monkeypatch):
    output, staged = both(tmp_path)
    monkeypatch.chdir(output / "data")
    put_in_place(staged, output)
    monkeypatch.chdir(output)
    assert os.path.samefile(os.getcwd(), output)
    assert set(dataset(output).values()) == {"new"}


def test_an_output_that_is_a_link_stays_one(tmp_path):
    output, staged = both(tmp_path / "disk")
    (tmp_path / "link").symlink_to(output)
    put_in_place(tmp_path / "link" / staged.relative_to(output), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert set(dataset(output).values()) == {"new"}
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["out"]

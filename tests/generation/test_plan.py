# SPDX-License-Identifier: Apache-2.0
"""Plans: their units, what their hashes depend on, and what they say of another plan."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import signal
import socket

import pyarrow.parquet as pq
import pytest
from datasets import Features, Image, List, Value

from hf_tripletclip.generation.plan import FORMAT, DamagedUnit, Plan, Unit, UnitFiles, encode
from tests.generation.stages_for_tests import png

PLAN = Plan(
    source={"name": "pairs", "splits": ["train", "test"], "rows": {"train": 10, "test": 4}, "captions": "abc"},
    unit_rows=4,
    stages={"captions": {"stage": "llm", "temperature": 0.7}, "images": {"stage": "diffusers", "seed": 0}},
    output={"filters": {"best": None}, "rows_per_file": 100},
)


def changed(**fields):
    return dataclasses.replace(PLAN, **fields)


def test_units_cover_every_row_once_and_no_split_is_mixed():
    assert list(PLAN.units()) == [
        Unit(0, "train", 0, 4),
        Unit(1, "train", 4, 8),
        Unit(2, "train", 8, 10),
        Unit(3, "test", 0, 4),
    ]
    assert [unit.rows for unit in PLAN.units()] == [4, 4, 2, 4]
    assert PLAN.rows == 14
    for size in (1, 3, 14, 100):
        plan = changed(unit_rows=size)
        rows = [(unit.split, row) for unit in plan.units() for row in range(unit.start, unit.stop)]
        assert rows == [("train", row) for row in range(10)] + [("test", row) for row in range(4)]
        assert [unit.number for unit in plan.units()] == list(range(len(list(plan.units()))))


def test_a_step_depends_on_what_comes_before_it_only():
    captions, images = PLAN.hash_of("captions"), PLAN.hash_of("images")
    assert captions != images
    other_images = changed(stages={**PLAN.stages, "images": {"stage": "diffusers", "seed": 1}})
    assert other_images.hash_of("captions") == captions
    assert other_images.hash_of("images") != images
    other_captions = changed(stages={**PLAN.stages, "captions": {"stage": "llm", "temperature": 1.0}})
    assert other_captions.hash_of("captions") != captions
    assert other_captions.hash_of("images") != images
    for plan in (changed(unit_rows=5), changed(source={**PLAN.source, "captions": "abd"})):
        assert plan.hash_of("captions") != captions
        assert plan.hash_of("images") != images
    other_output = changed(output={"filters": {"best": 3}, "rows_per_file": 7})
    assert other_output.hash_of("captions") == captions
    assert other_output.hash_of("images") == images


def test_units_and_hashes_follow_the_order_of_the_splits():
    other = changed(source={**PLAN.source, "splits": ["test", "train"], "rows": {"test": 4, "train": 10}})
    assert next(other.units()) == Unit(0, "test", 0, 4)
    assert other.hash_of("captions") != PLAN.hash_of("captions")
    assert other.differences(PLAN.to_dict()) == ["source.splits was ['train', 'test'] and is ['test', 'train']"]
    sorted_by_a_file = changed(source={**PLAN.source, "rows": {"test": 4, "train": 10}})
    assert list(sorted_by_a_file.units()) == list(PLAN.units())


def test_differences_are_named():
    other = changed(
        unit_rows=5,
        stages={**PLAN.stages, "captions": {"stage": "llm", "temperature": 1.0, "top_p": 0.9}},
        output={"filters": {"best": 3}, "rows_per_file": 100},
    )
    assert other.differences(PLAN.to_dict()) == [
        "unit_rows was 4 and is 5",
        "captions.temperature was 0.7 and is 1.0",
        "output.filters.best was None and is 3",
        "captions.top_p was None and is 0.9",
    ]
    assert changed(stages={"captions": PLAN.stages["captions"]}).differences(PLAN.to_dict()) == [
        "images.stage was 'diffusers' and is None",
        "images.seed was 0 and is None",
    ]
    assert PLAN.differences(PLAN.to_dict()) == []


def test_a_plan_survives_its_file(tmp_path):
    path = tmp_path / "new" / "plan.json"
    PLAN.save(path)
    loaded = Plan.load(path)
    assert loaded == PLAN
    assert loaded.hash_of("images") == PLAN.hash_of("images")
    assert path.read_text() == PLAN.to_json()
    assert [entry.name for entry in path.parent.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"plan"', json.dumps({"format": FORMAT, "rows": 3})])
def test_what_is_no_plan(tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"is no plan.*--overwrite"):
        Plan.load(path)


def test_a_plan_of_another_version(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**PLAN.to_dict(), "format": FORMAT + 1}))
    with pytest.raises(ValueError, match=r"another version.*--overwrite"):
        Plan.load(path)


UNIT = Unit(3, "train", 6, 8)
COLUMNS = Features({"neg_caption": List(Value("string")), "neg_image": Image(), "score": Value("float32")})
ROWS = {
    "id": ["a", "b"],
    "neg_caption": [["x", "ÿ"], None],
    "neg_image": [{"bytes": png(1), "path": None}, None],
    "score": [0.25, None],
    "error": [None, "refusal: no"],
}


@pytest.fixture
def files(tmp_path):
    return UnitFiles(tmp_path / "0-captions", "hash", COLUMNS)


def test_a_unit_comes_back_as_it_was_written(files):
    assert not files.is_done(UNIT)
    files.write(UNIT, ROWS)
    assert files.is_done(UNIT)
    assert files.read(UNIT) == ROWS
    assert files.read(UNIT, ["error", "id"]) == {"error": ROWS["error"], "id": ROWS["id"]}
    assert [path.name for path in files.folder.iterdir()] == ["unit-000003.parquet"]
    first = files.path(UNIT).read_bytes()
    files.write(UNIT, ROWS)
    assert files.path(UNIT).read_bytes() == first


def test_what_is_not_done(files):
    files.write(UNIT, ROWS)
    path = files.path(UNIT)
    whole = path.read_bytes()
    other_plan = UnitFiles(files.folder, "other", COLUMNS)
    assert not other_plan.is_done(UNIT)
    with pytest.raises(OSError, match="changed by another run"):
        other_plan.read(UNIT)
    assert not files.is_done(Unit(3, "train", 6, 9))
    for content in (b"", whole[:-1], whole[: len(whole) // 2], b"no parquet"):
        path.write_bytes(content)
        assert not files.is_done(UNIT)
    path.write_bytes(whole)
    assert files.is_done(UNIT)


def test_every_changed_byte_is_found_when_it_is_read(files):
    """The footer may be sound, and its number of rows right: the checksums of what is read are not."""
    files.write(UNIT, ROWS)
    path = files.path(UNIT)
    whole = path.read_bytes()
    undone = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        if not files.is_done(UNIT):
            undone += 1
            continue
        with contextlib.suppress(DamagedUnit):
            assert files.read(UNIT) == ROWS  # where it does not matter, such as in what wrote the file
            continue
        assert not path.exists()
    assert undone < len(whole) / 14  # most are not in the footer
    path.write_bytes(whole[:30] + bytes(30) + whole[60:])
    with pytest.raises(DamagedUnit, match=r"unit-000003.parquet is damaged \(.*\) and was removed"):
        files.read(UNIT)
    with pytest.raises(DamagedUnit, match=r"unit-000003.parquet is gone"):
        files.read(UNIT)


@pytest.mark.parametrize("damage", [lambda content: content[:4] + bytes(len(content) - 1000) + content[-996:],
                                    lambda content: content[:500] + content[600:]])  # fmt: skip
def test_a_damaged_unit_is_removed_by_a_look_at_all(files, damage):
    files.write(UNIT, ROWS)
    assert not files.check(UNIT)
    files.path(UNIT).write_bytes(damage(files.path(UNIT).read_bytes()))
    assert files.check(UNIT) or not files.is_done(UNIT)
    files.write(UNIT, ROWS)
    assert files.read(UNIT) == ROWS


def test_an_error_of_the_machine_removes_no_unit(files):
    files.write(UNIT, ROWS)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for look in (files.is_done, files.read):
            with pytest.raises(OSError, match="Too many open files") as error:
                look(UNIT)
    finally:
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not isinstance(error.value, DamagedUnit)
    assert files.read(UNIT) == ROWS


def test_only_old_leftovers_are_removed(files):
    files.folder.mkdir()
    host, mine = socket.gethostname(), os.getpid()
    names = [f"{host}-{mine}", f"{host}-{2**22 + 1}", "a.node-7-12", "4711"]
    for name in names:
        (files.folder / f"unit-000001.parquet.{name}.tmp").write_bytes(b"half")
    files.remove_leftovers()
    assert {path.name[20:-4] for path in files.folder.iterdir()} == {names[0], names[2]}
    os.utime(files.folder / "unit-000001.parquet.a.node-7-12.tmp", (0, 0))
    files.remove_leftovers()
    assert {path.name[20:-4] for path in files.folder.iterdir()} == {names[0]}


def test_a_wrong_number_of_rows_is_refused(files):
    with pytest.raises(ValueError, match="would have 2 rows instead of 3"):
        files.write(Unit(3, "train", 6, 9), ROWS)
    assert not files.folder.exists()


def test_rows_of_the_files_that_are_there(files):
    units = [Unit(number, "train", 2 * number, 2 * number + 2) for number in range(4)]
    sizes = {files.path(unit).name: unit.rows for unit in units}
    assert files.count_done(sizes) == 0
    files.write(units[1], ROWS)
    files.write(units[3], ROWS)
    (files.folder / "unit-000000.parquet.77.tmp").write_bytes(b"half")
    assert files.count_done(sizes) == 4
    files.remove_leftovers()
    assert sorted(path.name for path in files.folder.iterdir()) == ["unit-000001.parquet", "unit-000003.parquet"]


def test_a_picture_is_stored_although_a_file_of_its_name_is_in_the_working_directory(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(png(9))
    rows = {**ROWS, "neg_image": [{"bytes": png(1), "path": "a.png"}, None]}
    files.write(UNIT, rows)
    assert files.read(UNIT, ["neg_image"])["neg_image"] == ROWS["neg_image"]
    assert encode({"neg_image": rows["neg_image"]}, Features({"neg_image": Image()}))["neg_image"][0]["bytes"] == png(
        1
    )


def test_a_full_disk_leaves_nothing(files):
    """As far as a limit on the size of files is a full disk: the write fails half-way."""
    files.write(UNIT, ROWS)
    before = files.path(UNIT).read_bytes()
    large = {**ROWS, "neg_caption": [["x" * 10_000], ["y"]], "neg_image": [{"bytes": png(5, 64), "path": None}, None]}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            files.write(UNIT, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in files.folder.iterdir()] == ["unit-000003.parquet"]
    assert files.path(UNIT).read_bytes() == before
    assert files.is_done(UNIT)


def test_columns_have_the_types_that_datasets_reads(files):
    files.write(UNIT, ROWS)
    assert Features.from_arrow_schema(pq.read_schema(files.path(UNIT))) == files.features

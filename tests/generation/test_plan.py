# SPDX-License-Identifier: Apache-2.0
"""Plans: their units, what their hashes depend on, and what they say of another plan."""

from __future__ import annotations

import dataclasses
import json

import pytest

from hf_tripletclip.generation.plan import FORMAT, Plan, Unit

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

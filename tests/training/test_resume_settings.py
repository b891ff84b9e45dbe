# SPDX-License-Identifier: Apache-2.0
"""What makes two runs one, and how a difference is told; whole runs are in test_resuming.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset

from hf_tripletclip.training.resume_settings import (
    RESUME_FILE,
    Course,
    Difference,
    _columns,
    describe_changes,
    differences,
    of_scripts,
    refusal,
    settings_of,
)
from hf_tripletclip.training.script_arguments import DataArguments, ModelArguments
from tests.training.test_trainer import DISTILLED, LORA, Rows, make_trainer, tuned

SAME = {"per_device_train_batch_size": 4, "world_size": 2, "rows_by_process": False}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": Rows(8)}


@pytest.mark.parametrize(
    ("was", "now", "found", "told"),
    [
        ({"seed": 1}, {"seed": 1}, [], []),
        ({"seed": 1}, {"seed": 2}, ["seed"], []),
        ({"seed": 1}, {}, [], []),  # what only one of them knows
        ({}, {"seed": 1}, [], []),
        ({"max_steps": 4}, {"max_steps": 7}, [], ["max_steps"]),
        ({"num_train_epochs": 1.0}, {"num_train_epochs": 2.0}, [], ["num_train_epochs"]),
        ({}, {"per_device_train_batch_size": 8}, ["per_device_train_batch_size"], []),
        (
            {},
            {"per_device_train_batch_size": 8, "world_size": 1},
            [],
            ["per_device_train_batch_size", "world_size"],
        ),
        (
            {},
            {"per_device_train_batch_size": 8, "world_size": 1, "rows_by_process": True},
            ["per_device_train_batch_size", "world_size"],
            [],
        ),
        ({"metric_for_best_model": "a"}, {"metric_for_best_model": "b"}, ["metric_for_best_model"], []),
        ({"metric_for_best_model": "a"}, {"metric_for_best_model": None}, [], []),
        ({"metric_for_best_model": None}, {"metric_for_best_model": "b"}, [], []),
        (
            {"metric_for_best_model": "a", "greater_is_better": True},
            {"metric_for_best_model": "a", "greater_is_better": False},
            ["greater_is_better"],
            [],
        ),
        ({"images": "a"}, {"images": "b"}, [], []),
        ({"images": "a", "streaming": True}, {"images": "b", "streaming": True}, ["images"], []),
    ],
    ids=str,
)
def test_differences(was, now, found, told):
    of_run, after = differences({**SAME, **was}, {**SAME, **now})
    assert ([one.name for one in of_run], [one.name for one in after]) == (found, told)


@pytest.mark.parametrize(("number", "more"), [(8, ""), (9, "; and 1 more"), (11, "; and 3 more")])
def test_a_refusal_lists_eight(number, more):
    text = refusal("checkpoint-4", [Difference(f"setting_{n}", n, -1) for n in range(number)])
    assert f"`setting_7` was 7 and is -1{more}. Resume with its settings" in text
    assert "`setting_8`" not in text
    assert "--allow_changed_settings" in text


def test_a_refusal_names_three_that_cannot_change():
    names = ["seed", "learning_rate", "optim", "vocabulary", "weight_decay"]
    text = refusal("checkpoint-4", [Difference(name, 1, 2) for name in names])
    assert text.endswith(
        "have `learning_rate`, `optim`, the tokenizer's vocabulary in them, so this cannot change on the way."
    )
    assert "--allow_changed_settings" not in text


def test_long_values_are_cut():
    assert str(Difference("x", "a" * 118, None)) == f"`x` was {'a' * 118!r} and is None"
    assert str(Difference("x", "a" * 119, None)) == f"`x` was {repr('a' * 119)[:117]}... and is None"
    assert (
        str(Difference("train_data", "12 rows, abc", "13 rows, d"))
        == "the training data was 12 rows, abc and is 13 rows, d"
    )


def test_changes_are_described():
    assert describe_changes([]) == ""
    changes = [{"step": 4, "changes": ["a", "b"]}, {"step": 6, "changes": ["c"]}]
    assert describe_changes(changes) == " After step 4 it was resumed: a; b. After step 6 it was resumed: c."


def test_a_course_is_saved_and_loaded(tmp_path):
    assert Course.load(tmp_path) is None
    course = Course({"seed": 1}, {"pass": 1, "batches": 2}, [{"step": 3, "changes": ["x"]}])
    course.save(tmp_path)
    assert Course.load(tmp_path) == course
    (tmp_path / RESUME_FILE).write_text("{")
    with pytest.raises(ValueError, match=r"resume\.json cannot be read: the checkpoint is damaged"):
        Course.load(tmp_path)


def test_a_folder_of_the_model_is_named_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    found = of_scripts(ModelArguments(model_name_or_path="base"), DataArguments())
    assert found["model_name_or_path"] == str(Path("base").resolve())
    assert "license" not in found
    assert of_scripts(ModelArguments(model_name_or_path="user/base"))["model_name_or_path"] == "user/base"


@pytest.mark.parametrize(
    ("kwargs", "watched"),
    [
        ({}, False),
        ({"metric_for_best_model": "loss"}, True),
        ({"retention_metric": "kept"}, True),
        ({"retention_metric": "kept", "metric_for_best_model": "loss"}, True),
    ],
)
def test_the_evaluation_counts_if_it_decides(tmp_path, kwargs, watched):
    found = settings_of(make_trainer(tmp_path, **EVALUATED, **kwargs))
    assert ("eval_data" in found, "eval_benchmarks" in found) == (watched, watched)


def test_other_settings_that_determine_a_run(tmp_path, monkeypatch):
    plain = make_trainer(tmp_path, mini_batch_size=3)
    found = settings_of(plain)
    assert found["rows_by_process"] is False
    assert not {"mini_batch_size", "start_weights", "negatives_across_devices", "num_train_epochs"} & found.keys()
    assert (found["max_steps"], found["trained_in"], found["world_size"]) == (4, "float32", 1)
    assert "max_steps" not in settings_of(make_trainer(tmp_path, max_steps=-1))
    dropout = make_trainer(tmp_path, mini_batch_size=3, model=tuned(**LORA, lora_dropout=0.1))
    found = settings_of(dropout)
    assert (found["rows_by_process"], found["mini_batch_size"]) == (True, 3)
    assert settings_of(make_trainer(tmp_path, **DISTILLED)).keys() >= {"start_weights"}
    attention = make_trainer(tmp_path, mini_batch_size=3)
    attention.model.config.text_config.attention_dropout = 0.1
    assert settings_of(attention)["mini_batch_size"] == 3
    monkeypatch.setattr(type(plain.args), "world_size", 2)
    assert settings_of(plain)["negatives_across_devices"] is True
    assert settings_of(plain)["rows_by_process"] is False
    assert settings_of(plain)["key_exchange"] == "gather"
    ring = settings_of(make_trainer(tmp_path, key_exchange="ring"))
    assert (ring["key_exchange"], ring["objective_kwargs"]) == ("ring", {})
    differing, _ = differences(settings_of(plain), ring)
    assert [one.name for one in differing] == ["key_exchange"]  # which `allow_changed_settings` allows
    assert "by `--allow_changed_settings`" in refusal("checkpoint-1", differing)
    plain.core.set_objective("clip", negatives_across_devices=False)
    found: Any = settings_of(plain)
    assert (found["negatives_across_devices"], found["rows_by_process"]) == (False, True)
    assert found["objective_kwargs"] == {}
    assert "key_exchange" not in found


def test_the_weights_below_adapters_are_compared_whatever_the_adapters_are(tmp_path):
    first, second = (settings_of(make_trainer(tmp_path, model=tuned(**LORA, lora_alpha=a))) for a in (8, 16))
    assert first["start_weights"] == second["start_weights"]
    other = tuned(**LORA)
    with torch.no_grad():
        other.get_parameter("base_model.model.text_model.final_layer_norm.bias").add_(1.0)
    assert settings_of(make_trainer(tmp_path, model=other))["start_weights"] != first["start_weights"]


@pytest.mark.parametrize(
    ("dataset", "objective", "columns"),
    [
        (Dataset.from_dict({"image": [1], "caption": ["a"], "id": [1]}), ("image", "caption"), ("image", "caption")),
        (Dataset.from_dict({"image": [1]}), ("image", "caption"), None),
        (Dataset.from_dict({"image": [1], "caption": ["a"]}).to_iterable_dataset(), ("image", "caption"), None),
        (Rows(2), ("image", "caption"), None),
    ],
)
def test_which_columns_of_the_data_are_compared(dataset, objective, columns):
    core = SimpleNamespace(objective=SimpleNamespace(columns=objective, draws_captions=False))
    assert _columns(SimpleNamespace(train_dataset=dataset, core=core)) == columns

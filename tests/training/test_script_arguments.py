# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import re
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch.distributed as dist
from transformers import TrainingArguments
from transformers.utils import logging

from hf_tripletclip.data.scenes.start import start_folder
from hf_tripletclip.training.argument_checks import check_numbers
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.training.finetuning import FinetuningArguments
from hf_tripletclip.training.script_arguments import (
    DataArguments,
    ModelArguments,
    check_data_is_named,
    parse_arguments,
)


def test_flags_by_their_own_names(tmp_path):
    model, data, training = parse_arguments(
        [
            *("--output_dir", str(tmp_path), "--max_steps", "7", "--per_device_train_batch_size", "3", "--seed", "5"),
            *("--objective", "negclip", "--objective_kwargs", '{"chunk_size": 32}', "--mini_batch_size", "2"),
            *(
                "--model_config",
                '{"projection_dim": 8}',
                "--dataset_name_or_path",
                "D",
                "--columns",
                '{"image": "img"}',
            ),
        ]
    )
    assert (training.max_steps, training.per_device_train_batch_size, training.seed) == (7, 3, 5)
    assert (training.objective, training.objective_kwargs, training.mini_batch_size) == (
        "negclip",
        {"chunk_size": 32},
        2,
    )
    assert model.model_config == {"projection_dim": 8}
    assert (data.columns, data.scenes_nouns) == ({"image": "img"}, "24")


def test_what_a_file_says_of_its_own_data_is_not_meant_for_other_data(tmp_path):
    of_scenes = write(
        tmp_path / "scenes.yaml", "dataset_name_or_path: scenes\nscenes_nouns: 48\nscenes_train_size: 9\n"
    )
    data = parse_arguments(["--config", of_scenes, "--dataset_name_or_path", "D"])[1]
    assert (data.dataset_name_or_path, data.scenes_nouns, data.scenes_train_size) == ("D", "24", None)
    of_d = write(tmp_path / "d.yaml", "dataset_name_or_path: D\ncolumns: {image: img}\nstreaming: true\n")
    data = parse_arguments(["--config", of_d, "--dataset_name_or_path=scenes", "--scenes_nouns", "all"])[1]
    assert (data.columns, data.streaming, data.scenes_nouns) == (None, False, "all")
    with pytest.raises(ValueError, match="`scenes_seed` is for `scenes`, but the data is 'D'"):
        parse_arguments(["--config", of_scenes, "--dataset_name_or_path", "D", "--scenes_seed", "1"])
    with pytest.raises(ValueError, match="`scenes_seed` is for `scenes`, but the data is 'D'"):
        parse_arguments(["--config", of_scenes, "--dataset-name-or-path", "D", "--scenes-seed", "1"])
    mixed = write(tmp_path / "mixed.yaml", "dataset_name_or_path: D\nscenes_train_size: 9\n")
    with pytest.raises(ValueError, match="`scenes_train_size` is for `scenes`, but the data is 'D'"):
        parse_arguments(["--config", mixed])


def test_defaults_that_contrastive_training_needs(tmp_path):
    _, data, training = parse_arguments(["--output_dir", str(tmp_path)])
    assert data.dataset_name_or_path == "scenes"
    assert training.dataloader_drop_last
    assert not training.remove_unused_columns
    assert training.ddp_find_unused_parameters is False
    assert training.negatives_across_devices


DEFAULTS = {
    ModelArguments: {
        "train_text": "full", "train_vision": "full", "train_projections": None, "train_logit_scale": None,
        "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "use_dora": False, "use_rslora": False,
        "load_in_4bit": False, "model_name_or_path": None, "model_config": None, "processor_name_or_path": None,
        "attn_implementation": None,
    },
    DataArguments: {
        "dataset_name_or_path": "scenes", "columns": None, "images": None, "streaming": False, "fast_decode": True,
        "train_split": "train", "validation_split": "validation", "test_split": "test", "max_train_samples": None,
        "filters": None,
        "max_eval_samples": None, "license": None, "scenes_nouns": "24", "scenes_seed": 0, "scenes_train_size": None,
        "scenes_further_texts": False, "scenes_test_nouns": None,
        "scenes_validation_size": None, "scenes_test_size": None,
    },
    FinetuningArguments: {
        "variants": None, "composition": "triplets", "retention": "zeroshot", "benchmarks": None,
        "alpha": "0,0.25,0.5,0.75,1", "max_loss": 0.01,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", DEFAULTS, ids=lambda kind: kind.__name__)
def test_defaults_of_script_arguments(kind):
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    assert {name: defaults.get(name, "no such argument") for name in DEFAULTS[kind]} == DEFAULTS[kind]


@pytest.mark.parametrize("kind", [TripletCLIPTrainingArguments, *DEFAULTS], ids=lambda kind: kind.__name__)
def test_every_argument_of_our_own_has_a_help(kind):
    own = [field for field in dataclasses.fields(kind) if field.name in kind.__annotations__]
    assert own
    assert not [field.name for field in own if not str(field.metadata.get("help", "")).endswith(".")]


def test_the_docstring_has_every_training_argument_with_its_default():
    kind = TripletCLIPTrainingArguments
    entries = dict(re.findall(r"^        (\w+) \((.*?)\):", kind.__doc__, re.MULTILINE))
    for field in dataclasses.fields(kind):
        if field.name in kind.__annotations__ and field.name not in ("do_train", "do_eval"):
            said = re.search(r"defaults to `?\"?([^`\"]+)", entries[field.name])
            assert (said[1] if said else "None") == str(field.default), field.name
    assert {"ddp_timeout": "1800", "max_grad_norm": "1.0"}.items() <= {
        field.name: str(field.default) for field in dataclasses.fields(kind)
    }.items()


@pytest.mark.parametrize(
    ("use_cpu", "environment", "there", "made"),
    [
        (True, {}, False, True),
        (False, {"ACCELERATE_USE_CPU": "True"}, False, True),
        (False, {"ACCELERATE_USE_CPU": "no"}, False, False),
        (True, {"WORLD_SIZE": "1"}, False, False),
        (True, {"RANK": None}, False, False),
        (True, {}, True, False),
    ],
)
def test_processes_on_cpus_wait_as_long_as_they_are_told(monkeypatch, use_cpu, environment, there, made):
    launched = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in {**launched, "ACCELERATE_USE_CPU": None, **environment}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    groups: list[tuple[str, object]] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: there)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: groups.append((backend, timeout)))
    monkeypatch.setattr(TrainingArguments, "_setup_devices", SimpleNamespace(func=lambda args: "device"))
    args = SimpleNamespace(use_cpu=use_cpu, ddp_backend=None, ddp_timeout_delta="timeout")
    assert TripletCLIPTrainingArguments._setup_devices.func(args) == "device"
    assert groups == ([("gloo", "timeout")] if made else [])


def write(path, text):
    path.write_text(text)
    return str(path)


def test_flags_win_over_the_file(tmp_path):
    config = write(tmp_path / "run.yaml", "max_steps: 9\nlearning_rate: 5e-4\nmodel_config:\n  projection_dim: 16\n")
    model, _, training = parse_arguments(["--config", config, "--max_steps", "3", "--output_dir", str(tmp_path)])
    assert (training.max_steps, training.learning_rate) == (3, 5e-4)
    assert model.model_config == {"projection_dim": 16}


@pytest.mark.parametrize(
    ("file", "flags", "expected"),
    [
        ("dataset_name_or_path: scenes", ["--dataset_name_or_path", "my.csv"], None),
        ("dataset_name_or_path: scenes", ["--dataset-name-or-path=my.csv"], None),
        ("dataset_name_or_path: other", ["--dataset_name_or_path", "my.csv"], None),
        ("dataset_name_or_path: scenes", ["--dataset_name_or_path", "my.csv", "--license", "mit"], "mit"),
        ("dataset_name_or_path: my.csv", ["--dataset_name_or_path", "./my.csv"], "apache-2.0"),
        ("dataset_name_or_path: scenes", [], "apache-2.0"),
        ("seed: 1", ["--dataset_name_or_path", "my.csv"], "apache-2.0"),  # of whatever data
    ],
)
@pytest.mark.parametrize("default", [True, False])
def test_the_license_of_a_file_is_of_its_own_data(tmp_path, file, flags, expected, default):
    path = write(tmp_path / "a.yaml", f"{file}\nlicense: apache-2.0\noutput_dir: {tmp_path}\n")
    data = parse_arguments(flags, path)[1] if default else parse_arguments([*flags, "--config", path])[1]
    assert data.license == expected


def test_own_data_with_the_model_of_the_default_file_is_said(tmp_path, caplog):
    small = write(
        tmp_path / "a.yaml",
        f"dataset_name_or_path: scenes\nlicense: mit\nmodel_config: {{vision_config: {{image_size: 64}}}}\n"
        f"output_dir: {tmp_path}\n",
    )

    def said(*flags: str, default: str | None = small) -> str:
        logging.warning_once.cache_clear()
        caplog.clear()
        parse_arguments(flags, default)
        return caplog.text

    text = said("--dataset_name_or_path", "my.csv")
    assert f"the small model of the configuration {small}: pictures of 64 px, random weights. `--config " in text
    assert "Because of `--dataset_name_or_path my.csv` these settings of a.yaml have no effect: `license`" in text
    assert "small model" not in said()
    assert "small model" not in said("--dataset_name_or_path", "my.csv", "--config", small)
    assert "small model" not in said("--dataset_name_or_path", "my.csv", "--model_config", "{}")
    assert "small model" not in said("--dataset_name_or_path", "my.csv", "--output_dir", str(tmp_path), default=None)
    assert "small model" not in said("--dataset_name_or_path", "my.csv", "--model_config", '{"projection_dim": 8}')
    assert "small model" not in said("--dataset_name_or_path", "scenes")
    named = write(
        tmp_path / "b.yaml", f"dataset_name_or_path: scenes\nmodel_name_or_path: M\noutput_dir: {tmp_path}\n"
    )
    assert f"is M, the model of the configuration {named}" in said("--dataset_name_or_path", "my.csv", default=named)
    assert "No `--config`" not in said("--dataset_name_or_path", "my.csv", "--model_name_or_path", "N", default=named)
    assert "No `--config`" not in said("--dataset_name_or_path", "my.csv", "--output_dir", str(tmp_path), default=None)


OWN_MODEL = "processor_name_or_path: train\nlicense: mit\nmodel_config: {projection_dim: 8}\n"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], (None, {"projection_dim": 8}, "train", "mit")),
        (["--model_name_or_path", "M"], ("M", None, None, None)),
        (["--model-name-or-path=M", "--license", "mit"], ("M", None, None, "mit")),
        (["--model", "M"], ("M", None, None, None)),
        (["--model_name_or_path", "M", "--processor_name_or_path", "P"], ("M", None, "P", None)),
        (["--model_name_or_path", "M", "--model_config", '{"a": 1}'], ("M", {"a": 1}, None, None)),  # refused later
        (["--processor_name_or_path", "P"], (None, {"projection_dim": 8}, "P", "mit")),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_model_that_a_flag_names_wins_over_that_of_the_configuration(tmp_path, flags, expected, named, caplog):
    file = write(tmp_path / "a.yaml", f"{OWN_MODEL}output_dir: {tmp_path}\n")
    logging.warning_once.cache_clear()
    model, data, _ = parse_arguments([*flags, "--config", file]) if named else parse_arguments(flags, file)
    assert (model.model_name_or_path, model.model_config, model.processor_name_or_path, data.license) == expected
    said = "these settings of a.yaml have no effect: `license`. The license is that of the configuration's own model"
    assert (said in caplog.text) == (expected[3] is None)


def test_a_default_file_without_sizes_keeps_what_it_says(tmp_path):
    default = write(tmp_path / "a.yaml", f"model_name_or_path: A\nprocessor_name_or_path: P\noutput_dir: {tmp_path}\n")
    model = parse_arguments(["--model_name_or_path", "M"], default)[0]
    assert (model.model_name_or_path, model.processor_name_or_path) == ("M", "P")


START_MODEL = "dataset_name_or_path: scenes\nmodel_name_or_path: scenes\nlicense: mit\n"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], (str(start_folder()), None, None, "mit")),
        (["--model_name_or_path", "scenes"], (str(start_folder()), None, None, "mit")),
        (["--model_name_or_path", "./scenes"], ("./scenes", None, None, None)),
        (["--model_name_or_path", "M"], ("M", None, None, None)),
        (["--model_config", '{"projection_dim": 8}'], (None, {"projection_dim": 8}, None, "mit")),
    ],
)
def test_the_start_beside_the_embedded_data(tmp_path, flags, expected):
    default = write(tmp_path / "a.yaml", f"{START_MODEL}output_dir: {tmp_path}\n")
    model, data, _ = parse_arguments(flags, default)
    assert (model.model_name_or_path, model.model_config, model.processor_name_or_path, data.license) == expected
    named = parse_arguments([*flags, "--config", default])[0]
    assert (named.model_name_or_path, named.model_config) == expected[:2]


def test_own_data_with_the_start_of_the_default_file_is_said(tmp_path, caplog):
    default = write(tmp_path / "a.yaml", f"{START_MODEL}output_dir: {tmp_path}\n")
    logging.warning_once.cache_clear()
    parse_arguments(["--dataset_name_or_path", "my.csv"], default)
    assert f"is scenes, the model of the configuration {default}" in caplog.text
    assert "spells other words letter by letter" in caplog.text
    assert "`--config scenes_scratch` a small model" in caplog.text


def test_flags_that_turn_something_off_say_so(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # words are broken where a terminal is narrow
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--no_fast_decode, --no-fast-decode Turn `--fast_decode` off. --train_split" in text
    assert "Turn `--dataloader_drop_last` off." in text
    _, data, args = parse_arguments(["--output_dir", str(tmp_path), "--no_fast_decode"])
    assert (data.fast_decode, args.dataloader_drop_last) == (False, True)


def test_default_config_is_used_only_without_a_named_one(tmp_path):
    default = write(tmp_path / "default.yaml", "max_steps: 1\nseed: 4\n")
    named = write(tmp_path / "named.yaml", "max_steps: 2\n")
    arguments = ["--output_dir", str(tmp_path)]
    assert parse_arguments(arguments, default)[2].max_steps == 1
    training = parse_arguments([*arguments, "--config", named], default)[2]
    assert (training.max_steps, training.seed) == (2, 42)


@pytest.mark.parametrize(
    ("flags", "meaning"),
    [([], None), (["--resume_from_checkpoint"], "true"), (["--resume_from_checkpoint", "D"], "D")],
)
def test_resume_flag_needs_no_value(tmp_path, flags, meaning):
    training = parse_arguments([*flags, "--output_dir", str(tmp_path)])[2]
    assert training.resume_from_checkpoint == meaning


def test_errors_name_the_file_the_key_and_what_was_meant(tmp_path):
    config = write(tmp_path / "run.yaml", "objectives: clip\n")
    with pytest.raises(ValueError, match=r"run\.yaml: unknown key: objectives \(did you mean objective\?\)"):
        parse_arguments(["--config", config])
    with pytest.raises(ValueError, match=r"unknown flag: --max_step \(did you mean --max_steps\?\)"):
        parse_arguments(["--max_step", "3"])
    with pytest.raises(ValueError, match="max_steps"):
        parse_arguments(["--max_steps", "many"])
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml"):
        parse_arguments(["--config", str(tmp_path / "absent.yaml")])
    with pytest.raises(ValueError, match="not valid YAML"):
        parse_arguments(["--config", write(tmp_path / "bad.yaml", "a: [1\n")])
    with pytest.raises(ValueError, match="list"):
        parse_arguments(["--config", write(tmp_path / "list.yaml", "- 1\n")])
    with pytest.raises(ValueError, match="model_config"):
        parse_arguments(["--model_config", "3", "--output_dir", str(tmp_path)])
    with pytest.raises(ValueError, match="mini_batch_size"):
        parse_arguments(["--mini_batch_size", "0", "--output_dir", str(tmp_path)])


@pytest.mark.parametrize("name", ["finetune_lora", "finetune_full"])
def test_fine_tuning_starts_on_any_machine(name, tmp_path):
    given = ["--config", name, "--output_dir", str(tmp_path), "--dataset_name_or_path", "D"]
    _, _, args, _ = parse_arguments(given, further=(FinetuningArguments,))
    assert not args.bf16
    assert args.dataloader_num_workers <= 2


@pytest.mark.parametrize("name", ["scenes", "scenes_scratch", "cc3m_vit_b32", "cc12m_vit_b32"])
def test_ready_configurations_parse(name, tmp_path):
    training = parse_arguments(["--config", name, "--output_dir", str(tmp_path), "--bf16", "false"])[2]
    assert training.objective == "tripletclip"
    if not name.startswith("scenes"):  # the paper's settings
        assert training.max_steps == {"cc3m_vit_b32": 90_000, "cc12m_vit_b32": 230_000}[name]
        assert (training.learning_rate, training.weight_decay) == (5e-4, 0.5)
        assert training.per_device_train_batch_size == 1024


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("max_steps: 10.5", "max-steps: invalid int value: '10.5'"),
        ("max_steps: [1]", r"`max_steps` is the list \[1\]"),
        ("mini_batch_size: 2.5", "mini-batch-size: invalid int value"),
        ("seed: null", "`seed` is empty in the config file"),
        ("objective: [clip]", "it takes one value"),
        ("bf16: perhaps", "bf16"),
    ],
)
def test_values_of_the_file_have_the_types_of_the_flags(tmp_path, line, message):
    (tmp_path / "config.yaml").write_text(f"output_dir: {tmp_path}\n{line}\n")
    with pytest.raises(ValueError, match=message):
        parse_arguments(["--config", str(tmp_path / "config.yaml")])


def test_values_of_the_file_may_be_left_open_where_flags_may(tmp_path):
    (tmp_path / "config.yaml").write_text(f"output_dir: {tmp_path}\nmini_batch_size: null\nuse_cpu: true\n")
    _, _, args = parse_arguments(["--config", str(tmp_path / "config.yaml")])
    assert args.mini_batch_size is None
    assert args.use_cpu is True


def test_json_that_is_none_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match="`model_config` is not valid JSON"):
        parse_arguments(["--output_dir", str(tmp_path), "--model_config", "{bad"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--label_smoothing_factor 0.1", "`label_smoothing_factor` is 0.1, which has no place here: a contrastive"),
        ("--auto_find_batch_size", "`auto_find_batch_size` is True.*halves the batch"),
        ("--do_train false", "`do_train` is false"),
        ("--do_eval false --eval_strategy steps", "`do_eval` is false, but `eval_strategy`"),
        ("--do_predict", "`do_predict`"),
        ("--label_names labels", "`label_names`"),
        ("--use_liger_kernel", "`use_liger_kernel`"),
        ("--include_num_input_tokens_seen true", "`include_num_input_tokens_seen` is 'all'"),
        ("--average_tokens_across_devices false", "`average_tokens_across_devices` is False"),
        ("--eval_do_concat_batches false", "`eval_do_concat_batches` is False"),
        ("--batch_eval_metrics", "`batch_eval_metrics`"),
        ("--bf16_full_eval --use_cpu", "`bf16_full_eval`.*rounded"),
        ("--train_sampling_strategy batch_rebalance", "`train_sampling_strategy` is 'batch_rebalance'"),
        ("--length_column_name size", "`length_column_name` is for"),
        ('--accelerator_config {"even_batches":false}', "`even_batches`"),
        ('--accelerator_config {"split_batches":true}', "`split_batches`"),
        ("--key_exchange star", "`key_exchange` is 'star': give gather, ring, auto"),
        ("--key_exchange ring --negatives_across_devices false", "`negatives_across_devices` is false: drop one"),
        ("--weights_dtype half", "`weights_dtype` is 'half': give float32, bfloat16, float16"),
        ("--weights_dtype float16 --fp16 --use_cpu", "`fp16` computes in float16 from weights in float32"),
        ("--columns bivlc", "`columns` is for other data than `scenes`"),
        ("--images pictures", "`images` is for other data than `scenes`"),
        ("--streaming", "`streaming` is for other data than `scenes`"),
        ("--dataset_name_or_path D --scenes_nouns all", "`scenes_nouns` is for `scenes`, but the data is 'D'"),
        ("--logit_scale_max nan", "`logit_scale_max` is nan: give a finite number"),
        ("--logit_scale_max inf", "`logit_scale_max` is inf"),
        ("--learning_rate nan", "`learning_rate` is nan"),
        ("--learning_rate=-1e-4", "`learning_rate` is -0.0001: give 0 or more"),
        ("--weight_decay -1", "`weight_decay` is -1.0"),
        ("--warmup_steps nan", "`warmup_steps` is nan"),
        ("--max_grad_norm nan", "`max_grad_norm` is nan"),
        ("--max_grad_norm -1", "`max_grad_norm` is -1.0"),
        ("--adam_beta2 1", "`adam_beta2` is 1.0: give 0 or more and less than 1"),
        ("--logging_steps nan", "`logging_steps` is nan"),
        ("--max_steps 0", "`max_steps` is 0"),
        ("--num_train_epochs -1", "`num_train_epochs` is -1"),
        ("--per_device_train_batch_size 0", r"`per_device_train_batch_size` is 0: give at least 1\.$"),
        ("--gradient_accumulation_steps 0", "`gradient_accumulation_steps` is 0"),
        ('--filters {"best":0}', r"`best` is 0; give a number of rows"),
        ('--filters {"bests":5}', r"`filters` takes no bests; it takes min_clip_score_mean, "),
        ("--filters best", r"`filters` must be a mapping"),
        ("--max_train_samples -3", r"`max_train_samples` is -3: give at least 1 or leave it out\.$"),
        ("--seed -1", "`seed` is -1"),
        ("--lora_dropout nan", "`lora_dropout` is nan"),
        ('--model_config {"text_config":{"layer_norm_eps":.nan}}', "`model_config.text_config` has nan as"),
        ('--lr_scheduler_kwargs {"min_lr":NaN}', "`lr_scheduler_kwargs` has nan as 'min_lr'"),
    ],
)  # fmt: skip
def test_what_would_be_without_effect_or_means_nothing_is_refused(tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(["--output_dir", str(tmp_path), *flags.split()])


def test_what_says_the_default_is_allowed(tmp_path):
    flags = "--do_train --do_eval false --do_predict false --max_grad_norm inf --label_smoothing_factor 0"
    _, _, args = parse_arguments(["--output_dir", str(tmp_path), *flags.split()])
    assert dataclasses.replace(args, max_steps=3).max_steps == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate": "1e-3"}, "`learning_rate` is '1e-3': give a number"),
        ({"warmup_steps": None}, "`warmup_steps` is None: give a number"),
        ({"logit_scale_max": "100"}, "`logit_scale_max` is '100'"),
        ({"save_steps": [5]}, r"`save_steps` is \[5\]"),
        ({"max_steps": 2.5}, r"`max_steps` is 2\.5: give a whole number"),
        ({"max_steps": True}, "`max_steps` is True"),
        ({"mini_batch_size": "8"}, "`mini_batch_size` is '8'"),
        ({"seed": None}, "`seed` is None"),
        ({"data_seed": 0.5}, r"`data_seed` is 0\.5"),
    ],
    ids=str,
)
def test_what_is_no_number_in_python_is_named(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        TripletCLIPTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **given)


def test_numbers_of_every_kind(tmp_path):
    given = {"learning_rate": 1, "max_steps": np.int64(3), "weight_decay": np.float32(0.5), "save_steps": 5}
    args = TripletCLIPTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **given)
    assert {name: getattr(args, name) for name in given} == given
    with pytest.raises(ValueError, match="`max_train_samples` is '10': give a whole number"):
        check_numbers(DataArguments(max_train_samples="10"))
    with pytest.raises(ValueError, match=r"`weight_decay` is -0.5: give 0 or more"):
        TripletCLIPTrainingArguments(output_dir=str(tmp_path), use_cpu=True, weight_decay=np.float32(-0.5))


@pytest.mark.parametrize(("maximum", "refused"), [(0.99, True), (1.0, False)])
def test_the_smallest_bound_of_the_scale_is_1(tmp_path, maximum, refused):
    with pytest.raises(ValueError, match="`logit_scale_max` is") if refused else nullcontext():
        TripletCLIPTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", logit_scale_max=maximum)


def test_arguments_of_ones_own_may_be_lists_and_of_types_that_are_not_imported(tmp_path):
    @dataclasses.dataclass
    class Layers(TripletCLIPTrainingArguments):
        layers: list[int] = dataclasses.field(default_factory=list)

    @dataclasses.dataclass
    class Teacher(Layers):
        teacher: NotImported | None = None  # noqa: F821

    assert Layers(output_dir=str(tmp_path), use_cpu=True, layers=[1, 2]).layers == [1, 2]
    assert Teacher(output_dir=str(tmp_path), use_cpu=True, teacher="t").teacher == "t"
    with pytest.raises(ValueError, match="`max_steps` is '3': give a whole number"):
        Teacher(output_dir=str(tmp_path), use_cpu=True, max_steps="3")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], None),
        (["--objective_kwargs", '{"gamma": 1.0, "smoothing": 0.1, "repeats": "mask"}'], None),
        (["--objective_kwargs", '{"gamma": 1.0}'], "without its {'smoothing': 0.1, 'repeats': 'mask'}"),
        (["--columns", '{"caption": "text"}'], "without its {'neg_caption': 'foil'}"),
    ],
)
def test_a_mapping_that_replaces_the_files_says_what_is_lost(tmp_path, caplog, monkeypatch, flags, told):
    monkeypatch.setattr(logging.get_logger("hf_tripletclip"), "propagate", True)
    file = tmp_path / "run.yaml"
    file.write_text(
        "dataset_name_or_path: data\noutput_dir: out\nobjective: fsc_clip\ncolumns: {neg_caption: foil}\n"
        "objective_kwargs: {gamma: 2.0, smoothing: 0.1, repeats: mask}\n"
    )
    parse_arguments(["--config", str(file), *flags])
    said = [record.getMessage() for record in caplog.records if "takes the place" in record.getMessage()]
    assert len(said) == (told is not None)
    assert told is None or told in said[0]


@pytest.mark.parametrize(
    ("file", "flags", "expected"),
    [
        ("objective: pairwise\nmax_negatives: 2", ["--objective", "clip"], {"max_negatives": None}),
        ("objective: pairwise\nmax_negatives: 2", ["--objective", "negclip"], {"max_negatives": 2}),
        (
            "objective: pairwise\nobjective_kwargs: {own_weight: 2.0}",
            ["--objective", "clip"],
            {"objective_kwargs": None},
        ),
        (
            "objective: negclip\nobjective_kwargs: {chunk_size: 2}",
            ["--objective", "clip"],
            {"objective_kwargs": {"chunk_size": 2}},
        ),
        ("max_steps: 9", ["--num_train_epochs", "2"], {"max_steps": -1, "num_train_epochs": 2}),
        ("eval_strategy: steps\neval_steps: 5", ["--do_eval", "false"], {"do_eval": False}),
        ("batch_neighbours: 1", ["--train_sampling_strategy", "sequential"], {"batch_neighbours": 0}),
        ("cache_locked_towers: C\ntrain_vision: frozen", ["--train_vision", "full"], {"cache_locked_towers": None}),
        ("cache_locked_towers: C\ntrain_vision: frozen", ["--train_text", "full"], {"cache_locked_towers": "C"}),
    ],
)
def test_a_flag_wins_over_what_the_configuration_excludes_it_with(tmp_path, file, flags, expected):
    path = write(tmp_path / "a.yaml", f"{file}\nmodel_name_or_path: M\noutput_dir: {tmp_path}\n")
    _, _, args = parse_arguments(["--config", path, *flags])
    assert {name: getattr(args, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        (["--model_name_or_path", "user/clip"], True),
        (["--model", "user/clip", "--data", "scenes"], False),
        (["--model", "user/clip", "--dataset_name_or_path", "my.csv"], False),
        (["--model", "user/clip", "--scenes_nouns", "48"], False),
        (["--model", "scenes"], False),
        ([], False),
    ],
)
def test_the_built_in_data_is_no_default_for_a_model_of_ones_own(tmp_path, flags, refused):
    file = tmp_path / "own.yaml"
    file.write_text("max_steps: 2\n")
    argv = ["--config", str(file), "--output", str(tmp_path / "out"), *flags]
    model_args, *_ = parse_arguments(argv)
    if refused:
        with pytest.raises(ValueError, match="Nothing says what user/clip is trained on: give `--data`"):
            check_data_is_named(model_args, argv)
    else:
        check_data_is_named(model_args, argv)
    file.write_text("max_steps: 2\ndata: my.csv\n")
    check_data_is_named(model_args, argv)

# SPDX-License-Identifier: Apache-2.0
"""The parts of a pretraining run; whole runs are in tests/end_to_end."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState
from datasets import Dataset, IterableDataset, are_progress_bars_disabled, enable_progress_bars
from huggingface_hub import utils as hub_utils
from safetensors.torch import load_file
from transformers.utils import logging

from hf_tripletclip.data import build_processor, train_tokenizer
from hf_tripletclip.objectives import available_objectives, get_objective
from hf_tripletclip.training import run as pretraining
from hf_tripletclip.training import run_inputs
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.training.run import hide_bars, main
from hf_tripletclip.training.run_inputs import (
    DEFAULT_PROCESSOR,
    load_splits,
    make_model,
    make_processor,
    takes_further_texts,
)
from hf_tripletclip.training.script_arguments import DataArguments, ModelArguments
from hf_tripletclip.utils import processes
from tests.training.test_overlap import data

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def processor():
    return build_processor(["a red cat", "a blue dog"], image_size=32)


def config(**vision) -> dict:
    return {
        "projection_dim": 16,
        "text_config": dict(TOWER),
        "vision_config": {**TOWER, "image_size": 32, "patch_size": 16, **vision},
    }


def test_random_weights_of_the_sizes_asked_for(processor):
    model = make_model(ModelArguments(model_config=config()), processor)
    assert model.config.projection_dim == model.visual_projection.out_features == 16
    assert model.text_model.embeddings.token_embedding.num_embeddings == len(processor.tokenizer)


@pytest.mark.parametrize(
    ("model_config", "message"),
    [
        (config(num_attention_heads=3), "num_attention_heads|divisible|attention heads"),
        (config(hidden_act="foo"), "foo"),
        (config(patch_size=0), "describes no CLIP"),
        (config(patch_size=64), "an image is smaller than a patch"),
        (config(patch_sizes=8), r"unknown fields \['patch_sizes'\] in 'vision_config'"),
        ({**config(), "projection_dim": "abc"}, "projection_dim"),
        ({**config(), "text_config": 5}, "has 5 as 'text_config'"),
        ({**config(), "to_dict": 1}, r"unknown fields \['to_dict'\]"),
    ],
)
def test_a_config_of_no_model_gives_one_clear_error(processor, model_config, message):
    with pytest.raises(ValueError, match=message):
        make_model(ModelArguments(model_config=model_config), processor)


def trained(checkpoint=None, **rows):
    model_args = ModelArguments(processor_name_or_path="train")
    return make_processor(model_args, DataArguments(), {"train": Dataset.from_dict(rows)}, checkpoint)


def test_a_tokenizer_is_trained_on_all_usable_captions(processor):
    rows = {"caption": ["a red cat", None, ""], "neg_caption": [["a red dog", None], [], ["a blue cat"]]}
    learned = trained(**rows).tokenizer
    assert learned.get_vocab() == train_tokenizer(["a red cat", "a red dog", "a blue cat"]).get_vocab()
    binary = trained(caption=[b"a red cat", b"\xff", b"a blue dog"]).tokenizer
    assert binary.get_vocab() == processor.tokenizer.get_vocab()


def test_other_processes_take_the_tokenizer_of_the_main_one(processor, monkeypatch):
    monkeypatch.setattr(PartialState(), "process_index", 1)
    monkeypatch.setattr(run_inputs, "build_processor", lambda *_, **__: pytest.fail("it is trained once"))
    monkeypatch.setattr(processes, "broadcast_object_list", lambda outcome: [processor, None])
    assert trained(caption=["something else"]) is processor


def test_a_resumed_run_takes_the_processor_of_its_checkpoint(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = trained(tmp_path, caption=["something else"])
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    named = ModelArguments(processor_name_or_path="no/processor")
    again = make_processor(named, DataArguments(), {}, str(tmp_path))
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    empty = trained(tmp_path / "without", caption=["something else"])  # of an older version
    assert empty.tokenizer.tokenize("something") == ["something</w>"]


def test_a_split_that_was_named_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    data(1, 2).to_parquet(tmp_path / "data" / "train-0.parquet")
    kwargs = {"dataset_name_or_path": str(tmp_path / "data")}
    assert list(load_splits(DataArguments(**kwargs), ModelArguments(), ("image", "caption"))) == ["train"]
    for role in ("validation", "test"):
        with pytest.raises(ValueError, match=rf"has no split 'tset', which `{role}_split` names; it has \['train'\]"):
            load_splits(DataArguments(**kwargs, **{f"{role}_split": "tset"}), ModelArguments(), ("image", "caption"))


def test_progress_bars_can_be_hidden(tmp_path):
    args = TripletCLIPTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True)
    try:
        hide_bars(args)
        assert are_progress_bars_disabled()
        assert hub_utils.are_progress_bars_disabled()
    finally:
        enable_progress_bars()
        hub_utils.enable_progress_bars()


# ---- A whole run ----

SMALL = ("--scenes_train_size", "24", "--scenes_validation_size", "10", "--scenes_test_size", "12")
FLAGS = (
    *("--model_config", json.dumps(config()), *SMALL, "--max_steps", "2", "--use_cpu", "--report_to", "none"),
    *("--per_device_train_batch_size", "8", "--save_steps", "1", "--eval_strategy", "steps", "--eval_steps", "2"),
    *("--logging_steps", "1", "--disable_tqdm", "true", "--retention_metric", "accuracy", "--max_retention_loss", "1"),
)


@pytest.fixture
def bars():
    """A run without bars hides those of all that come after it."""
    yield
    enable_progress_bars()
    hub_utils.enable_progress_bars()
    logging.enable_progress_bar()


def test_a_run_from_its_start_resumed_and_from_its_start_again(tmp_path, capsys, caplog, monkeypatch, bars):
    out, pushed = tmp_path / "run", []
    monkeypatch.setattr(pretraining, "push_run", lambda run: pushed.append(run.output_dir))
    metrics = main([*FLAGS, "--output_dir", str(out), "--resume_from_checkpoint"])
    assert "has no complete checkpoint to resume from: training starts from the beginning." in caplog.text
    assert "parameters train" not in caplog.text
    printed = capsys.readouterr().out
    assert printed.endswith(f"The model and everything about it are in {out}\n")
    assert "before" in printed
    assert metrics == json.loads((out / "metrics.json").read_text())
    after, before = (json.loads((out / f"evaluation_{when}.json").read_text()) for when in ("after", "before"))
    assert after["metrics"] == metrics
    assert after["counts"]["rows"] == before["counts"]["rows"] == 12
    assert {"loss_curve.png", "evaluation.png", "examples.html", "trainer_state.json"} <= {
        one.name for one in out.iterdir()
    }
    text = (out / "README.md").read_text()
    assert "Trained on 24 rows of the split `train`." in text
    assert "12 triplets of the split `test`." in text
    assert "![Loss](loss_curve.png)" in text
    assert "![Evaluation before and after training](evaluation.png)" in text
    assert "at the last evaluation, step 2, it was" in text
    assert "from step" not in text
    assert "| max_steps | 2 |" in text
    assert "| mini_batch_size" not in text
    assert not (out / "_previous").exists()
    first = load_file(out / "model.safetensors")

    # the last step again
    (out / "checkpoint-2" / "checkpoint_complete.json").unlink()
    caplog.clear()
    again = main([*FLAGS, "--output_dir", str(out), "--resume_from_checkpoint"])
    assert again == metrics
    assert ", from step 1 on" in (out / "README.md").read_text()
    assert all(torch.equal(value, first[name]) for name, value in load_file(out / "model.safetensors").items())

    caplog.clear()
    main([*FLAGS, "--output_dir", str(out), "--max_steps", "1", "--eval_steps", "1"])
    assert f"The checkpoints of an older run in {out} are now in {out / '_previous'}." in caplog.text
    assert "to resume from" not in caplog.text
    assert pushed == [out, out, out]
    assert {one.name for one in (out / "_previous").iterdir()} == {"checkpoint-1", "checkpoint-2"}
    assert [one.name for one in out.glob("checkpoint-*")] == ["checkpoint-1"]


def test_a_run_without_test_data_reports_its_validation(tmp_path, capsys, bars):
    data(*range(16)).to_parquet(tmp_path / "data" / "train-0.parquet")
    data(*range(20, 25)).to_parquet(tmp_path / "data" / "validation-0.parquet")
    drop = {name for name in FLAGS if name.startswith("--scenes")}
    flags = [one for at, one in enumerate(FLAGS) if one not in drop and (at == 0 or FLAGS[at - 1] not in drop)]
    kwargs = ["--dataset_name_or_path", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out")]
    found = main([*flags, *kwargs, "--processor_name_or_path", "train", "--max_steps", "1", "--eval_steps", "1"])
    assert found == {}
    text = (tmp_path / "out" / "README.md").read_text()
    assert "Trained on 16 rows of the split `train`." in text
    assert "On the validation data, 5 rows of the split `validation`, at step 1:" in text
    assert not (tmp_path / "out" / "evaluation_after.json").exists()
    assert "before" not in capsys.readouterr().out
    (tmp_path / "data" / "validation-0.parquet").unlink()
    with pytest.raises(ValueError, match="has no split 'validation': name another with `--validation_split`"):
        main([*flags, *kwargs, "--processor_name_or_path", "train"])


def test_an_error_in_the_middle_of_a_run_is_not_reported_as_a_wrong_argument(tmp_path, monkeypatch, bars):
    sizes = []

    def train(trainer, **_):
        trainer.state.global_step = steps
        sizes.append(trainer.data_collator.decode_size)
        raise OSError("the network is gone")

    monkeypatch.setattr(pretraining.TripletCLIPTrainer, "train", train)
    for steps, kind, message in ((0, OSError, "^the network"), (1, RuntimeError, "stopped after step 1: the network")):
        with pytest.raises(kind, match=message):
            main([*FLAGS, "--output_dir", str(tmp_path / str(steps)), *["--no_fast_decode"] * steps])
    assert sizes == [32, None]


@pytest.mark.parametrize(
    ("named", "dataset", "expected"),
    [
        ({}, "scenes", "train"),
        ({}, "other", DEFAULT_PROCESSOR),
        ({"model_name_or_path": "M"}, "scenes", "M"),
        ({"model_name_or_path": "M", "processor_name_or_path": "P"}, "other", "P"),
        ({"processor_name_or_path": "train"}, "other", "train"),
    ],
)
def test_which_processor_is_taken(monkeypatch, named, dataset, expected):
    monkeypatch.setattr(run_inputs, "load_processor", lambda name: name)
    monkeypatch.setattr(run_inputs, "build_processor", lambda captions, image_size: ("train", image_size))
    splits = {"train": Dataset.from_dict({"caption": ["a"]})}
    data_args = DataArguments(dataset_name_or_path=dataset)
    found = make_processor(ModelArguments(**named), data_args, splits)
    assert found == (("train", 224) if expected == "train" else expected)
    sized = make_processor(ModelArguments(processor_name_or_path="train", model_config=config()), data_args, splits)
    assert sized == ("train", 32)
    with pytest.raises(ValueError, match="reads all captions first: leave out `--streaming`"):
        make_processor(
            ModelArguments(processor_name_or_path="train"), data_args, {"train": splits["train"].to_iterable_dataset()}
        )


def test_limits_of_rows_and_a_stream_that_is_evaluated(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    for name, numbers in (("train", range(9)), ("validation", range(10, 17)), ("test", range(20, 26))):
        data(*numbers).to_parquet(tmp_path / "data" / f"{name}-0.parquet")
    for streaming in (False, True):
        args = DataArguments(str(tmp_path / "data"), streaming=streaming, max_train_samples=4, max_eval_samples=5)
        splits = load_splits(args, ModelArguments(), ("image", "caption"), seed=1)
        assert isinstance(splits["train"], IterableDataset) == streaming
        assert sorted(row["caption"] for row in splits["train"]) == [f"picture {n}" for n in range(4)]
        for role, start in (("validation", 10), ("test", 20)):
            assert splits[role]["caption"][:] == [f"picture {start + n}" for n in range(5)]
    with pytest.raises(ValueError, match=r"has no split 'dev' to train on; it has \['test', 'train', 'validation'\]"):
        load_splits(DataArguments(str(tmp_path / "data"), train_split="dev"), ModelArguments(), ("image",))


def test_only_rows_within_the_bounds_of_their_scores_are_trained_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    for name, numbers in (("train", range(6)), ("validation", range(10, 14))):
        rows = data(*numbers)
        scores = [number / 10 for number in numbers]
        rows = rows.add_column("clip_score", scores).add_column("neg_clip_score", scores)
        rows.to_parquet(tmp_path / "data" / f"{name}-0.parquet")

    def captions(filters, **others):
        args = DataArguments(str(tmp_path / "data"), filters=filters, **others)
        splits = load_splits(args, ModelArguments(), ("image", "caption"))
        assert len(splits["validation"]) == 4
        return splits["train"]["caption"][:]

    with caplog.at_level("INFO"):
        assert captions({"min_neg_clip_score": 0.2, "best": 3}) == ["picture 3", "picture 4", "picture 5"]
    assert "Filters keep 3 of 6 training rows (min_neg_clip_score: 2, best: 1)" in caplog.text
    assert captions('{"max_image_similarity": null, "min_clip_score": 0.4}', max_train_samples=1) == ["picture 4"]
    with pytest.raises(ValueError, match=r"leave none of the 6 training rows \(min_clip_score: 6\): widen them"):
        captions({"min_clip_score": 2.0})
    with pytest.raises(ValueError, match="need the columns vqa_score"):
        captions({"min_vqa_score": 0.5})
    with pytest.raises(ValueError, match="leave out `--streaming`"):
        captions({"best": 3}, streaming=True)


@pytest.mark.parametrize(
    ("world_size", "environment", "said"),
    [
        (1, {"MASTER_PORT": "1"}, True),
        (1, {"MASTER_PORT": "1", "WORLD_SIZE": "1"}, False),
        (1, {}, False),
        (2, {"MASTER_PORT": "1"}, False),
    ],
)
def test_processes_that_were_not_started_give_a_warning(monkeypatch, caplog, world_size, environment, said):
    for name in ("MASTER_PORT", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    pretraining._warn_about_single_process(SimpleNamespace(world_size=world_size))
    assert ("only one was started" in caplog.text) == said


def test_locked_towers_need_a_trained_model(tmp_path):
    for frozen in ("text", "vision"):
        with pytest.raises(
            ValueError, match="`--train_text` and `--train_vision` other than full are for a trained model"
        ):
            main([*FLAGS, "--output_dir", str(tmp_path), f"--train_{frozen}", "frozen"])
    with pytest.raises(ValueError, match="`model_config` is for random weights: leave it out"):
        make_model(
            ModelArguments(model_name_or_path="M", model_config={"projection_dim": 8}),
            build_processor(["a"], image_size=16),
        )


@pytest.mark.parametrize("name", available_objectives())
def test_scenes_has_the_texts_that_an_objective_takes(name):
    objective = get_objective(name)
    data_args = DataArguments(
        dataset_name_or_path="scenes", scenes_train_size=4, scenes_validation_size=2, scenes_test_size=2
    )
    data_args.scenes_further_texts |= takes_further_texts(objective)
    columns = set(load_splits(data_args, ModelArguments(), objective.columns)["train"].column_names)
    assert set(objective.columns) <= columns
    assert ("paraphrase" in columns) == (
        objective.draws_captions or bool({"paraphrase", "dense_caption"} & set(objective.columns))
    )

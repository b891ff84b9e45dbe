# SPDX-License-Identifier: Apache-2.0
"""The parts of a pretraining run; whole runs are in tests/end_to_end."""

from __future__ import annotations

import pytest
from accelerate import PartialState
from datasets import Dataset, are_progress_bars_disabled, enable_progress_bars
from huggingface_hub import utils as hub_utils

from hf_tripletclip.data import build_processor, train_tokenizer
from hf_tripletclip.training import pretraining
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.training.pretraining import hide_bars, load_splits, make_model, make_processor
from hf_tripletclip.training.script_arguments import DataArguments, ModelArguments
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
def test_what_describes_no_model_is_one_clear_error(processor, model_config, message):
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
    monkeypatch.setattr(pretraining, "build_processor", lambda *_, **__: pytest.fail("it is trained once"))
    monkeypatch.setattr(pretraining, "broadcast_object_list", lambda shared: shared.__setitem__(0, processor))
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


def test_no_bar_is_left_where_none_is_wanted(tmp_path):
    args = TripletCLIPTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True)
    try:
        hide_bars(args)
        assert are_progress_bars_disabled()
        assert hub_utils.are_progress_bars_disabled()
    finally:
        enable_progress_bars()
        hub_utils.enable_progress_bars()

# SPDX-License-Identifier: Apache-2.0
"""What fine-tuning refuses, before anything is trained."""

from __future__ import annotations

import pytest

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.data import build_processor
from hf_tripletclip.training.finetuning import main
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    processor = build_processor(["a red cat", "a blue dog"], image_size=16, model_max_length=16)
    config = tiny_config()
    config.text_config.vocab_size = len(processor.tokenizer)
    config.text_config.eos_token_id = processor.tokenizer.eos_token_id
    TripletCLIPModel(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


SMALL = [
    *("--scenes_train_size", "60", "--scenes_validation_size", "20", "--scenes_test_size", "40"),
    *("--benchmarks", '{"triplets": "scenes", "zeroshot": "scenes"}'),
    *("--use_cpu", "true", "--report_to", "none", "--train_text", "lora"),
]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lora_targets", "query"], "matches no linear layer of text_model; there are k_proj"),
        (["--train_text", "frozen", "--train_vision", "frozen"], "Nothing is left to train"),
        (["--variants", '{"a": {"lora_rnak": 3}}'], "sets `lora_rnak`, which is no flag"),
        (["--variants", '{"a": 3}'], "`variants` has 3 for a: give the flags that differ"),
        (["--composition", "sugar"], "unknown benchmark 'sugar'"),
        (
            ["--benchmarks", '{"triplets": "scenes", "zeroshot": "scenes", "cola": "x"}'],
            "settings of cola, which nothing",
        ),
        (["--alpha", "1:0"], "`alpha` is '1:0'"),
    ],
)
def test_mistakes_are_named(base, tmp_path, flags, message):
    arguments = ["--model_name_or_path", str(base), "--output_dir", str(tmp_path / "out"), *SMALL, *flags]
    with pytest.raises(ValueError, match=message):
        main(arguments)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_base_that_is_not_there_or_not_named(tmp_path):
    with pytest.raises(ValueError, match="Fine-tuning starts from a model"):
        main(["--output_dir", str(tmp_path)])
    with pytest.raises(FileNotFoundError, match=r"pretrain\.py --objective clip --output_dir outputs/none"):
        main(["--model_name_or_path", "outputs/none", "--output_dir", str(tmp_path), *SMALL])

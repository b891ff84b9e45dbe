# SPDX-License-Identifier: Apache-2.0
"""`--max_text_length`: training on captions that are longer than the model's positions."""

from __future__ import annotations

import pytest
from datasets import Dataset, load_dataset
from PIL import Image
from transformers import AutoModel, AutoProcessor

from hf_tripletclip.training import finetuning
from hf_tripletclip.training.run import main
from tests.families import LENGTH, write_family

LONG = "a black dog chasing a white cat and two red cups on a small table left of a green car"
SETTINGS = ("--benchmarks", '{"triplets": {"data": "scenes", "max_rows": 4}}')
FLAGS = (
    "--use_cpu",
    "true",
    "--report_to",
    "none",
    "--eval_strategy",
    "no",
    "--max_steps",
    "2",
    "--objective",
    "negclip",
)


@pytest.fixture
def data(tmp_path):
    rows = {
        "image": [Image.new("RGB", (16, 16), (40 * row, 0, 0)) for row in range(4)],
        "caption": [f"{LONG} {LONG} a photo" for _ in range(4)],
        "neg_caption": [f"{LONG} {LONG} a cat" for _ in range(4)],
    }
    (tmp_path / "data").mkdir()
    Dataset.from_dict(rows).to_parquet(tmp_path / "data" / "train-0.parquet")
    assert len(load_dataset(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))["train"]) == 4
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_long_captions_are_not_cut(tmp_path, data, name):
    base = write_family(name, tmp_path / "base")
    common = ["--model_name_or_path", str(base), "--dataset_name_or_path", str(data), *FLAGS]
    sizes = ["--per_device_train_batch_size", "4"]
    main([*common, *sizes, "--output_dir", str(tmp_path / "run"), "--max_text_length", "200"])
    assert not (tmp_path / "run" / "broken_rows.jsonl").is_file()
    assert AutoModel.from_pretrained(tmp_path / "run").config.text_config.max_position_embeddings == 200
    assert AutoProcessor.from_pretrained(tmp_path / "run").tokenizer.model_max_length == 200
    main([*common, *sizes, "--output_dir", str(tmp_path / "cut")])
    assert "caption cut" in (tmp_path / "cut" / "broken_rows.jsonl").read_text()
    assert AutoModel.from_pretrained(tmp_path / "cut").config.text_config.max_position_embeddings == LENGTH


def test_what_an_adapter_cannot_hold(tmp_path, data):
    base = write_family("clip", tmp_path / "base")
    flags = ["--model_name_or_path", str(base), "--dataset_name_or_path", str(data), *FLAGS, "--max_text_length", "60"]
    flags += ["--output_dir", str(tmp_path / "run")]
    with pytest.raises(
        ValueError, match=r"an adapter holds no positions: .*convert MODEL TARGET --max_text_length 60"
    ):
        main([*flags, "--train_text", "lora"])
    with pytest.raises(ValueError, match=r"the base is compared with the tuned model, .*convert MODEL TARGET"):
        finetuning.main([*flags, "--composition", "triplets", "--retention", "triplets", *SETTINGS])
    with pytest.raises(ValueError, match="`max_text_length` is 5, but the text tower takes 24"):
        main([*flags[:-3], "5", *flags[-2:]])

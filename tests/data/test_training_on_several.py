# SPDX-License-Identifier: Apache-2.0
"""The trainer on rows with several negative captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel
from hf_tripletclip.data import TripletCollator, build_processor, load_tripletdata
from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.training import TripletCLIPTrainer, TripletCLIPTrainingArguments
from tests.data.test_tars import png


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    foils = [["a red dog", "a blue cat"], ["a red fish"], [], ["a green cat", "a cat", "a dog"]]
    columns = {
        "image": pa.array([png((60 * index, 0, 0)) for index in range(4)]),
        "caption": pa.array([f"a red cat {index}" for index in range(4)]),
        "neg_image": pa.array([png((0, 0, 60 * index)) for index in range(4)]),
        "neg_caption": pa.array(foils),
    }
    pq.write_table(pa.table(columns), tmp_path / "set.parquet")
    return load_tripletdata(tmp_path / "set.parquet", split="train")


def trainer(data: Any, folder: Path, objective: str) -> TripletCLIPTrainer:
    processor = build_processor(["a red cat", "a blue dog", "a green fish"], image_size=16, model_max_length=16)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = processor.tokenizer
    text = {
        **tower,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {**tower, "image_size": 16, "patch_size": 8}
    config = TripletCLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    arguments = TripletCLIPTrainingArguments(
        output_dir=str(folder), max_steps=2, per_device_train_batch_size=4, report_to=[], use_cpu=True,
        objective=objective, logging_steps=1, save_strategy="no",
    )  # fmt: skip
    return TripletCLIPTrainer(
        TripletCLIPModel(config), arguments, train_dataset=data, eval_dataset=data, processing_class=processor
    )


def test_negclip_trains_and_is_evaluated_on_the_first_negatives(data, tmp_path):
    run = trainer(data, tmp_path / "run", "negclip")
    run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(0 < loss < 10 for loss in losses)
    metrics = run.evaluate()
    assert 0 <= metrics["eval_group_score"] <= 1
    report = run.data_collator.broken_rows
    assert report.counts() == {"missing caption in neg_caption": 1}  # of the evaluation: a pair needs one


def test_objectives_that_pair_rows_say_what_they_need(data, tmp_path):
    with pytest.raises(ValueError, match=r"has 2 negative captions but 1 negative image: .*`negclip`"):
        trainer(data.select([0, 1, 0, 1]), tmp_path / "run", "tripletclip").train()


def test_lists_of_paths_are_read_inside_the_folder_and_broken_ones_reported(tmp_path):
    folder = tmp_path / "data"
    (folder / "p").mkdir(parents=True)
    for name in ("a", "b", "c"):
        Image.new("RGB", (8, 8), "red").save(folder / "p" / f"{name}.png")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "outside.png")
    (folder / "p" / "broken.png").write_bytes(b"no picture")
    further = {"whole": ["p/b.png", "p/c.png"], "broken": ["p/b.png", "p/broken.png"]}
    further["outside"] = ["p/b.png", str(tmp_path / "outside.png")]
    rows = [
        {"id": key, "image": "p/a.png", "caption": "a cat", "neg_image": paths, "neg_caption": ["a dog", "a bird"]}
        for key, paths in further.items()
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    processor = build_processor(["a cat", "a dog", "a bird"], image_size=16)
    collator = TripletCollator(processor)
    data = undecoded(load_tripletdata(str(folder), split="train"))
    batch, usable = collator.collate([data[number] for number in range(3)])
    assert [row["id"] for row in usable] == ["whole"]
    assert batch["negative_pixel_values"].shape[0] == batch["negative_input_ids"].shape[0] == 2
    assert {key.partition(":")[0] for key in collator.broken_rows.counts()} >= {"unreadable image in neg_image"}
    assert sum(collator.broken_rows.counts().values()) == 2

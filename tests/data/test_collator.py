# SPDX-License-Identifier: Apache-2.0
"""Batches of the collator: columns, texts, and models that train on them."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import CLIPModel, Trainer, TrainingArguments
from transformers.utils import logging as transformers_logging

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.data import BrokenRows, TripletCollator
from hf_tripletclip.data.collator import TensorCollator
from hf_tripletclip.data.schema import COLUMNS, NEGATIVE_TYPES
from tests.data.rows import make_row, random_picture


def test_a_batch_equals_the_processors_output_for_each_side(collator, processor):
    rows = [make_row(index) for index in range(3)]
    batch = collator(rows)
    images = processor.image_processor(images=[row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], images)
    assert batch["negative_pixel_values"].shape == (3, 3, 32, 32)
    assert batch["input_ids"].shape == batch["negative_input_ids"].shape  # one length for both
    for side, column in (("", "caption"), ("negative_", "neg_caption")):
        for ids, mask, row in zip(batch[f"{side}input_ids"], batch[f"{side}attention_mask"], rows, strict=True):
            assert ids[mask.bool()].tolist() == processor.tokenizer(row[column])["input_ids"]
    assert "negative_type" not in batch


def test_captions_may_be_bytes(collator):
    assert torch.equal(
        collator([make_row(caption="a réd cat".encode())])["input_ids"],
        collator([make_row(caption="a réd cat")])["input_ids"],
    )


def test_only_the_requested_columns_are_collated(processor):
    batch = TripletCollator(processor, columns=("image", "caption", "neg_caption"))([make_row(neg_image=None)])
    assert set(batch) == {
        "pixel_values",
        "input_ids",
        "attention_mask",
        "negative_input_ids",
        "negative_attention_mask",
    }
    batch = TripletCollator(processor, columns=("image", "caption", "neg_image"))([make_row(neg_caption=None)])
    assert "negative_pixel_values" in batch
    assert "negative_input_ids" not in batch


def test_negative_types_become_codes(collator):
    batch = collator([make_row(negative_type=kind) for kind in ("swap_obj", "other", None)])
    assert batch["negative_type"].tolist() == [NEGATIVE_TYPES.index("swap_obj"), -1, -1]


def test_negatives_equal_the_processors_output_for_them_alone(processor):
    rows = [
        make_row(index, image=random_picture(index, (40, 33)), neg_image=random_picture(9 + index, (32, 64)))
        for index in range(3)
    ]
    batch = TripletCollator(processor)(rows)
    alone = processor(
        images=[row["neg_image"] for row in rows], text=[row["neg_caption"] for row in rows], return_tensors="pt",
        padding="max_length", max_length=batch["input_ids"].shape[1],
    )  # fmt: skip
    assert torch.equal(batch["negative_pixel_values"], alone["pixel_values"])
    assert torch.equal(batch["negative_input_ids"], alone["input_ids"])
    assert torch.equal(batch["negative_attention_mask"], alone["attention_mask"])
    assert {name: value.dtype for name, value in batch.items() if "pixel" not in name} == dict.fromkeys(
        ("input_ids", "attention_mask", "negative_input_ids", "negative_attention_mask"), torch.int64
    )
    assert batch["pixel_values"].dtype == torch.float32


@pytest.mark.parametrize("columns", [("caption",), ("neg_caption",), ("image",), ("neg_image",)])
def test_a_single_column(processor, columns):
    batch = TripletCollator(processor, columns=columns)([make_row()])
    prefix = "negative_" if columns[0].startswith("neg_") else ""
    names = ("pixel_values",) if columns[0].endswith("image") else ("input_ids", "attention_mask")
    assert set(batch) == {prefix + name for name in names}


def test_padding_to_a_multiple_and_limits(processor, tmp_path):
    rows = [make_row(caption="cat " * 9)]
    assert TripletCollator(processor, pad_to_multiple_of=8)(rows)["input_ids"].shape == (1, 16)
    assert TripletCollator(processor, pad_to_multiple_of=8, max_length=13)(rows)["input_ids"].shape == (1, 13)
    batch = TripletCollator(processor, max_length=1000, broken_rows=BrokenRows(tmp_path / "b.jsonl"))(
        [make_row(0, neg_caption="cat " * 100), make_row(1)]
    )
    assert batch["input_ids"].shape == batch["negative_input_ids"].shape == (2, 20)  # the tokenizer's own limit
    assert batch["negative_input_ids"][0, -1] == processor.tokenizer.eos_token_id


def small_model(kind: type, processor) -> CLIPModel:
    tokenizer = processor.tokenizer
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "projection_dim": 8}
    vision = {**tower, "image_size": 32, "patch_size": 16, "projection_dim": 8}
    torch.manual_seed(0)
    return kind(kind.config_class(text_config=text, vision_config=vision, projection_dim=8))


@pytest.mark.parametrize("kind", [TripletCLIPModel, CLIPModel])
def test_the_plain_trainer_trains_and_evaluates(processor, tmp_path, kind):
    columns = COLUMNS if kind is TripletCLIPModel else ("image", "caption")
    rows = [make_row(index, caption=caption) for index, caption in enumerate(["a red cat", "a dog"] * 2)]
    arguments = {"max_steps": 2, "logging_steps": 1, "report_to": "none", "save_strategy": "no", "use_cpu": True}
    trainer = Trainer(
        model=small_model(kind, processor),
        args=TrainingArguments(str(tmp_path), remove_unused_columns=False, disable_tqdm=True, **arguments),
        data_collator=TripletCollator(processor, columns=columns, return_loss=True),
        train_dataset=rows,
        eval_dataset=rows,
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss"] > 0
    assert trainer.evaluate()["eval_loss"] > 0


def test_special_tokens_in_captions_are_text(collator, processor):
    captions = ["a dog <|endoftext|> a cat", "a dog <|endoftext|> a house", "<|startoftext|>a<|endoftext|>b"]
    batch = collator([make_row(index, caption=caption, neg_caption=caption) for index, caption in enumerate(captions)])
    special = {processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id}
    for side in ("", "negative_"):
        for ids, mask in zip(batch[f"{side}input_ids"], batch[f"{side}attention_mask"], strict=True):
            inner = ids[mask.bool()].tolist()[1:-1]
            assert not special & set(inner)
            assert "<|" in processor.tokenizer.decode(inner)
    assert "caption read in part in caption" not in collator.broken_rows.counts()


def test_a_tokenizer_without_an_end_token_is_reported(processor, caplog):
    transformers_logging.warning_once.cache_clear()
    processor = copy.deepcopy(processor)
    processor.tokenizer.backend_tokenizer.post_processor = None
    TripletCollator(processor)
    assert "does not end captions with a special token" in caplog.text


def test_rows_of_tensors_need_an_end_of_text_token():
    rows = [{"input_ids": [1, 2, 9, 9], "negative_input_ids": [3, 9, 0, 0], "labels": 0} for _ in range(3)]
    batch = TensorCollator(end=9)(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 9, 9]] * 3
    rows[1] = {**rows[1], "negative_input_ids": [3, 4, 5, 6]}
    assert TensorCollator()(rows)["negative_input_ids"].tolist()[1] == [3, 4, 5, 6]  # it is not known which it is
    with pytest.raises(
        ValueError, match=r"In 1 of the 3 rows .*`negative_input_ids` .* \(9\), .* one is \[3, 4, 5, 6\]"
    ):
        TensorCollator(end=9)(rows)
    several = [{"input_ids": [[1, 9], [2, 9]]}, {"input_ids": [[1, 2], [5, 7]]}]
    with pytest.raises(ValueError, match=r"In 2 of the 2 rows .*`input_ids` .* one is \[1, 2\]"):
        TensorCollator(end=9)(several)
    assert set(TensorCollator(end=9)([{"pixel_values": torch.zeros(3, 2, 2)}])) == {"pixel_values"}


def test_tensors_have_the_length_that_the_text_tower_takes():
    ids = {name: torch.tensor([1, 2, 9]) for name in ("input_ids", "attention_mask")}
    rows = [{**ids, "negative_input_ids": torch.tensor([[1, 2, 9]]), "pixel_values": torch.zeros(3, 2, 2)}] * 2
    assert "attention_mask" in TensorCollator(9, 4)(rows)
    assert "attention_mask" not in TensorCollator(None, 3, fixed_length=True)(rows)  # as SigLIP has learned
    with pytest.raises(ValueError, match=r"`input_ids` has 3 .* takes 2: .*`truncation=True` and `max_length=2`"):
        TensorCollator(9, 2)(rows)
    rows = [{**row, "input_ids": torch.tensor([1, 2, 9, 9])} for row in rows]
    with pytest.raises(ValueError, match=r'`negative_input_ids` has 3 tokens .* takes 4: .*`padding="max_length"`'):
        TensorCollator(None, 4, fixed_length=True)(rows)

# SPDX-License-Identifier: Apache-2.0
"""Embedding a dataset: the state of the model, broken rows, worker processes."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from PIL import Image

from hf_tripletclip.evaluation import evaluate_triplets
from hf_tripletclip.evaluation.encoder import evaluation_mode
from tests.evaluation import CAPTIONS


def make_dataset(captions: list[str], **columns: list) -> Dataset:
    rows = len(captions)
    return Dataset.from_dict(
        {
            "image": [Image.new("RGB", (16, 16), (40 * index, 100, 0)) for index in range(rows)],
            "caption": captions,
            "neg_image": [Image.new("RGB", (16, 16), (40 * index, 100, 255)) for index in range(rows)],
            "neg_caption": CAPTIONS[::-1][:rows],
            **columns,
        }
    )


def test_each_module_is_left_in_its_own_mode(model, processor):
    model.train()
    model.vision_model.eval()  # a frozen tower
    before = [module.training for module in model.modules()]
    evaluate_triplets(model, processor, make_dataset(CAPTIONS), progress=False)
    assert [module.training for module in model.modules()] == before
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    model.text_model.embeddings.token_embedding.weight.data.fill_(float("nan"))  # a diverged model
    with pytest.raises(ValueError, match="not finite"):
        evaluate_triplets(model, processor, make_dataset(CAPTIONS), progress=False)
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()


def test_a_last_batch_of_broken_rows_is_left_out(model, processor):
    dataset = make_dataset([*CAPTIONS[:2], " "], negative_type=["swap_att", "swap_obj", "swap_obj"])
    result = evaluate_triplets(model, processor, dataset, batch_size=2, progress=False)
    assert result.counts == {"rows": 2, "broken": 1, "swap_obj": 1, "swap_att": 1}
    assert result.predictions["row"] == [0, 1]
    assert result.predictions["category"] == ["swap_att", "swap_obj"]


def test_a_dataset_of_broken_rows_is_refused(model, processor):
    with pytest.raises(ValueError, match=r"None of the 2 rows can be used: \{'empty caption in caption': 2\}"):
        evaluate_triplets(model, processor, make_dataset(["", ""]), progress=False)


def test_other_errors_of_the_collator_are_not_hidden(model, processor, monkeypatch):
    def fail(**kwargs):
        raise ValueError("the processor is at fault")

    monkeypatch.setattr(type(processor.image_processor), "__call__", lambda self, **kwargs: fail(**kwargs))
    with pytest.raises(ValueError, match="the processor is at fault"):
        evaluate_triplets(model, processor, make_dataset(CAPTIONS), progress=False)


def test_workers_and_half_precision(model, processor):
    dataset = make_dataset(CAPTIONS)
    here = evaluate_triplets(model, processor, dataset, batch_size=3, progress=False)
    there = evaluate_triplets(model, processor, dataset, batch_size=3, num_workers=1, progress=False)
    assert there.predictions == here.predictions
    half = evaluate_triplets(model.bfloat16(), processor, dataset, batch_size=3, progress=False)
    assert half.model["dtype"] == "bfloat16"
    assert half.settings["batch_size"] == 3
    assert half.predictions["score_i0c0"] == pytest.approx(here.predictions["score_i0c0"], abs=0.05)


def test_negative_images_only_have_their_own_accuracy(model, processor):
    dataset = make_dataset(CAPTIONS).remove_columns("neg_caption")
    result = evaluate_triplets(model, processor, dataset, progress=False)
    assert result.chance["image_accuracy"] == 0.5
    assert not {"accuracy", "text_score", "group_score"} & result.metrics.keys()

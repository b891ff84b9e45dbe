# SPDX-License-Identifier: Apache-2.0
"""The trainer's evaluation on raw rows of which some are broken."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import EvalPrediction

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel, TripletCLIPTrainer, TripletCLIPTrainingArguments
from hf_tripletclip.data import BrokenRows, TripletCollator, build_processor
from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.evaluation import evaluate_triplets
from hf_tripletclip.evaluation.images import content_digest
from hf_tripletclip.training.evaluation import (
    BROKEN,
    IDENTITIES,
    UNKNOWN,
    USABLE,
    EvaluationCollator,
    compositional_metrics,
    spread,
)
from tests.tiny import tiny_config

COLOURS = ("red", "green", "blue", "white", "black")


def rows(number: int, broken: tuple[int, ...] = ()) -> list[dict]:
    table = [
        {
            "id": f"row-{index}",
            "image": Image.new("RGB", (20, 20), COLOURS[index % 5]),
            "caption": f"a {COLOURS[index % 5]} cat",
            "neg_image": Image.new("RGB", (20, 20), COLOURS[(index + 1) % 5]),
            "neg_caption": f"a {COLOURS[(index + 1) % 5]} cat",
            "negative_type": "replace_att" if index % 2 else "swap_att",
        }
        for index in range(number)
    ]
    for index in broken:
        table[index]["caption"] = " "
    return table


@pytest.fixture(scope="module")
def processor():
    return build_processor([f"a {colour} cat" for colour in COLOURS], image_size=16)


def make_trainer(tmp_path, processor, evaluated: list[dict], **kwargs) -> TripletCLIPTrainer:
    torch.manual_seed(0)
    arguments = TripletCLIPTrainingArguments(
        output_dir=str(tmp_path), per_device_eval_batch_size=4, report_to="none", use_cpu=True, disable_tqdm=True
    )
    base = tiny_config().to_dict()
    base["text_config"] |= {"vocab_size": len(processor.tokenizer), "max_position_embeddings": 20}
    base["text_config"] |= {"eos_token_id": processor.tokenizer.eos_token_id}
    return TripletCLIPTrainer(
        model=TripletCLIPModel(TripletCLIPConfig(**base)),
        args=arguments,
        data_collator=TripletCollator(processor, broken_rows=BrokenRows(tmp_path / "broken_rows.jsonl")),
        eval_dataset=Dataset.from_list(evaluated),
        processing_class=processor,
        **kwargs,
    )


def test_broken_rows_are_left_out_of_every_metric(tmp_path, processor):
    broken = (2, 12, 13)  # one among others, and the whole last batch of four
    table = rows(14, broken=broken)
    good = make_trainer(tmp_path / "good", processor, [row for i, row in enumerate(table) if i not in broken])
    some = make_trainer(tmp_path / "some", processor, table)
    expected, metrics = good.evaluate(), some.evaluate()
    for name in ("accuracy", "accuracy_replace_att", "accuracy_swap_att", "text_score", "image_score"):
        assert metrics[f"eval_{name}"] == expected[f"eval_{name}"], name
    assert math.isfinite(metrics["eval_loss"])
    assert [report["key"] for report in some.data_collator.broken_rows] == ["row-2", "row-12", "row-13"]


def test_evaluation_uses_the_first_of_several_negatives_for_every_objective(tmp_path, processor):
    several = [{**row, "neg_caption": [row["neg_caption"], "a pink cat"]} for row in rows(6)]
    expected = make_trainer(tmp_path, processor, rows(6)).evaluate()
    trainer = make_trainer(tmp_path, processor, several)
    trainer.model.set_objective("clip")
    trainer.data_collator = dataclasses.replace(trainer.data_collator, columns=("image", "caption"))
    metrics = trainer.evaluate()
    for name in ("accuracy", "text_score", "image_score", "group_score"):
        assert metrics[f"eval_{name}"] == expected[f"eval_{name}"], name


def test_nothing_usable_gives_no_metrics(tmp_path, processor):
    metrics = make_trainer(tmp_path, processor, rows(3, broken=(0, 1, 2))).evaluate()
    assert "eval_accuracy" not in metrics
    assert math.isnan(metrics["eval_loss"])


def test_the_users_metrics_see_no_broken_row(tmp_path, processor):
    seen: list[EvalPrediction] = []

    def count(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        return {"rows": float(len(prediction.label_ids))}

    metrics = make_trainer(tmp_path, processor, rows(6, broken=(1, 5)), compute_metrics=count).evaluate()
    assert metrics["eval_rows"] == 4
    assert seen[0].label_ids.tolist() == [
        NEGATIVE_TYPES.index(kind) for kind in ("swap_att", "swap_att", "replace_att", "swap_att")
    ]
    assert {len(values) for values in seen[0].predictions.values()} == {4}


def test_recall_equals_that_of_the_final_evaluation_if_pictures_and_captions_repeat(tmp_path, processor):
    table = [row | {"caption": f"{row['caption']}{' cat' * n}"} for n in range(3) for row in rows(5)]
    table += [
        table[1] | {"image": table[0]["image"]},
        table[2] | {"caption": " "},
    ]  # a caption of two pictures; broken
    seen: list[tuple[int, ...]] = []
    trainer = make_trainer(
        tmp_path,
        processor,
        table,
        preprocess_logits_for_metrics=lambda found, labels: seen.append(tuple(labels.shape)) or found,
    )
    metrics = trainer.evaluate()
    final = evaluate_triplets(trainer.model, processor, trainer.eval_dataset, progress=False).metrics
    recall = {name: value for name, value in final.items() if "recall" in name}
    assert recall["text_to_image_recall@1"] > 0  # it is 0 where each repeat of a picture is another one
    assert {name: metrics[f"eval_{name}"] for name in recall} == pytest.approx(recall)
    assert {len(shape) for shape in seen} == {1}
    assert trainer.predict(trainer.eval_dataset).label_ids.shape == (len(table),)


def test_a_batch_keeps_a_place_for_every_row(processor, tmp_path):
    collator = EvaluationCollator(TripletCollator(processor, broken_rows=BrokenRows(tmp_path / "b.jsonl")))
    batch = collator(rows(4, broken=(1,)))
    assert next(iter(batch)) == USABLE
    assert batch[USABLE].tolist() == [True, False, True, True]
    assert len(batch["pixel_values"]) == 3
    digests = [content_digest(row["image"]) for index, row in enumerate(rows(4)) if index != 1]
    assert batch[IDENTITIES][:, 0].tolist() == [int(digest[:15], 16) for digest in digests]
    assert spread(torch.tensor([5, 6, 7]), batch[USABLE], fill=BROKEN).tolist() == [5, BROKEN, 6, 7]

    batch = collator(rows(2, broken=(0, 1)))
    assert batch[USABLE].tolist() == [False, False]
    assert len(batch["pixel_values"]) == len(batch["negative_input_ids"]) == 0
    assert spread(torch.ones(0, 3), batch[USABLE]).tolist() == [[0.0] * 3] * 2


def test_the_first_kind_of_negatives_differs_from_an_unknown_kind():
    same = {role: torch.eye(2).numpy() for role in ("image", "text", "negative_image", "negative_text")}
    labels = torch.tensor([[0, 1, 1], [UNKNOWN, 2, 2]]).numpy()
    found = compositional_metrics(EvalPrediction(predictions=same, label_ids=labels))
    assert [name for name in found if name.startswith("accuracy_") and name != "accuracy_macro"] == [
        f"accuracy_{NEGATIVE_TYPES[0]}"
    ]

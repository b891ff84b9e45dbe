# SPDX-License-Identifier: Apache-2.0
"""Every objective trains from rows of pictures and captions: any number of each, cached, resumed, evaluated."""

from __future__ import annotations

import json

import pytest
import torch
from datasets import Dataset, IterableDataset
from PIL import Image

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel
from hf_tripletclip.data import BrokenRows, TripletCollator, build_processor
from hf_tripletclip.data.draws import CaptionDraw
from hf_tripletclip.objectives import OBJECTIVES
from tests.objectives.reference import PAIRED
from tests.objectives.towers_worker import SETTINGS
from tests.training.test_trainer import losses, make_trainer

COLOURS = ("red", "blue", "green", "black", "white", "orange", "pink", "brown")


@pytest.fixture(scope="module")
def processor():
    return build_processor([f"a {colour} cat on the left of one dog" for colour in COLOURS], image_size=16)


def rows(paired: bool = False, number: int = 8) -> list[dict]:
    found = []
    for index, colour in enumerate(COLOURS[:number]):
        other = COLOURS[(index + 1) % len(COLOURS)]
        found.append(
            {
                "id": f"row {index}",
                "image": Image.new("RGB", (16, 16), colour),
                "caption": f"a {colour} cat",
                "neg_image": Image.new("RGB", (16, 16), other),
                "neg_caption": f"a {other} cat" if paired else [f"a {other} cat", f"a {colour} dog"][: index % 3],
                "paraphrase": [f"one {colour} cat", f"the {colour} cat"][: (index + 1) % 3] or None,
                "dense_caption": [f"a {colour} cat on the left", "one cat", "the dog"][: index % 4],
            }
        )
    return found


def make_model(processor) -> TripletCLIPModel:
    tokenizer = processor.tokenizer
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "projection_dim": 8}
    vision = {**tower, "image_size": 16, "patch_size": 8, "projection_dim": 8}
    torch.manual_seed(0)
    return TripletCLIPModel(TripletCLIPConfig(text_config=text, vision_config=vision, projection_dim=8))


def trainer_of(tmp_path, processor, objective, data=None, **arguments):
    return make_trainer(
        tmp_path,
        make_model(processor),
        objective=objective,
        train_dataset=Dataset.from_list(rows(objective in PAIRED)) if data is None else data,
        processing_class=processor,
        **{"max_steps": 2, "per_device_train_batch_size": 4, "remove_unused_columns": False, **arguments},
    )


@pytest.mark.parametrize(
    "objective", [*(name for name, one in OBJECTIVES.items() if not one.needs_neighbours), *SETTINGS]
)
def test_every_objective_trains_is_cached_and_evaluated(tmp_path, processor, objective):
    data = Dataset.from_list(rows(objective in PAIRED))
    curves = []
    objective, settings = SETTINGS.get(objective, (objective, {}))
    arguments = {"eval_dataset": data, "objective_kwargs": json.dumps(settings) if settings else None}
    for folder, size in (("whole", None), ("cached", 3)):
        trainer = trainer_of(tmp_path / folder, processor, objective, data, mini_batch_size=size, **arguments)
        trainer.train()
        curves.append(losses(trainer))
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    assert len(curves[0]) == 2
    (first, *_) = trainer.state.log_history
    terms = trainer.core.objective.terms
    assert {term.name for term in terms} <= first.keys()
    assert sum(term.weight * first[term.name] for term in terms) == pytest.approx(first["loss"], abs=1e-4)
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] > 0
    assert "eval_accuracy" in metrics


@pytest.mark.parametrize("objective", ["tsvlc", "dac"])
def test_rows_without_negatives_are_counted(tmp_path, processor, objective):
    trainer = trainer_of(tmp_path, processor, objective, max_steps=1, per_device_train_batch_size=8)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["rows_without_negative_text"] == 3
    assert {key for key in log if key.startswith("rows_without")} == {
        "rows_without_negative_text",
        {"tsvlc": "rows_without_paraphrase", "dac": "rows_without_dense_text"}[objective],
    }


def test_streams_train_like_datasets(tmp_path, processor):
    stream = IterableDataset.from_generator(lambda: iter(rows()))
    found = losses_of(trainer_of(tmp_path / "stream", processor, "tsvlc", stream))
    assert len(found) == 2


def losses_of(trainer) -> list[float]:
    trainer.train()
    return losses(trainer)


def test_masked_repeats_reach_the_loss_whole_and_cached(tmp_path, processor):
    data = rows()
    for row in data[4:]:
        row["image"] = data[0]["image"]
    curves = {}
    for repeats in ("negative", "mask"):
        for size in (None, 3):
            trainer = trainer_of(
                tmp_path / f"{repeats}-{size}",
                processor,
                "negclip",
                Dataset.from_list(data),
                objective_kwargs=json.dumps({"repeats": repeats}),
                per_device_train_batch_size=8,
                mini_batch_size=size,
            )
            curves[repeats, size] = losses_of(trainer)
            assert trainer.state.log_history[0]["repeated_images"] == 5
    assert curves["mask", None] == pytest.approx(curves["mask", 3], rel=1e-4)
    assert curves["mask", None][0] < curves["negative", None][0] - 0.1


def test_several_negative_pairs_per_row(tmp_path, processor):
    data = rows()
    for index, row in enumerate(data):
        row["neg_image"] = [row["neg_image"]] * len(row["neg_caption"])
        assert len(row["neg_image"]) == index % 3
    trainer = trainer_of(tmp_path, processor, "tripletclip", data, max_steps=1, per_device_train_batch_size=8)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["rows_without_negative_image"] == log["rows_without_negative_text"] == 3
    assert log["negative_image_to_negative_text"] > 0


def test_laclip_draws_anew_in_each_pass_and_the_same_when_resumed(tmp_path, processor):
    data = Dataset.from_list(rows())
    whole = trainer_of(tmp_path / "a", processor, "laclip", data, max_steps=6, save_steps=3, save_strategy="steps")
    curve = losses_of(whole)
    again = trainer_of(tmp_path / "b", processor, "laclip", data, max_steps=6, dataloader_num_workers=1)
    assert losses_of(again) == curve
    resumed = trainer_of(tmp_path / "c", processor, "laclip", data, max_steps=6)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    assert losses(resumed) == curve
    draw = whole.data_collator.draw_captions
    assert isinstance(draw, CaptionDraw)
    assert int(draw.epoch) == 2
    drawn = set()
    for epoch in range(20):
        draw.epoch.fill_(epoch)
        drawn.add(draw(["one", "two", "three"]))
    assert drawn == {"one", "two", "three"}


def test_laclip_without_anything_to_draw_from_is_refused(tmp_path, processor):
    data = Dataset.from_list(rows()).remove_columns("paraphrase")
    with pytest.raises(ValueError, match=r"'laclip' draws .* no column `paraphrase`"):
        trainer_of(tmp_path, processor, "laclip", data)
    lists = [{**row, "caption": [row["caption"], *(row["paraphrase"] or [])]} for row in rows()]
    assert len(losses_of(trainer_of(tmp_path, processor, "laclip", Dataset.from_list(lists)))) == 2
    with pytest.raises(ValueError, match=r"'laclip' draws .*not rows that are tensors already"):
        make_trainer(tmp_path, objective="laclip")


@pytest.mark.parametrize("size", [None, 3])
def test_objectives_that_alternate_between_steps(tmp_path, processor, size):
    settings = {"objective_kwargs": json.dumps({"alternate": True}), "mini_batch_size": size, "max_steps": 4}
    trainer = trainer_of(tmp_path / "a", processor, "tripletclip", Dataset.from_list(rows(True)), **settings)
    trainer.train()
    first, second, third, _ = trainer.state.log_history[:4]
    halves = (
        {"image_to_text", "text_to_image"},
        {"negative_image_to_negative_text", "negative_text_to_negative_image"},
    )
    for log, turn in ((first, 0), (second, 1), (third, 0)):
        assert halves[turn] <= log.keys()
        assert halves[1 - turn].isdisjoint(log)
    assert trainer.core.objective.step is None or trainer.core.objective.step >= 0
    trainer = trainer_of(tmp_path / "b", processor, "clic", **settings)
    trainer.train()
    plain = trainer.state.log_history[1]
    assert plain["loss"] == pytest.approx((plain["image_to_text"] + plain["text_to_image"]) / 2, abs=1e-4)
    assert "image_to_own_text" in trainer.state.log_history[2]


def test_laclip_hn_needs_batches_of_neighbours(tmp_path, processor):
    with pytest.raises(ValueError, match=r"'laclip_hn' learns from batches of nearest neighbours.*`batch_neighbours`"):
        trainer_of(tmp_path, processor, "laclip_hn")


def test_the_collator_gives_masks_where_rows_have_any_number(tmp_path, processor):
    report = BrokenRows(tmp_path / "broken.jsonl")
    columns = ("image", "caption", "neg_image", "neg_caption", "paraphrase", "dense_caption")
    data = rows()
    for row in data:
        row["neg_image"] = [row["neg_image"]] * len(row["neg_caption"])
    batch = TripletCollator(processor, columns=columns, broken_rows=report)(data[:4])
    for name in ("negative_mask", "negative_image_mask"):
        assert batch[name].sum(dim=1).tolist() == [0, 1, 2, 0]
    assert batch["paraphrase_mask"].sum(dim=1).tolist() == [1, 2, 0, 1]
    assert batch["dense_mask"].sum(dim=1).tolist() == [0, 1, 2, 3]
    for role in ("negative", "paraphrase", "dense"):
        ids = batch[f"{role}_input_ids"]
        assert len(ids) == int(batch[f"{role}_mask"].sum())
        assert batch[f"{role}_attention_mask"].shape == ids.shape
    decode = processor.tokenizer.batch_decode
    written = decode(batch["paraphrase_input_ids"], skip_special_tokens=True)
    assert written == ["one red cat", "one blue cat", "the blue cat", "one black cat"]
    assert len(batch["negative_pixel_values"]) == 3
    broken = [{**data[0], "dense_caption": ["", "one cat"]}, {**data[1], "paraphrase": 3}]
    batch = TripletCollator(processor, columns=columns, broken_rows=report)([*broken, data[2]])
    assert report.counts(skipped=False) == {
        "empty caption in dense_caption": 1,
        "caption is no text in paraphrase": 1,
    }
    assert report.counts(skipped=True) == {}
    assert len(batch["input_ids"]) == 3


def test_one_paraphrase_per_row_needs_no_mask(processor, tmp_path):
    data = [{**row, "paraphrase": "the cat"} for row in rows()]
    batch = TripletCollator(processor, columns=("caption", "paraphrase"))(data)
    assert "paraphrase_mask" not in batch
    assert len(batch["paraphrase_input_ids"]) == 8


def test_captions_in_lists_are_drawn_by_laclip_and_refused_by_other_objectives(tmp_path, processor):
    table = [{**row, "caption": [row["caption"], row["caption"].replace("a ", "one ", 1)]} for row in rows()]
    data = Dataset.from_list(table)
    trainer = trainer_of(tmp_path / "drawn", processor, "laclip", data, eval_dataset=data)
    trainer.train()
    found = trainer.evaluate()
    first = Dataset.from_list([{**row, "caption": row["caption"][0]} for row in table])
    assert found["eval_loss"] == pytest.approx(trainer.evaluate(first)["eval_loss"])
    assert found["eval_image_to_text_recall@1"] == trainer.evaluate(first)["eval_image_to_text_recall@1"]
    with pytest.raises(ValueError, match="`caption` of `train_dataset` is a list, and the objective 'clip'"):
        trainer_of(tmp_path / "refused", processor, "clip", data)

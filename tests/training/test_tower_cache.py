# SPDX-License-Identifier: Apache-2.0
"""Locked towers run once for each input, and training is what it was without; two processes are in test_locked.py."""

from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel
from hf_tripletclip.data import BrokenRows, TripletCollator
from hf_tripletclip.data.collator import TensorCollator
from hf_tripletclip.objectives import get_objective
from hf_tripletclip.training import tower_cache
from hf_tripletclip.training.evaluating import identities_of_tensors
from hf_tripletclip.training.tower_cache import TowerCache, fingerprint
from hf_tripletclip.training.towers import TowerArguments, prepare_towers
from tests.tiny import captions, images, tiny_config
from tests.training.test_evaluating import processor, rows  # noqa: F401
from tests.training.test_trainer import DISTILLED, Rows, losses, make_trainer

VISION = {"train_vision": "frozen"}
TEXT = {"train_text": "frozen"}
BOTH = {**VISION, **TEXT, "train_projections": True}
LORA = {"train_text": "lora", "train_vision": "frozen", "lora_rank": 4}
TOWERS = {"vision": VISION, "text": TEXT, "both": BOTH, "lora": LORA}


def config_for(processor, **text) -> TripletCLIPConfig:  # noqa: F811
    base = tiny_config().to_dict()
    base["text_config"] |= {"vocab_size": len(processor.tokenizer), "max_position_embeddings": 20}
    base["text_config"] |= {"eos_token_id": processor.tokenizer.eos_token_id, **text}
    return TripletCLIPConfig(**base)


@pytest.fixture
def make(tmp_path, processor):  # noqa: F811
    """A trainer of 18 raw rows, which hold five pictures and five captions."""

    def make(towers: dict, cached: bool = True, **kwargs):
        torch.manual_seed(0)
        model = prepare_towers(TripletCLIPModel(config_for(processor)), TowerArguments(**towers))
        if cached:
            kwargs = {"cache_locked_towers": str(tmp_path / "cache"), **kwargs}
        given = {"train_dataset": Dataset.from_list(rows(18)), "data_collator": TripletCollator(processor)}
        return make_trainer(tmp_path / "run", model=model, **{**given, **kwargs})

    return make


@pytest.fixture
def nothing_is_decoded(monkeypatch):
    def forbid() -> None:
        def decode(*_: object) -> None:
            raise AssertionError("an image was decoded")

        monkeypatch.setattr(tower_cache, "decode_image", decode)

    return forbid


def in_files(table: list[dict]) -> list[dict]:
    """The rows with their pictures as the contents of files, as datasets hold them."""

    def encoded(image: Image.Image) -> dict:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    return [{**row, "image": encoded(row["image"]), "neg_image": encoded(row["neg_image"])} for row in table]


@pytest.mark.parametrize(
    "kwargs",
    [{"gradient_accumulation_steps": 2}, {"mini_batch_size": 4}, DISTILLED, {**DISTILLED, "mini_batch_size": 4}],
    ids=["accumulated", "mini-batches", "distilled", "distilled mini-batches"],
)
@pytest.mark.parametrize("towers", TOWERS)
def test_training_is_what_it_is_without_and_another_run_computes_nothing(make, towers, kwargs):
    plain, first, second = (make(TOWERS[towers], cached, **kwargs) for cached in (False, True, True))
    for trainer in (plain, first, second):
        trainer.train()
    assert losses(first) == pytest.approx(losses(plain), abs=1e-5)
    assert losses(second) == pytest.approx(losses(plain), abs=1e-5)
    counts = [[entry.get("repeated_images") for entry in one.state.log_history] for one in (plain, first, second)]
    assert counts[0] == counts[1] == counts[2]
    locked = [tower for tower in ("text", "vision") if TOWERS[towers].get(f"train_{tower}") == "frozen"]
    assert first.tower_cache.computed == dict.fromkeys(locked, 5)
    assert second.tower_cache.computed == dict.fromkeys(locked, 0)
    if first.teacher is not None:  # its locked towers are the model's own
        others = {tower: 0 if tower in locked else 5 for tower in ("text", "vision")}
        assert first.teacher.towers.computed == others
        assert second.teacher.towers.computed == {"text": 0, "vision": 0}
    for ours, theirs in zip(first.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("mini_batch_size", [None, 4])
@pytest.mark.parametrize("objective", ["tsvlc", "degla", "negclip"])
def test_any_number_per_row_and_masked_repeats(make, processor, objective, mini_batch_size):  # noqa: F811
    table = [
        {**row, "neg_caption": ["a white cat", "a black cat"][: number % 3], "paraphrase": ["a cat", "a red cat"]}
        for number, row in enumerate(rows(18))
    ]
    kwargs = {"objective": objective, "mini_batch_size": mini_batch_size, "eval_strategy": "epoch"}
    columns = get_objective(objective).columns
    kwargs |= {"objective_kwargs": {"repeats": "mask"}, "eval_dataset": Dataset.from_list(table[:7])}
    kwargs |= {"train_dataset": Dataset.from_list(table), "per_device_eval_batch_size": 4, "max_steps": 6}
    kwargs |= {"data_collator": TripletCollator(processor, columns=columns)}
    for towers in (VISION, TEXT):
        plain, first, second = (make(towers, cached, **kwargs) for cached in (False, True, True))
        for trainer in (plain, first, second):
            trainer.train()
        for trainer in (first, second):
            assert losses(trainer) == pytest.approx(losses(plain), abs=1e-5)
            evaluated = [
                [entry["eval_loss"] for entry in one.state.log_history if "eval_loss" in entry]
                for one in (trainer, plain)
            ]
            assert evaluated[0] == pytest.approx(evaluated[1], abs=1e-5)
        assert set(second.tower_cache.computed.values()) == {0}


def test_a_teacher_of_towers_that_train_is_cached_too(make):
    plain, first, second = (make({}, cached, **DISTILLED) for cached in (False, True, True))
    for trainer in (plain, first, second):
        trainer.train()
    assert losses(second) == pytest.approx(losses(plain), abs=1e-5)
    assert first.teacher.towers.computed == {"text": 5, "vision": 5}
    assert second.teacher.towers.computed == {"text": 0, "vision": 0}


@pytest.mark.parametrize("towers", ["vision", "both"])
def test_other_seeds_objectives_and_batches_decode_nothing(make, nothing_is_decoded, towers):
    given = {"train_dataset": Dataset.from_list(in_files(rows(18))), "max_steps": 6}
    make(TOWERS[towers], **given).train()
    nothing_is_decoded()
    changes = {"seed": 5, "per_device_train_batch_size": 4, "objective": "negclip_image"}
    again = make(TOWERS[towers], **given, **changes)
    again.train()
    assert set(again.tower_cache.computed.values()) == {0}
    with pytest.raises(AssertionError, match="an image was decoded"):
        make(TOWERS[towers], **given, cache_locked_towers=str(again.args.output_dir) + "/other").train()


def test_workers_know_what_was_seen_before_they_were_started(make):
    kwargs = {"dataloader_num_workers": 2, "max_steps": 6, "dataloader_persistent_workers": True}
    plain, first = (make(VISION, cached, **kwargs) for cached in (False, True))
    for trainer in (plain, first):
        trainer.train()
    assert losses(first) == pytest.approx(losses(plain), abs=1e-5)
    assert first.tower_cache.computed == {"vision": 5}


@pytest.mark.parametrize("towers", TOWERS)
@pytest.mark.parametrize("mini_batch_size", [None, 4])
def test_rows_of_tensors(tmp_path, towers, mini_batch_size):
    curves = []
    for folder in (None, tmp_path / "cache", tmp_path / "cache"):
        torch.manual_seed(0)
        model = prepare_towers(TripletCLIPModel(tiny_config()), TowerArguments(**TOWERS[towers]))
        kwargs = {} if folder is None else {"cache_locked_towers": str(folder)}
        trainer = make_trainer(tmp_path / "run", model=model, mini_batch_size=mini_batch_size, **kwargs)
        trainer.train()
        curves.append(losses(trainer))
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)
    assert curves[2] == curves[1]
    assert set(trainer.tower_cache.computed.values()) == {0}


@pytest.mark.parametrize("towers", ["vision", "both"])
def test_evaluation_is_the_same_and_computes_nothing_twice(make, towers):
    found = []
    table = rows(9)
    table[4]["caption"] = " "
    for cached in (False, True, True):
        trainer = make(TOWERS[towers], cached, eval_dataset=Dataset.from_list(table), per_device_eval_batch_size=4)
        metrics = trainer.evaluate()
        timed = ("time", "per_second")
        found.append({name: value for name, value in metrics.items() if not name.endswith(timed)})
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert found[2] == found[1]
    assert set(trainer.tower_cache.computed.values()) == {0}


def test_it_can_be_filled_beforehand(make, nothing_is_decoded):
    table = in_files(rows(18))
    trainer = make(BOTH, train_dataset=Dataset.from_list(table), **DISTILLED)
    assert trainer.fill_tower_cache() == 10
    assert trainer.fill_tower_cache() == 0
    nothing_is_decoded()
    trainer.train()
    assert trainer.tower_cache.computed == {"text": 5, "vision": 5}


def test_broken_rows_are_left_out_and_reported_as_without(make, processor, tmp_path):  # noqa: F811
    reports, curves = [], []
    table = in_files(rows(18))
    table[3]["image"], table[7]["caption"] = {"bytes": b"no image", "path": None}, ""
    for name, cached in (("plain", False), ("first", True), ("second", True)):
        report = BrokenRows(tmp_path / f"{name}.jsonl")
        collator = TripletCollator(processor, broken_rows=report)
        trainer = make(
            VISION, cached, train_dataset=Dataset.from_list(table), data_collator=collator, num_train_epochs=1
        )
        trainer.train()
        curves.append(losses(trainer))
        reports.append([(entry["key"], entry["reason"]) for entry in report])
    assert reports[0] == reports[1] == reports[2]
    assert {key for key, _ in reports[0]} == {"row-3", "row-7"}
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)
    assert curves[2] == pytest.approx(curves[0], abs=1e-5)


@pytest.mark.parametrize("kwargs", [{}, DISTILLED], ids=["plain", "distilled"])
@pytest.mark.parametrize("towers", ["vision", "both", "lora"])
def test_a_resumed_run_walks_the_same_curve(make, tmp_path, towers, kwargs):
    kwargs = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, **kwargs}
    whole = make(TOWERS[towers], **kwargs)
    whole.train()
    checkpoint = str(tmp_path / "run" / "checkpoint-4")
    resumed = make(TOWERS[towers], **kwargs)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert losses(resumed) == losses(whole)
    assert set(resumed.tower_cache.computed.values()) == {0}
    without = make(TOWERS[towers], False, **kwargs)  # where outputs are kept is no setting of the curve
    without.train(resume_from_checkpoint=checkpoint)
    assert losses(without) == pytest.approx(losses(whole), abs=1e-5)


@pytest.mark.parametrize("change", ["cut", "flipped", "gone"])
def test_a_damaged_file_changes_no_number(make, tmp_path, change):
    first = make(VISION)
    first.train()
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-200] ^= 1
        path.write_bytes(content[:-7] if change == "cut" else content)
        if change == "gone":
            path.unlink()
    second = make(VISION)
    second.train()
    assert losses(second) == pytest.approx(losses(first), abs=1e-5)
    assert second.tower_cache.computed["vision"] > 0
    third = make(VISION)
    third.train()
    assert third.tower_cache.computed == {"vision": 0}


def test_without_room_training_goes_on(make, tmp_path, caplog):
    plain, bounded = make(VISION, False), make(VISION, cache_limit_gb=900e-9)
    for trainer in (plain, bounded):
        trainer.train()
    assert losses(bounded) == pytest.approx(losses(plain), abs=1e-5)
    assert bounded.tower_cache.computed["vision"] >= 5
    assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()) <= 900
    assert caplog.text.count("`cache_limit_gb` allows") == 1


# ---- What an output is kept by ----


def cache_for(core, folder, towers=("text", "vision"), precision="no") -> TowerCache:
    return TowerCache(core, towers, folder, 10**9, precision=precision, autocast=torch.no_grad, batch_size=4)


def test_other_weights_architectures_and_precisions_share_nothing():
    torch.manual_seed(0)
    model = TripletCLIPModel(tiny_config())
    found = {
        (tower, fingerprint(model, tower, precision)) for tower in ("text", "vision") for precision in ("no", "bf16")
    }
    assert len({digest for _, digest in found}) == 4
    assert fingerprint(model, "vision", "no") == fingerprint(model, "vision", "no")
    before = {tower: fingerprint(model, tower, "no") for tower in ("text", "vision")}
    with torch.no_grad():
        model.vision_model.post_layernorm.bias[0] += 1e-6
        model.visual_projection.weight.zero_()  # behind what is kept
    assert fingerprint(model, "vision", "no") != before["vision"]
    assert fingerprint(model, "text", "no") == before["text"]
    model.config.text_config.hidden_act = "gelu"
    assert fingerprint(model, "text", "no") != before["text"]


@pytest.mark.parametrize("towers", [{**LORA, "train_vision": "lora"}, {**LORA, "train_vision": "full"}])
def test_a_tower_under_adapters_is_the_one_without(towers):
    torch.manual_seed(0)
    plain = TripletCLIPModel(tiny_config())
    wanted = [fingerprint(plain, tower, "no") for tower in ("text", "vision")]
    core = prepare_towers(plain, TowerArguments(**towers)).base_model.model
    assert [fingerprint(core, tower, "no") for tower in ("text", "vision")] == wanted


def test_padding_is_no_part_of_a_caption_and_its_length_is(tmp_path):
    torch.manual_seed(0)
    model = TripletCLIPModel(tiny_config())
    cache = cache_for(model, tmp_path)
    short = captions(4, 8, 0, lengths=[5, 5, 6, 6])
    longer = {
        name: torch.nn.functional.pad(value, (0, 3), value=int(name == "input_ids") * 98)
        for name, value in short.items()
    }
    first = cache.inputs(short)
    assert cache.inputs({f"negative_{name}": value for name, value in longer.items()})["negative_input_ids"].equal(
        first["input_ids"]
    )
    assert cache.computed["text"] == 4
    assert set(first) == {"input_ids"}
    other = {**short, "attention_mask": short["attention_mask"].roll(1, 0)}
    cache.inputs(other)
    assert cache.computed["text"] > 4


def test_weights_that_change_are_noticed(tmp_path):
    torch.manual_seed(0)
    model = TripletCLIPModel(tiny_config()).eval()
    cache, pixels = cache_for(model, tmp_path), images(3, 0)
    before = cache.inputs({"pixel_values": pixels})["pixel_values"]
    with torch.no_grad():
        model.vision_model.post_layernorm.bias += 1.0
        expected = model.vision_model(pixels).pooler_output
    after = cache.inputs({"pixel_values": pixels})["pixel_values"]
    assert (after - before).abs().max() > 0.5
    torch.testing.assert_close(after, expected)


def test_images_that_were_read_for_other_weights_are_refused(tmp_path, processor):  # noqa: F811
    model = TripletCLIPModel(config_for(processor))
    cache = cache_for(model, tmp_path)
    collator = dataclasses.replace(TripletCollator(processor), known_images=cache.known_images(processor))
    batch = collator(rows(3))
    with torch.no_grad():
        model.vision_model.post_layernorm.bias += 1.0
    with pytest.raises(ValueError, match="have changed while its images were read"):
        cache.inputs(batch)


def test_what_is_not_finite_is_not_kept(tmp_path):
    model = TripletCLIPModel(tiny_config())
    pixels = images(3, 0)
    pixels[1, 0, 0, 0] = math.inf
    for _ in range(2):
        cache = cache_for(model, tmp_path)
        found = cache.inputs({"pixel_values": pixels})["pixel_values"]
        assert found.isfinite().all(dim=1).tolist() == [True, False, True]
        cache.flush()
    assert cache.computed["vision"] == 1


@pytest.mark.parametrize("kind", ["bytes", "path", "PIL", "array"])
def test_an_image_is_known_by_what_it_shows_and_how_it_is_prepared(tmp_path, processor, kind):  # noqa: F811
    model = TripletCLIPModel(config_for(processor))

    def value_of(colour: str) -> object:
        image = Image.new("RGB", (20, 20), colour)
        path = tmp_path / f"{colour}.png"
        image.save(path)
        whole = {"bytes": path.read_bytes(), "path": None}
        return {"bytes": whole, "path": str(path), "PIL": image, "array": np.asarray(image)}[kind]

    cache = cache_for(model, tmp_path / "cache")
    known = cache.known_images(processor)
    keys = {colour: known.open(value_of(colour), None).key for colour in ("red", "blue")}
    assert keys["red"] == known.open(value_of("red"), None).key != keys["blue"]
    batch = TripletCollator(processor, columns=("image",), known_images=known)([{"image": value_of("red")}])
    cache.inputs(batch)
    assert known.open(value_of("red"), None).image is None
    assert known.open(value_of("blue"), None).image is not None
    processor.image_processor.image_mean, before = [0.5, 0.5, 0.5], processor.image_processor.image_mean
    try:
        assert cache.known_images(processor).open(value_of("red"), None).image is not None
    finally:
        processor.image_processor.image_mean = before
    if kind in ("bytes", "path"):
        assert known.open(value_of("red"), 16).image is not None  # decoded at another size


# ---- What is refused ----


class Flickering(Rows):
    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = super().__getitem__(index)
        return {**row, "pixel_values": row["pixel_values"] + torch.rand(1) * (index == 5)}


class OwnCollator(TensorCollator):
    pass


def frozen(**text_or_vision) -> TripletCLIPModel:
    config = tiny_config()
    for part, changes in text_or_vision.items():
        for name, value in changes.items():
            setattr(getattr(config, f"{part}_config"), name, value)
    return prepare_towers(TripletCLIPModel(config), TowerArguments(**VISION))


def with_idle_adapters() -> object:
    model = prepare_towers(TripletCLIPModel(tiny_config()), TowerArguments(**{**LORA, "train_vision": "lora"}))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and "vision_model" not in name)
    return model


def tuned(**options) -> object:
    return prepare_towers(TripletCLIPModel(tiny_config()), TowerArguments(**options))


@pytest.mark.parametrize(
    ("make_model", "kwargs", "said"),
    [
        (
            lambda: TripletCLIPModel(tiny_config()),
            {},
            "the text tower trains and the image tower trains. Lock a tower",
        ),
        (
            lambda: prepare_towers(
                TripletCLIPModel(tiny_config()), TowerArguments(**{**LORA, "train_vision": "lora"})
            ),
            {},
            "the text tower trains by adapters and the image tower trains by adapters",
        ),
        (with_idle_adapters, {}, "the image tower has adapters"),
        (lambda: frozen(vision={"attention_dropout": 0.25}), {}, "the image tower has a dropout of 0.25"),
        (lambda: tuned(**TEXT), {"neftune_noise_alpha": 5.0}, "the text tower gets noise"),
        (
            frozen,
            {"train_dataset": Flickering()},
            "'pixel_values' of row 5 of `train_dataset` is another at each look",
        ),
        (frozen, {"data_collator": OwnCollator()}, "what a OwnCollator makes of them is not known"),
        (frozen, {"cache_limit_gb": 0.0}, "`cache_limit_gb` is 0: give more than 0"),
        (frozen, {"cache_locked_towers": " "}, "`cache_locked_towers` is empty"),
        (frozen, {"cache_locked_towers": None, "cache_limit_gb": 3.0}, "`cache_limit_gb` bounds the folder"),
    ],
)
def test_what_is_refused_says_why(tmp_path, make_model, kwargs, said):
    with pytest.raises(ValueError, match=r"^`cache_") as caught:
        make_trainer(tmp_path, model=make_model(), **{"cache_locked_towers": str(tmp_path / "cache"), **kwargs})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dropout_of_a_tower_that_trains_is_no_hindrance(tmp_path):
    model = frozen(text={"attention_dropout": 0.25})
    make_trainer(tmp_path, model=model, cache_locked_towers=str(tmp_path / "cache")).train()


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "cache").write_text("notes")
    with pytest.raises(OSError, match=r"`cache_locked_towers` is .*cache', which is no folder"):
        make_trainer(tmp_path / "run", model=frozen(), cache_locked_towers=str(tmp_path / "cache"))


def test_there_must_be_something_to_fill(make, tmp_path):
    with pytest.raises(ValueError, match="There is nothing to fill"):
        make(VISION, False).fill_tower_cache()
    stream = Dataset.from_list(rows(18)).to_iterable_dataset()
    trainer = make(VISION, train_dataset=stream)
    with pytest.raises(ValueError, match="A stream is not read beforehand: its first pass fills"):
        trainer.fill_tower_cache()
    trainer.train()
    assert trainer.tower_cache.computed == {"vision": 5}


def test_a_checkpoint_whose_locked_tower_is_not_the_teachers_is_refused(make, tmp_path):
    trainer = make(VISION, **DISTILLED)
    with torch.no_grad():
        trainer.core.vision_model.post_layernorm.bias += 1.0
    with pytest.raises(ValueError, match="The locked image tower is not the teacher's"):
        trainer.train()


def test_weights_that_are_replaced_have_a_store_of_their_own(make):
    trainer = make(VISION)
    cache, tower = trainer.tower_cache, trainer.core.vision_model
    first = cache.store("vision").name
    assert cache.store("vision").name == first
    others = {name: value + 1 for name, value in tower.state_dict().items()}
    tower.load_state_dict(others, assign=True)
    assert cache.store("vision").name != first


def test_filling_keeps_of_a_teacher_inside_peft_what_it_puts_out_without_adapters(make):
    filled, seen = (make(LORA, **DISTILLED) for _ in range(2))
    for trainer in (filled, seen):
        with torch.no_grad():
            for name, value in trainer.model.named_parameters():
                if "lora_B" in name:
                    value.add_(1)
    filled.fill_tower_cache()
    caches = [trainer.teacher.towers for trainer in (filled, seen)]
    batch = {"input_ids": torch.tensor([filled.data_collator(rows(2))["input_ids"][0].tolist()])}
    with seen.model.disable_adapter():
        module = seen.core.text_model
        expected = module(**batch, attention_mask=torch.ones_like(batch["input_ids"])).pooler_output
    found = caches[1].inputs({**batch, "attention_mask": torch.ones_like(batch["input_ids"])})["input_ids"]
    assert caches[1].computed["text"] == 0
    torch.testing.assert_close(found, expected)


def test_evaluation_of_tensors_tells_pictures_by_what_goes_in(make, processor):  # noqa: F811
    trainer = make(BOTH)
    batch = TripletCollator(processor)(rows(6))
    known = trainer.with_known_outputs(batch)
    noisy = {**known, "pixel_values": known["pixel_values"] + 1e-7 * torch.arange(6)[:, None]}
    assert torch.equal(identities_of_tensors(noisy), identities_of_tensors(batch))

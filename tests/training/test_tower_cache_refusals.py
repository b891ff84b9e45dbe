# SPDX-License-Identifier: Apache-2.0
"""What a cache of locked towers is refused for."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.data.collator import TensorCollator
from hf_tripletclip.training.towers import TowerArguments, prepare_towers
from tests.tiny import tiny_config
from tests.training.cached import LORA, TEXT, VISION, make_cached  # noqa: F401
from tests.training.test_evaluation import processor, rows  # noqa: F401
from tests.training.test_trainer import DISTILLED, Rows, make_trainer


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
        (lambda: tuned(**TEXT), {"neftune_noise_alpha": 5.0}, "the text tower gets new noise at each step"),
        (
            frozen,
            {"train_dataset": Flickering()},
            "'pixel_values' of row 5 of `train_dataset` changes when it is read again",
        ),
        (frozen, {"data_collator": OwnCollator()}, "what a OwnCollator makes of them is not known"),
        (frozen, {"cache_limit_gb": 0.0}, "`cache_limit_gb` is 0: give more than 0"),
        (frozen, {"cache_locked_towers": " "}, "`cache_locked_towers` is empty"),
        (frozen, {"cache_locked_towers": None, "cache_limit_gb": 3.0}, "`cache_limit_gb` bounds the folder"),
    ],
)
def test_a_cache_that_cannot_work_is_refused_with_the_reason(tmp_path, make_model, kwargs, said):
    with pytest.raises(ValueError, match=r"^`cache_") as caught:
        make_trainer(tmp_path, model=make_model(), **{"cache_locked_towers": str(tmp_path / "cache"), **kwargs})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dropout_in_a_tower_that_trains_is_allowed(tmp_path):
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
    with pytest.raises(ValueError, match="A stream cannot be read beforehand: its first pass fills"):
        trainer.fill_tower_cache()
    trainer.train()
    assert trainer.tower_cache.computed == {"vision": 5}


def test_a_checkpoint_whose_locked_tower_is_not_the_teachers_is_refused(make, tmp_path):
    trainer = make(VISION, **DISTILLED)
    with torch.no_grad():
        trainer.core.vision_model.post_layernorm.bias += 1.0
    with pytest.raises(ValueError, match="The locked image tower is not the teacher's"):
        trainer.train()

# SPDX-License-Identifier: Apache-2.0
"""What tells the outputs of a locked tower from others."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.data import TripletCollator
from hf_tripletclip.training.evaluation import identities_of_tensors
from hf_tripletclip.training.locked_towers import with_known_outputs
from hf_tripletclip.training.tower_cache import TowerCache, fingerprint
from hf_tripletclip.training.towers import TowerArguments, prepare_towers
from tests.tiny import captions, images, tiny_config
from tests.training.cached import BOTH, LORA, VISION, config_for, make_cached  # noqa: F401
from tests.training.test_evaluation import processor, rows  # noqa: F401


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
def test_a_tower_with_adapters_has_the_fingerprint_of_the_tower_without(towers):
    torch.manual_seed(0)
    plain = TripletCLIPModel(tiny_config())
    wanted = [fingerprint(plain, tower, "no") for tower in ("text", "vision")]
    core = prepare_towers(plain, TowerArguments(**towers)).base_model.model
    assert [fingerprint(core, tower, "no") for tower in ("text", "vision")] == wanted


def test_keys_depend_on_a_captions_length_and_not_on_its_padding(tmp_path):
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


def test_outputs_that_are_not_finite_are_not_kept(tmp_path):
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
def test_an_images_key_depends_on_its_content_and_its_preparation(tmp_path, processor, kind):  # noqa: F811
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


def test_replaced_weights_get_their_own_store(make):
    trainer = make(VISION)
    cache, tower = trainer.tower_cache, trainer.core.vision_model
    first = cache.store("vision").name
    assert cache.store("vision").name == first
    others = {name: value + 1 for name, value in tower.state_dict().items()}
    tower.load_state_dict(others, assign=True)
    assert cache.store("vision").name != first


def test_evaluation_of_tensors_distinguishes_pictures_by_their_pixels(make, processor):  # noqa: F811
    trainer = make(BOTH)
    batch = TripletCollator(processor)(rows(6))
    known = with_known_outputs(trainer.tower_cache, batch)
    noisy = {**known, "pixel_values": known["pixel_values"] + 1e-7 * torch.arange(6)[:, None]}
    assert torch.equal(identities_of_tensors(noisy), identities_of_tensors(batch))

# SPDX-License-Identifier: Apache-2.0
"""The model that comes with `scenes`, and `examples/scenes_start.py`, which trains it."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F

from hf_tripletclip import TripletCLIPModel, load_processor
from hf_tripletclip.data.scenes.build import caption_split, make_row
from hf_tripletclip.data.scenes.captions import describe
from hf_tripletclip.data.scenes.drawing import draw_scene
from hf_tripletclip.data.scenes.scene import is_held_out
from hf_tripletclip.data.scenes.start import model_place, start_folder
from hf_tripletclip.data.scenes.vocabulary import choose_nouns

NOUNS = choose_nouns(24)


def load_script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script(pytestconfig: pytest.Config) -> ModuleType:
    return load_script(pytestconfig.rootpath / "examples" / "scenes_start.py")


def test_the_start_is_small_and_has_a_card():
    sizes = {path.name: path.stat().st_size for path in start_folder().iterdir()}
    assert "license: apache-2.0" in (start_folder() / "README.md").read_text(encoding="utf-8")
    assert sizes["model.safetensors"] < 4 * 2**20


def test_its_name_stands_for_its_folder_unless_there_is_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_place("scenes") == str(start_folder())
    assert [model_place(name) for name in ("./scenes", "user/scenes")] == ["./scenes", "user/scenes"]
    (tmp_path / "scenes").mkdir()
    assert model_place("scenes") == "scenes"


@pytest.mark.parametrize("nouns", [24, "all"])
def test_its_tokenizer_knows_the_words_of_all_captions(nouns):
    tokenizer = load_processor(start_folder()).tokenizer
    rows = [make_row("test", index, 0, choose_nouns(nouns)) for index in range(300)]
    words = {word for row in rows for scene in row[:2] for word in describe(scene).split()}
    assert [word for word in sorted(words) if len(tokenizer(word)["input_ids"]) != 3] == []


def test_it_recognises_scenes():
    """Among 64 captions of pictures that it has not seen."""
    model, processor = TripletCLIPModel.from_pretrained(start_folder()).float().eval(), load_processor(start_folder())
    scenes = [make_row("test", index, 5, NOUNS)[0] for index in range(64)]
    pictures = [draw_scene(scene, 64, number) for number, scene in enumerate(scenes)]
    inputs = processor(text=[describe(scene) for scene in scenes], images=pictures, return_tensors="pt", padding=True)
    with torch.no_grad():
        best = model(**inputs).logits_per_image.argmax(dim=1)
    assert (best == torch.arange(64)).float().mean() > 0.6


def test_its_training_data_have_no_held_out_combination(script):
    pictures = script.draw(40, seed=1)
    assert len(pictures.captions) == len(pictures.pixels) == 80
    assert {caption_split(caption) for caption in pictures.captions} == {"train"}
    assert not any(is_held_out(scene) for row in range(40) for scene in make_row("train", row, 1, NOUNS)[:2])


def test_labels_match_the_drawing(script):
    pictures = script.draw(20, seed=1)
    scenes = [scene for row in range(20) for scene in make_row("train", row, 1, NOUNS)[:2]]
    for scene, labels, boxes in zip(scenes, pictures.labels, pictures.boxes, strict=True):
        assert (labels[:, 0] >= 0).sum() == len(scene.objects)
        for thing, (x, y), (noun, colour, pattern, size, cell), box in zip(
            scene.objects, scene.positions(), labels.tolist(), boxes.tolist(), strict=False
        ):
            assert (NOUNS[noun], script.COLOUR_NAMES[colour]) == (thing.noun, thing.colour)
            assert (script.PATTERN_NAMES[pattern], script.SIZES[size]) == (thing.pattern, thing.size)
            assert box[:2] == pytest.approx([x, y])
            assert divmod(cell, 3) == ((x > 0.4) + (x > 0.6), (y > 0.4) + (y > 0.6))


def test_the_losses_reward_the_right_answers(script):
    """Answers from the labels have no loss; those of other pictures have one."""
    lessons, pictures = script.Lessons(), script.draw(8, seed=1)
    labels, boxes, rows = pictures.labels, pictures.boxes, torch.arange(16)

    def told(labels: torch.Tensor) -> torch.Tensor:
        answers = torch.zeros(16, len(NOUNS), sum(script.QUESTIONS))
        answers[..., 0] = -50.0
        for row, number in (labels[..., 0] >= 0).nonzero().tolist():
            noun, *attributes = labels[row, number].tolist()
            answers[row, noun, 0] = 50.0
            for start, answer in zip((1, 12, 16, 18), attributes, strict=True):
                answers[row, noun, start + answer] = 50.0
        return answers.flatten(1)

    lessons.objects = torch.nn.Identity()
    assert lessons.of_pictures(told(labels), labels) < 1e-3
    assert lessons.of_pictures(told(labels.roll(2, dims=0)), labels) > 1

    places = torch.zeros(16, script.CELLS, sum(script.CELL_QUESTIONS))
    places[..., [len(NOUNS), -1]] = 50.0  # none
    for row, number in (labels[..., 0] >= 0).nonzero().tolist():
        noun, colour, *_, cell = labels[row, number].tolist()
        places[row, cell] = 0
        places[row, cell, [noun, script.CELL_QUESTIONS[0] + colour]] = 50.0
    lessons.cells = torch.nn.Identity()
    assert lessons.of_cells(places.flatten(1), labels) < 1e-3
    assert lessons.of_cells(places.flatten(1), labels.roll(2, dims=0)) > 1

    covered = torch.full((16, 16), -1)  # of each picture and patch, the object there
    for row in rows.tolist():
        for patch, centre in enumerate(lessons.centres):
            for number in range(script.OBJECTS):
                x, y, half = boxes[row, number].tolist()
                if labels[row, number, 0] >= 0 and (centre - torch.tensor([x, y])).abs().max() < half + 0.01:
                    covered[row, patch] = number
    answers = []
    for column, count in enumerate(script.PATCH_QUESTIONS):
        of_object = labels[..., column].gather(1, covered.clamp(min=0)).masked_fill(covered < 0, count - 1)
        answers.append(50.0 * F.one_hot(of_object, count))
    lessons.patches = lessons.norm = torch.nn.Identity()
    right = torch.cat(answers, dim=-1)
    assert lessons.of_patches(right, labels, boxes) < 1e-3
    assert lessons.of_patches(right.roll(2, dims=0), labels, boxes) > 1


def test_a_few_steps_write_a_model_that_the_default_run_opens(script, tmp_path: Path):
    script.main([str(tmp_path), "--rows", "20", "--max_steps", "2", "--batch_size", "16"])
    model, processor = TripletCLIPModel.from_pretrained(tmp_path), load_processor(tmp_path)
    assert model.dtype == torch.float16
    assert model.config.text_config.vocab_size == len(processor.tokenizer)
    shipped = TripletCLIPModel.from_pretrained(start_folder())
    shapes, expected = (
        {name: value.shape for name, value in one.state_dict().items() if "token_embedding" not in name}
        for one in (model, shipped)
    )
    assert shapes == expected
    assert model.config.objective == shipped.config.objective == "clip"


def test_a_composition_does_not_depend_on_the_words(pytestconfig):
    held_out = load_script(pytestconfig.rootpath / "benchmarks/scenes_held_out.py")
    scene = make_row("train", 3, 1, NOUNS)[0]
    first, second, *third = scene.objects
    turned = {"left": "right", "right": "left", "above": "below", "below": "above"}[scene.relation]
    same = replace(scene, objects=(second, first, *third), relation=turned, setting="room", wording=(1, 2, 3))
    assert held_out.composition(same) == held_out.composition(scene)
    for other in (replace(scene, relation=turned), replace(scene, objects=(second, first, *third))):
        assert held_out.composition(other) != held_out.composition(scene)

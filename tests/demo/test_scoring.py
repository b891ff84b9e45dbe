# SPDX-License-Identifier: Apache-2.0
"""Scores, against the model's own outputs in float64; who wins, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, BertTokenizer, CLIPModel

from hf_tripletclip.demo.inputs import DemoError
from hf_tripletclip.demo.scoring import (
    CaptionScore,
    Comparison,
    Composition,
    DemoModels,
    Trial,
    display_names,
    unknown_words,
)
from tests.checkpoints import BASE, small_processor, write_published
from tests.loopback_hub import run_python

CAPTIONS = ["a red cat above a blue dog", "a blue cat above a red dog", "a red cat"]


def naive_cosines(folder, picture: str, captions: list[str]) -> np.ndarray:
    model, processor = CLIPModel.from_pretrained(folder).double().eval(), AutoProcessor.from_pretrained(folder)
    pixels = processor(images=Image.open(picture).convert("RGB"), return_tensors="pt")["pixel_values"].double()
    with torch.no_grad():
        image = model.get_image_features(pixels).pooler_output[0].numpy()
        cosines = []
        for caption in captions:  # one at a time: no padding
            text = model.get_text_features(**processor(text=[caption], return_tensors="pt")).pooler_output[0].numpy()
            cosines.append(image @ text / np.linalg.norm(image) / np.linalg.norm(text))
    return np.array(cosines)


def test_compare_gives_the_models_cosines_and_softmax(models, folders, picture):
    answers = models.compare(picture, CAPTIONS)
    assert [answer.model for answer in answers] == ["first", "second"]
    for folder, answer in zip(folders, answers, strict=True):
        cosines = naive_cosines(folder, picture, CAPTIONS)
        scale = math.exp(CLIPModel.from_pretrained(folder).logit_scale.item())
        odds = np.exp(scale * (cosines - cosines.max()))
        assert answer.scale == pytest.approx(scale)
        assert [score.caption for score in answer.scores] == CAPTIONS
        assert [score.cosine for score in answer.scores] == pytest.approx(cosines, abs=1e-5)
        assert [score.probability for score in answer.scores] == pytest.approx(odds / odds.sum(), abs=1e-4)
        assert answer.best == int(cosines.argmax())
        assert answer.notes == ()


def test_compose_compares_with_each_negative(models, folders, picture):
    negatives = {CAPTIONS[1]: "swap_att", CAPTIONS[2]: None, CAPTIONS[0]: "replace_obj"}
    for folder, answer in zip(folders, models.compose(picture, CAPTIONS[0], negatives), strict=True):
        own, *others = naive_cosines(folder, picture, CAPTIONS)
        assert [(trial.negative, trial.kind) for trial in answer.trials] == list(negatives.items())[:2]
        assert [trial.difference for trial in answer.trials] == pytest.approx(
            [own - other for other in others], abs=1e-5
        )
        assert [trial.right for trial in answer.trials] == [own > other for other in others]


def test_captions_with_equal_tokens_tie_and_are_wrong(models, picture):
    for answer in models.compose(picture, "a red cat", {"a RED cat": None}):
        assert answer.trials[0].tie
        assert not answer.trials[0].right
        assert answer.right == 0
    for comparison in models.compare(picture, ["a red cat", "a RED cat"]):
        assert comparison.best is None


def test_strictly_greater_wins():
    trials = [Trial("n", None, 0.5, other) for other in (0.4, 0.5, 0.6)]
    assert [trial.right for trial in trials] == [True, False, False]
    assert [trial.tie for trial in trials] == [False, True, False]
    assert Composition("m", "c", trials).right == 1


@pytest.mark.parametrize(
    ("caption", "unknown"),
    [
        ("a red cat, above a blue dog!", ()),
        ("A RED cats", ("cats",)),
        ("a zebra and a 7 zebra", ("zebra",)),
        ("naïve 猫", ("naïve", "猫")),
        ("", ()),
    ],
)
def test_words_that_a_trained_tokenizer_only_spells_are_unknown(models, caption, unknown):
    found = unknown_words(models.encoders[0].processor.tokenizer, caption)
    assert tuple(word for word in found if word != "and") == unknown


def test_words_of_other_tokenizers(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ncat\n猫\n犬\n##犬\nd\n##o\n##g\n##s\n")
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))
    assert unknown_words(tokenizer, "a cats 猫犬 dog zebra") == ("dog", "zebra")


@pytest.mark.parametrize(("cosines", "best"), [([0.1, 0.3, 0.2], 1), ([0.3, 0.1, 0.3], None), ([0.3], None)])
def test_the_best_caption_is_strictly_better(cosines, best):
    scores = [CaptionScore("c", cosine, 0.0) for cosine in cosines]
    assert Comparison("m", 1.0, scores).best == best


def test_nothing_to_score(models, picture):
    with pytest.raises(DemoError, match="no captions"):
        models.compare(picture, [])
    with pytest.raises(DemoError, match="no hard negatives that differ"):
        models.compose(picture, "a cat", {"a cat": None})


def test_a_cut_caption_is_reported_with_the_part_that_is_not_seen(models, picture):
    long = " ".join(["a red cat"] * 4 + ["above"] * 8)
    first, _ = models.compare(picture, [long, "a red cat"])
    tokenizer = models.encoders[0].processor.tokenizer
    (note,) = first.notes
    assert "is cut after 16 tokens; first does not see “" in note
    unseen = note.partition("does not see “")[2].removesuffix("”.")
    assert long.endswith(unseen)
    seen = long.removesuffix(unseen)
    assert len(tokenizer(seen)["input_ids"]) == 16
    same, _ = models.compare(picture, [long, seen])
    assert same.scores[0].cosine == pytest.approx(same.scores[1].cosine, abs=1e-6)


def test_a_diverged_model_is_an_error(folders, picture):
    models = DemoModels.from_pretrained(folders[:1], device="cpu")
    torch.nn.init.constant_(models.encoders[0].model.text_projection.weight, torch.nan)
    with pytest.raises(ValueError, match="diverged"):
        models.compare(picture, ["a cat"])


@pytest.mark.slow
def test_the_published_layout_opens_from_the_hub_at_a_revision(hub, tmp_path, picture):
    write_published(tmp_path / "published")
    hub.add("model", "user/published", tmp_path / "published", revision="v2")
    small_processor().save_pretrained(tmp_path / "base")
    hub.add("model", BASE, tmp_path / "base")
    code = f"""
from hf_tripletclip.demo.scoring import DemoModels
models = DemoModels.from_pretrained(["user/published@v2"], device="cpu")
answer, = models.compare({picture!r}, ["a white cat", "a black dog"])
print(models.names, round(answer.scale, 3), round(sum(score.probability for score in answer.scores), 6))
"""
    assert run_python(code, hub, tmp_path / "home").stdout == "['user/published@v2'] 100.0 1.0\n"


@pytest.mark.parametrize("number", [0, 3])
def test_one_or_two_models(folders, number):
    with pytest.raises(ValueError, match="one, or two"):
        DemoModels.from_pretrained(folders[:1] * number)
    with pytest.raises(ValueError, match="one, or two"):
        DemoModels([object()] * number)


def test_names(tmp_path):
    for name in "a/model", "b/model", "a/other":
        (tmp_path / name).mkdir(parents=True)
    one, two, three = (str(tmp_path / name) for name in ("a/model", "b/model", "a/other"))
    assert display_names([one]) == ["model"]
    assert display_names([one, three]) == ["model", "other"]
    assert display_names([one, two]) == [one, two]
    assert display_names([one, one]) == [f"{one} (1)", f"{one} (2)"]
    assert display_names(["openai/clip-vit-base-patch32"]) == ["openai/clip-vit-base-patch32"]


def test_special_tokens_in_captions_are_text(models, picture):
    captions = ["<|endoftext|> cat", "<|endoftext|> dog"]
    for answer in models.compare(picture, captions):
        assert answer.best is not None  # no tie
    for answer in models.compose(picture, captions[0], {captions[1]: None}):
        (trial,) = answer.trials
        assert trial.caption_cosine != trial.negative_cosine

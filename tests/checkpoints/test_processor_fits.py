# SPDX-License-Identifier: Apache-2.0
"""`check_processor`: whether the text tower reads captions as the tokenizer writes them."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPModel, PreTrainedTokenizerFast

from hf_tripletclip import (
    AutoTripletModel,
    TripletCLIPModel,
    TripletCLIPTrainer,
    TripletCLIPTrainingArguments,
    load_processor,
    push_model,
)
from hf_tripletclip.checkpoints import convert
from hf_tripletclip.checkpoints.load import load_clip_like, text_features, tokenize
from hf_tripletclip.data import build_processor
from hf_tripletclip.data.tokenizer import end_token_id, misread
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.layouts.processor import check_processor, check_processor_beside
from tests.families import FAMILIES, IMAGE, PATCH, write_family
from tests.tiny import tiny_config

WORDS = ["a", "red", "cat", "above", "blue", "dog"]
CAPTIONS = ["a red cat", "a blue dog", "a dog above a cat"]


def own_processor(captions: list[str] | None = None, *added: str) -> Any:
    processor = build_processor(captions or CAPTIONS, image_size=16, model_max_length=16)
    if added:
        processor.tokenizer.add_tokens(list(added))
    return processor


def of_words(special: dict[str, int], end: str | None = "[END]", first: int = 10) -> Any:
    """The processor of a tokenizer that has a token per word, and special tokens of these ids."""
    vocabulary = special | {word: first + number for number, word in enumerate(WORDS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if end is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"[START] $A {end}", special_tokens=[("[START]", special["[START]"]), (end, special[end])]
        )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "bos_token": "[START]", "eos_token": "[END]"}
    return SimpleNamespace(
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=16, **names), image_processor=None
    )


def model_for(processor: Any, eos: Any, **text: Any) -> TripletCLIPModel:
    config = tiny_config()
    config.text_config.vocab_size = max(processor.tokenizer.get_vocab().values()) + 1
    for name, value in {"eos_token_id": eos, **text}.items():
        setattr(config.text_config, name, value)
    torch.manual_seed(0)
    return TripletCLIPModel(config).eval()


@torch.no_grad()
def embeddings(model: Any, processor: Any, captions: list[str]) -> torch.Tensor:
    return text_features(model, **tokenize(model, processor, captions))


def at_the_end(model: Any, processor: Any, caption: str) -> torch.Tensor:
    """The embedding at a caption's last token, of the model's layers."""
    ids = torch.tensor([processor.tokenizer(caption, split_special_tokens=True)["input_ids"]])
    with torch.no_grad():
        return model.text_projection(model.text_model(ids).last_hidden_state[:, -1])


SPECIAL = {"[PAD]": 0, "[START]": 1, "[UNK]": 2, "[END]": 3}


@pytest.mark.parametrize(
    ("processor", "eos"),
    [
        (own_processor(), None),  # `None` here: the tokenizer's own
        (own_processor(None, "<new>"), None),
        (own_processor(), 2),
        (of_words({**SPECIAL, "[END]": 30}), 2),
        (of_words(SPECIAL), None),
        (of_words({**SPECIAL, "[PAD]": 40}), None),
    ],
    ids=["own", "added", "legacy", "legacy of words", "end is not the highest", "padding is the highest"],
)
def test_what_fits_stays_as_it_is(processor, eos):
    end = end_token_id(processor.tokenizer)
    model = model_for(processor, end if eos is None else eos)
    assert check_processor(model, processor) == end
    assert model.text_model.eos_token_id == model.config.text_config.eos_token_id == (end if eos is None else eos)
    for caption, embedding in zip(CAPTIONS, embeddings(model, processor, CAPTIONS), strict=True):
        torch.testing.assert_close(embedding[None], at_the_end(model, processor, caption))


@pytest.mark.parametrize(
    ("processor", "eos"),
    [
        (own_processor(None, "<new>", "sks"), 2),
        (own_processor(), [5, 6]),
        (own_processor(), 49407),
        (of_words(SPECIAL), None),
        (of_words(SPECIAL), -1),
    ],
    ids=["legacy with added tokens", "a list", "no id of the vocabulary", "none", "negative"],
)
def test_a_tower_that_can_be_told_is_told(processor, eos, tmp_path, caplog):
    model, end = model_for(processor, 3), end_token_id(processor.tokenizer)
    model.text_model.eos_token_id = model.config.text_config.eos_token_id = eos
    assert check_processor(model, processor) == end
    assert "is saved so" in caplog.text
    captions = [*CAPTIONS, "a <new> dog"]
    found = embeddings(model, processor, captions)
    for caption, embedding in zip(captions, found, strict=True):
        torch.testing.assert_close(embedding[None], at_the_end(model, processor, caption))
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(embeddings(CLIPModel.from_pretrained(tmp_path), processor, captions), found)
    caplog.clear()
    check_processor(model, processor)
    assert not caplog.text


@pytest.mark.parametrize(
    ("processor", "eos", "message"),
    [
        (of_words({"[PAD]": 0, "[START]": 1, "[END]": 2, "[UNK]": 3}), 2, "token of id 2, at which .* cannot pool"),
        (of_words({"[PAD]": 0, "[START]": 1, "[END]": 2, "[UNK]": 3}), 5, "token of id 2, at which .* cannot pool"),
        (of_words(SPECIAL), 2, r"token of id 3 \('\[END\]'\), and the model pools at the highest id"),
        (of_words(SPECIAL), 12, "the model pools at the token of id 12: the tokenizer is that of another model"),
        (of_words(SPECIAL, end=None), 3, "does not end captions with a token of its own"),
        (of_words(SPECIAL, end="[START]"), 1, "does not end captions with a token of its own"),
        (own_processor(), 5, "the model pools at the token of id 5"),
    ],
)
def test_what_does_not_fit_is_refused(processor, eos, message):
    model = model_for(processor, eos)
    with pytest.raises(ValueError, match=message):
        check_processor(model, processor)
    with pytest.raises(ValueError, match=message):
        Encoder(model, processor)


def test_ids_without_an_embedding_are_refused():
    processor = own_processor()
    model = model_for(processor, 3, vocab_size=len(processor.tokenizer) - 1)
    with pytest.raises(ValueError, match=f"ids up to {len(processor.tokenizer) - 1} and the model embeds"):
        check_processor(model, processor)


@pytest.fixture
def saved(tmp_path):
    """A model beside its tokenizer, and the processor of another of the same size."""
    first = own_processor(["a red cat above a blue dog"])
    second = own_processor(["a big fox below a grey hen"])
    assert len(first.tokenizer) == len(second.tokenizer)
    model_for(first, first.tokenizer.eos_token_id).save_pretrained(tmp_path / "model")
    first.save_pretrained(tmp_path / "model")
    second.save_pretrained(tmp_path / "other")
    return SimpleNamespace(model=tmp_path / "model", other=tmp_path / "other", processor=second)


def train(model: Any, processor: Any, folder: Any, **options: Any) -> TripletCLIPTrainer:
    arguments = {"max_steps": 2, "report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    args = TripletCLIPTrainingArguments(str(folder), per_device_train_batch_size=2, **arguments)
    return TripletCLIPTrainer(model, args, processing_class=processor, **options)


def test_another_models_tokenizer_is_refused_wherever_they_meet(saved, tmp_path):
    message = f"is not that of {re.escape(str(saved.model))}: the token of id"
    for meet in (check_processor, Encoder, lambda model, processor: train(model, processor, tmp_path / "run")):
        with pytest.raises(ValueError, match=message):
            meet(TripletCLIPModel.from_pretrained(saved.model), saved.processor)
    with pytest.raises(ValueError, match=message):
        convert(saved.model, tmp_path / "converted", processor=saved.other)
    with pytest.raises(ValueError, match=message):
        push_model(TripletCLIPModel.from_pretrained(saved.model), "user/name", processor=saved.processor)
    saved.processor.save_pretrained(saved.model)  # now it is its own, as far as anyone can tell
    assert load_clip_like(saved.model)[0].text_model.eos_token_id == end_token_id(saved.processor.tokenizer)


@pytest.mark.parametrize(
    ("eos", "message"),
    [
        (5, "pools at the token of id 5: the tokenizer is that of another model"),
        (4000, r"has `eos_token_id` 4000, and the tokenizer beside it ends captions with \d+: write both anew with"),
    ],
)
def test_a_folder_whose_parts_do_not_fit_is_not_pushed(saved, eos, message):
    check_processor_beside(saved.model)
    path = saved.model / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["eos_token_id"] = eos
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        push_model(saved.model, "user/name")


def test_the_vocabulary_that_lies_beside_a_model(saved):
    model = TripletCLIPModel.from_pretrained(saved.model)
    own = Tokenizer.from_file(str(saved.model / "tokenizer.json")).get_vocab()
    end = saved.processor.tokenizer.eos_token_id
    (saved.model / "tokenizer.json").unlink()
    assert check_processor(model, saved.processor) == end  # nothing is beside it
    (saved.model / "vocab.json").write_text(json.dumps(own))
    with pytest.raises(ValueError, match="is not that of"):
        check_processor(model, saved.processor)
    saved.processor.tokenizer.name_or_path = str(saved.model)
    assert check_processor(model, saved.processor) == end
    saved.processor.tokenizer.name_or_path = "elsewhere"
    (saved.model / "vocab.json").write_text("[")
    assert check_processor(model, saved.processor) == end
    for name in ("nobody/uncached", "no id/of/a/repository", ""):
        model.name_or_path = name
        assert check_processor(model, saved.processor) == end


def test_more_tokens_than_the_models_own_are_no_other_tokenizer(saved):
    model, processor = load_clip_like(saved.model)
    processor.tokenizer.add_tokens(["<new>"])
    processor.tokenizer.name_or_path = "elsewhere"
    model.resize_token_embeddings(len(processor.tokenizer))
    assert check_processor(model, processor) == processor.tokenizer.eos_token_id


def test_a_saved_model_embeds_as_the_trained_one(tmp_path):
    processor = own_processor(None, "<new>")
    rows = [{"image": torch.zeros(16, 16, 3).numpy().astype("uint8"), "caption": c, "neg_caption": "a <new> cat"}
            for c in CAPTIONS]  # fmt: skip
    model = model_for(processor, 2)
    model.set_objective("negclip")
    trainer = train(model, processor, tmp_path, train_dataset=rows)
    trainer.train()
    trainer.save_model()
    trained = embeddings(model, processor, ["a <new> dog"])
    again, its_processor = load_clip_like(tmp_path)
    torch.testing.assert_close(embeddings(again, its_processor, ["a <new> dog"]), trained)
    torch.testing.assert_close(trained, at_the_end(model, processor, "a <new> dog"))


def test_rows_of_tensors_need_the_end_token_too(tmp_path):
    processor = own_processor()
    end = processor.tokenizer.eos_token_id
    row = {"pixel_values": torch.zeros(3, 16, 16), "input_ids": torch.tensor([5, 6, end])}
    model = model_for(processor, end)
    model.set_objective("clip")
    trainer = train(model, None, tmp_path, train_dataset=[row, row])
    batch = {**row, "negative_input_ids": torch.tensor([5, 6, 7])}
    assert trainer.data_collator([row, row])["input_ids"].shape == (2, 3)
    with pytest.raises(ValueError, match=rf"In 1 of the 2 rows .*`negative_input_ids` has no .* token \({end}\)"):
        trainer.data_collator([batch, {**batch, "negative_input_ids": torch.tensor([end, 6, 7])}])


@pytest.mark.parametrize(
    "text", ["<|endoftext|>", "<|startoftext|> a", "a<|endoftext|>", "<|endoftext|><|endoftext|>"]
)
def test_special_tokens_in_captions_are_text(text):
    processor = own_processor([*CAPTIONS, "<|endoftext|> <|startoftext|>"])  # a token for each, so that none is cut
    model = model_for(processor, processor.tokenizer.eos_token_id)
    one, other, without = embeddings(model, processor, [f"a dog {text} a cat", f"a dog {text} a dog", "a dog"])
    assert not torch.allclose(one, other)
    assert not torch.allclose(one, without)
    encoder = Encoder(model, processor, progress=False)
    assert not torch.allclose(*encoder.texts([f"a dog {text} a cat", f"a dog {text} a dog"]))


def test_captions_that_are_not_read_to_their_end_are_reported(caplog):
    processor = of_words(SPECIAL)
    processor.tokenizer.unk_token = "[END]"  # as CLIP has it
    processor.tokenizer.backend_tokenizer.model.unk_token = "[END]"
    model = model_for(processor, 3)
    assert check_processor(model, processor) == 3
    embeddings(model, processor, ["a red cat", "a red zebra above a dog"])
    assert "1 captions are not embedded whole, such as 'a red zebra above a dog'" in caplog.text
    assert misread([1, 5, 3], 3) is None
    assert misread([1, 5, 6], 3) == "caption without an end-of-text token: its embedding is not that of the caption"
    assert misread([1, 3, 6, 3], 3) == "caption read in part: an end-of-text token is the 2th of its 4 tokens"


OTHERS = {  # architecture: the families whose tokenizers are certainly not its own
    "siglip": {"clip": "begins captions", "metaclip_2": "begins captions", "chinese_clip": "begins captions"},
    "chinese_clip": {"clip": "pads with the id", "altclip": "pads with the id 1", "siglip": "with their first word"},
    "altclip": {"clip": "pads with the id", "dual_encoder": "pads with the id 0", "siglip": "with their first word"},
    "dual_encoder": {"clip": "pads with the id", "metaclip_2": "pads with the id 1"},
    "metaclip_2": {"clip": "pools at the token of id 2", "siglip": "does not end captions"},
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_tokenizer_of_another_family_is_refused_if_its_ids_fit(name, tmp_path):
    model = AutoTripletModel.from_pretrained(write_family(name, tmp_path / name))
    check_processor(model, load_processor(tmp_path / name))
    model.resize_token_embeddings(1_000)
    model.name_or_path = ""  # as without a tokenizer beside it
    for other, message in OTHERS[name].items():
        processor = load_processor(write_family(other, tmp_path / other))
        with pytest.raises(ValueError, match=rf"{message}.*Use the processor that belongs to"):
            check_processor(model, processor)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "dual_encoder"])
@pytest.mark.parametrize("side", [IMAGE + PATCH, IMAGE + 1, PATCH])
def test_images_of_another_size_are_refused(name, side, tmp_path):
    """A SigLIP takes 17 pixels for 16 without a word, and its positions for those of other patches."""
    model, processor = load_clip_like(write_family(name, tmp_path))
    square = {"height": side, "width": side}
    images = processor.image_processor
    images.size = {"shortest_edge": side} if "shortest_edge" in images.size else square
    if getattr(images, "crop_size", None):
        images.crop_size = square
    message = f"it makes pictures of {side} x {side} pixels, and the image tower takes {IMAGE} x {IMAGE}"
    with pytest.raises(ValueError, match=message):
        check_processor(model, processor)


def test_images_that_fit(tmp_path):
    model, processor = load_clip_like(write_family("dual_encoder", tmp_path / "dinov2"))
    processor.image_processor.crop_size = {"height": 24, "width": 24}
    check_processor(model, processor)  # a DINOv2 takes any size
    model, processor = load_clip_like(write_family("siglip", tmp_path / "siglip"))
    processor.image_processor.do_resize = False  # the pictures have the size already
    check_processor(model, processor)
    processor.image_processor.image_mean = [0.5]
    with pytest.raises(ValueError, match=r"is not that of .*: it fails on a picture, mean must have 3 elements"):
        check_processor(model, processor)

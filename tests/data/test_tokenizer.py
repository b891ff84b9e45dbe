# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys

import pytest
from transformers import AutoTokenizer, CLIPTokenizer

from hf_tripletclip.data import build_processor, train_tokenizer

CAPTIONS = ["a red cat above a blue dog", "a pair of striped orange scissors in the snow"] * 5


def test_words_of_the_captions_are_tokens_and_any_text_can_be_encoded():
    tokenizer = train_tokenizer(CAPTIONS)
    assert tokenizer.tokenize("A red  CAT above") == ["a</w>", "red</w>", "cat</w>", "above</w>"]
    ids = tokenizer("zebra, Ünïcode 42 🦓!")["input_ids"]
    assert tokenizer.unk_token_id not in ids[1:-1]
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "zebra,ünïcode42🦓!"
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id == max(tokenizer.get_vocab().values())


def test_training_is_deterministic_and_bounded():
    first, second = train_tokenizer(CAPTIONS), train_tokenizer(iter(CAPTIONS))
    assert first.get_vocab() == second.get_vocab()
    assert len(train_tokenizer(CAPTIONS, vocab_size=520)) <= 520
    with pytest.raises(ValueError, match="514"):
        train_tokenizer(CAPTIONS, vocab_size=300)


@pytest.mark.parametrize("opener", [AutoTokenizer, CLIPTokenizer])
def test_saved_and_opened_it_is_the_same(tmp_path, opener):
    tokenizer = train_tokenizer(CAPTIONS, model_max_length=12)
    tokenizer.save_pretrained(tmp_path)
    again = opener.from_pretrained(tmp_path)
    assert isinstance(again, CLIPTokenizer)
    for text in (*CAPTIONS, "something else"):
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.model_max_length == 12


def test_a_saved_processor_opens_without_a_word(tmp_path):
    build_processor(CAPTIONS, image_size=32).save_pretrained(tmp_path)
    code = f"""
from PIL import Image
from transformers import AutoProcessor, CLIPProcessor
for opener in (AutoProcessor, CLIPProcessor):
    processor = opener.from_pretrained({str(tmp_path)!r})
    inputs = processor(text=["a red cat"], images=Image.new("RGB", (40, 50)), return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 32, 32)
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stderr == ""

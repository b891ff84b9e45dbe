# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
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
def test_a_saved_tokenizer_loads_unchanged(tmp_path, opener):
    tokenizer = train_tokenizer(CAPTIONS, model_max_length=12)
    tokenizer.save_pretrained(tmp_path)
    again = opener.from_pretrained(tmp_path)
    assert isinstance(again, CLIPTokenizer)
    for text in (*CAPTIONS, "something else"):
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.model_max_length == 12


def test_a_saved_processor_loads_without_warnings(tmp_path):
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


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return train_tokenizer(CAPTIONS)


def test_special_tokens_are_those_of_clip(tokenizer):
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|startoftext|>",
        "<|endoftext|>",
        "<|endoftext|>",
    )
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(tokenizer)))
    assert tokenizer.bos_token_id == len(tokenizer) - 2
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == len(tokenizer) - 1
    assert tokenizer("")["input_ids"] == [tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert tokenizer.model_max_length == 77


@pytest.mark.parametrize("text", CAPTIONS[:2])
def test_captions_survive_the_round_trip(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.split()) + 2  # a token per word
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.decode(ids) == f"<|startoftext|>{text} <|endoftext|>"


def test_every_character_can_be_encoded(tokenizer):
    planes = [*range(0x20, 0x3000, 7), *range(0x4E00, 0xD800, 501), *range(0xE000, 0x10FFFF, 4999)]
    normalize = tokenizer.backend_tokenizer.normalizer.normalize_str
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    for code in planes:
        ids = tokenizer(f"x{chr(code)}y")["input_ids"]
        assert not special & set(ids[1:-1]), hex(code)
        shown = tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "")
        expected = normalize(f"x{chr(code)}y")  # NFC and lower case, by its version of Unicode
        assert shown == "".join(expected.split()), hex(code)


def test_words_never_seen_take_more_tokens_and_unseen_order_does_not_matter(tokenizer):
    assert len(tokenizer.tokenize("zebra")) > 1
    assert train_tokenizer(CAPTIONS[::-1]).get_vocab() == tokenizer.get_vocab()


def test_a_tokenizer_can_be_trained_without_captions():
    tokenizer = train_tokenizer([])
    assert len(tokenizer) == 514
    assert tokenizer.decode(tokenizer("a cat")["input_ids"], skip_special_tokens=True).replace(" ", "") == "acat"


def test_the_smallest_vocabulary():
    assert len(train_tokenizer(CAPTIONS, vocab_size=514)) == 514
    with pytest.raises(ValueError, match="`vocab_size` is 513; bytes and special tokens alone take 514"):
        train_tokenizer(CAPTIONS, vocab_size=513)


# Every word once, so that nearly all merges are of equal frequency.
TIES = [f"{a}{b}{c} {c}{a}{b}lo" for a, b, c in itertools.product(("ka", "ri", "mo", "zu"), repeat=3)]


def digest(tokenizer: CLIPTokenizer) -> str:
    ids = json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer(TIES)["input_ids"]])
    return hashlib.sha256(ids.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("vocab_size", "expected"), [(520, "c4be39fc2c721ca4"), (600, "a3591e0cf9ef6af5"), (4096, "c74366a2bc5f7d78")]
)
def test_merges_of_equal_frequency_are_the_same_every_time(vocab_size, expected):
    shuffled = random.Random(0).sample(TIES, len(TIES))
    for captions in (TIES, TIES[::-1], shuffled):  # the digest is that of other processes and machines too
        assert digest(train_tokenizer(captions, vocab_size=vocab_size)) == expected


def test_frequent_pairs_come_first_and_ties_go_by_the_alphabet():
    words = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3 + ["aaaa"]
    vocabulary = train_tokenizer([" ".join(words)]).get_vocab()
    learned = sorted(vocabulary, key=vocabulary.__getitem__)[512:-2]
    assert learned == ["es", "est</w>", "lo", "ew", "ewest</w>", "newest</w>", "low</w>", "dest</w>", "idest</w>",
                       "widest</w>", "aa", "er</w>", "low", "lower</w>", "aa</w>", "aaaa</w>"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["0", "12345"])
def test_the_same_in_another_process(seed):
    code = (
        "import json; from hf_tripletclip.data import train_tokenizer; "
        f"print(json.dumps(train_tokenizer({TIES!r}).get_vocab()))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": seed, "TOKENIZERS_PARALLELISM": str(seed == "0").lower()}
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(printed.stdout) == train_tokenizer(TIES).get_vocab()


@pytest.mark.parametrize(
    ("rest", "learned"), [(["bz"], ["ab", "abz</w>", "aby</w>", "bz</w>"]), ([], ["ab", "abz</w>", "aby</w>"])]
)
def test_a_pair_that_other_merges_reduce_is_learned_if_it_still_occurs(rest, learned):
    words = ["aby"] * 5 + ["abz"] * 6 + rest  # "bz" stands in "abz" until "ab" is one token
    vocabulary = train_tokenizer([" ".join(words)]).get_vocab()
    assert sorted(vocabulary, key=vocabulary.__getitem__)[512:-2] == learned

# SPDX-License-Identifier: Apache-2.0
"""A CLIP tokenizer and processor made offline, for data whose captions use few words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPProcessor, CLIPTokenizer
from transformers.models.clip.image_processing_clip import CLIPImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import is_torchvision_available

START, END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(captions: Iterable[str], *, model_max_length: int = 77, vocab_size: int = 4096) -> CLIPTokenizer:
    """
    Train a byte-pair tokenizer of CLIP's kind on captions: the same normalisation, splitting into words, end-of-word
    suffix and special tokens, so it is an ordinary `CLIPTokenizer`.

    Args:
        captions (`Iterable[str]`): The captions.
        model_max_length (`int`, defaults to 77): Tokens per caption, with the two special ones.
        vocab_size (`int`, defaults to 4096): Upper bound of the vocabulary, which holds the 256 bytes as letters and
            as ends of words, so any text can be encoded.

    Returns:
        [`~transformers.CLIPTokenizer`], the same for the same captions.

    Raises:
        ValueError: `vocab_size` has no room for the bytes.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    base = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    if vocab_size < len(base) + 2:
        raise ValueError(f"`vocab_size` is {vocab_size}; bytes and special tokens alone take {len(base) + 2}.")
    template = CLIPTokenizer()
    trained = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    trained.normalizer = template.backend_tokenizer.normalizer
    trained.pre_tokenizer = template.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(base),
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
        special_tokens=[],
    )
    trained.train_from_iterator(captions, trainer)
    learned = trained.get_vocab()
    vocabulary: dict[str, int] = {}
    # As in CLIP's own vocabulary: letters, letters that end a word, merges, and the special tokens last.
    for token in [*base, *sorted(learned, key=learned.__getitem__), START, END]:
        vocabulary.setdefault(token, len(vocabulary))
    merges: Any = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=model_max_length)


def default_image_processor() -> type[Any]:
    """CLIP's image processor; the PIL one, without a warning, where torchvision is not installed."""
    return CLIPImageProcessor if is_torchvision_available() else CLIPImageProcessorPil


def build_processor(captions: Iterable[str], *, image_size: int, model_max_length: int = 77) -> CLIPProcessor:
    """
    A CLIP processor whose tokenizer is trained on these captions.

    Args:
        captions (`Iterable[str]`): The captions.
        image_size (`int`): Side of the square images, in pixels.
        model_max_length (`int`, defaults to 77): Tokens per caption.

    Returns:
        [`~transformers.CLIPProcessor`], with the PIL image processor where torchvision is not installed.
    """
    return CLIPProcessor(
        image_processor=default_image_processor()(
            size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
        ),
        tokenizer=train_tokenizer(captions, model_max_length=model_max_length),
    )

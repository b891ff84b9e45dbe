# SPDX-License-Identifier: Apache-2.0
"""A T5 of a few hundred numbers that has learned nothing, with its tokenizer, in a folder of this process."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

COLOURS = ("red", "blue", "green", "black", "white", "orange", "pink", "brown")
WORDS = ("a", "one", "the", "cat", "dog", *COLOURS, "on", "left", "of")
WIDTH = 6  # of what it reads


@functools.lru_cache(maxsize=1)
def tiny_decoder() -> str:
    """The folder; its weights are the same in every process."""
    folder = tempfile.mkdtemp(prefix="tiny-decoder-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        sizes = {"d_model": WIDTH, "d_kv": 3, "d_ff": 8, "num_layers": 1, "num_heads": 2}
        decoder = T5ForConditionalGeneration(
            T5Config(vocab_size=len(vocabulary), decoder_start_token_id=0, dropout_rate=0.3, **sizes)
        )
        with torch.no_grad():
            decoder.lm_head.weight.normal_()
            for parameter in decoder.decoder.parameters():
                parameter.normal_()
    decoder.save_pretrained(folder)
    return folder

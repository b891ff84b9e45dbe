# SPDX-License-Identifier: Apache-2.0
"""Causal language models of a few thousand parameters with a tokenizer and a chat template, for tests."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.generation.captions.prompts import build_messages

PAD, BOS, EOS, UNK, USER, ASSISTANT = SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<user>", "<assistant>"]
WORDS = ["a", "A", "red", "blue", "green", "dog", "cat", "ball", "sits", "runs", "lies", "on", "under", "the"]
WORDS += ["grass", "table", "bench", "sky"]

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<' + message['role'] + '>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def tiny_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """Words of the prompts and of `WORDS`, each a token."""
    text = " ".join(message["content"] for kind in (None, *NEGATIVE_TYPES) for message in build_messages("", kind))
    splitter = pre_tokenizers.Whitespace()
    words = [word for word, _ in splitter.pre_tokenize_str(text)]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*SPECIAL, *WORDS, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)  # joins with spaces
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=[USER, ASSISTANT],
    )
    fast.chat_template = template
    return fast


def save_random_lm(folder: Path, **config: int) -> str:
    """A model of random weights, whose answers are words in no order."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    _model(len(tokenizer), 32, **config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_chain_lm(folder: Path, chains: dict[str, float], template: str | None = TEMPLATE, context: int = 2048) -> str:
    """
    A model that answers one of these sentences, by weight, whatever it is asked: its next token depends on the last
    token alone, of which it has seen only these sentences.
    """
    tokenizer = tiny_tokenizer(template)
    size = len(tokenizer)
    counts = torch.full((size, size), 1e-9)
    for sentence, weight in chains.items():
        ids = tokenizer(f"{ASSISTANT}{sentence}{EOS}", add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        for last, following in itertools.pairwise(ids):
            counts[last, following] += weight
    model = _model(size, size, max_position_embeddings=context)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()  # a layer adds nothing, so a token's state is its embedding
        model.get_input_embeddings().weight.copy_(torch.eye(size))
        logits = (counts / counts.sum(1, keepdim=True)).log()
        model.lm_head.weight.copy_(logits.T / size**0.5)  # the final norm makes 1 of one word sqrt(size)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _model(vocabulary: int, hidden: int, max_position_embeddings: int = 2048) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        head_dim=16,
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()

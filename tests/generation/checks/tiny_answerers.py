# SPDX-License-Identifier: Apache-2.0
"""A language model that writes questions and models that answer them: real ones, tiny, of random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    ViltConfig,
    ViltForQuestionAnswering,
    ViltProcessor,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

TEMPLATE = (
    "{% for turn in messages %}<{{ turn['role'] }}> {{ turn['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PICTURE_TEMPLATE = (
    "{% for turn in messages %}<{{ turn['role'] }}> {% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<user>", "<assistant>", "<image>"]
WORDS = [
    *("?", ".", "a", "the", "is", "are", "there", "on", "two", "black", "white", "red"),
    *("dog", "cat", "cats", "bird", "mat", "yes", "no", "picture", "answer"),
]
QUESTIONS = [
    f"{verb} {thing}? {answer}\n"
    for verb, things in {"Is there": ["a dog", "a cat", "a bird", "a mat"], "Are there": ["dogs", "two cats"]}.items()
    for thing in things
    for answer in ("yes", "no")
] + ["Is the dog black? no\n", "Is the cat white? yes\n", "What is it? dog\n", "Can you see a mat?\n"]
QUESTIONS += [
    f"Is the {colour} bird {state}? yes\n"
    for colour in ("black", "white", "red")
    for state in ("small", "large", "flying", "sitting", "alone")
]


def _tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """One token per word, and one per line of `words`, with a space before it where it is decoded."""
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*SPECIAL, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>", "<image>"],
    )


def save_writer(folder: Path, *, template: bool = True, context: int = 1024) -> str:
    """A language model most of whose tokens are lines with a question, so that it writes some whatever it is asked."""
    tokenizer = _tokenizer([*WORDS, *QUESTIONS])
    if template:
        tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=context,
            initializer_range=0.5,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    model.generation_config.do_sample = True  # as many chat models say, with values of their own
    model.generation_config.temperature = 0.6
    model.generation_config.top_p = 0.5
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _bert_tokenizer(folder: Path) -> BertTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *WORDS]
    vocabulary = {word: number for number, word in enumerate(words)}
    return BertTokenizer(vocab=vocabulary, model_max_length=20, additional_special_tokens=["[DEC]"])


def save_vilt(folder: Path, labels: tuple[str, ...] = ("yes", "no", "2")) -> str:
    tokenizer = _bert_tokenizer(folder)
    config = ViltConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=16,
        max_position_embeddings=20,
        initializer_range=1.0,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    torch.manual_seed(0)
    ViltForQuestionAnswering(config).save_pretrained(folder)
    ViltProcessor(ViltImageProcessorPil(size={"shortest_edge": 32}, size_divisor=16), tokenizer).save_pretrained(
        folder
    )
    return str(folder)


def save_blip(folder: Path) -> str:
    tokenizer = _bert_tokenizer(folder)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = tokenizer.convert_tokens_to_ids
    text = {
        **tower,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 40,
        "encoder_hidden_size": 32,
        "bos_token_id": ids("[DEC]"),
        "sep_token_id": ids("[SEP]"),
        "eos_token_id": ids("[SEP]"),
        "pad_token_id": ids("[PAD]"),
        "initializer_range": 1.0,
        "is_decoder": True,
    }
    config = BlipConfig(text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 16})
    torch.manual_seed(0)
    BlipForQuestionAnswering(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return str(folder)


def save_llava(folder: Path, *, template: bool = True) -> str:
    """A vision-language chat model."""
    tokenizer = _tokenizer(WORDS)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**tower, image_size=32, patch_size=16),
        text_config=LlamaConfig(
            **tower, vocab_size=len(tokenizer), initializer_range=0.5, pad_token_id=0, bos_token_id=1, eos_token_id=2
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=PICTURE_TEMPLATE if template else None,
    ).save_pretrained(folder)
    return str(folder)

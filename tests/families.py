# SPDX-License-Identifier: Apache-2.0
"""A tiny model of each architecture that can be trained, of transformers' own class, with a processor of its kind."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    AltCLIPProcessor,
    BertConfig,
    BertModel,
    BertTokenizer,
    BitImageProcessorPil,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    ChineseCLIPProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    Dinov2Config,
    Dinov2Model,
    MetaClip2Config,
    MetaClip2Model,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
    SiglipTokenizer,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
    XLMRobertaTokenizer,
)
from transformers.models.chinese_clip.image_processing_pil_chinese_clip import ChineseCLIPImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from hf_tripletclip.data.tokenizer import train_tokenizer

CAPTIONS = (
    "a black dog chasing a white cat",
    "a white dog chasing a black cat",
    "two red cups on a small table",
    "a photo of a striped umbrella left of a green car",
)
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGE, PATCH, LENGTH = 16, 8, 24
SQUARE = {"height": IMAGE, "width": IMAGE}


def words_of(captions: Sequence[str]) -> list[str]:
    return sorted({word for caption in captions for word in caption.lower().replace(".", " .").split()})


def _bert(captions: Sequence[str]) -> BertTokenizer:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: number for number, word in enumerate([*special, *words_of(captions)])}
    return BertTokenizer(vocab=vocabulary, model_max_length=LENGTH)


def _xlm_roberta(captions: Sequence[str], model_max_length: int = LENGTH) -> XLMRobertaTokenizer:
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [(word, -1.0) for word in [*special, *(f"▁{word}" for word in words_of(captions)), "<mask>"]]
    return XLMRobertaTokenizer(vocab=pieces, model_max_length=model_max_length)


def _sentencepiece(captions: Sequence[str], folder: Path) -> SiglipTokenizer:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions), model_writer=model, vocab_size=60, hard_vocab_limit=False,
        pad_id=-1, bos_id=-1, eos_id=1, unk_id=0, minloglevel=2,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(model.getvalue())
    return SiglipTokenizer(str(folder / "spiece.model"), model_max_length=LENGTH)


def clip_images() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": IMAGE}, crop_size=SQUARE)


def clip(captions: Sequence[str], folder: Path) -> tuple[Any, Any]:
    tokenizer = train_tokenizer(captions, model_max_length=LENGTH)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    text = {**TOWER, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH, "projection_dim": 24}
    vision = {**TOWER, "image_size": IMAGE, "patch_size": PATCH, "projection_dim": 24}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    return CLIPModel(config), CLIPProcessor(clip_images(), tokenizer)


def siglip(captions: Sequence[str], folder: Path) -> tuple[Any, Any]:
    tokenizer = _sentencepiece(captions, folder)
    text = {**TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH, "projection_size": 32}
    text |= {"pad_token_id": 1, "bos_token_id": None, "eos_token_id": 1}
    vision = {**TOWER, "image_size": IMAGE, "patch_size": PATCH}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    with torch.no_grad():  # about those of the published checkpoints
        model.logit_scale.fill_(4.75)
        model.logit_bias.fill_(-12.9)
    return model, SiglipProcessor(SiglipImageProcessorPil(size=SQUARE), tokenizer)


def metaclip_2(captions: Sequence[str], folder: Path) -> tuple[Any, Any]:
    tokenizer = _xlm_roberta(captions)
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    text = {**TOWER, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH, "projection_dim": 24}
    vision = {**TOWER, "image_size": IMAGE, "patch_size": PATCH, "projection_dim": 24}
    config = MetaClip2Config(text_config=text, vision_config=vision, projection_dim=24)
    return MetaClip2Model(config), CLIPProcessor(clip_images(), tokenizer)


def chinese_clip(captions: Sequence[str], folder: Path) -> tuple[Any, Any]:
    tokenizer = _bert(captions)
    text = {**TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH, "pad_token_id": 0}
    text |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    vision = {**TOWER, "image_size": IMAGE, "patch_size": PATCH}
    config = ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    images = ChineseCLIPImageProcessorPil(size=SQUARE, crop_size=SQUARE)
    return ChineseCLIPModel(config), ChineseCLIPProcessor(images, tokenizer)


def altclip(captions: Sequence[str], folder: Path) -> tuple[Any, Any]:
    tokenizer = _xlm_roberta(captions)
    text = {**TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH + 2, "project_dim": 20}
    text |= {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    text |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    vision = {**TOWER, "image_size": IMAGE, "patch_size": PATCH, "projection_dim": 24}
    config = AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    return AltCLIPModel(config), AltCLIPProcessor(clip_images(), tokenizer)


def dual_encoder(captions: Sequence[str], folder: Path) -> tuple[Any, Any]:
    """DINOv2 with BERT."""
    tokenizer = _bert(captions)
    text = {**TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH}
    text |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": IMAGE, "patch_size": PATCH, "mlp_ratio": 2}
    model = VisionTextDualEncoderModel(
        vision_model=Dinov2Model(Dinov2Config(**vision)), text_model=BertModel(BertConfig(**text))
    )
    images = BitImageProcessorPil(size={"shortest_edge": IMAGE}, crop_size=SQUARE)
    return model, VisionTextDualEncoderProcessor(images, tokenizer)


FAMILIES: dict[str, Callable[[Sequence[str], Path], tuple[Any, Any]]] = {
    one.__name__: one for one in (clip, siglip, metaclip_2, chinese_clip, altclip, dual_encoder)
}


def write_family(name: str, folder: Path, captions: Sequence[str] = CAPTIONS, seed: int = 0) -> Path:
    """A directory as `save_pretrained` of transformers writes it, with a processor; returns the directory."""
    torch.manual_seed(seed)
    model, processor = FAMILIES[name](captions, folder / "tokenizer")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder

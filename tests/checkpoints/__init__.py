# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the published layout, written small."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from hf_tripletclip.data.tokenizer import build_processor
from tests.loopback_hub import HubError, LoopbackHub

BASE = "openai/clip-vit-base-patch32"
FOLDERS = ("text-encoder", "vision-encoder")
FOUR_FILES = {f"{folder}/{name}" for folder in FOLDERS for name in ("config.json", "model.safetensors")}
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@contextmanager
def failing(hub: LoopbackHub, path: str) -> Iterator[None]:
    """Let the Hub answer one path with an error, 403 because the client retries a 500 for half a minute."""
    handler = hub.server.RequestHandlerClass
    route = handler.route

    def fail(self: Any, asked: str, *args: Any) -> Any:
        if asked == path:
            raise HubError(403)
        return route(self, asked, *args)

    handler.route = fail
    try:
        yield
    finally:
        handler.route = route


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Rewrite the text encoder's file after `change(tensors)`."""
    path = folder / "text-encoder" / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@cache
def small_processor() -> CLIPProcessor:
    return build_processor(["a black dog", "a white cat"], image_size=16, model_max_length=32)


def small_fields() -> tuple[dict[str, Any], dict[str, Any]]:
    """The sizes of both encoders, for `write_published`."""
    tokenizer = small_processor().tokenizer
    text = {
        **SMALL,
        "projection_dim": 24,
        "max_position_embeddings": 32,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return text, {**SMALL, "projection_dim": 24, "image_size": 16, "patch_size": 8}


def write_published(
    folder: Path, text_fields: dict[str, Any] | None = None, vision_fields: dict[str, Any] | None = None
) -> tuple[CLIPTextModelWithProjection, CLIPVisionModelWithProjection]:
    """
    Write random encoders as the published checkpoints are written, with their code, which leaves a file `ran` beside
    itself if it is ever run.

    Args:
        folder (`Path`): The directory.
        text_fields, vision_fields (`dict`, *optional*): Sizes, of `config.json` too; [`small_fields`] by default, and
            `{}` is ViT-B/32.

    Returns:
        The encoders.
    """
    if text_fields is None or vision_fields is None:
        text_fields, vision_fields = small_fields()
    torch.manual_seed(0)
    encoders = (
        CLIPTextModelWithProjection(CLIPTextConfig(**text_fields)).eval(),
        CLIPVisionModelWithProjection(CLIPVisionConfig(**vision_fields)).eval(),
    )
    code = "from pathlib import Path\n\nPath({!r}).touch()\nraise RuntimeError('code was run')\n"
    names = ("Text", "text"), ("Vision", "vision")
    for encoder, fields, name, (title, kind) in zip(
        encoders, (text_fields, vision_fields), FOLDERS, names, strict=True
    ):
        config = {
            "architectures": [f"CLIP{title}EncoderOnly"],
            "auto_map": {
                "AutoConfig": f"utils.CLIP{title}EncoderOnlyConfig",
                "AutoModel": f"utils.CLIP{title}EncoderOnly",
            },
            "frozen": False,
            "lora": None,
            "model_name": BASE,
            "model_type": f"clip_custom_{kind}_model",
            "pretrained": False,
            "torch_dtype": "float32",
            "transformers_version": "4.40.0",
            **fields,
        }
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config, indent=2))
        (folder / name / "utils.py").write_text(code.format(str(folder / "ran")))
        tensors = {f"model.{key}": value.contiguous() for key, value in encoder.state_dict().items()}
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
    (folder / "utils.py").write_text(code.format(str(folder / "ran")))
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    return encoders

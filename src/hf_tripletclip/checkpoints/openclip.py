# SPDX-License-Identifier: Apache-2.0
"""OpenCLIP's checkpoints: names, shapes, `open_clip_config.json`, and reading them.

The same architecture under other names: OpenCLIP keeps query, key and value in one matrix (`attn.in_proj_weight`), the
projections transposed, and the settings in a JSON file of its own. NegCLIP, CE-CLIP, FSC-CLIP, DeGLA and the
fine-tuned TripletCLIP files have this shape, mostly without the JSON file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from transformers import CLIPProcessor, CLIPTokenizer

from hf_tripletclip.checkpoints.configs import read_json_object
from hf_tripletclip.checkpoints.openclip_lora import fold_lora
from hf_tripletclip.checkpoints.published import HUB_ARGUMENTS, find_file
from hf_tripletclip.checkpoints.weights_files import WEIGHTS_SUFFIXES, read_weights
from hf_tripletclip.configuration import TripletCLIPConfig
from hf_tripletclip.data.tokenizer import default_image_processor
from hf_tripletclip.modeling import TripletCLIPModel

CONFIG_FILE = "open_clip_config.json"
# What OpenCLIP looks for in a folder, in its order.
WEIGHTS_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
ACTIVATIONS = ("gelu", "quick_gelu")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's
HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104}  # of ViT-H, ViT-g and ViT-bigG's image towers; all others have 64
CLIP_VOCABULARY = 49_408  # of the tokenizer that OpenCLIP brings along
CLIP_TOKENIZER = "openai/clip-vit-base-patch32"
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")

# OpenCLIP -> `CLIPModel`, outside and inside of the blocks of a tower.
TEXT_NAMES = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
VISION_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
BLOCK_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
TOWERS = {"transformer": "text_model", "visual.transformer": "vision_model"}
BLOCK = re.compile(r"(visual\.transformer|transformer)\.resblocks\.(\d+)\.(.+)")
NEEDED = (  # to know the sizes by
    "visual.conv1.weight",
    "visual.positional_embedding",
    "visual.transformer.resblocks.0.mlp.c_fc.weight",
    "token_embedding.weight",
    "positional_embedding",
    "transformer.resblocks.0.mlp.c_fc.weight",
    "text_projection",
)
IGNORED = ("attn_mask", "input_resolution", "context_length", "vocab_size")  # buffers and constants


@dataclass
class OpenClipCheckpoint:
    """
    Args:
        weights (`Path`): The weights file.
        model_cfg (`dict`): OpenCLIP's description of the architecture, empty where there is none.
        preprocess_cfg (`dict`): How its images are prepared, empty where that is not said.
        folder (`Path`, *optional*): Where it lies, with a tokenizer perhaps.
    """

    weights: Path
    model_cfg: dict[str, Any] = field(default_factory=dict)
    preprocess_cfg: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None


def find_checkpoint(source: str | os.PathLike[str], **kwargs: Any) -> OpenClipCheckpoint | None:
    """
    The OpenCLIP checkpoint at a place, or `None` where it is another kind of checkpoint.

    Args:
        source (`str` or `os.PathLike`): A weights file; a directory or Hub id with `open_clip_config.json`.
        kwargs: `from_pretrained`'s; those about the Hub are used.

    Raises:
        ValueError: The config is no JSON.
        FileNotFoundError: There is a config and no weights.
    """
    path = Path(source)
    if path.is_file():
        return OpenClipCheckpoint(path)
    if path.suffix in WEIGHTS_SUFFIXES and not path.is_dir():
        raise FileNotFoundError(f"The weights file {path} does not exist.")
    hub = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
    # A directory that also has transformers' files is read as such: `convert` must not change what it was.
    if find_file(source, "config.json", hub) or not (config := find_file(source, CONFIG_FILE, hub)):
        return None
    try:
        content = read_json_object(config)
        model_cfg = dict(content.get("model_cfg", content))
        preprocess_cfg = dict(content.get("preprocess_cfg") or {})
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{source}: {CONFIG_FILE} describes no OpenCLIP model: {error}") from error
    for name in WEIGHTS_FILES:
        if weights := find_file(source, name, hub):
            return OpenClipCheckpoint(Path(weights), model_cfg, preprocess_cfg, Path(config).parent)
    raise FileNotFoundError(f"{source} has {CONFIG_FILE} and none of {', '.join(WEIGHTS_FILES)}.")


def load_openclip(checkpoint: OpenClipCheckpoint, hidden_act: str | None = None) -> TripletCLIPModel:
    """
    Read an OpenCLIP checkpoint. Its sizes are those of its tensors; weights become float32, LoRA matrices among them
    (as FSC-CLIP saves) are folded in.

    Args:
        checkpoint ([`OpenClipCheckpoint`]): From `find_checkpoint`.
        hidden_act (`str`, *optional*): `gelu` (OpenCLIP's `ViT-B-32`) or `quick_gelu` (OpenAI's weights and what was
            tuned from them). The weights do not tell. Defaults to what the config says.

    Raises:
        ValueError: The activation is neither given nor in a config, or is not what the config says; the file holds
            no ViT CLIP, or misses, adds or misshapes a tensor, or one that is not finite.
    """
    state = {name: value for name, value in _flat(read_weights(checkpoint.weights)).items() if name not in IGNORED}
    state = fold_lora(state, checkpoint.weights)
    activation = _activation(checkpoint, hidden_act)
    tensors = _to_clip(state, checkpoint.weights)
    config = _config_of(state, checkpoint.model_cfg, activation, checkpoint.weights)
    try:
        model = TripletCLIPModel(config)
    except (StrictDataclassError, ValueError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"{checkpoint.weights} has sizes that make no CLIP: {error}") from error
    expected = model.state_dict()
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or extra:
        raise ValueError(
            f"{checkpoint.weights} is no CLIP of two transformers: "
            + "; ".join(
                f"{len(names)} tensors {what}, such as {', '.join(names[:3])}"
                for what, names in (("are missing", missing), ("are unknown", extra))
                if names
            )
        )
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            raise ValueError(
                f"{checkpoint.weights}: {name} is {tuple(value.shape)}, {tuple(expected[name].shape)} is expected."
            )
        if not value.isfinite().all():
            raise ValueError(f"{checkpoint.weights}: {name} is not finite.")
    model.load_state_dict(tensors)
    return model.eval()


def _flat(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenCLIP's newer layout keeps the text tower under `text.`; the older one, at the root."""
    return {name.removeprefix("text."): value for name, value in state.items()}


def _activation(checkpoint: OpenClipCheckpoint, hidden_act: str | None) -> str:
    if hidden_act is not None and hidden_act not in ACTIVATIONS:
        raise ValueError(f"`hidden_act` is {hidden_act!r}; give {' or '.join(ACTIVATIONS)}.")
    if not checkpoint.model_cfg:
        if hidden_act is None:
            raise ValueError(
                f"{checkpoint.weights} does not say its activation, and weights of both kinds look alike: give "
                "--hidden_act quick_gelu for OpenAI's weights and what was tuned from them (OpenCLIP's "
                "`pretrained='openai'`), --hidden_act gelu for models trained with OpenCLIP's own configs. With the "
                "wrong one the model is worse, without an error."
            )
        return hidden_act
    said = "quick_gelu" if checkpoint.model_cfg.get("quick_gelu") else "gelu"
    if hidden_act not in (None, said):
        raise ValueError(f"{CONFIG_FILE} says {said} and `hidden_act` is {hidden_act}: leave it out.")
    return said


def _to_clip(state: Mapping[str, torch.Tensor], source: Path) -> dict[str, torch.Tensor]:
    """Under `CLIPModel`'s names, in float32."""
    found: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if not value.is_floating_point():
            raise ValueError(f"{source}: {name} holds {value.dtype}, no weights.")
        value = value.float()
        if name == "logit_scale":
            found[name] = value.reshape(())
        elif name in TRANSPOSED:
            found[TRANSPOSED[name]] = value.T.contiguous()
        elif match := BLOCK.fullmatch(name):
            found |= _block_to_clip(f"{TOWERS[match[1]]}.encoder.layers.{match[2]}", match[3], value)
        else:
            found[TEXT_NAMES.get(name) or VISION_NAMES.get(name) or name] = value
    return found


def _block_to_clip(block: str, name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    if name in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind = name.removeprefix("attn.in_proj_")
        return {
            f"{block}.self_attn.{part}_proj.{kind}": piece.clone()
            for part, piece in zip("qkv", value.chunk(3), strict=True)
        }
    part, _, kind = name.rpartition(".")
    return {f"{block}.{BLOCK_NAMES.get(part, part)}.{kind}": value}


def _config_of(
    state: Mapping[str, torch.Tensor], model_cfg: Mapping[str, Any], activation: str, source: Path
) -> TripletCLIPConfig:
    if missing := [name for name in NEEDED if name not in state]:
        kind = "a ResNet" if any(name.startswith("visual.layer1") for name in state) else "no CLIP of this shape"
        raise ValueError(f"{source} is {kind}: it lacks {', '.join(missing)}; it has {', '.join(list(state)[:3])}")
    vision_cfg, text_cfg = dict(model_cfg.get("vision_cfg") or {}), dict(model_cfg.get("text_cfg") or {})
    width, patch = state["visual.conv1.weight"].shape[0], state["visual.conv1.weight"].shape[-1]
    grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    text_width = state["token_embedding.weight"].shape[1]
    vocabulary, length = state["token_embedding.weight"].shape[0], state["positional_embedding"].shape[0]
    dimension = state["text_projection"].shape[1]
    head_width = vision_cfg.get("head_width", HEAD_WIDTHS.get(width, 64))
    last = vocabulary - 1  # CLIP's end of text, which OpenCLIP finds as the highest id
    end = text_cfg.get("eos_id", last) if text_cfg.get("pool_type") == "eos" else last
    return TripletCLIPConfig(
        projection_dim=dimension,
        text_config={
            "vocab_size": vocabulary,
            "max_position_embeddings": length,
            "hidden_size": text_width,
            "intermediate_size": state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": _blocks(state, "transformer"),
            "num_attention_heads": text_cfg.get("heads", max(text_width // 64, 1)),
            "hidden_act": activation,
            "projection_dim": dimension,
            "bos_token_id": max(end - 1, 0),
            "eos_token_id": end,
            "pad_token_id": end,
        },
        vision_config={
            "image_size": grid * patch,
            "patch_size": patch,
            "hidden_size": width,
            "intermediate_size": state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": _blocks(state, "visual.transformer"),
            "num_attention_heads": max(width // head_width, 1),
            "hidden_act": activation,
            "projection_dim": dimension,
        },
    )


def _blocks(state: Mapping[str, torch.Tensor], tower: str) -> int:
    numbers = [int(match[2]) for name in state if (match := BLOCK.fullmatch(name)) and match[1] == tower]
    return max(numbers, default=-1) + 1


def openclip_processor(checkpoint: OpenClipCheckpoint, model: TripletCLIPModel) -> CLIPProcessor:
    """
    The processor of an OpenCLIP checkpoint: its own tokenizer where one lies beside it, else CLIP's, and images
    prepared as its config says, else as OpenAI's.

    Raises:
        OSError: CLIP's tokenizer cannot be reached.
        ValueError: The model's vocabulary is not CLIP's, and no tokenizer lies beside it.
    """
    text: Any = model.config.text_config
    vision: Any = model.config.vision_config
    folder = checkpoint.folder
    if folder is not None and any((folder / name).exists() for name in TOKENIZER_FILES):
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    elif text.vocab_size == CLIP_VOCABULARY:
        tokenizer = CLIPTokenizer.from_pretrained(CLIP_TOKENIZER)
    else:
        raise ValueError(
            f"{checkpoint.weights} has a vocabulary of {text.vocab_size} tokens, not CLIP's, and "
            "no tokenizer beside it: name a processor with `--processor`."
        )
    filter_name = str(checkpoint.preprocess_cfg.get("interpolation", "bicubic")).upper()
    if (mode := checkpoint.preprocess_cfg.get("resize_mode", "shortest")) != "shortest":
        raise ValueError(
            f"{checkpoint.weights}: images resized by {mode!r} are not supported: `--processor` names one."
        )
    return CLIPProcessor(
        image_processor=default_image_processor()(
            size={"shortest_edge": vision.image_size},
            crop_size={"height": vision.image_size, "width": vision.image_size},
            image_mean=list(checkpoint.preprocess_cfg.get("mean", MEAN)),
            image_std=list(checkpoint.preprocess_cfg.get("std", STD)),
            resample=getattr(Image.Resampling, filter_name),
        ),
        tokenizer=tokenizer,
    )

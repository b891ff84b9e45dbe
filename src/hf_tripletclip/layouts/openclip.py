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
from transformers import CLIPModel, CLIPProcessor, CLIPTokenizer

from hf_tripletclip.configuration import TripletCLIPConfig, reason_of
from hf_tripletclip.data.tokenizer import default_image_processor
from hf_tripletclip.layouts.files import OPENCLIP_CONFIG, OPENCLIP_WEIGHTS, TOKENIZER_FILES, Layout, detect, find_file
from hf_tripletclip.layouts.openclip_config import (
    check_settings,
    check_size,
    end_of_text,
    image_settings,
    tower,
)
from hf_tripletclip.layouts.weights import WEIGHTS_SUFFIXES, read_weights
from hf_tripletclip.utils.files import read_json_object

ACTIVATIONS = ("gelu", "quick_gelu")
HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104}  # of ViT-H, ViT-g and ViT-bigG's image towers; all others have 64
CLIP_VOCABULARY = 49_408  # of the tokenizer that OpenCLIP brings along
CLIP_TOKENIZER = "openai/clip-vit-base-patch32"
TOKENIZER_SETTINGS = ({"clean": "lower"}, {"clean": "whitespace"})  # what it does anyhow
PROBE = (  # a caption and CLIP's tokens of it
    "a photo of two Zebras, 3 trees!",
    [49406, 320, 1125, 539, 1237, 2254, 22611, 267, 274, 4682, 256, 49407],
)

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
# `...c_fc.lora_A` changes `...c_fc.weight`, `...in_proj_weight_lora_A` changes `...in_proj_weight`.
LORA = re.compile(r"(.+?)([._])lora_([AB])")
IGNORED = ("attn_mask", "input_resolution", "context_length", "vocab_size")  # buffers and constants


@dataclass
class OpenClipCheckpoint:
    """
    Args:
        weights (`Path`): The weights file.
        model_cfg (`dict`): OpenCLIP's description of the architecture; empty if there is none.
        preprocess_cfg (`dict`): How its images are prepared; empty if that is not said.
        folder (`Path`, *optional*): Where it lies, with a tokenizer perhaps.
    """

    weights: Path
    model_cfg: dict[str, Any] = field(default_factory=dict)
    preprocess_cfg: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None


def find_checkpoint(source: str | os.PathLike[str], **kwargs: Any) -> OpenClipCheckpoint | None:
    """
    The OpenCLIP checkpoint at a place, or `None` if it is another kind of checkpoint.

    Args:
        source (`str` or `os.PathLike`): A weights file; a directory or Hub id with `open_clip_config.json`.
        kwargs: The arguments of `from_pretrained`; those about the Hub are used.

    Raises:
        ValueError: The config is not valid JSON.
        FileNotFoundError: There is a config and no weights.
    """
    path = Path(source)
    if path.is_file():
        return OpenClipCheckpoint(path)
    if path.suffix in WEIGHTS_SUFFIXES and not path.is_dir():
        raise FileNotFoundError(f"The weights file {path} does not exist.")
    if detect(source, **kwargs) is not Layout.OPENCLIP or not (config := find_file(source, OPENCLIP_CONFIG, kwargs)):
        return None
    try:
        content = read_json_object(config)
        model_cfg = dict(content.get("model_cfg", content))
        preprocess_cfg = dict(content.get("preprocess_cfg") or {})
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{source}: {OPENCLIP_CONFIG} describes no OpenCLIP model: {error}") from error
    check_settings(model_cfg, f"{source}: {OPENCLIP_CONFIG}")
    for name in OPENCLIP_WEIGHTS:
        if weights := find_file(source, name, kwargs):
            return OpenClipCheckpoint(Path(weights), model_cfg, preprocess_cfg, Path(config).parent)
    raise FileNotFoundError(f"{source} has {OPENCLIP_CONFIG} and none of {', '.join(OPENCLIP_WEIGHTS)}.")


def read_openclip(
    checkpoint: OpenClipCheckpoint, hidden_act: str | None = None
) -> tuple[TripletCLIPConfig, dict[str, torch.Tensor]]:
    """
    The config and the tensors, under the names of `CLIPModel`, of an OpenCLIP checkpoint, see
    [`~hf_tripletclip.checkpoints.conversion.load_openclip`].

    Args:
        checkpoint ([`OpenClipCheckpoint`]): From `find_checkpoint`.
        hidden_act (`str`, *optional*): `gelu` or `quick_gelu`; what the config says by default.

    Raises:
        ValueError: The activation is not known, or the file holds no ViT CLIP.
    """
    state = {name: value for name, value in _flat(read_weights(checkpoint.weights)).items() if name not in IGNORED}
    state = fold_lora(state, checkpoint.weights)
    activation = _activation(checkpoint, hidden_act)
    tensors = _to_clip(state, checkpoint.weights)
    return _config_of(state, checkpoint.model_cfg, activation, checkpoint.weights), tensors


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
        raise ValueError(f"{OPENCLIP_CONFIG} says {said} and `hidden_act` is {hidden_act}: leave it out.")
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
    mlp, text_mlp = (state[f"{name}.resblocks.0.mlp.c_fc.weight"].shape[0] for name in reversed(TOWERS))
    # OpenCLIP's default is 64; for a file without settings, the widths of its large models are known.
    head_width = vision_cfg.get("head_width", 64 if model_cfg else HEAD_WIDTHS.get(width, 64))
    heads = text_cfg.get("heads", 8 if model_cfg else max(text_width // 64, 1))
    for name, value, whole in (("vision_cfg.head_width", head_width, width), ("text_cfg.heads", heads, text_width)):
        if model_cfg and (type(value) is not int or value < 1 or whole % value):
            raise ValueError(f"{source}: `{name}` is {value!r:.60}, which does not divide the width of {whole}.")
    size = vision_cfg.get("image_size", grid * patch)
    size = size[0] if isinstance(size, list) and size and all(one == size[0] for one in size) else size
    if type(size) is not int or size // patch != grid:
        raise ValueError(f"{source} has `vision_cfg.image_size: {size!r:.60}`, and its tensors are of {grid * patch}.")
    for name, said, found in (
        ("embed_dim", model_cfg.get("embed_dim"), dimension),
        ("vision_cfg.width", vision_cfg.get("width"), width),
        ("vision_cfg.layers", vision_cfg.get("layers"), _blocks(state, "visual.transformer")),
        ("vision_cfg.patch_size", vision_cfg.get("patch_size"), patch),
        ("text_cfg.width", text_cfg.get("width"), text_width),
        ("text_cfg.layers", text_cfg.get("layers"), _blocks(state, "transformer")),
        ("text_cfg.vocab_size", text_cfg.get("vocab_size"), vocabulary),
        ("text_cfg.context_length", text_cfg.get("context_length"), length),
    ):
        check_size(name, said, found, source)
    end = end_of_text(text_cfg, vocabulary, source)
    text = tower(text_cfg, activation, "text_cfg", source)
    vision = tower(vision_cfg, activation, "vision_cfg", source)
    return TripletCLIPConfig(
        projection_dim=dimension,
        text_config={
            "vocab_size": vocabulary,
            "max_position_embeddings": length,
            "hidden_size": text_width,
            "intermediate_size": text_mlp,
            "num_hidden_layers": _blocks(state, "transformer"),
            "num_attention_heads": heads,
            "hidden_act": text.hidden_act,
            "layer_norm_eps": text.layer_norm_eps,
            "projection_dim": dimension,
            "bos_token_id": max(end - 1, 0),
            "eos_token_id": end,
            "pad_token_id": end,
        },
        vision_config={
            "image_size": size,
            "patch_size": patch,
            "hidden_size": width,
            "intermediate_size": mlp,
            "num_hidden_layers": _blocks(state, "visual.transformer"),
            "num_attention_heads": max(width // head_width, 1),
            "hidden_act": vision.hidden_act,
            "layer_norm_eps": vision.layer_norm_eps,
            "projection_dim": dimension,
        },
    )


def _blocks(state: Mapping[str, torch.Tensor], tower: str) -> int:
    numbers = [int(match[2]) for name in state if (match := BLOCK.fullmatch(name)) and match[1] == tower]
    return max(numbers, default=-1) + 1


def openclip_processor(checkpoint: OpenClipCheckpoint, model: CLIPModel) -> CLIPProcessor:
    """
    The processor of an OpenCLIP checkpoint: its own tokenizer if one lies beside it, else CLIP's, and images
    prepared as its config says, else as OpenAI's.

    Raises:
        OSError: CLIP's tokenizer cannot be reached.
        ValueError: OpenCLIP would take another tokenizer than the one beside the checkpoint, or prepare captions or
            images in ways that this processor cannot; the tokenizer does not fit the model.
    """
    vision: Any = model.config.vision_config
    try:
        return CLIPProcessor(
            image_processor=default_image_processor()(
                **image_settings(checkpoint.preprocess_cfg, vision.image_size, checkpoint.weights)
            ),
            tokenizer=_tokenizer(checkpoint, model.config.text_config),
        )
    except ValueError as error:
        raise ValueError(f"{error} Name a processor with `--processor`, or write none (`--no-processor`).") from error


def _tokenizer(checkpoint: OpenClipCheckpoint, text: Any) -> CLIPTokenizer:
    source, folder = checkpoint.weights, checkpoint.folder
    settings = dict(checkpoint.model_cfg.get("text_cfg") or {})
    for name in ("tokenizer_mode", "tokenizer_type", "tokenizer_kwargs"):
        value = settings.get(name)
        if value and value not in TOKENIZER_SETTINGS:
            raise ValueError(f"{source} has `text_cfg.{name}: {value!r:.60}`, which CLIP's tokenizer does not do.")
    beside = folder is not None and any((folder / name).exists() for name in TOKENIZER_FILES)
    named = settings.get("hf_tokenizer_name")
    if not beside and (named or text.vocab_size != CLIP_VOCABULARY):
        raise ValueError(
            f"{source} has a vocabulary of {text.vocab_size} tokens{f', of {named}' if named else ''}, not CLIP's, "
            "and no tokenizer beside it."
        )
    if not beside:
        return CLIPTokenizer.from_pretrained(CLIP_TOKENIZER)
    tokenizer = _read_tokenizer(Path(folder or "."))
    if not named and text.vocab_size == CLIP_VOCABULARY and not is_clips_tokenizer(tokenizer):
        raise ValueError(
            f"the tokenizer beside {source} is not CLIP's, and OpenCLIP would take CLIP's: "
            "`text_cfg.hf_tokenizer_name` does not name it."
        )
    if len(tokenizer) > text.vocab_size or tokenizer.eos_token_id != text.eos_token_id:
        raise ValueError(
            f"the tokenizer beside {source} does not fit it: it has {len(tokenizer)} tokens and ends captions with "
            f"{tokenizer.eos_token_id}, the model has {text.vocab_size} and pools at {text.eos_token_id}."
        )
    return tokenizer


def _read_tokenizer(folder: Path) -> CLIPTokenizer:
    """A tokenizer of CLIP's kind."""
    path = folder / TOKENIZER_FILES[0]
    if path.exists():
        state = read_json_object(path).get("model")
        if not isinstance(state, dict) or state.get("end_of_word_suffix") != "</w>":
            raise ValueError(f"{path} is no tokenizer of CLIP's kind, which a CLIPProcessor needs.")
    try:
        return CLIPTokenizer.from_pretrained(folder)
    except OSError:
        raise
    except Exception as error:  # of the tokenizers library, which raises them as they are
        raise ValueError(f"the tokenizer in {folder} cannot be read: {reason_of(error)}.") from error


def is_clips_tokenizer(tokenizer: Any) -> bool:
    """Whether it is the tokenizer that OpenCLIP brings along, by what it makes of a caption."""
    return len(tokenizer) == CLIP_VOCABULARY and list(tokenizer(PROBE[0])["input_ids"]) == PROBE[1]


def fold_lora(state: Mapping[str, torch.Tensor], source: Path) -> dict[str, torch.Tensor]:
    """
    A state dict whose weights hold what its LoRA matrices add: `W + B A / rank` (Hu et al. 2021, arXiv 2106.09685,
    with alpha 1, which these code bases leave at its default and do not save). They save weights that are not merged.

    Args:
        state (`Mapping[str, torch.Tensor]`): With names of OpenCLIP's, and `lora_A` and `lora_B` beside weights.
        source (`Path`): For messages.

    Returns:
        `dict[str, torch.Tensor]`: Without LoRA matrices; changed weights are float32. Without any, as it was.

    Raises:
        ValueError: Of a weight and its two matrices one is missing, or their shapes do not fit.
    """
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    folded = {}
    for name, value in state.items():
        if match := LORA.fullmatch(name):
            weight = match[1] if match[2] == "_" else f"{match[1]}.weight"
            pairs.setdefault(weight, {})[match[3]] = value
        else:
            folded[name] = value
    for name, pair in pairs.items():
        if name not in folded:
            raise ValueError(
                f"{source} holds LoRA matrices of {name} without {name} itself: it is an update of another checkpoint."
            )
        if missing := {"A", "B"} - pair.keys():
            raise ValueError(f"{source}: lora_{missing.pop()} of {name} is missing.")
        folded[name] = _changed(name, folded[name].float(), pair["A"].float(), pair["B"].float(), source)
    return folded


def _changed(name: str, weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, source: Path) -> torch.Tensor:
    # A convolution is a matrix of its channels times its kernel's side, and so is its rank.
    if weight.ndim == 2 or (weight.ndim == 4 and weight.shape[2] == weight.shape[3]):
        side = weight.shape[3] if weight.ndim == 4 else 1
        outputs, inputs = (size * side for size in weight.shape[:2])
        rank = len(down) if down.ndim else 0
        if rank and rank % side == 0 and down.shape == (rank, inputs) and up.shape == (outputs, rank):
            return weight + (up @ down).view(weight.shape) * (side / rank)
    raise ValueError(
        f"{source}: lora_B {tuple(up.shape)} and lora_A {tuple(down.shape)} do not make {name} {tuple(weight.shape)}. "
        "Read are (out, rank) and (rank, in) of a linear layer, or both times the kernel's side of a convolution."
    )

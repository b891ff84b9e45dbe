# SPDX-License-Identifier: Apache-2.0
"""OpenCLIP's settings one by one: the values that change nothing, the defaults, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_tripletclip.layouts.openclip import NEEDED, OpenClipCheckpoint, _config_of, _tokenizer
from hf_tripletclip.layouts.openclip_config import (
    Tower,
    check_settings,
    check_size,
    end_of_text,
    image_settings,
    preprocess_cfg_of,
    tower,
)
from tests.checkpoints import small_processor

OPENAI = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
}
BOTH = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
OFF = [
    *((part, name) for part in ("text_cfg", "vision_cfg") for name in BOTH),
    *(("text_cfg", name) for name in ("embed_cls", "no_causal_mask", "proj_bias")),
    *(("vision_cfg", name) for name in ("attentional_pool", "no_ln_pre", "global_average_pool", "input_patchnorm")),
]


@pytest.mark.parametrize(("part", "name"), OFF)
def test_what_is_off_changes_nothing_and_what_is_on_is_refused(part, name):
    check_settings({part: {name: False}}, "here")
    for value in (True, 1, 0, "on"):
        with pytest.raises(ValueError, match=f"here has `{part}.{name}: {value!r}`"):
            check_settings({part: {name: value}}, "here")


@pytest.mark.parametrize(
    ("part", "name", "values"),
    [
        ("text_cfg", "ls_init_value", [None]),
        ("text_cfg", "block_type", [None, "default"]),
        ("vision_cfg", "final_ln_after_pool", [False, True]),
        ("vision_cfg", "attentional_pool", [None]),
        ("vision_cfg", "pos_embed_type", ["learnable", "sin_cos_2d"]),
        ("vision_cfg", "pool_type", ["tok"]),
        ("vision_cfg", "timm_model_name", [None, ""]),
        ("text_cfg", "text_arch", ["clip"]),
        ("text_cfg", "pool_type", ["argmax", "eos"]),
        ("text_cfg", "proj_type", ["linear"]),
        ("text_cfg", "hf_model_name", [None, ""]),
        ("text_cfg", "hf_model_config", [None]),
        ("text_cfg", "of_a_later_version", [None, False]),
        ("text_cfg", "heads", [8, "looked at elsewhere"]),
    ],
)
def test_other_values_that_change_nothing(part, name, values):
    for value in values:
        check_settings({part: {name: value}}, "here")
    if name != "heads":
        with pytest.raises(ValueError, match=f"`{part}.{name}: 'other'`"):
            check_settings({part: {name: "other"}}, "here")


def test_settings_of_the_whole_model():
    check_settings({"quick_gelu": True, "init_logit_bias": None, "text_cfg": None, "vision_cfg": {}}, "here")
    for model_cfg in ({"quick_gelu": 1}, {"init_logit_bias": 0.0}, {"text_cfg": []}, {"new": 1}):
        with pytest.raises(ValueError, match=f"`{next(iter(model_cfg))}"):
            check_settings(model_cfg, "here")


def test_sizes():
    for said in (None, 4, 4.0, [4], (4, 4)):
        check_size("width", said, 4, "here")
    for said, found in ((5, 4), (True, 1), ([4, 5], 4), ([5, 4], 4), ([], 4)):
        with pytest.raises(ValueError, match=r"here has `width: .*, and its tensors are of"):
            check_size("width", said, found, "here")


@pytest.mark.parametrize(
    ("cfg", "activation", "expected"),
    [
        ({}, "gelu", Tower("gelu", 1e-5)),
        ({}, "quick_gelu", Tower("quick_gelu", 1e-5)),
        ({"act_kwargs": None, "norm_kwargs": None}, "gelu", Tower("gelu", 1e-5)),
        ({"act_kwargs": {"approximate": "none"}}, "quick_gelu", Tower("quick_gelu", 1e-5)),
        ({"act_kwargs": {"approximate": "tanh"}}, "gelu", Tower("gelu_pytorch_tanh", 1e-5)),
        ({"norm_kwargs": {"eps": 0, "elementwise_affine": True, "bias": True}}, "gelu", Tower("gelu", 0.0)),
        ({"act_kwargs": {"approximate": "tanh"}}, "quick_gelu", "act_kwargs"),
        ({"act_kwargs": [1]}, "gelu", "act_kwargs"),
        *(
            ({"norm_kwargs": norm}, "gelu", "norm_kwargs")
            for norm in ([1], {"eps": -1e-5}, {"eps": True}, {"eps": float("nan")}, {"bias": False}, {"new": True})
        ),
    ],
)
def test_activations_and_norms(cfg, activation, expected):
    if isinstance(expected, Tower):
        assert tower(cfg, activation, "text_cfg", "here") == expected
        return
    with pytest.raises(ValueError, match=f"here has `text_cfg.{expected}"):
        tower(cfg, activation, "text_cfg", "here")


def test_where_captions_are_pooled():
    assert end_of_text({}, 99, "here") == end_of_text({"pool_type": "argmax", "eos_id": 7}, 99, "here") == 98
    for end in (0, 7, 98):
        assert end_of_text({"pool_type": "eos", "eos_id": end}, 99, "here") == end
    for end in (None, -1, 99, 2, True, "7"):
        with pytest.raises(ValueError, match=r"here pools at `text_cfg\.eos_id: .* one of the 99 ids, and not 2"):
            end_of_text({"pool_type": "eos", "eos_id": end}, 99, "here")


def test_images_are_prepared_as_openais_unless_another_way_is_said():
    found = image_settings({}, 16, "here")
    square = {"height": 16, "width": 16}
    assert found == {
        "image_mean": OPENAI["mean"], "image_std": OPENAI["std"], "size": {"shortest_edge": 16}, "crop_size": square,
        "do_center_crop": True, "resample": 3,
    }  # fmt: skip
    same = {"mean": 0, "std": None, "interpolation": None, "resize_mode": None, "mode": None, "size": 99}
    assert image_settings(same, 16, "here") == found
    said = image_settings({"mean": (0.0, 1, 2.5), "std": 2, "resize_mode": "squash"}, 16, "here")
    assert (said["image_mean"], said["image_std"]) == ([0.0, 1.0, 2.5], [2.0, 2.0, 2.0])
    assert (said["size"], said["do_center_crop"]) == (square, False)
    for name, value in (("mean", [1, 2, 3, 4]), ("mean", [1, 2, None]), ("std", -1), ("std", [1, 1, 0])):
        with pytest.raises(ValueError, match=f"`preprocess_cfg.{name}"):
            image_settings({name: value}, 16, "here")
    assert preprocess_cfg_of(None, 16) == {
        **OPENAI, "size": 16, "interpolation": "bicubic", "resize_mode": "shortest"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"do_normalize": False}, {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}),
        ({"resample": 2}, {"interpolation": "bilinear"}),
        ({"size": {"height": 16, "width": 16}}, {"resize_mode": "squash"}),
        ({"size": {"height": 16, "width": 16}, "do_center_crop": False}, {"resize_mode": "squash"}),
        ({"size": {"height": 16, "width": 16}, "crop_size": {"height": 8, "width": 8}}, "it resizes to"),
        ({"crop_size": {"height": 8, "width": 8}}, "it resizes to .* and crops to .*8.*, the images have 16"),
        ({"do_center_crop": False}, "crops to nothing"),
        ({"do_rescale": False}, "does not scale pixels"),
        ({"rescale_factor": 1 / 256}, "does not scale pixels"),
    ],
)
def test_a_processor_in_openclips_words(fields, expected):
    images = copy.deepcopy(small_processor().image_processor)
    for name, value in fields.items():
        setattr(images, name, value)
    if isinstance(expected, dict):
        usual = {**OPENAI, "size": 16, "interpolation": "bicubic", "resize_mode": "shortest"}
        assert preprocess_cfg_of(images, 16) == usual | expected
        return
    with pytest.raises(ValueError, match=expected):
        preprocess_cfg_of(images, 16)


LAST_BLOCKS = (("visual.", 11), ("", 9))


def sizes_of(width: int, text_width: int) -> dict[str, torch.Tensor]:
    """Tensors without content, of which only the shapes are looked at."""
    shapes = [(width, 3, 14, 14), (257, width), (5120, width), (99, text_width), (77, text_width), (4096, text_width)]
    return {
        name: torch.empty(shape, device="meta")
        for name, shape in zip(NEEDED, [*shapes, (text_width, 1024)], strict=True)
    }


@pytest.mark.parametrize(
    ("width", "text_width", "model_cfg", "heads"),
    [
        (768, 512, {}, (12, 8)),
        (1024, 768, {}, (16, 12)),  # ViT-L
        (1280, 1024, {}, (16, 16)),  # ViT-H
        (1408, 1024, {}, (16, 16)),  # ViT-g
        (1664, 1280, {}, (16, 20)),  # ViT-bigG
        (32, 32, {}, (1, 1)),
        (1280, 1024, {"embed_dim": 1024}, (20, 8)),  # with a config, OpenCLIP's own defaults
        (1280, 1024, {"vision_cfg": {"head_width": 80}, "text_cfg": {"heads": 16}}, (16, 16)),
    ],
)
def test_sizes_that_nobody_named(width, text_width, model_cfg, heads):
    state = sizes_of(width, text_width)
    state |= {f"{tower}transformer.resblocks.{last}.ln_1.bias": state[NEEDED[0]] for tower, last in LAST_BLOCKS}
    config: Any = _config_of(state, model_cfg, "gelu", Path("w.pt"))
    assert (config.vision_config.num_hidden_layers, config.text_config.num_hidden_layers) == (12, 10)
    assert (config.vision_config.num_attention_heads, config.text_config.num_attention_heads) == heads
    assert (config.vision_config.image_size, config.vision_config.patch_size) == (224, 14)
    assert (config.vision_config.intermediate_size, config.text_config.intermediate_size) == (5120, 4096)
    assert config.projection_dim == config.text_config.projection_dim == config.vision_config.projection_dim == 1024
    assert (config.text_config.vocab_size, config.text_config.max_position_embeddings) == (99, 77)
    ends = (config.text_config.bos_token_id, config.text_config.eos_token_id, config.text_config.pad_token_id)
    assert ends == (97, 98, 98)


@pytest.mark.parametrize("size", [224, 237, [224, 224]])
def test_images_of_as_many_patches(size):
    model_cfg: Any = {"text_cfg": {"heads": 1}, "vision_cfg": {"image_size": size}}
    config: Any = _config_of(sizes_of(64, 64), model_cfg, "gelu", Path("w"))
    assert config.vision_config.image_size == (size if isinstance(size, int) else 224)
    model_cfg["vision_cfg"]["image_size"] = 238
    with pytest.raises(ValueError, match=r"image_size: 238`, and its tensors are of 224"):
        _config_of(sizes_of(64, 64), model_cfg, "gelu", Path("w"))


def test_a_vocabulary_without_its_tokenizer(tmp_path):
    config: Any = _config_of(sizes_of(64, 64), {}, "gelu", Path("w.pt"))
    for folder, text_cfg, words in (
        (None, {}, "of 99 tokens, not CLIP's, and no tokenizer beside it"),
        (tmp_path, {}, "of 99 tokens, not CLIP's"),
        (tmp_path, {"hf_tokenizer_name": "a/b"}, "of 99 tokens, of a/b, not CLIP's"),
    ):
        with pytest.raises(ValueError, match=words):
            _tokenizer(OpenClipCheckpoint(Path("w.pt"), {"text_cfg": text_cfg}, {}, folder), config.text_config)
    config.text_config.vocab_size = 49_408
    with pytest.raises(ValueError, match="of 49408 tokens, of a/b, not CLIP's"):
        _tokenizer(OpenClipCheckpoint(Path("w.pt"), {"text_cfg": {"hf_tokenizer_name": "a/b"}}), config.text_config)

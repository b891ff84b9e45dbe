# SPDX-License-Identifier: Apache-2.0
"""Text-to-image pipelines of a few thousand parameters, of diffusers' own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from hf_tripletclip.data import train_tokenizer

CAPTIONS = ["a black dog", "a white dog", "two cats on a mat", "a red bird"]
CHANNELS = (32, 64)


def _vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=CHANNELS,
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        sample_size=32,
    )


def _unet(**kwargs: Any) -> UNet2DConditionModel:
    torch.manual_seed(1)
    return UNet2DConditionModel(
        block_out_channels=CHANNELS,
        layers_per_block=1,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **kwargs,
    )


def _text(tokenizer: Any, projection: bool = False) -> Any:
    torch.manual_seed(2)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def save_stable_diffusion(folder: Path, *, blank: bool = False) -> str:
    """A Stable Diffusion; a `blank` one draws black whatever it is given."""
    tokenizer = train_tokenizer(CAPTIONS)
    vae = _vae()
    if blank:
        vae.decoder.conv_out.weight.data.zero_()
        vae.decoder.conv_out.bias.data.fill_(-1.0)
    StableDiffusionPipeline(
        vae=vae,
        unet=_unet(cross_attention_dim=32),
        text_encoder=_text(tokenizer),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return str(folder)


def save_sdxl_turbo(folder: Path) -> str:
    """An SDXL with the scheduler of SDXL-Turbo, which draws noise in its steps too."""
    tokenizer = train_tokenizer(CAPTIONS)
    StableDiffusionXLPipeline(
        vae=_vae(),
        unet=_unet(
            cross_attention_dim=64,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=80,
        ),
        text_encoder=_text(tokenizer),
        text_encoder_2=_text(tokenizer, projection=True),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        scheduler=EulerAncestralDiscreteScheduler(timestep_spacing="trailing", prediction_type="epsilon"),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    ).save_pretrained(folder)
    return str(folder)

# SPDX-License-Identifier: Apache-2.0
"""diffusers: the text tower as the text encoder of a Stable Diffusion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from hf_tripletclip import TripletCLIPModel, load_processor
from tests.doors.conftest import CAPTIONS

diffusers = pytest.importorskip("diffusers")


def draw(pipe, caption: str) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    (image,) = pipe(caption, num_inference_steps=2, height=32, width=32, generator=generator).images
    assert image.size == (32, 32)
    return np.asarray(image, dtype=np.float32)


def test_text_encoder_of_stable_diffusion(saved, tmp_path, request):
    from tests.generation.images.tiny_pipelines import save_stable_diffusion

    other = save_stable_diffusion(tmp_path / "other")
    # What a pipeline asks for: the last hidden states, padded to the limit.
    tokens = load_processor(Path(saved.folder)).tokenizer(
        CAPTIONS[0], padding="max_length", truncation=True, return_tensors="pt"
    )
    model = TripletCLIPModel.from_pretrained(saved.folder).eval()
    with torch.no_grad():
        expected = model.text_model(tokens["input_ids"]).last_hidden_state
    request.getfixturevalue("without_package")

    encoder, info = CLIPTextModel.from_pretrained(saved.folder, output_loading_info=True)
    assert type(encoder) is CLIPTextModel
    assert not info["missing_keys"]
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        other, text_encoder=encoder, tokenizer=CLIPTokenizer.from_pretrained(saved.folder), safety_checker=None
    )
    assert pipe.text_encoder is encoder
    states, _ = pipe.encode_prompt(CAPTIONS[0], "cpu", 1, False)
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)

    drawn = draw(pipe, CAPTIONS[0])
    assert np.ptp(drawn) > 0
    assert not np.array_equal(drawn, draw(pipe, CAPTIONS[1]))  # the caption counts

    pipe.save_pretrained(tmp_path / "whole")
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "whole", safety_checker=None)
    np.testing.assert_array_equal(draw(again, CAPTIONS[0]), drawn)

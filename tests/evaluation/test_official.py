# SPDX-License-Identifier: Apache-2.0
"""Images and captions as the benchmarks' own scripts prepare them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from hf_tripletclip.data.decoding import decode_image
from hf_tripletclip.evaluation.benchmarks.sugarcrepe import SugarCrepe
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.images import ImageFile
from hf_tripletclip.evaluation.official import OfficialPixels, clean_caption
from tests.evaluation.benchmarks import picture, write_images, write_json


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [
        ("a \u2018red\u2019 cat\u2019s \u201ctoy\u201d", "a 'red' cat's \"toy\""),
        ("  a\tcat\r\n on  a mat ", "a cat on a mat"),
        ("cats &amp; dogs &amp;lt;3", "cats & dogs <3"),
        ("a \ufb01ne \ufb02ower, \uff23\uff21\uff34\u3000here", "a fine flower, CAT here"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\x00 cat\ufeff \x1b[31mred\x1b[0m", "a cat red"),
        ("Ein H\u00fcndchen \u2013 \u72ac", "Ein H\u00fcndchen \u2013 \u72ac"),
    ],
)
def test_captions_are_cleaned_as_by_openclip(given, cleaned):
    assert clean_caption(given) == cleaned


@pytest.mark.parametrize(("width", "left"), [(17, 0), (19, 2), (21, 2), (23, 4), (18, 1), (16, 0)])
def test_the_crop_begins_at_half_rounded_half_to_even(processor, width, left):
    image = picture("x", (width, 16))
    turned = image.transpose(Image.Transpose.TRANSPOSE)
    mean, std = processor.image_processor.image_mean, processor.image_processor.image_std
    for given, cut in ((image, (left, 0, left + 16, 16)), (turned, (0, left, 16, left + 16))):
        (found,) = OfficialPixels(processor.image_processor)([given])
        values = np.asarray(given.crop(cut), dtype=np.float64) / 255
        assert found.numpy() == pytest.approx(((values - mean) / std).transpose(2, 0, 1), abs=1e-5)


def test_pixels_are_those_that_are_stored():
    image = Image.new("RGBA", (4, 2), (255, 0, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6  # turn by a quarter
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    stored = decode_image(file.getvalue(), as_stored=True)
    assert (stored.size, stored.getpixel((0, 0))) == ((4, 2), (255, 0, 0))
    assert decode_image(file.getvalue()).size == (2, 4)


def test_the_official_protocol_prepares_so_and_keeps_its_embeddings_apart(tmp_path, model, processor):
    write_images(tmp_path, ["a.png"], (19, 16))
    rows = [{"filename": "a.png", "caption": "a \u201cred\u201d cat", "negative_caption": 'a "blue" cat'}]
    write_json(tmp_path / "swap_obj.json", rows)
    encoder = Encoder(model, processor, progress=False, cache_dir=tmp_path / "cache")
    found = {
        protocol: SugarCrepe(annotations=str(tmp_path), protocol=protocol)(encoder)
        for protocol in ("strict", "official", "strict", "official")
    }
    image = encoder.as_official().images([ImageFile(str(tmp_path / "a.png"))])[0]
    text = encoder.texts(['a "red" cat'])
    score = found["official"].predictions["score_i0c0"][0]
    assert score == pytest.approx(torch.nn.functional.cosine_similarity(image, text).item(), abs=1e-6)
    assert score != found["strict"].predictions["score_i0c0"][0]
    assert found["official"].model["fingerprint"] == found["strict"].model["fingerprint"]
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) >= 4

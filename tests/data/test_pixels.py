# SPDX-License-Identifier: Apache-2.0
"""Images in a batch: all their forms, damaged files, and the same pixels as the processor's."""

from __future__ import annotations

import copy
import io
import weakref

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torch.utils.data import DataLoader
from transformers.image_utils import OPENAI_CLIP_STD
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from hf_tripletclip.data import TripletCollator, pixels
from hf_tripletclip.data.decoding import BrokenValue, decode_image
from hf_tripletclip.data.pixels import FastPixels
from tests.data.rows import encoded, make_row, picture, random_picture


@pytest.mark.parametrize(
    "form",
    [
        lambda image, path: image,
        lambda image, path: image.convert("RGBA"),
        lambda image, path: encoded(image),
        lambda image, path: {"bytes": encoded(image), "path": None},
        lambda image, path: {"bytes": None, "path": str(path)},
        lambda image, path: str(path),
        lambda image, path: path,
        lambda image, path: np.asarray(image),
        lambda image, path: np.asarray(image).transpose(2, 0, 1),
        lambda image, path: torch.from_numpy(np.asarray(image).copy()),
    ],
    ids=["pil", "rgba", "bytes", "dict", "dict-path", "str", "path", "hwc", "chw", "tensor"],
)
def test_every_form_of_image_gives_the_same_pixels(collator, tmp_path, form):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    image.save(tmp_path / "image.png")
    expected = collator([make_row(image=image)])["pixel_values"]
    assert torch.equal(collator([make_row(image=form(image, tmp_path / "image.png"))])["pixel_values"], expected)


def test_a_decompression_bomb_is_not_opened(collator, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    collator([make_row(0, image=picture(size=16), neg_image=picture(size=16)), make_row(1, neg_image=picture(size=8))])
    assert len(collator.broken_rows) == 0  # images that are decoded already
    collator([make_row(0), make_row(1, image=encoded(picture(size=25))), make_row(2, image=encoded(picture(size=99)))])
    assert collator.broken_rows.counts() == {"image too large in image": 2}


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 1), (1, 32, 32)])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_arrays_without_colours(collator, shape, kind):
    gray = np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)
    expected = collator([make_row(image=Image.fromarray(gray))])["pixel_values"]
    assert torch.equal(collator([make_row(image=kind(gray.reshape(shape)))])["pixel_values"], expected)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("Failed to decode image: Not implemented"), "Failed to decode image: Not implemented"),  # AVIF's
        (IndexError(), "IndexError"),
    ],
)
def test_a_decoder_that_fails_in_its_own_way_is_an_unreadable_image(collator, monkeypatch, error, told):
    def fail(self, *arguments):
        raise error

    content = encoded(picture())
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    collator([make_row(0), make_row(1, image=content)])
    (report,) = collator.broken_rows
    assert (report["key"], report["column"]) == ("row-1", "image")
    assert report["reason"] == f"unreadable image: {told}"


def test_damaged_files_never_stop_a_run(collator):
    rng = np.random.default_rng(0)
    rows = [make_row(0)]
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP"):
        content = encoded(random_picture(0, (24, 24)), kind)
        for index in range(20):
            damaged = bytearray(content)
            for place in rng.integers(0, len(damaged), 4):
                damaged[place] = rng.integers(0, 256)
            damaged = damaged[: rng.integers(1, len(damaged))]
            rows.append(make_row(id=f"{kind}-{index}", image=bytes(damaged)))
    batch = collator(rows)
    assert len(batch["input_ids"]) + len(collator.broken_rows) == 101
    assert set(collator.broken_rows.counts()) <= {"unreadable image in image", "image too large in image"}
    assert len(collator.broken_rows) > 50


def test_truncated_images_are_broken_whatever_pillows_settings(collator, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    content = encoded(random_picture(0, (64, 64)), "JPEG")
    collator([make_row(0), make_row(1, image=content[:3000])])
    assert collator.broken_rows.counts() == {"unreadable image in image": 1}
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True  # the program's own business


def test_files_are_rotated_like_in_datasets():
    from datasets import Image as ImageFeature

    image = picture(size=32)
    image.paste("blue", (0, 0, 32, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", exif=exif)
    turned = ImageFeature().decode_example({"bytes": buffer.getvalue(), "path": None})
    assert np.array_equal(np.asarray(decode_image(buffer.getvalue())), np.asarray(turned))
    assert not np.array_equal(np.asarray(turned), np.asarray(image))


@pytest.mark.parametrize("sizes", [[(32, 32)], [(40, 32), (32, 50)], [(32, 32), (70, 20)], [(31, 32), (32, 33)]])
@pytest.mark.parametrize("resize", [{"shortest_edge": 32}, {"height": 32, "width": 32}])
def test_skipped_steps_would_change_nothing(processor, sizes, resize):
    processor = copy.deepcopy(processor)
    processor.image_processor.size = type(processor.image_processor.size)(**resize)
    images = [random_picture(seed, size) for seed, size in enumerate(sizes)]
    batch = TripletCollator(processor, columns=("image",))([{"image": image} for image in images])
    expected = processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
    assert levels_apart(batch["pixel_values"], expected).max() <= 1.01
    same = [index for index, size in enumerate(sizes) if size == (32, 32)]
    assert torch.equal(batch["pixel_values"][same], expected[same])


def levels_apart(pixels: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """The levels, of 255, of pixels that were divided by CLIP's standard deviations."""
    return (pixels - expected).abs() * 255 * torch.tensor(OPENAI_CLIP_STD).view(3, 1, 1)


def test_a_picture_is_freed_before_the_next_one_is_decoded(processor, monkeypatch):
    decoded: list[weakref.ref] = []

    def decode(*arguments):
        assert all(picture() is None for picture in decoded)
        image = decode_image(*arguments)
        decoded.append(weakref.ref(image))
        return image

    monkeypatch.setattr("hf_tripletclip.data.collator.decode_image", decode)
    content = encoded(random_picture(0, (40, 50)), "JPEG")
    TripletCollator(processor)([make_row(index, image=content, neg_image=content) for index in range(3)])
    assert len(decoded) == 6


@pytest.mark.parametrize("resample", [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS])
@pytest.mark.parametrize("size", [(512, 512), (640, 480), (300, 500), (225, 224), (100, 90)])
def test_pixels_are_within_a_level_of_the_processors(resample, size):
    image_processor = CLIPImageProcessorPil(resample=resample)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))
    pixels, expected = FastPixels(image_processor)([image]), image_processor(images=[image], return_tensors="pt")
    distance = levels_apart(pixels, expected["pixel_values"])
    assert distance.max() <= 1.01
    assert distance.mean() < 0.01


@pytest.mark.parametrize(
    "settings",
    [
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_resize": False, "crop_size": {"height": 40, "width": 30}},
        {"do_center_crop": False},
        {"size": {"height": 20, "width": 30}},
        {"size": {"shortest_edge": 20}, "crop_size": {"height": 30, "width": 30}},  # has to be padded
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.1]},
    ],
)
def test_pixels_follow_the_processors_settings(settings):
    image_processor = CLIPImageProcessorPil(**settings)
    images = [random_picture(seed, (40, 60)) for seed in range(2)]
    fast = FastPixels(image_processor)
    pixels = fast(images)
    assert torch.equal(fast([fast.shrink(image) for image in images]), pixels)
    expected = image_processor(images=images, return_tensors="pt")["pixel_values"]
    assert pixels.shape == expected.shape
    assert pixels.dtype == torch.float32
    std = settings.get("image_std", OPENAI_CLIP_STD) if settings.get("do_normalize", True) else [1.0] * 3
    levels = 255 if settings.get("do_rescale", True) else 1
    assert ((pixels - expected).abs() * levels * torch.tensor(std).view(3, 1, 1)).max() <= 1.01


def test_jpegs_are_decoded_smaller_if_asked():
    fields = random_picture(0, (16, 16)).resize((512, 400), Image.Resampling.BICUBIC)
    content = encoded(fields, "JPEG")
    assert decode_image(content).size == (512, 400)
    assert decode_image(content, 224).size == (512, 400)  # half of 400 is less
    assert decode_image(content, 200).size == (256, 200)
    assert decode_image(content, 50).size == (64, 50)
    assert decode_image(encoded(fields), 50).size == (512, 400)  # a PNG cannot
    whole, small = (np.asarray(decode_image(content, size).resize((128, 100)), dtype=float) for size in (None, 200))
    assert np.abs(whole - small).mean() < 1
    with pytest.raises(BrokenValue, match="unreadable"):
        decode_image(content[: len(content) // 2], 50)


def test_workers_put_pixels_into_shared_memory(processor):
    collator = TripletCollator(processor)
    rows = [make_row(index, image=random_picture(index, (40, 50))) for index in range(4)]
    here = collator(rows)
    (there,) = DataLoader(rows, batch_size=4, num_workers=1, collate_fn=collator)
    assert all(torch.equal(here[name], there[name]) for name in here)


@pytest.mark.parametrize(
    ("settings", "size", "fast"),
    [
        ({}, (60, 40), True),
        ({}, (224, 224), True),
        ({"size": {"height": 20, "width": 30}, "do_center_crop": False}, (60, 40), True),
        ({"do_resize": False, "crop_size": {"height": 40, "width": 60}}, (60, 40), True),
        ({"do_resize": False, "crop_size": {"height": 41, "width": 60}}, (60, 40), False),  # has to be padded
        ({"do_resize": False, "crop_size": {"height": 40, "width": 61}}, (60, 40), False),
        ({"resample": Image.Resampling.LANCZOS}, (60, 40), False),
        ({"size": {"max_height": 30, "max_width": 30}, "do_center_crop": False}, (60, 40), False),
        ({"do_pad": True}, (60, 40), False),
    ],
)
def test_the_processor_is_called_only_for_unknown_cases(settings, size, fast):
    image_processor = CLIPImageProcessorPil(**settings)
    pixels, asked = FastPixels(image_processor), []
    pixels.processor = Spy(image_processor, asked)
    images = [random_picture(seed, size[::-1]) for seed in range(2)]
    result = pixels(images)
    assert bool(asked) is not fast
    expected = image_processor(images=images, return_tensors="pt")["pixel_values"]
    assert result.shape == expected.shape


class Spy:
    """An image processor that counts its calls."""

    def __init__(self, processor, asked: list[bool]) -> None:
        self._processor, self._asked = processor, asked

    def __getattr__(self, name: str):
        return getattr(self._processor, name)

    def __call__(self, **inputs):
        self._asked.append(True)
        return self._processor(**inputs)


def test_pictures_of_other_sizes_that_are_not_cropped_are_left_to_the_processor():
    image_processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    pixels = FastPixels(image_processor)
    assert pixels([random_picture(0, (20, 30))] * 2).shape == (2, 3, 20, 30)
    with pytest.raises(ValueError, match=r"."):  # whose own error it is
        pixels([random_picture(0, (20, 30)), random_picture(0, (30, 20))])


@pytest.mark.parametrize("size", [(60, 16), (20, 40), (20, 16)])
def test_enlarged_images_equal_pillows_exactly(size):
    image_processor = CLIPImageProcessorPil(size={"height": 20, "width": 30}, do_center_crop=False)
    images = [random_picture(seed, size[::-1]) for seed in range(2)]
    expected = image_processor(images=images, return_tensors="pt")["pixel_values"]
    assert torch.equal(FastPixels(image_processor)(images), expected)


@pytest.mark.parametrize("size", [(40, 30), (2600, 1700)], ids=["one piece", "several pieces"])
def test_shrunk_images_do_not_depend_on_how_pillow_stores_them(size, monkeypatch):
    fast = FastPixels(CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
    found = fast([image])
    monkeypatch.setattr(pixels, "_as_stored", lambda image: torch.from_numpy(np.array(image)))
    assert torch.equal(found, fast([image]))

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hf_tripletclip.data import BrokenRows, TripletCollator, build_processor
from hf_tripletclip.data.schema import NEGATIVE_TYPES

CAPTIONS = ["a red cat above a blue dog", "a blue cat above a red dog", "a green fish on the beach"]


@pytest.fixture(scope="module")
def processor():
    return build_processor(CAPTIONS, image_size=32, model_max_length=20)


def picture(colour: str = "red", size: int = 32) -> Image.Image:
    return Image.new("RGB", (size, size), colour)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def make_row(index: int = 0, **changes) -> dict:
    row = {
        "id": f"row-{index}",
        "image": picture("red"),
        "caption": CAPTIONS[index % 3],
        "neg_image": picture("blue"),
        "neg_caption": CAPTIONS[(index + 1) % 3],
    }
    return {**row, **changes}


@pytest.fixture
def collator(processor, tmp_path):
    return TripletCollator(processor, broken_rows=BrokenRows(tmp_path / "broken.jsonl"))


def test_a_batch_is_what_the_processor_makes_of_each_side(collator, processor):
    rows = [make_row(index) for index in range(3)]
    batch = collator(rows)
    images = processor.image_processor(images=[row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], images)
    assert batch["negative_pixel_values"].shape == (3, 3, 32, 32)
    assert batch["input_ids"].shape == batch["negative_input_ids"].shape  # one length for both
    for side, column in (("", "caption"), ("negative_", "neg_caption")):
        for ids, mask, row in zip(batch[f"{side}input_ids"], batch[f"{side}attention_mask"], rows, strict=True):
            assert ids[mask.bool()].tolist() == processor.tokenizer(row[column])["input_ids"]
    assert "negative_type" not in batch


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


def test_captions_may_be_bytes(collator):
    assert torch.equal(
        collator([make_row(caption="a réd cat".encode())])["input_ids"],
        collator([make_row(caption="a réd cat")])["input_ids"],
    )


def test_only_the_columns_asked_for(processor):
    batch = TripletCollator(processor, columns=("image", "caption", "neg_caption"))([make_row(neg_image=None)])
    assert set(batch) == {
        "pixel_values",
        "input_ids",
        "attention_mask",
        "negative_input_ids",
        "negative_attention_mask",
    }
    batch = TripletCollator(processor, columns=("image", "caption", "neg_image"))([make_row(neg_caption=None)])
    assert "negative_pixel_values" in batch
    assert "negative_input_ids" not in batch


def test_kinds_become_codes(collator):
    batch = collator([make_row(negative_type=kind) for kind in ("swap_obj", "other", None)])
    assert batch["negative_type"].tolist() == [NEGATIVE_TYPES.index("swap_obj"), -1, -1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": None}, "missing image in image"),
        ({"image": {"bytes": None, "path": None}}, "missing image in image"),
        ({"image": b"no image"}, "unreadable image in image"),
        ({"image": encoded(picture(size=256), "JPEG")[:400]}, "unreadable image in image"),
        ({"neg_image": "no/such/file.png"}, "unreadable image in neg_image"),
        ({"neg_image": 3}, "unreadable image in neg_image"),
        ({"caption": None}, "missing caption in caption"),
        ({"caption": " \n"}, "empty caption in caption"),
        ({"neg_caption": b"\xff\xfe"}, "caption is not UTF-8 in neg_caption"),
        ({"neg_caption": 5}, "caption is no text in neg_caption"),
    ],
)
def test_a_broken_row_is_left_out_and_reported(collator, changes, reason):
    batch = collator([make_row(0), make_row(1, **changes), make_row(2)])
    assert all(len(value) == 2 for value in batch.values())
    (report,) = collator.broken_rows
    assert report["key"] == "row-1"
    assert report["reason"].startswith(reason)
    assert collator.broken_rows.counts() == {reason: 1}


def test_a_decompression_bomb_is_not_opened(collator, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    collator([make_row(0, image=picture(size=16), neg_image=picture(size=16)), make_row(1, neg_image=picture(size=8))])
    assert len(collator.broken_rows) == 0  # images that are decoded already
    collator([make_row(0), make_row(1, image=encoded(picture(size=25))), make_row(2, image=encoded(picture(size=99)))])
    assert collator.broken_rows.counts() == {"image too large in image": 2}


def test_a_long_caption_is_cut_and_reported(collator):
    batch = collator([make_row(caption="cat " * 100)])
    assert batch["input_ids"].shape[1] == 20
    assert batch["input_ids"][0, -1] == collator.processor.tokenizer.eos_token_id
    assert collator.broken_rows.counts() == {"caption cut": 1}
    assert (
        TripletCollator(collator.processor, max_length=9)([make_row(caption="cat " * 100)])["input_ids"].shape[1] == 9
    )


def test_a_batch_of_broken_rows_only_is_an_error(collator):
    with pytest.raises(ValueError, match=r"All 2 rows of a batch are broken, such as row-0: empty caption in caption"):
        collator([make_row(0, caption=""), make_row(1, image=b"")])


def test_a_missing_column_is_an_error_that_lists_what_is_there(collator):
    row = make_row()
    del row["neg_image"]
    with pytest.raises(ValueError, match=r"lack 'neg_image'; they have 'id', 'image', 'caption', 'neg_caption'"):
        collator([row])
    with pytest.raises(ValueError, match="default_data_collator"):
        collator([{"pixel_values": torch.zeros(3, 32, 32), "input_ids": torch.zeros(3)}])
    with pytest.raises(ValueError, match="knows no foil"):
        TripletCollator(collator.processor, columns=("image", "foil"))
    with pytest.raises(ValueError, match="processing_class"):
        TripletCollator(None)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_report_to_the_parent(collator, context):
    rows = [make_row(index, caption="" if index % 5 == 0 else CAPTIONS[0]) for index in range(20)]
    loader = DataLoader(rows, batch_size=5, collate_fn=collator, num_workers=2, multiprocessing_context=context)
    for _ in range(2):  # a second epoch meets the same rows and reports them once
        assert sum(len(batch["input_ids"]) for batch in loader) == 16
    assert sorted(report["key"] for report in collator.broken_rows) == ["row-0", "row-10", "row-15", "row-5"]
    assert "4 × empty caption in caption" in collator.broken_rows.summary()

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import dataclasses
import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import AddedToken
from tokenizers.processors import RobertaProcessing
from torch.utils.data import DataLoader
from transformers import CLIPModel, Trainer, TrainingArguments
from transformers.utils import logging as transformers_logging

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel
from hf_tripletclip.data import BrokenRows, TripletCollator
from hf_tripletclip.data.collator import TensorCollator
from hf_tripletclip.data.decoding import row_name
from hf_tripletclip.data.schema import COLUMNS, NEGATIVE_TYPES
from hf_tripletclip.data.tokenizer import end_token_id
from tests.data.conftest import CAPTIONS


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
        ({"neg_image": "no/such/file.png"}, "no such file in neg_image"),
        ({"neg_image": 3}, "unreadable image in neg_image"),
        ({"caption": None}, "missing caption in caption"),
        ({"caption": " \n"}, "empty caption in caption"),
        ({"neg_caption": b"\xff\xfe"}, "caption is not UTF-8 in neg_caption"),
        ({"neg_caption": 5}, "caption is no text in neg_caption"),
        ({"neg_image": encoded(Image.new("L", (1, 4000)))}, "image too large in neg_image"),  # 32 x 128000 when scaled
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_broken_row_is_left_out_and_reported(collator, changes, reason, named):
    rows = [make_row(0), make_row(1, **changes), make_row(2)]
    for row in rows:
        if not named:
            del row["id"]
    for _ in range(2):  # in each epoch
        batch = collator(rows)
    assert all(len(value) == 2 for value in batch.values())
    (report,) = collator.broken_rows
    assert report["key"] == "row-1" if named else "cat" in report["key"] or "fish" in report["key"]
    assert ("digest" in report) is not named
    assert f"{report['reason'].partition(':')[0]} in {report['column']}" == reason
    assert " at 0x" not in report["reason"]
    assert collator.broken_rows.counts() == {reason: 1}


def test_a_long_caption_is_cut_and_reported(collator):
    batch = collator([make_row(caption="cat " * 100)])
    assert batch["input_ids"].shape[1] == 20
    assert batch["input_ids"][0, -1] == collator.processor.tokenizer.eos_token_id
    (report,) = collator.broken_rows
    assert (report["key"], report["column"], report["skipped"]) == ("row-0", "caption", False)
    assert len(collator.broken_rows) == 0  # it is in the batch
    collator([make_row(0), make_row(1, neg_caption="cat " * 100)])
    assert [(report["key"], report["column"]) for report in collator.broken_rows] == [
        ("row-0", "caption"),
        ("row-1", "neg_caption"),
    ]
    assert (
        TripletCollator(collator.processor, max_length=9)([make_row(caption="cat " * 100)])["input_ids"].shape[1] == 9
    )


def test_a_batch_of_broken_rows_only_is_an_error(collator):
    with pytest.raises(ValueError, match=r"All 2 rows of a batch are broken, such as row-0: empty caption in caption"):
        collator([make_row(0, caption=""), make_row(1, image=b"")])


def test_no_rows_are_an_error(collator):
    with pytest.raises(ValueError, match="nothing to collate"):
        collator([])


def test_a_missing_column_is_an_error_that_lists_what_is_there(collator):
    row = make_row()
    del row["neg_image"]
    with pytest.raises(ValueError, match=r"lack 'neg_image'; they have 'id', 'image', 'caption', 'neg_caption'"):
        collator([row])
    with pytest.raises(ValueError, match="default_data_collator"):
        collator([{"pixel_values": torch.zeros(3, 32, 32), "input_ids": torch.zeros(3)}])
    with pytest.raises(ValueError, match="default_data_collator"):
        collator([{"negative_input_ids": torch.zeros(3)}])
    with pytest.raises(ValueError, match="knows no foil"):
        TripletCollator(collator.processor, columns=("image", "foil"))
    with pytest.raises(ValueError, match="processing_class"):
        TripletCollator(None)


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_report_to_the_parent(collator, context):
    rows = [make_row(index, caption="" if index % 5 == 0 else CAPTIONS[0]) for index in range(20)]
    rows[7]["image"] = b"no image"
    loader = DataLoader(
        rows,
        batch_size=5,
        collate_fn=collator,
        num_workers=2,
        multiprocessing_context=context,
        persistent_workers=context == "spawn",  # starting them takes long
    )
    for _ in range(2):  # a second epoch meets the same rows and reports them once
        assert sum(len(batch["input_ids"]) for batch in loader) == 15
    assert {report["key"] for report in collator.broken_rows} == {"row-0", "row-5", "row-7", "row-10", "row-15"}
    assert collator.broken_rows.counts() == {"empty caption in caption": 4, "unreadable image in image": 1}
    assert "4 × empty caption in caption" in collator.broken_rows.summary()


def random_picture(seed: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def test_negatives_are_what_the_processor_makes_of_them_alone(processor):
    rows = [
        make_row(index, image=random_picture(index, (40, 33)), neg_image=random_picture(9 + index, (32, 64)))
        for index in range(3)
    ]
    batch = TripletCollator(processor)(rows)
    alone = processor(
        images=[row["neg_image"] for row in rows], text=[row["neg_caption"] for row in rows], return_tensors="pt",
        padding="max_length", max_length=batch["input_ids"].shape[1],
    )  # fmt: skip
    assert torch.equal(batch["negative_pixel_values"], alone["pixel_values"])
    assert torch.equal(batch["negative_input_ids"], alone["input_ids"])
    assert torch.equal(batch["negative_attention_mask"], alone["attention_mask"])
    assert {name: value.dtype for name, value in batch.items() if "pixel" not in name} == dict.fromkeys(
        ("input_ids", "attention_mask", "negative_input_ids", "negative_attention_mask"), torch.int64
    )
    assert batch["pixel_values"].dtype == torch.float32


@pytest.mark.parametrize("column", ["image", "caption", "neg_image", "neg_caption"])
def test_positives_and_negatives_stay_together_whatever_breaks(collator, column):
    rows = [
        make_row(index, image=picture((0, 40 * index, 0)), neg_image=picture((0, 40 * index, 255)), number=index)
        for index in range(5)
    ]
    rows[2][column] = None
    batch, kept = collator.collate(rows)
    assert [row["number"] for row in kept] == [0, 1, 3, 4]
    for name, value in collator([rows[index] for index in (0, 1, 3, 4)]).items():
        assert torch.equal(batch[name], value), name


@pytest.mark.parametrize("columns", [("caption",), ("neg_caption",), ("image",), ("neg_image",)])
def test_a_single_column(processor, columns):
    batch = TripletCollator(processor, columns=columns)([make_row()])
    prefix = "negative_" if columns[0].startswith("neg_") else ""
    names = ("pixel_values",) if columns[0].endswith("image") else ("input_ids", "attention_mask")
    assert set(batch) == {prefix + name for name in names}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"caption": float("nan")}, "caption is no text in caption"),  # pandas' missing value
        ({"caption": 5}, "caption is no text in caption"),
        ({"caption": np.array(["a", "b"])}, "caption is no text in caption"),
        ({"caption": "a \ud800 cat"}, "caption is not UTF-8 in caption"),  # what JSON's "\\ud800" gives
        ({"image": np.zeros((0, 0, 3), np.uint8)}, "unreadable image in image"),
        ({"image": Image.new("RGB", (0, 4))}, "unreadable image in image"),
        ({"image": np.zeros((4, 4, 3))}, "unreadable image in image"),  # not uint8
        ({"image": torch.zeros(3, 4, 4, requires_grad=True)}, "unreadable image in image"),
        ({"image": np.zeros((2, 3, 4, 4), np.uint8)}, "unreadable image in image"),
        ({"image": encoded(picture(size=64))[:-30]}, "unreadable image in image"),
        ({"image": {}}, "missing image in image"),
    ],
)
def test_strange_values_are_broken_rows_too(collator, changes, reason):
    row = make_row(1, **changes)
    del row["id"]
    assert len(collator([make_row(0), row])["input_ids"]) == 1
    assert collator.broken_rows.counts() == {reason: 1}


def test_a_row_is_named_by_what_it_has(collator):
    rows = [{**make_row(), "caption": "", "__key__": "000123", "key": "other"}]
    rows += [{**make_row(), "caption": "", "id": 0}]
    rows += [{**make_row(), "id": None, "caption": "", "neg_caption": "a dog " * 30}]
    rows += [{**make_row(), "id": None, "caption": None, "neg_caption": None}]
    collator([make_row(), *rows])
    assert [report["key"] for report in collator.broken_rows] == [
        "000123",
        "0",
        repr("a dog " * 10),
        "without a key or a caption",
    ]


def test_padding_to_a_multiple_and_limits(processor, tmp_path):
    rows = [make_row(caption="cat " * 9)]
    assert TripletCollator(processor, pad_to_multiple_of=8)(rows)["input_ids"].shape == (1, 16)
    assert TripletCollator(processor, pad_to_multiple_of=8, max_length=13)(rows)["input_ids"].shape == (1, 13)
    batch = TripletCollator(processor, max_length=1000, broken_rows=BrokenRows(tmp_path / "b.jsonl"))(
        [make_row(0, neg_caption="cat " * 100), make_row(1)]
    )
    assert batch["input_ids"].shape == batch["negative_input_ids"].shape == (2, 20)  # the tokenizer's own limit
    assert batch["negative_input_ids"][0, -1] == processor.tokenizer.eos_token_id


def test_a_cut_caption_is_reported_with_its_length(collator):
    collator([make_row(0, neg_caption="cat " * 30), make_row(1)])
    (report,) = collator.broken_rows
    assert report == {
        "key": "row-0",
        "column": "neg_caption",
        "reason": "caption cut: 32 tokens, the limit is 20",
        "skipped": False,
    }


def test_rows_without_a_key_are_told_apart_by_what_they_hold(collator):
    same = {"id": None, "caption": "", "neg_caption": ""}
    collator([make_row(), *(make_row(**same, neg_image=encoded(picture(colour))) for colour in ("red", "blue"))])
    assert collator.broken_rows.counts() == {"empty caption in caption": 2}
    collator([make_row(), *[{"image": None, "caption": None, "neg_image": None, "neg_caption": None}] * 2])
    assert len(collator.broken_rows) == 4


def test_several_negative_captions(collator):
    several = [["a red dog", "a blue dog"], [], ["", "a green cat", None]]
    rows = [make_row(index, neg_caption=captions) for index, captions in enumerate(several)]
    collator = dataclasses.replace(collator, columns=("image", "caption", "neg_caption"))
    batch = collator(rows)
    assert batch["negative_mask"].tolist() == [[True, True], [False, False], [True, False]]
    assert len(batch["input_ids"]) == 3
    decode = collator.processor.tokenizer.batch_decode
    assert decode(batch["negative_input_ids"], skip_special_tokens=True) == ["a red dog", "a blue dog", "a green cat"]
    assert collator.broken_rows.counts(skipped=False) == {"empty caption in neg_caption": 1}
    assert collator.broken_rows.counts(skipped=True) == {}


def test_a_batch_without_any_negative_caption(collator):
    collator = dataclasses.replace(collator, columns=("image", "caption", "neg_caption"))
    batch = collator([make_row(0, neg_caption=[]), make_row(1, neg_caption=[])])
    assert batch["negative_mask"].shape == (2, 0)
    assert batch["negative_input_ids"].shape == (0, batch["input_ids"].shape[1])


def test_long_captions_among_several_are_reported_by_their_row(collator):
    collator = dataclasses.replace(collator, columns=("caption", "neg_caption"))
    collator([make_row(0, neg_caption=["a cat"] * 3), make_row(1, neg_caption=["a dog", "cat " * 30])])
    assert [(report["key"], report["column"]) for report in collator.broken_rows] == [("row-1", "neg_caption")]


def test_several_captions_for_one_image_are_refused(collator):
    rows = [make_row(0, neg_caption=["a dog"]), make_row(1, neg_caption=["a dog", "a cat"])]
    with pytest.raises(ValueError, match=r"row row-1 has 2 negative captions and 1 negative image, of.*`negclip`"):
        collator(rows)
    assert len(collator(rows[:1])["negative_input_ids"]) == 1
    batch = dataclasses.replace(collator, first_negative=True)([*rows, make_row(2, neg_caption=[])])
    assert batch["negative_input_ids"].shape[0] == 2
    assert "negative_mask" not in batch
    assert collator.broken_rows.counts() == {"missing caption in neg_caption": 1}


def test_negclip_learns_from_several_negative_captions(collator):
    rows = [make_row(index, neg_caption=["a red dog", "a blue fish"][: index + 1]) for index in range(2)]
    rows.append(make_row(2, neg_caption=[]))
    collator = dataclasses.replace(collator, columns=("image", "caption", "neg_caption"))
    batch = collator(rows)
    mask = batch.pop("negative_mask")
    assert int(mask.sum()) == len(batch["negative_input_ids"]) == 3
    tokenizer = collator.processor.tokenizer
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "projection_dim": 8}
    vision = {**tower, "image_size": 32, "patch_size": 16, "projection_dim": 8}
    torch.manual_seed(0)
    model = TripletCLIPModel(TripletCLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.set_objective("negclip")
    output = model(**batch, return_loss=True)
    # The same by hand: every image against all captions there are.
    scale, texts = model.logit_scale.exp(), torch.cat([output.text_embeds, output.negative_text_embeds])
    targets = torch.arange(3)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = cross_entropy(scale * output.image_embeds @ texts.T, targets)
    expected = (expected + cross_entropy(scale * output.text_embeds @ output.image_embeds.T, targets)) / 2
    torch.testing.assert_close(output.loss, expected)
    model.set_objective("tripletclip")
    with pytest.raises(ValueError, match=r"'tripletclip' needs negative_image"):
        model(**batch, return_loss=True)


def test_reasons_of_the_loader_are_reported(collator):
    of_file = {"__key__": "s.tar", "__error__": "file: tar cut short: its end is missing, 3 samples kept"}
    empty = {**dict.fromkeys(("image", "caption", "neg_image", "neg_caption")), **of_file}
    row = make_row(1, neg_caption=None, __error__="caption: of no interest\nneg_caption: caption is not UTF-8")
    assert len(collator([make_row(0), empty, row])["input_ids"]) == 1
    assert collator.broken_rows.counts() == {"tar cut short": 1, "caption is not UTF-8 in neg_caption": 1}
    with pytest.raises(ValueError, match=r"such as s\.tar: tar cut short: its end"):
        collator([empty])


def test_it_can_be_pickled_and_reports_to_the_same_file(collator):
    again = pickle.loads(pickle.dumps(collator))
    again([make_row(0), make_row(1, caption="")])
    assert len(collator.broken_rows) == 1


def test_the_report_is_optional(processor):
    collator = TripletCollator(processor, broken_rows=None)
    assert len(collator([make_row(0), make_row(1, caption="")])["input_ids"]) == 1
    assert len(collator.broken_rows) == 1
    collator.broken_rows.path.unlink()


def small_model(kind: type, processor) -> CLIPModel:
    tokenizer = processor.tokenizer
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "projection_dim": 8}
    vision = {**tower, "image_size": 32, "patch_size": 16, "projection_dim": 8}
    torch.manual_seed(0)
    return kind(kind.config_class(text_config=text, vision_config=vision, projection_dim=8))


@pytest.mark.parametrize("kind", [TripletCLIPModel, CLIPModel])
def test_the_plain_trainer_trains_and_evaluates(processor, tmp_path, kind):
    columns = COLUMNS if kind is TripletCLIPModel else ("image", "caption")
    rows = [make_row(index, caption=caption) for index, caption in enumerate(["a red cat", "a dog"] * 2)]
    arguments = {"max_steps": 2, "logging_steps": 1, "report_to": "none", "save_strategy": "no", "use_cpu": True}
    trainer = Trainer(
        model=small_model(kind, processor),
        args=TrainingArguments(str(tmp_path), remove_unused_columns=False, disable_tqdm=True, **arguments),
        data_collator=TripletCollator(processor, columns=columns, return_loss=True),
        train_dataset=rows,
        eval_dataset=rows,
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss"] > 0
    assert trainer.evaluate()["eval_loss"] > 0


def test_special_tokens_in_captions_are_text(collator, processor):
    captions = ["a dog <|endoftext|> a cat", "a dog <|endoftext|> a house", "<|startoftext|>a<|endoftext|>b"]
    batch = collator([make_row(index, caption=caption, neg_caption=caption) for index, caption in enumerate(captions)])
    special = {processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id}
    for side in ("", "negative_"):
        for ids, mask in zip(batch[f"{side}input_ids"], batch[f"{side}attention_mask"], strict=True):
            inner = ids[mask.bool()].tolist()[1:-1]
            assert not special & set(inner)
            assert "<|" in processor.tokenizer.decode(inner)
    assert "caption read in part in caption" not in collator.broken_rows.counts()


def test_a_caption_that_is_not_read_to_its_end_is_reported(processor, tmp_path):
    processor = copy.deepcopy(processor)
    processor.tokenizer.add_tokens(AddedToken("zebra", special=False))
    ids = processor.tokenizer.convert_tokens_to_ids
    end, added = processor.tokenizer.eos_token_id, ids("zebra")
    processor.tokenizer.backend_tokenizer.post_processor = RobertaProcessing(
        ("zebra", added), ("<|startoftext|>", ids("<|startoftext|>"))
    )
    collator = TripletCollator(processor, ("caption",), broken_rows=BrokenRows(tmp_path / "broken.jsonl"))
    assert end != added == end_token_id(processor.tokenizer)
    collator([make_row(0, caption="a zebra and a cat"), make_row(1, caption="a cat")])
    (reason,) = collator.broken_rows.counts()
    assert reason == "caption read in part in caption"


def test_a_tokenizer_that_appends_no_end_token_is_told(processor, caplog):
    transformers_logging.warning_once.cache_clear()
    processor = copy.deepcopy(processor)
    processor.tokenizer.backend_tokenizer.post_processor = None
    TripletCollator(processor)
    assert "does not end captions with a token of its own" in caplog.text


def test_rows_of_tensors_need_the_end_of_their_captions():
    rows = [{"input_ids": [1, 2, 9, 9], "negative_input_ids": [3, 9, 0, 0], "labels": 0} for _ in range(3)]
    batch = TensorCollator(end=9)(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 9, 9]] * 3
    rows[1] = {**rows[1], "negative_input_ids": [3, 4, 5, 6]}
    assert TensorCollator()(rows)["negative_input_ids"].tolist()[1] == [3, 4, 5, 6]  # it is not known which it is
    with pytest.raises(
        ValueError, match=r"`negative_input_ids` of 1 of the 3 rows .* \(9\), .* such as \[3, 4, 5, 6\]"
    ):
        TensorCollator(end=9)(rows)
    several = [{"input_ids": [[1, 9], [2, 9]]}, {"input_ids": [[1, 2], [5, 7]]}]
    with pytest.raises(ValueError, match=r"`input_ids` of 2 of the 2 rows .* such as \[1, 2\]"):
        TensorCollator(end=9)(several)
    assert set(TensorCollator(end=9)([{"pixel_values": torch.zeros(3, 2, 2)}])) == {"pixel_values"}


def test_rows_without_a_key_are_told_apart_by_lists_too():
    lists = [["a", "b"], ["a", "c"], ["ab"], ["a", None], [None, "a"], []]
    assert len({row_name({"caption": "a cat", "neg_caption": several})[1] for several in lists}) == len(lists)


@pytest.mark.parametrize("first_negative", [False, True])
@pytest.mark.parametrize(
    "captions",
    [["", "a red dog"], [None, "a red dog"], ["a blue dog", "a red dog"]],
    ids=["empty", "missing", "whole"],
)
def test_a_negative_caption_keeps_to_the_image_in_its_place(processor, captions, first_negative):
    table = [
        {
            "image": Image.new("RGB", (8, 8), "green"),
            "caption": "a green cat",
            "neg_image": [Image.new("RGB", (8, 8), "blue"), Image.new("RGB", (8, 8), "red")],
            "neg_caption": captions,
        },
        {
            "image": Image.new("RGB", (8, 8), "green"),
            "caption": "a green cat",
            "neg_image": [Image.new("RGB", (8, 8), "red"), None],
            "neg_caption": ["a red dog", None],
        },
    ]
    collator = TripletCollator(processor, first_negative=first_negative)
    batch = collator(table)
    whole = captions[0] == "a blue dog"
    assert (
        len(batch["negative_input_ids"]) == len(batch["negative_pixel_values"]) == 2 + (whole and not first_negative)
    )
    same = [torch.equal(batch[name][0], batch[name][-1]) for name in ("negative_input_ids", "negative_pixel_values")]
    assert same == [not whole, not whole]
    assert sum(collator.broken_rows.counts().values()) == (not whole)
    if not first_negative:
        expected = [[True, True], [True, False]] if whole else [[True], [True]]
        assert batch["negative_mask"].tolist() == expected
        assert torch.equal(batch["negative_mask"], batch["negative_image_mask"])


@pytest.mark.parametrize("several", [1, 3])
def test_rows_of_tensors_may_have_several_of_a_role(several):
    torch.manual_seed(0)
    ids = torch.randint(1, 8, (2, several, 4))
    pixels = torch.randn(2, several, 3, 2, 2)
    rows = [
        {
            "pixel_values": torch.zeros(3, 2, 2),
            "input_ids": torch.tensor([1, 2, 9, 0]),
            "negative_input_ids": ids[row],
            "negative_attention_mask": torch.ones_like(ids[row]),
            "negative_pixel_values": pixels[row],
        }
        for row in range(2)
    ]
    batch = TensorCollator()(rows)
    assert torch.equal(batch["negative_input_ids"], ids.reshape(-1, 4))
    assert torch.equal(batch["negative_pixel_values"], pixels.reshape(-1, 3, 2, 2))
    assert batch["negative_attention_mask"].shape == (2 * several, 4)
    assert batch["negative_mask"].tolist() == batch["negative_image_mask"].tolist() == [[True] * several] * 2
    assert batch["input_ids"].shape == (2, 4)

# SPDX-License-Identifier: Apache-2.0
"""Broken rows and cut captions are left out, named and reported."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import AddedToken
from tokenizers.processors import RobertaProcessing
from torch.utils.data import DataLoader

from hf_tripletclip.data import BrokenRows, TripletCollator
from hf_tripletclip.data.decoding import row_name
from hf_tripletclip.data.tokenizer import end_token_id
from tests.data.conftest import CAPTIONS
from tests.data.rows import encoded, make_row, picture


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


def test_a_batch_of_only_broken_rows_is_an_error(collator):
    with pytest.raises(ValueError, match=r"All 2 rows of a batch are broken, such as row-0: empty caption in caption"):
        collator([make_row(0, caption=""), make_row(1, image=b"")])


def test_no_rows_are_an_error(collator):
    with pytest.raises(ValueError, match="nothing to collate"):
        collator([])


def test_a_missing_column_is_an_error_that_lists_the_columns(collator):
    row = make_row()
    del row["neg_image"]
    with pytest.raises(ValueError, match=r"lack 'neg_image'; they have 'id', 'image', 'caption', 'neg_caption'"):
        collator([row])
    with pytest.raises(ValueError, match="default_data_collator"):
        collator([{"pixel_values": torch.zeros(3, 32, 32), "input_ids": torch.zeros(3)}])
    with pytest.raises(ValueError, match="default_data_collator"):
        collator([{"negative_input_ids": torch.zeros(3)}])
    with pytest.raises(ValueError, match="has no columns foil"):
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


@pytest.mark.parametrize("column", ["image", "caption", "neg_image", "neg_caption"])
def test_positives_and_negatives_stay_together_if_rows_break(collator, column):
    rows = [
        make_row(index, image=picture((0, 40 * index, 0)), neg_image=picture((0, 40 * index, 255)), number=index)
        for index in range(5)
    ]
    rows[2][column] = None
    batch, kept = collator.collate(rows)
    assert [row["number"] for row in kept] == [0, 1, 3, 4]
    for name, value in collator([rows[index] for index in (0, 1, 3, 4)]).items():
        assert torch.equal(batch[name], value), name


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
def test_values_of_wrong_types_make_broken_rows(collator, changes, reason):
    row = make_row(1, **changes)
    del row["id"]
    assert len(collator([make_row(0), row])["input_ids"]) == 1
    assert collator.broken_rows.counts() == {reason: 1}


def test_a_row_is_named_by_its_key_or_its_caption(collator):
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


def test_a_cut_caption_is_reported_with_its_length(collator):
    collator([make_row(0, neg_caption="cat " * 30), make_row(1)])
    (report,) = collator.broken_rows
    assert report == {
        "key": "row-0",
        "column": "neg_caption",
        "reason": "caption cut: 32 tokens, the limit is 20",
        "skipped": False,
    }


def test_rows_without_a_key_differ_by_their_contents(collator):
    same = {"id": None, "caption": "", "neg_caption": ""}
    collator([make_row(), *(make_row(**same, neg_image=encoded(picture(colour))) for colour in ("red", "blue"))])
    assert collator.broken_rows.counts() == {"empty caption in caption": 2}
    collator([make_row(), *[{"image": None, "caption": None, "neg_image": None, "neg_caption": None}] * 2])
    assert len(collator.broken_rows) == 4


def test_long_captions_among_several_are_reported_by_their_row(collator):
    collator = dataclasses.replace(collator, columns=("caption", "neg_caption"))
    collator([make_row(0, neg_caption=["a cat"] * 3), make_row(1, neg_caption=["a dog", "cat " * 30])])
    assert [(report["key"], report["column"]) for report in collator.broken_rows] == [("row-1", "neg_caption")]


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


def test_rows_without_a_key_differ_by_their_lists():
    lists = [["a", "b"], ["a", "c"], ["ab"], ["a", None], [None, "a"], []]
    assert len({row_name({"caption": "a cat", "neg_caption": several})[1] for several in lists}) == len(lists)

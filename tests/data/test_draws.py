# SPDX-License-Identifier: Apache-2.0
"""A limited number of a row's negatives and further texts, drawn at random in each pass."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from hf_tripletclip.data import BrokenRows, TripletCollator, build_processor
from hf_tripletclip.data.draws import SeveralDraw

WORDS = [f"{colour} {noun}" for colour in ("red", "blue", "green", "black", "white") for noun in ("cat", "dog", "sun")]
LISTS = ("neg_caption", "paraphrase", "dense_caption")


@pytest.fixture(scope="module")
def processor():
    return build_processor([f"a {one} and a {two}" for one, two in itertools.pairwise(WORDS)], image_size=16)


def rows(number: int = 6) -> list[dict]:
    return [
        {
            "id": str(row),
            "image": Image.new("RGB", (16, 16), (40 * row, 0, 0)),
            "caption": f"a {WORDS[row]}",
            **{name: [f"a {word}" for word in WORDS[row + 1 : row + 1 + (row + 3) % 7]] for name in LISTS},
        }
        for row in range(number)
    ]


def written(processor, batch: dict, role: str = "negative") -> list[list[str]]:
    """The texts of a batch, row by row."""
    texts = iter(processor.tokenizer.batch_decode(batch[f"{role}_input_ids"], skip_special_tokens=True))
    return [list(itertools.islice(texts, count)) for count in batch[f"{role}_mask"].sum(dim=1).tolist()]


def collator(processor, draw: SeveralDraw | None, *columns: str) -> TripletCollator:
    return TripletCollator(processor, columns=("image", "caption", *columns), draw_several=draw)


@pytest.mark.parametrize("most", [1, 2, 4, 10])
def test_a_limited_number_is_drawn_and_each_is_drawn_sometime(processor, most):
    draw = SeveralDraw({"neg_caption": most, "paraphrase": 2})
    made = collator(processor, draw, *LISTS)
    seen: list[set[str]] = [set() for _ in rows()]
    for epoch in range(40):
        draw.epoch.fill_(epoch)
        batch = made(rows())
        for row, texts, known in zip(rows(), written(processor, batch), seen, strict=True):
            assert len(texts) == min(most, len(row["neg_caption"]))
            assert texts == [text for text in row["neg_caption"] if text in texts]  # in their order
            known |= set(texts)
        assert batch["paraphrase_mask"].sum(dim=1).tolist() == [min(2, len(row["paraphrase"])) for row in rows()]
        assert batch["dense_mask"].sum(dim=1).tolist() == [len(row["dense_caption"]) for row in rows()]
    assert seen == [set(row["neg_caption"]) for row in rows()]


def test_each_is_drawn_equally_often():
    draw, values = SeveralDraw({"neg_caption": 2}), list("abcde")
    counts: Counter[str] = Counter()
    for epoch in range(2000):
        draw.epoch.fill_(epoch)
        counts.update(draw("neg_caption", values, ["a caption"]))
    assert all(counts[value] == pytest.approx(800, abs=90) for value in values)  # four standard deviations
    pairs = {tuple(SeveralDraw({"x": 2}, seed)("x", values, ["text"])) for seed in range(100)}
    assert len(pairs) == 10


def test_the_draw_depends_on_the_row_alone(processor):
    """It does not depend on the batch, its order, the worker or the process."""
    draw = SeveralDraw({"neg_caption": 2}, seed=3)
    draw.epoch.fill_(5)
    made = collator(processor, draw, "neg_caption")
    whole = written(processor, made(rows()))
    assert written(processor, made(rows()[::-1])) == whole[::-1]
    assert [written(processor, made([row]))[0] for row in rows()] == whole
    loader = DataLoader(rows(), batch_size=2, collate_fn=made, num_workers=2)
    assert [texts for batch in loader for texts in written(processor, batch)] == whole
    draw.epoch.fill_(6)
    again = [texts for batch in loader for texts in written(processor, batch)]
    assert again == written(processor, made(rows())) != whole
    code = (
        "from hf_tripletclip.data.draws import SeveralDraw; draw = SeveralDraw({'x': 3}, 1); draw.epoch.fill_(7); "
        "print(draw('x', list('abcdefghij'), ['ä caption', 'another']))"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    draw = SeveralDraw({"x": 3}, 1)
    draw.epoch.fill_(7)
    assert there.stdout.strip() == str(draw("x", list("abcdefghij"), ["ä caption", "another"]))


@pytest.mark.parametrize("columns", [("neg_image", "neg_caption"), ("neg_image",)])
def test_a_negative_caption_is_drawn_with_its_image(processor, columns):
    draw = SeveralDraw({"neg_caption": 2, "neg_image": 2})
    both = collator(processor, draw, *columns)
    data = [
        {
            **row,
            "neg_image": [Image.new("RGB", (16, 16), (0, 10 * place, 0)) for place in range(len(row["neg_caption"]))],
        }
        for row in rows()
    ]
    data[0]["neg_caption"][1], data[1]["neg_image"][2] = None, None  # their partners are left out with them
    drawn = set()
    for epoch in range(10):
        draw.epoch.fill_(epoch)
        batch = both(data)
        assert batch["negative_image_mask"].sum(dim=1).tolist() == [min(2, len(row["neg_caption"])) for row in data]
        places = places_of(batch)
        drawn |= {tuple(one) for one in places}
        if "neg_caption" in columns:
            assert written(processor, batch) == [
                [row["neg_caption"][place] for place in one] for row, one in zip(data, places, strict=True)
            ]
            assert 1 not in places[0]
        assert 2 not in places[1]
    assert len(drawn) > 10


def places_of(batch: dict) -> list[list[int]]:
    """The images of each row, identified by their shade of green."""
    greens = batch["negative_pixel_values"][:, 1].flatten(1).mean(dim=1)
    levels = (greens * 0.26862954 + 0.4578275 if greens.min() < 0 else greens) * 255
    numbers = iter((levels / 10).round().int().tolist())
    return [list(itertools.islice(numbers, count)) for count in batch["negative_image_mask"].sum(dim=1).tolist()]


def test_unusable_values_are_not_drawn(processor, tmp_path):
    report = BrokenRows(tmp_path / "broken.jsonl")
    draw = SeveralDraw({"neg_caption": 2})
    made = TripletCollator(processor, columns=("caption", "neg_caption"), draw_several=draw, broken_rows=report)
    row = {"id": "a", "caption": "a red cat", "neg_caption": ["", "a red dog", None, "a blue cat", " "]}
    for epoch in range(5):
        draw.epoch.fill_(epoch)
        assert written(processor, made([row])) == [["a red dog", "a blue cat"]]
    assert report.counts(skipped=False) == {"empty caption in neg_caption": 1}  # of rows

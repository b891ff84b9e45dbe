# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from html import unescape

import pytest

from hf_tripletclip.generation.inspect.measures import ticks
from hf_tripletclip.generation.inspect.rows import Look, Row
from hf_tripletclip.generation.inspect.sections import HEIGHT, LEFT, WIDTH, Series, card, choose, curve, histogram


def parse(drawing):
    return ET.fromstring(f"<div>{drawing}</div>")


def bars(drawing, style):
    return [rect for rect in parse(drawing).iter("rect") if rect.get("class") == f"bar {style}"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.12, 0.38, [0.15, 0.2, 0.25, 0.3, 0.35]),
        (-1.5, 1.5, [-1.5, -1, -0.5, 0, 0.5, 1, 1.5]),
        (0, 3700, [0, 1000, 2000, 3000]),
        (2, 2, [2]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_a_histogram_counts_everything_once():
    values = [0.1, 0.11, 0.2, 0.35, 0.35, 0.5]
    drawing = histogram([Series("a < b", "positive", values), Series("c", "negative", [0.3])], "score & more")
    counts = [int(rect.find("title").text.split(": ")[1].split()[0]) for rect in bars(drawing, "positive")]
    assert sum(counts) == len(values)
    assert len(bars(drawing, "negative")) == 1
    highest = max(bars(drawing, "positive"), key=lambda rect: float(rect.get("height")))
    assert highest.find("title").text.startswith("a < b: 2 from 0.1")
    for rect in bars(drawing, "positive"):
        assert LEFT - 0.1 <= float(rect.get("x")) <= WIDTH
        assert 0 <= float(rect.get("y")) <= HEIGHT
    assert [key.text for key in parse(drawing).iter("span")] == ["a < b", "c"]


def test_whole_numbers_have_bins_of_their_own():
    drawing = histogram([Series("words", "single", [3, 3, 4, 9])], "words")
    assert [rect.find("title").text.split(": ")[1] for rect in bars(drawing, "single")] == [
        "2 from 2.5 to 3.5",
        "1 from 3.5 to 4.5",
        "1 from 8.5 to 9.5",
    ]


@pytest.mark.parametrize("values", [[0.25], [0.0, 0.0], [-0.1, -0.1], [1e-9, 1e-9], [7, 7]])
def test_equal_values_are_drawn(values):
    drawing = histogram([Series("a", "single", values)], "a")
    (bar,) = bars(drawing, "single")
    assert f": {len(values)} from" in bar.find("title").text


def test_a_curve_goes_from_all_to_none():
    falling = Series("at least", "positive", [10, 5, 0], [0.0, 0.5, 1.0])
    rising = Series("at most", "negative", [0, 5, 10], [0.0, 0.5, 1.0])
    first, second = parse(curve([falling, rising], "similarity", 10)).iter("polyline")
    points = [tuple(map(float, point.split(","))) for point in first.get("points").split()]
    mirrored = [tuple(map(float, point.split(","))) for point in second.get("points").split()]
    assert [y for _, y in points] == sorted(y for _, y in points)
    assert [y for _, y in points] == [y for _, y in reversed(mirrored)]
    assert points[0][0] == LEFT
    one_place = Series("at least", "positive", [3], [0.2])
    assert parse(curve([one_place], "x", 3)).find("svg") is not None


def row(caption="a red cat", negatives=("a blue cat",), kinds=("replace_att",), split="train", key="1", **more):
    return Row(split, key, caption, list(negatives), list(kinds), more.pop("scores", {}), **more)


def test_a_card():
    scores = {"clip_score": 0.31234, "image_similarity": 0.5}
    look = Look(
        row(scores=scores, generator="rules + <x>", held_out=True, key="k" * 500),
        {"image": "data:a", "neg_image": "data:b"},
    )
    html = card(look)
    assert "a <mark>red</mark> cat" in html
    assert "a <mark>blue</mark> cat" in html
    assert "0.312" in html
    assert "rules + &lt;x&gt;" in html
    assert "held out" in html
    assert "k" * 100 not in html
    assert html.index('src="data:a"') < html.index('src="data:b"')
    assert json.loads(unescape(html.split('data-scores="')[1].split('"')[0])) == scores
    assert json.loads(unescape(html.split('data-kinds="')[1].split('"')[0])) == ["replace_att"]


def test_several_negatives_none_and_no_kind():
    html = card(Look(row("a red cat", ["a blue cat", "a red dog"], ["replace_att", "replace_obj"])))
    assert "a <mark>red cat</mark>" in html  # what any of them changes
    assert html.count('class="caption negative"') == 2
    assert html.index(">replace_att<") < html.index(">replace_obj<")
    assert json.loads(unescape(html.split('data-kinds="')[1].split('"')[0])) == ["replace_att", "replace_obj"]
    many = card(Look(row(negatives=["b"] * 11, kinds=[None] * 11)))
    assert many.count('class="caption negative"') == 8
    assert "and 3 more" in many
    assert "no hard negative caption" in card(Look(row(negatives=[], kinds=[])))


def test_rare_kinds_are_shown_and_broken_rows_are_not():
    looks = [Look(row(kinds=["common"], key=str(number))) for number in range(100)]
    looks[40] = Look(row(kinds=["rare"], key="40"))
    looks[0].problems.append(("missing image in image", "0"))
    looks[1] = Look(None)
    keys = [look.row.key for look in choose(looks, 4)]
    assert "40" in keys
    assert keys[0] == "2"
    assert len(keys) == 4
    assert len(choose(looks, 1000)) == 98
    assert choose(looks, 0) == []

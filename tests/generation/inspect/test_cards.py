# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from html import unescape

from hf_tripletclip.generation.inspect.cards import card, choose
from hf_tripletclip.generation.inspect.sample import Look, Row


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

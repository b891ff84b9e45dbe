# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from html import unescape

import pytest

from hf_tripletclip.generation.inspect.cards import card, choose, differing_words, text
from hf_tripletclip.generation.inspect.sample import Look, Row


def row(caption="a red cat", negatives=("a blue cat",), kinds=("replace_att",), split="train", key="1", **more):
    return Row(split, key, caption, list(negatives), list(kinds), more.pop("scores", {}), **more)


def marked(words):
    return [word for word, differs in words if differs]


@pytest.mark.parametrize(
    ("caption", "negative", "first", "second"),
    [
        ("a red cat", "a blue cat", ["red"], ["blue"]),
        ("a cat.", "A cat, and a dog", [], ["and", "a", "dog"]),
        ("a dog left of a cat", "a cat left of a dog", ["dog", "cat"], ["cat", "dog"]),
        ("same words", "same words", [], []),
        ("one", "another thing", ["one"], ["another", "thing"]),
    ],
)
def test_differing_words(caption, negative, first, second):
    own, other = differing_words(caption, negative)
    assert (marked(own), marked(other)) == (first, second)
    assert " ".join(word for word, _ in own) == caption


def test_long_captions_are_cut():
    own, other = differing_words("word " * 5000, "w" * 50_000)
    assert own[-1][0] == other[-1][0] == "…"
    assert len(own) <= 100
    assert sum(len(word) for word, _ in other) < 1000


def test_text_cannot_leave_its_place():
    assert text("</script><b a=\"1\" b='2'>&") == "&lt;/script&gt;&lt;b a=&quot;1&quot; b=&#x27;2&#x27;&gt;&amp;"
    assert text("a\u202eb\x00c\ud800d\n") == "a\ufffdb\ufffdc?d\n"


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

# SPDX-License-Identifier: Apache-2.0
"""Answers as HTML."""

from __future__ import annotations

from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.demo import rendering
from hf_tripletclip.demo.scoring import CaptionScore, Comparison, Composition, Trial

EVIL = "<script>alert('x')</script>"


def test_scores_are_shown():
    scores = [CaptionScore("a cat", 0.25, 0.731), CaptionScore("a dog", -0.15, 0.269)]
    page = rendering.comparisons([Comparison("one", 100.0, scores), Comparison("two", 50.0, scores[::-1])])
    assert page.count('<section class="tc-panel"') == 2
    assert page.count("Best: <strong>a cat</strong>") == 2
    assert "0.2500" in page
    assert "\N{MINUS SIGN}0.1500" in page
    assert 'style="width:73.1%"' in page
    assert "50.0 × cosine" in page


def test_ties_and_single_captions_are_explained():
    score = CaptionScore("a cat", 0.25, 0.5)
    tie = rendering.comparisons([Comparison("one", 1.0, [score, CaptionScore("a dog", 0.25, 0.5)])])
    assert "tie for the best score" in tie
    assert "tc-best" not in tie
    assert "give others" in rendering.comparisons([Comparison("one", 1.0, [score])])


def test_verdicts():
    caption = "a red cat above a blue dog"
    trials = [
        Trial("a blue cat above a red dog", "swap_att", 0.5, 0.25),
        Trial("a red cat below a blue dog", "replace_rel", 0.5, 0.5),
        Trial("a red fox above a blue dog", None, 0.5, 0.75),
    ]
    page = rendering.compositions([Composition("one", caption, trials, ("A note.",))])
    assert "Right on 1 of 3</strong>: it confuses 2" in page
    rows = page.split("<tbody>")[1].split("</tr>")
    assert "✓</span> right" in rows[0]
    assert "a <mark>blue</mark> cat above a <mark>red</mark> dog" in rows[0]
    assert "attributes swapped" in rows[0]
    assert "+0.2500" in rows[0]
    assert "=</span> tie" in rows[1]
    assert 'class="tc-wrong"' in rows[1]
    assert "<mark>below</mark>" in rows[1]
    assert "✗</span> confused" in rows[2]
    assert "your own" in rows[2]
    assert "\N{MINUS SIGN}0.2500" in rows[2]
    assert "A note." in page


def test_what_visitors_type_is_escaped():
    comparison = Comparison(EVIL, 1.0, [CaptionScore(EVIL, 0.1, 1.0)], (EVIL,))
    composition = Composition(EVIL, EVIL, [Trial(EVIL + " x", EVIL, 0.1, 0.2)], (EVIL,))
    for page in (
        rendering.comparisons([comparison]),
        rendering.compositions([composition]),
        rendering.problem(EVIL),
        rendering.hint(EVIL),
    ):
        assert "&lt;script&gt;" in page
        assert "<script" not in page


def test_every_kind_has_a_label():
    assert set(rendering.KINDS) == set(NEGATIVE_TYPES)

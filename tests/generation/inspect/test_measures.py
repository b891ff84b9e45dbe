# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter

import pytest
from datasets import Dataset

from hf_tripletclip.generation.filters import FilterSettings, filter_dataset
from hf_tripletclip.generation.inspect.measures import (
    NO_KIND,
    blind_scores,
    concepts,
    filter_effects,
    kinds_by_split,
    left_out_reasons,
    true_negatives,
)
from hf_tripletclip.generation.inspect.rows import Row
from tests.generation.inspect.datasets_to_look_at import SCORES, scored_rows


def rows_of(raw):
    return [
        Row(
            split="train",
            key=row["id"],
            caption=row["caption"],
            negatives=[row["neg_caption"]],
            kinds=[row["negative_type"]],
            scores={name: row[name] for name in SCORES if row[name] is not None},
        )
        for row in raw
    ]


def test_kinds_are_counted_by_split():
    rows = rows_of(scored_rows(7))
    rows[6].split = "test"
    rows[0].kinds = [None]
    assert kinds_by_split(rows) == {
        "replace_att": Counter(train=2),
        "replace_obj": Counter(train=1, test=1),
        "swap_att": Counter(train=2),
        NO_KIND: Counter(train=1),
    }


def test_negatives_that_are_true_of_the_picture_are_counted():
    rows = rows_of(scored_rows(4))
    assert true_negatives(rows) == {}
    rows[1].caption, rows[1].negatives = (
        "a black dog runs",
        ["The black dog is running", "a dog runs", "a white dog runs"],
    )
    rows[2].caption, rows[2].negatives, rows[2].split = (
        "a black dog runs",
        ["a dog runs", "two black dogs run"],
        "test",
    )
    rows[3].caption, rows[3].negatives = "a dog runs", ["a black dog runs"]
    assert true_negatives(rows) == {
        "words of the caption left out": Counter(train=1, test=1),
        "same words as the caption": Counter(train=1),
    }


def test_captions_that_give_themselves_away_are_found():
    found = {score.group: score for score in blind_scores(rows_of(scored_rows(1200)))}
    assert list(found) == ["all", "replace_obj", "replace_att", "swap_att"]
    assert found["replace_att"].verdict == "captions give it away"
    assert found["replace_att"].score == 1.0
    assert found["all"].verdict == "captions give it away"
    assert found["replace_obj"].verdict == "at chance"
    assert found["swap_att"].score == 0.5
    assert found["all"].number == 1200
    assert found["replace_obj"].low == pytest.approx(0.5 - 1 / 200**0.5)


def test_one_negative_of_a_row_counts():
    rows = rows_of(scored_rows(100))
    for row in rows:
        row.negatives, row.kinds = [row.negatives[0], "b", "c"], [None, None, "add_obj"]
    assert {score.group: score.number for score in blind_scores(rows)} == {"all": 100, NO_KIND: 100, "add_obj": 100}
    assert blind_scores(rows[:3]) == []
    for row in rows:
        row.negatives, row.kinds = row.negatives[:1], [None]
    assert [score.group for score in blind_scores(rows)] == ["all"]  # without kinds there is but one group
    for row in rows:
        row.negatives, row.kinds = [], []
    assert blind_scores(rows) == []


def test_filters_leave_what_the_filters_leave():
    raw = scored_rows(300)
    effects = {effect.quantity: effect for effect in filter_effects(rows_of(raw))}
    assert list(effects) == ["clip_score_mean", "clip_score", "neg_clip_score", "margin", "image_similarity"]
    data = Dataset.from_list([{name: row[name] for name in SCORES} for row in raw])
    for quantity, effect in effects.items():
        assert effect.at_least[0] == effect.scored
        assert effect.at_least[-1] >= 1
        assert effect.at_least == sorted(effect.at_least, reverse=True)
        for threshold, low, high in effect.table:
            assert len(filter_dataset(data, FilterSettings(**{f"min_{quantity}": threshold}))[0]) == low
            if high is not None:
                assert len(filter_dataset(data, FilterSettings(**{f"max_{quantity}": threshold}))[0]) == high
    similarity = effects["image_similarity"]
    assert similarity.scored == 270
    assert similarity.at_most == sorted(similarity.at_most)
    assert similarity.at_most[-1] == 270
    assert effects["clip_score"].at_most is None
    assert filter_effects([]) == []


def test_equal_scores_have_one_threshold():
    rows = rows_of(scored_rows(5))
    for row in rows:
        row.scores = {"vqa_score": 0.8}
    (effect,) = filter_effects(rows)
    assert effect.places == pytest.approx([0.8])
    assert effect.at_least == [5]
    assert [(low, high) for _, low, high in effect.table] == [(5, None)]


def test_concepts_or_how_to_get_them(monkeypatch, tmp_path):
    rows = rows_of(scored_rows(30))
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    from hf_tripletclip.generation import concepts as counting
    from hf_tripletclip.generation import wordnet

    wordnet.load_wordnet.cache_clear()
    counting.synsets_of.cache_clear()
    try:
        message = concepts(rows)
        assert isinstance(message, str)
        assert "WNSEARCHDIR names" in message
        monkeypatch.delenv("WNSEARCHDIR")
        monkeypatch.setattr(wordnet, "FOLDERS", ())
        monkeypatch.setattr("nltk.data.path", [])
        assert "apt install wordnet-base" in concepts(rows)
    finally:
        wordnet.load_wordnet.cache_clear()
        counting.synsets_of.cache_clear()


def test_reasons_of_rows_that_were_left_out(tmp_path):
    assert left_out_reasons(tmp_path) is None
    assert left_out_reasons(tmp_path / "nowhere") is None
    lines = ['{"split": "train", "row": 1, "reason": "a"}', '{"split": "test", "row": 1, "reason": "b"}'] * 2
    (tmp_path / "left_out.jsonl").write_text("\n".join([lines[0], *lines, "[]", '{"spl']))
    found = left_out_reasons(tmp_path)
    assert list(found) == ["a", "b", "a line of left_out.jsonl that cannot be read"]
    assert [count.total() for count in found.values()] == [3, 2, 2]
    assert found["a"] == Counter(train=3)

# SPDX-License-Identifier: Apache-2.0
"""The blind score detects leaks, and `scenes` has none."""

from __future__ import annotations

import random
import runpy

import pytest
import torch

from hf_tripletclip.data.scenes import __main__ as command
from hf_tripletclip.data.scenes import blind_score
from hf_tripletclip.data.scenes.build import SPLITS, make_row
from hf_tripletclip.data.scenes.captions import describe
from hf_tripletclip.data.scenes.vocabulary import NOUNS, choose_nouns
from hf_tripletclip.data.schema import NEGATIVE_TYPES
from tests.data.scenes.conftest import ROWS

WORDS = [f"word{index}" for index in range(40)]


def random_captions(rows: int, seed: int, length: int = 6) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=length)) for _ in range(rows)]


def within_four_standard_errors(score: float, rows: int) -> bool:
    tried = rows - (rows + 1) // 2
    return abs(score - 0.5) < 4 * 0.5 / tried**0.5


def test_random_captions_are_at_chance():
    assert within_four_standard_errors(blind_score(random_captions(2000, 0), random_captions(2000, 1)), 2000)


def test_a_swap_of_words_is_exactly_at_chance():
    positives = random_captions(200, 0)
    assert blind_score(positives, [" ".join(caption.split()[::-1]) for caption in positives]) == 0.5


def unique_words(rows: int, lengths: tuple[int, ...], letters: str) -> list[str]:
    """Captions whose words rarely occur twice, so that only their lengths carry information."""
    rng = random.Random(f"{lengths} {letters}")
    return [" ".join("".join(rng.choices(letters, k=length)) for length in lengths) for _ in range(rows)]


@pytest.mark.parametrize(
    "lengths", [(6, 6, 6, 6, 6, 6), (6, 6), (8, 8, 8), (9, 3, 3, 3)], ids=["words", "fewer", "letters", "same-letters"]
)
def test_lengths_that_reveal_the_answer_are_detected(lengths):
    usual, other = unique_words(400, (6, 7, 6), "abcdefghijklm"), unique_words(400, lengths, "nopqrstuvwxyz")
    assert blind_score(usual, other) > 0.95
    assert blind_score(other, usual) > 0.95  # whichever side is the longer one
    same = unique_words(400, (7, 6, 6), "nopqrstuvwxyz")
    assert within_four_standard_errors(blind_score(usual, same), 400)


def test_a_word_that_only_negatives_use_is_detected_as_often_as_it_occurs():
    positives, negatives = random_captions(2000, 0), random_captions(2000, 1)
    negatives = [
        caption.rpartition(" ")[0] + " telltale" if index % 2 else caption for index, caption in enumerate(negatives)
    ]
    assert blind_score(positives, negatives) == pytest.approx(0.75, abs=0.06)


def test_it_is_deterministic_and_leaves_the_global_seed_alone():
    positives, negatives = random_captions(100, 0), random_captions(100, 1)
    torch.manual_seed(5)
    first = blind_score(positives, negatives)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)
    assert blind_score(positives, negatives) == blind_score(positives, negatives, seed=0) == first
    assert len({blind_score(positives, negatives, seed=seed) for seed in range(5)}) > 1
    assert isinstance(first, float)


def test_it_needs_rows_in_pairs():
    with pytest.raises(ValueError, match="at least 4; got 3 and 3"):
        blind_score(["a"] * 3, ["b"] * 3)
    with pytest.raises(ValueError, match="got 5 and 4"):
        blind_score(["a"] * 5, ["b"] * 4)


def test_words_that_always_reveal_the_answer_are_always_detected():
    positives = [f"a {noun}" for noun in NOUNS]
    assert blind_score(positives, [f"{caption} and more" for caption in positives]) == 1.0
    assert blind_score(positives, [caption.replace("a ", "one ") for caption in positives]) == 1.0


@pytest.mark.parametrize("split", SPLITS)
def test_each_split_is_at_chance(rows_of, split):
    captions = [(describe(positive), describe(negative)) for positive, negative, _ in rows_of[split]]
    assert within_four_standard_errors(blind_score(*zip(*captions, strict=True)), ROWS[split])


@pytest.mark.parametrize("kind", NEGATIVE_TYPES)
def test_each_kind_is_at_chance(rows_of, kind):
    captions = [
        (describe(positive), describe(negative)) for positive, negative, other in rows_of["test"] if other == kind
    ]
    assert within_four_standard_errors(blind_score(*zip(*captions, strict=True)), 300)


def test_another_seed_of_the_data_is_at_chance_too():
    nouns = choose_nouns(24)
    rows = [make_row("test", index, 1, nouns)[:2] for index in range(1400)]
    captions = [[describe(scene) for scene in side] for side in zip(*rows, strict=True)]
    assert within_four_standard_errors(blind_score(*captions), 1400)
    # The same rows without the toss of the direction: added things make the negative longer.
    sorted_by_length = [sorted(pair, key=len) for pair in zip(*captions, strict=True)]
    assert blind_score(*zip(*sorted_by_length, strict=True)) > 0.75


def test_the_command_prints_a_row_per_split_and_kind(monkeypatch):
    monkeypatch.setattr(command, "ROWS", 70)
    head, rule, *rows = command.scenes_table().splitlines()
    assert head.count("|") == rule.count("|") == 5
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert [name for name, *_ in cells] == [
        "`train`",
        "`validation`",
        "`test`",
        *(f"`test`, `{kind}`" for kind in NEGATIVE_TYPES),
    ]
    assert [number for _, number, *_ in cells] == ["70"] * 3 + ["10"] * 7
    assert all(0 <= float(score) <= 1 for _, _, score, _ in cells)
    assert cells[0][3] == "0.331 to 0.669"  # 35 rows tried: 0.5 / sqrt(35) = 0.0845


@pytest.mark.parametrize(("name", "printed"), [("__main__", "the table\n"), ("imported", "")])
def test_only_the_command_prints(monkeypatch, capsys, name, printed):
    row = make_row("test", 0, 0, choose_nouns(24))
    monkeypatch.setattr(
        "hf_tripletclip.data.scenes.build.make_row", lambda *arguments: (*row[:2], NEGATIVE_TYPES[arguments[1] % 7])
    )
    monkeypatch.setattr("hf_tripletclip.data.blind.blind_table", lambda groups: "the table")
    runpy.run_path(command.__file__, run_name=name)
    assert capsys.readouterr().out == printed

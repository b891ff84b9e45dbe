# SPDX-License-Identifier: Apache-2.0
"""Ranks by hand, with ties and several right candidates; and against a computation of one pair a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_tripletclip.evaluation import recall as module
from hf_tripletclip.evaluation.recall import Ranking, first_hits, rank, recall_by_chance, topk_hits
from tests.evaluation import recall_of_rows


def lists(found: Ranking) -> list[list]:
    return [values.tolist() for values in found]


def on_circle(*degrees: float) -> torch.Tensor:
    """Embeddings of two dimensions; the score of two is the cosine of the angle between them."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1).float()


def naive_ranks(queries: torch.Tensor, candidates: torch.Tensor, targets: list[list[int]]) -> list[int]:
    """One query and one candidate at a time, in float64."""
    ranks = []
    for query, right in zip(queries.double().numpy(), targets, strict=True):
        scores = [float(np.dot(query, candidate)) for candidate in candidates.double().numpy()]
        best = max(scores[index] for index in right)
        ranks.append(sum(score >= best for index, score in enumerate(scores) if index not in right))
    return ranks


@pytest.mark.parametrize(
    ("candidates", "targets", "expected"),
    [
        ((10, 20, 30), [[0]], [[0], [False], [1]]),  # the nearest is right
        ((10, 20, 30), [[1]], [[1], [False], [0]]),
        ((10, 20, 30), [[2, 1]], [[1], [False], [0]]),  # several right ones: the best of them counts
        ((10, 20, 30), [[2, 0]], [[0], [False], [1]]),
        ((10, 10, 30), [[0]], [[1], [True], [1]]),  # a tie loses, to a later candidate
        ((10, 10, 30), [[1]], [[1], [True], [0]]),  # and to an earlier one
        ((10, 10, 30), [[0, 1]], [[0], [False], [2]]),  # right ones do not compete with each other
        ((5, 10, 10), [[1]], [[2], [True], [0]]),  # a tie that is not at the top
        ((10,), [[0]], [[0], [False], [-1]]),  # a single candidate
        ((10, 20), [[0, 1]], [[0], [False], [-1]]),  # all are right
    ],
)
def test_by_hand(candidates, targets, expected):
    assert lists(rank(on_circle(0), on_circle(*candidates), targets)) == expected


@pytest.mark.parametrize("cells", [1, 100, 4_000_000])
def test_chunks_against_one_pair_at_a_time(monkeypatch, cells):
    monkeypatch.setattr(module, "CELLS", cells)
    generator = torch.Generator().manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(23, 8, generator=generator), dim=-1)
    candidates = torch.nn.functional.normalize(torch.randn(41, 8, generator=generator), dim=-1)
    candidates[7] = candidates[30]  # a tie, which chunks must not break
    targets = [[index % 41, (index * 7 + 30) % 41] for index in range(23)]
    found = rank(queries, candidates, targets)
    assert found.rank.tolist() == naive_ranks(queries, candidates, targets)
    for k, hits in topk_hits(queries, candidates, targets, (1, 5, 50)).items():
        order = np.argsort(-(queries.double() @ candidates.double().T).numpy(), kind="stable")[:, :k]
        settled = ~found.tied  # whom topk takes of equal ones is its own business
        expected = torch.tensor([bool(set(best) & set(right)) for best, right in zip(order, targets, strict=True)])
        assert torch.equal(hits[settled], expected[settled])
        assert torch.equal(hits[settled], (found.rank < k)[settled])


def test_equal_pairs_have_equal_scores_wherever_they_stand():
    # A product in float32 gives some of these scores that differ in the last digit.
    generator = torch.Generator().manual_seed(1)
    vector = torch.nn.functional.normalize(torch.randn(1, 512, generator=generator), dim=-1)
    found = rank(vector.repeat(67, 1), vector.repeat(131, 1), [[index] for index in range(67)])
    assert found.rank.tolist() == [130] * 67
    assert found.tied.all()


def test_collapsed_embeddings_find_nothing_by_our_rules_and_something_by_topk():
    same = torch.ones(10, 4) / 2
    targets = [[index] for index in range(10)]
    assert recall_of_rows(same, same, at=(1, 5, 9)) == {1: 0.0, 5: 0.0, 9: 0.0}
    hits = topk_hits(same, same, targets, (1, 10))
    assert hits[1].sum() == 1
    assert hits[10].all()


@pytest.mark.parametrize("cells", [1, 1_000_000])
def test_argmax_takes_the_first_of_equal_ones(monkeypatch, cells):
    monkeypatch.setattr(module, "CELLS", cells)
    queries, candidates = on_circle(0, 0, 0, 40), on_circle(10, 10, 30)
    assert first_hits(queries, candidates, [[0], [1], [2, 0], [2]]).tolist() == [True, False, True, True]
    with pytest.raises(ValueError, match="`targets` is empty"):
        first_hits(queries, candidates, [[], [1], [0], [0]])
    with pytest.raises(ValueError, match="`targets` is empty"):
        topk_hits(queries, candidates, [[], [1], [0], [0]], (1,))


def test_half_precision_embeddings_are_scored_in_more():
    queries, candidates = on_circle(0, 90).bfloat16(), on_circle(1, 91).bfloat16()
    assert rank(queries, candidates, [[0], [1]]).rank.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("right", "candidates", "k", "expected"),
    [(1, 4, 1, 1 / 4), (2, 4, 1, 1 / 2), (2, 4, 2, 1 - 1 / 6), (1, 4, 10, 1.0), (4, 4, 1, 1.0)],
)
def test_chance(right, candidates, k, expected):
    assert math.isclose(recall_by_chance(right, candidates, k), expected)


def test_bad_input():
    one = on_circle(0)
    with pytest.raises(ValueError, match="`targets` has 2 entries for 1 queries"):
        rank(one, one, [[0], [0]])
    with pytest.raises(ValueError, match=r"`targets` is empty for the queries \[0\]"):
        rank(one, one, [[]])
    with pytest.raises(ValueError, match=r"`targets` names the candidates \[3\], and there are 1"):
        rank(one, one, [[3]])
    with pytest.raises(ValueError, match="at least one row"):
        rank(torch.empty(0, 2), one, [])
    with pytest.raises(ValueError, match=r"at least one row; these are \(1, 2\) and \(1, 3\)"):
        rank(one, torch.ones(1, 3), [[0]])
    for queries, candidates in ((one[0], one), (one, one[0]), (one[None], one), (one, one[None])):
        with pytest.raises(ValueError, match=r"Embeddings are of shapes \(N, dim\) and \(M, dim\)"):
            rank(queries, candidates, [[0]])
    with pytest.raises(ValueError, match=r"candidate embeddings are not finite in rows \[0\]:"):
        rank(one, one * torch.nan, [[0]])
    many = on_circle(*range(8))
    with pytest.raises(ValueError, match=r"query embeddings are not finite in rows \[0, 1, 2, 3, 4\]:"):
        rank(many * torch.inf, one, [[0]] * 8)
    with pytest.raises(ValueError, match=r"empty for the queries \[1, 2, 3, 4, 5\]\."):
        rank(many, one, [[0], *([[]] * 7)])
    with pytest.raises(ValueError, match=r"names the candidates \[-1, 8, 9, 10, 11\], and there are 8"):
        rank(many, many, [[0, -1, 7], [8, 9, 10, 11, 12], *([[0]] * 6)])

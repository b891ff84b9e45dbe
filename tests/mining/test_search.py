# SPDX-License-Identifier: Apache-2.0
"""The search against a full matrix of scores, in chunks of any size, with ties."""

from __future__ import annotations

import pytest
import torch

from hf_tripletclip.mining.search import QUERIES, nearest


def reference(queries, candidates, k, exempt):
    """All scores at once, sorted by score and place."""
    scores = (queries.double() @ candidates.double().T).float()
    for row, few in enumerate(exempt):
        scores[row, few] = -torch.inf
    values, order = scores.sort(dim=1, descending=True, stable=True)
    order = order.masked_fill(values == -torch.inf, -1)
    return order[:, :k], values.masked_fill(values == -torch.inf, torch.nan)[:, :k]


def searched(*args, **kwargs):
    parts = list(nearest(*args, **kwargs))
    assert [part.start for part in parts] == list(range(0, len(args[0]), QUERIES))
    return torch.cat([part.indices for part in parts]), torch.cat([part.scores for part in parts])


@pytest.mark.parametrize("cells", [1, 7 * QUERIES, 100 * QUERIES, 10**9])
@pytest.mark.parametrize("copies", [False, True], ids=["no ties", "ties"])
def test_is_the_full_sort_whatever_the_chunks(cells, copies):
    candidates = torch.nn.functional.normalize(torch.randn(301, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    if copies:
        candidates[100:160] = candidates[3]
        candidates[290:] = -candidates[3]
    queries = candidates[:90].repeat(7, 1)  # more than one part of queries
    exempt = [[row % 90, (row * 7) % 301] for row in range(len(queries))]
    found, scores = searched(queries, candidates, 20, exempt, cells=cells)
    order, values = reference(queries, candidates, 20, exempt)
    assert torch.equal(found, order)
    torch.testing.assert_close(scores, values, rtol=0, atol=0, equal_nan=True)


def test_fewer_candidates_than_asked_for():
    candidates = torch.eye(3)
    found, scores = searched(torch.eye(3)[:2], candidates, 5, [[0], [0, 1, 2]])
    assert found.tolist() == [[1, 2, -1, -1, -1], [-1] * 5]
    assert scores.isnan().tolist() == [[False, False, True, True, True], [True] * 5]


def test_negative_scores_and_both_zeros_keep_their_order():
    candidates = torch.tensor([[-1.0, 0.0], [0.0, -1.0], [-0.0, 1.0], [0.6, 0.8], [-0.6, 0.8]])
    found, scores = searched(torch.tensor([[1.0, 0.0]]), candidates, 5, [[]])
    assert found.tolist() == [[3, 1, 2, 4, 0]]  # of the two zeros the first
    assert scores[0].tolist() == pytest.approx([0.6, 0.0, 0.0, -0.6, -1.0])


@pytest.mark.parametrize(("k", "exempt", "said"), [(0, [[]], "`k` is 0"), (1, [], "`exempt` has 0")])
def test_refuses_what_cannot_be_meant(k, exempt, said):
    with pytest.raises(ValueError, match=said):
        list(nearest(torch.eye(1), torch.eye(1), k, exempt))

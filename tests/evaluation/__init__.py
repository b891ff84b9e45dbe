# SPDX-License-Identifier: Apache-2.0
"""What the tests of evaluation share: captions whose embeddings are evaluated, and recall@k of rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hf_tripletclip.evaluation.recall import rank

CAPTIONS = ["a red cat", "a blue cat", "a red dog", "a blue dog"]


def recall_of_rows(queries: torch.Tensor, candidates: torch.Tensor, at: Sequence[int] = (1, 5)) -> dict[int, float]:
    """recall@k of queries whose target is the candidate of the same row; ties count against."""
    ranks = rank(queries, candidates, [[row] for row in range(len(queries))]).rank
    return {k: (ranks < k).double().mean().item() for k in at}

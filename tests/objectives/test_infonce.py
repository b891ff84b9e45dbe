# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_tripletclip.objectives import Embeddings, get_objective, info_nce


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return result


def test_memory_is_rows_times_chunk_and_never_the_whole_matrix():
    rows, dim, chunk = 512, 8, 16
    leaves = [torch.randn(rows, dim, requires_grad=True) for _ in range(4)]
    with LargestTensor() as seen:
        get_objective("tripletclip", chunk_size=chunk)(Embeddings(*leaves), torch.tensor(10.0)).loss.backward()
    assert seen.numel <= rows * chunk
    with LargestTensor() as dense:
        get_objective("tripletclip", chunk_size=rows)(Embeddings(*leaves), torch.tensor(10.0)).loss.backward()
    assert dense.numel == rows * rows


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_are_float32_under_autocast(dtype):
    queries, keys = torch.nn.functional.normalize(torch.randn(2, 64, 32), dim=-1)
    expected = info_nce(queries, [keys], torch.tensor(100.0))
    with torch.autocast("cpu", dtype=dtype):
        inside = info_nce(queries, [keys], torch.tensor(100.0))
    assert inside.dtype == torch.float32
    assert torch.equal(inside, expected)


def test_half_precision_inputs_get_half_precision_gradients():
    queries = torch.nn.functional.normalize(torch.randn(8, 4), dim=-1).bfloat16().requires_grad_()
    keys = torch.nn.functional.normalize(torch.randn(8, 4), dim=-1).bfloat16().requires_grad_()
    loss = info_nce(queries, [keys], torch.tensor(10.0))
    expected = info_nce(queries.float(), [keys.float()], torch.tensor(10.0))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    loss.backward()
    assert queries.grad.dtype == keys.grad.dtype == torch.bfloat16


def test_first_target_offsets_into_the_first_block():
    queries, keys = torch.randn(3, 4), torch.randn(9, 4)
    expected = torch.nn.functional.cross_entropy(2.0 * queries @ keys.T, torch.arange(5, 8), reduction="sum")
    for chunk_size in (2, 100):
        loss = info_nce(queries, [keys], torch.tensor(2.0), first_target=5, chunk_size=chunk_size)
        torch.testing.assert_close(loss, expected)


def test_only_what_needs_a_gradient_gets_one():
    queries, keys = torch.randn(3, 4), torch.randn(3, 4, requires_grad=True)
    info_nce(queries, [keys, torch.randn(2, 4)], torch.tensor(2.0)).backward()
    assert queries.grad is None
    assert keys.grad.shape == (3, 4)
    assert not info_nce(queries, [torch.randn(3, 4)], torch.tensor(2.0)).requires_grad


@pytest.mark.slow
def test_torch_compile():
    queries, keys = torch.randn(2, 16, 8)
    expected = info_nce(queries, [keys], torch.tensor(5.0), chunk_size=5)
    compiled = torch.compile(lambda q, k: info_nce(q, [k], torch.tensor(5.0), chunk_size=5))
    torch.testing.assert_close(compiled(queries, keys), expected)

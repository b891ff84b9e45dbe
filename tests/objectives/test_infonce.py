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


class Products(TorchDispatchMode):
    """Counts the matrix products."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("blocks", [(14,), (9, 5)])
@pytest.mark.parametrize(("chunk_size", "forward", "backward"), [(100, 1, 2), (14, 1, 2), (13, 2, 6)])
def test_keys_that_fit_into_one_chunk_are_one_product_that_is_kept(blocks, chunk_size, forward, backward):
    queries, *keys = (torch.randn(rows, 4, requires_grad=True) for rows in (3, *blocks))
    with Products() as seen:
        loss = info_nce(queries, keys, 2.0, chunk_size=chunk_size)
    assert seen.number == forward
    with Products() as seen:
        loss.backward()
    assert seen.number == backward  # two for the gradients of each chunk, and one where the product is made again


def test_memory_is_rows_times_chunk_and_never_the_whole_matrix():
    rows, dim, chunk = 512, 8, 16
    queries, keys = (torch.randn(rows, dim, requires_grad=True) for _ in range(2))
    with LargestTensor() as seen:
        info_nce(queries, [keys], torch.tensor(10.0), chunk_size=chunk).backward()
    assert seen.numel == rows * chunk
    with LargestTensor() as dense:
        info_nce(queries, [keys], torch.tensor(10.0), chunk_size=rows).backward()
    assert dense.numel == rows * rows


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_are_float32_under_autocast(dtype):
    queries, keys = torch.nn.functional.normalize(torch.randn(2, 64, 32), dim=-1)
    expected = info_nce(queries, [keys], torch.tensor(100.0))
    with torch.autocast("cpu", dtype=dtype):
        inside = info_nce(queries, [keys], torch.tensor(100.0))
    assert inside.dtype == torch.float32
    assert torch.equal(inside, expected)


@pytest.mark.parametrize("chunk_size", [16, 100])
def test_backward_is_float32_under_autocast(chunk_size):
    queries, keys = (row.requires_grad_() for row in torch.nn.functional.normalize(torch.randn(2, 64, 32), dim=-1))
    scale = torch.tensor(100.0, requires_grad=True)
    leaves = (queries, keys, scale)
    expected = torch.autograd.grad(info_nce(queries, [keys], scale, chunk_size=chunk_size), leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = torch.autograd.grad(info_nce(queries, [keys], scale, chunk_size=chunk_size), leaves)
    for one, other in zip(inside, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_half_precision_embeddings_add_up_in_float32(dtype):
    values = [torch.nn.functional.normalize(torch.randn(32, 16), dim=-1).to(dtype) for _ in range(4)]
    half = [value.clone().requires_grad_() for value in values]
    full = [value.float().requires_grad_() for value in values]
    for leaves in (half, full):
        get_objective("tripletclip")(Embeddings(*leaves), torch.tensor(100.0)).loss.backward()
    for one, other in zip(half, full, strict=True):
        assert torch.equal(one.grad, other.grad.to(dtype))  # rounded once, not once per term


def test_half_precision_inputs_get_half_precision_gradients():
    queries = torch.nn.functional.normalize(torch.randn(8, 4), dim=-1).bfloat16().requires_grad_()
    keys = torch.nn.functional.normalize(torch.randn(8, 4), dim=-1).bfloat16().requires_grad_()
    loss = info_nce(queries, [keys], torch.tensor(10.0))
    expected = info_nce(queries.float(), [keys.float()], torch.tensor(10.0))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    loss.backward()
    assert queries.grad.dtype == keys.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 100])
@pytest.mark.parametrize(("reduction", "first"), [("mean", 5), ("sum", 5), ("mean", 0), ("mean", 6)])
def test_first_target_offsets_into_the_first_block(chunk_size, reduction, first):
    queries, keys, others = (torch.randn(rows, 4, dtype=torch.float64, requires_grad=True) for rows in (3, 9, 5))
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    leaves = (queries, keys, others, scale)
    loss = info_nce(queries, [keys, others], scale, first_target=first, chunk_size=chunk_size, reduction=reduction)
    logits = scale * queries @ torch.cat([keys, others]).T
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(first, first + 3), reduction=reduction)
    torch.testing.assert_close(loss, expected)
    for one, other in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(one, other)


def test_large_scales_do_not_overflow():
    queries = torch.nn.functional.normalize(torch.randn(8, 4), dim=-1).requires_grad_()
    keys = -queries.detach()  # every target is the worst of the keys
    loss = info_nce(queries, [keys], torch.tensor(1e4), chunk_size=3)
    loss.backward()
    expected = torch.nn.functional.cross_entropy(1e4 * queries.detach() @ keys.T, torch.arange(8))
    torch.testing.assert_close(loss.detach(), expected)
    assert queries.grad.isfinite().all()


def test_backward_twice_over_a_retained_graph():
    queries, keys = torch.randn(2, 6, 4)
    queries.requires_grad_()
    loss = info_nce(queries, [keys], torch.tensor(3.0))
    (first,) = torch.autograd.grad(loss, queries, retain_graph=True)
    (second,) = torch.autograd.grad(loss, queries)
    assert torch.equal(first, second)


def test_a_scale_of_one_element_keeps_its_shape():
    """FSDP turns a 0-dimensional parameter into one of shape (1,)."""
    scale = torch.tensor([3.0], requires_grad=True)
    loss = info_nce(torch.randn(4, 3), [torch.randn(4, 3)], scale)
    loss.backward()
    assert loss.shape == ()
    assert scale.grad.shape == (1,)


def test_impossible_arguments():
    queries, keys, scale = torch.randn(4, 3), torch.randn(5, 3), torch.tensor(1.0)
    with pytest.raises(ValueError, match=r"4 queries start at row 2 .* has only 5 rows"):
        info_nce(queries, [keys, torch.randn(9, 3)], scale, first_target=2)
    with pytest.raises(ValueError, match=r"4 queries start at row -1 .* has only 5 rows"):
        info_nce(queries, [keys], scale, first_target=-1)
    with pytest.raises(ValueError, match="`reduction` is 'max'"):
        info_nce(queries, [keys], scale, reduction="max")
    with pytest.raises(ValueError, match="`chunk_size` is 0"):
        info_nce(queries, [keys], scale, chunk_size=0)
    for no_list in (keys, []):
        with pytest.raises(ValueError, match="`keys` must be a list of blocks"):
            info_nce(queries, no_list, scale)


@pytest.mark.parametrize("chunk_size", [2, 100])
@pytest.mark.parametrize("needed", range(4))
def test_only_what_needs_a_gradient_gets_one(needed, chunk_size):
    leaves = [torch.randn(3, 4), torch.randn(3, 4), torch.randn(2, 4), torch.tensor(2.0)]
    leaves[needed].requires_grad_()
    queries, keys, others, scale = leaves
    loss = info_nce(queries, [keys, others], scale, chunk_size=chunk_size)
    expected = torch.nn.functional.cross_entropy(scale * queries @ torch.cat([keys, others]).T, torch.arange(3))
    (found,), (wanted,) = (torch.autograd.grad(value, leaves[needed]) for value in (loss, expected))
    torch.testing.assert_close(found, wanted)
    assert not info_nce(torch.randn(3, 4), [torch.randn(3, 4)], 2.0).requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [5, 100])
def test_torch_compile(chunk_size):
    objective = get_objective("tripletclip", chunk_size=chunk_size)
    leaves = [torch.randn(16, 8, requires_grad=True) for _ in range(4)]
    scale = torch.tensor(5.0, requires_grad=True)

    def loss(scale: torch.Tensor, *leaves: torch.Tensor) -> torch.Tensor:
        return objective(Embeddings(*(torch.nn.functional.normalize(leaf, dim=-1) for leaf in leaves)), scale).loss

    expected, compiled = loss(scale, *leaves), torch.compile(loss)(scale, *leaves)
    torch.testing.assert_close(compiled, expected)
    gradients = [torch.autograd.grad(value, (scale, *leaves)) for value in (compiled, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("chunk_size", [100, 4096])
def test_cuda_equals_cpu(chunk_size):
    values = [torch.nn.functional.normalize(torch.randn(256, 64), dim=-1) for _ in range(4)]
    objective, results = get_objective("tripletclip", chunk_size=chunk_size), []
    for device in ("cpu", "cuda"):
        leaves = [value.to(device).requires_grad_() for value in values]
        loss = objective(Embeddings(*leaves), torch.tensor(50.0, device=device)).loss
        loss.backward()
        results.append([loss.detach().cpu(), *(leaf.grad.cpu() for leaf in leaves)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)

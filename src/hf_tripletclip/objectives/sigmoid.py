# SPDX-License-Identifier: Apache-2.0
"""The sigmoid kernel of the objectives: every pair of a query and a key is one yes-or-no question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid

from hf_tripletclip.objectives.chunks import (
    CHUNK_SIZE,
    Codes,
    as_bias,
    as_scale,
    check_blocks,
    chunks_of,
    common_dtype,
    left_out,
    place_of,
    reduce,
    targets_from,
)
from hf_tripletclip.objectives.exchange import Ring, Visit, visits_of


def sigmoid_loss(
    queries: torch.Tensor,
    keys: Sequence[torch.Tensor],
    scale: torch.Tensor | float,
    bias: torch.Tensor | float,
    *,
    first_target: int = 0,
    chunk_size: int = CHUNK_SIZE,
    reduction: str = "mean",
    targets: torch.Tensor | None = None,
    excluded: Codes | None = None,
    ring: Ring | None = None,
) -> torch.Tensor:
    r"""
    The sigmoid loss of SigLIP, ``mean_i sum_j -log sigmoid(z_ij (s q_i . k_j + b))``, where z is 1 if key j is the
    target of query i and -1 otherwise (Zhai et al. 2023, arXiv 2303.15343, equation 1 and algorithm 1).

    Both passes visit keys in chunks. Memory is therefore O(rows x chunk_size), never O(rows x keys). Both compute in
    float32 (float64 if an embedding is float64), also under autocast. There is no second derivative.

    Args:
        queries (`torch.Tensor` of shape `(rows, dim)`): L2-normalised embeddings.
        keys (`Sequence[torch.Tensor]`, each of shape `(n, dim)`): Blocks of keys, the targets among them.
        scale (`float` or `torch.Tensor` of one element): Factor on the cosines, `exp(logit_scale)`.
        bias (`float` or `torch.Tensor` of one element): What is added to the logits, `logit_bias`.
        first_target (`int`, defaults to 0): Row of the first block that is the target of query 0.
        chunk_size (`int`, defaults to 2048): Keys per chunk.
        reduction (`str`, defaults to `"mean"`): `"mean"` or `"sum"` over the queries, or `"none"`.
        targets (`torch.Tensor` of shape `(rows,)`, *optional*): int64, the target of each query among the keys of all
            blocks, counted through. Defaults to consecutive rows from `first_target`.
        excluded ([`Codes`], *optional*): Keys to leave out of the sum. A query's own target always stays.
        ring ([`Ring`], *optional*): If given, `keys` are this process's, and those of all processes are visited.

    Returns:
        `torch.Tensor` of shape `()`, or `(rows,)` for `"none"`, float32 or float64.

    Raises:
        ValueError: The first block has no target for some query, `keys` is not a list of blocks, or the value of
            `scale`, `bias`, `reduction` or `chunk_size` is not allowed.
    """
    blocks = check_blocks(keys, chunk_size)
    if targets is None:
        targets = targets_from(first_target, queries, blocks[0])
    dtype = common_dtype([queries, *blocks])
    with torch.autocast(queries.device.type, enabled=False):
        codes = None if excluded is None else (excluded.queries, torch.cat(list(excluded.keys)))
        single = ring is None and sum(map(len, blocks)) <= chunk_size
        blocks = [block.to(dtype) for block in blocks]
        if (single or ring is not None) and len(blocks) > 1:
            blocks = [torch.cat(blocks)]  # one product instead of several, or one message
        queries = queries.to(dtype)
        scale, bias = as_scale(scale, queries).to(dtype), as_bias(bias, queries).to(dtype)
        losses = _Sigmoid.apply(queries, scale, bias, targets, codes, chunk_size, single, ring, *blocks)
    return reduce(losses, reduction)


class _Sigmoid(torch.autograd.Function):
    """`sum_j -log sigmoid(z_ij (s q_i . k_j + b))` of each query."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        targets: torch.Tensor,
        codes: tuple[torch.Tensor, torch.Tensor] | None,
        chunk_size: int,
        single: bool,
        ring: Ring | None,
        *blocks: torch.Tensor,
    ) -> torch.Tensor:
        losses, kept = queries.new_zeros(len(queries)), None
        scaled = queries * scale
        for visit in visits_of(ring, blocks, targets, codes, [None] * len(blocks)):
            for index, rows, start in chunks_of(visit.blocks, chunk_size):
                signed = _signed_logits(scaled, visit.blocks[index][rows], bias, visit, start)
                losses -= logsigmoid(signed).sum(dim=1)
                # A single chunk fits the promised memory; keeping it saves the backward pass the product.
                kept = signed if single else None
        ctx.save_for_backward(queries, scale, bias, targets, kept, *(codes or (None, None)), *blocks)
        ctx.chunk_size, ctx.ring = chunk_size, ring
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # The autocast of the forward pass does not apply here, but that of the caller of `backward()` does.
        with torch.autocast(grad.device.type, enabled=False):
            return _Sigmoid.gradients(ctx, grad)

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        queries, scale, bias, targets, kept, query_codes, key_codes, *blocks = ctx.saved_tensors
        needs_queries, needs_scale, needs_bias, _, _, _, _, _, *needs_blocks = ctx.needs_input_grad
        codes = None if query_codes is None else (query_codes, key_codes)
        scaled, grad = queries * scale, grad[:, None]
        weighted = scaled * grad if any(needs_blocks) else None
        direction = torch.zeros_like(queries) if needs_queries or needs_scale else None
        bias_grad = torch.zeros_like(bias) if needs_bias else None
        block_grads = [
            torch.zeros_like(block) if needed else None for block, needed in zip(blocks, needs_blocks, strict=True)
        ]
        for visit in visits_of(ctx.ring, blocks, targets, codes, block_grads):
            for index, rows, start in chunks_of(visit.blocks, ctx.chunk_size):
                block = visit.blocks[index][rows]
                signed = kept if kept is not None else _signed_logits(scaled, block, bias, visit, start)
                # The gradient with respect to the logits is -z sigmoid(-z (s q . k + b)).
                logits_grad = torch.sigmoid(-signed)
                _change_sign_of_targets(logits_grad, visit.targets, start)
                if direction is not None:
                    direction.addmm_(logits_grad, block)
                if bias_grad is not None:
                    bias_grad += (logits_grad.sum(dim=1, keepdim=True) * grad).sum()
                if (block_grad := visit.grads[index]) is not None and weighted is not None:
                    block_grad[rows].addmm_(logits_grad.t(), weighted)
        scale_grad = (direction * queries * grad).sum() if direction is not None and needs_scale else None
        query_grad = direction.mul_(scale * grad) if direction is not None and needs_queries else None
        return query_grad, scale_grad, bias_grad, None, None, None, None, None, *block_grads


def _signed_logits(
    scaled: torch.Tensor, block: torch.Tensor, bias: torch.Tensor, visit: Visit, start: int
) -> torch.Tensor:
    """z (s q . k + b) of a chunk, `(rows, keys)`; infinity for keys that are left out, which then add nothing."""
    signed = (scaled @ block.t()).add_(bias).neg_()
    _change_sign_of_targets(signed, visit.targets, start)
    if visit.codes is not None:
        place = place_of(visit.targets, start, len(block))
        signed.masked_fill_(left_out(visit.codes, start, len(block), place), torch.inf)
    return signed


def _change_sign_of_targets(values: torch.Tensor, targets: torch.Tensor | None, start: int) -> None:
    """Change the sign of the targets' values in a chunk that starts at key `start`, in place."""
    place = place_of(targets, start, values.shape[1])
    if place is not None:
        found = values.gather(1, place.column)
        values.scatter_(1, place.column, torch.where(place.here[:, None], -found, found))

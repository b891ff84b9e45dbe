# SPDX-License-Identifier: Apache-2.0
"""The softmax kernel of the objectives: InfoNCE, streamed over keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from hf_tripletclip.objectives.chunks import (
    CHUNK_SIZE,
    Codes,
    as_scale,
    check_blocks,
    chunks_of,
    common_dtype,
    left_out,
    place_of,
    reduce,
    targets_from,
)
from hf_tripletclip.objectives.exchange import Ring, visits_of


def info_nce(
    queries: torch.Tensor,
    keys: Sequence[torch.Tensor],
    scale: torch.Tensor | float,
    *,
    first_target: int = 0,
    chunk_size: int = CHUNK_SIZE,
    reduction: str = "mean",
    targets: torch.Tensor | None = None,
    excluded: Codes | None = None,
    ring: Ring | None = None,
) -> torch.Tensor:
    r"""
    The InfoNCE loss, ``mean_i [logsumexp_j(s q_i . k_j) - s q_i . k_(first_target + i)]``
    (van den Oord et al. 2018, arXiv 1807.03748, equation 4).

    The forward pass visits keys in chunks and keeps a running logsumexp; the backward pass visits them again. Memory
    is therefore O(rows x chunk_size), never O(rows x keys). Both passes compute in float32 (float64 if an input is
    float64), also under autocast. There is no second derivative.

    Args:
        queries (`torch.Tensor` of shape `(rows, dim)`): L2-normalised embeddings.
        keys (`Sequence[torch.Tensor]`, each of shape `(n, dim)`): Blocks of keys. The targets lie in the first.
        scale (`float` or `torch.Tensor` of one element): Factor on the cosines, `exp(logit_scale)`.
        first_target (`int`, defaults to 0): Row of the first block that is the target of query 0.
        chunk_size (`int`, defaults to 2048): Keys per chunk.
        reduction (`str`, defaults to `"mean"`): `"mean"` or `"sum"` over the queries, or `"none"`.
        targets (`torch.Tensor` of shape `(rows,)`, *optional*): int64, the row of the first block that is the target
            of each query. Defaults to consecutive rows from `first_target`.
        excluded ([`Codes`], *optional*): Keys to leave out. A query's own target always stays.
        ring ([`Ring`], *optional*): If given, `keys` are this process's, and those of all processes are visited.

    Returns:
        `torch.Tensor` of shape `()`, or `(rows,)` for `"none"`, float32 or float64.

    Raises:
        ValueError: The first block has no target for some query, `keys` is not a list of blocks, or the value of
            `scale`, `reduction` or `chunk_size` is not allowed.
    """
    blocks = check_blocks(keys, chunk_size)
    if targets is None:
        targets = targets_from(first_target, queries, blocks[0])
    return reduce(_over_keys(queries, blocks, scale, targets, chunk_size, excluded, ring), reduction)


def logsumexp_over(
    queries: torch.Tensor,
    keys: Sequence[torch.Tensor],
    scale: torch.Tensor | float,
    *,
    chunk_size: int = CHUNK_SIZE,
    excluded: Codes | None = None,
    ring: Ring | None = None,
) -> torch.Tensor:
    """
    ``logsumexp_j(s q_i . k_j)`` of each query over all keys that are not left out. Memory, precision and arguments are
    those of [`info_nce`].

    Returns:
        `torch.Tensor` of shape `(rows,)`; minus infinity if no key is left.
    """
    return _over_keys(queries, check_blocks(keys, chunk_size), scale, None, chunk_size, excluded, ring)


def _over_keys(
    queries: torch.Tensor,
    keys: Sequence[torch.Tensor],
    scale: torch.Tensor | float,
    targets: torch.Tensor | None,
    chunk_size: int,
    excluded: Codes | None,
    ring: Ring | None,
) -> torch.Tensor:
    dtype = common_dtype([queries, *keys])
    with torch.autocast(queries.device.type, enabled=False):
        blocks = [block.to(dtype) for block in keys]
        codes = None if excluded is None else (excluded.queries, torch.cat(list(excluded.keys)))
        single = ring is None and sum(map(len, blocks)) <= chunk_size
        if (single or ring is not None) and len(blocks) > 1:
            blocks = [torch.cat(blocks)]  # one product instead of several, or one message
        queries = queries.to(dtype)
        scale = as_scale(scale, queries).to(dtype)
        return _OverKeys.apply(queries, scale, targets, codes, chunk_size, single, ring, *blocks)


class _OverKeys(torch.autograd.Function):
    """`logsumexp_j(s q_i . k_j)` of each query, minus its target's logit if there are targets."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        scale: torch.Tensor,
        targets: torch.Tensor | None,
        codes: tuple[torch.Tensor, torch.Tensor] | None,
        chunk_size: int,
        single: bool,
        ring: Ring | None,
        *blocks: torch.Tensor,
    ) -> torch.Tensor:
        scaled = queries * scale
        logsumexp = kept = None
        of_targets = queries.new_zeros(len(queries))
        for visit in visits_of(ring, blocks, targets, codes, [None] * len(blocks)):
            for index, rows, start in chunks_of(visit.blocks, chunk_size):
                block = visit.blocks[index][rows]
                logits = scaled @ block.t()
                place = place_of(visit.targets, start, len(block))
                if place is not None:
                    of_targets += logits.gather(1, place.column).squeeze(1) * place.here
                if visit.codes is not None:
                    logits.masked_fill_(left_out(visit.codes, start, len(block), place), -torch.inf)
                part = torch.logsumexp(logits, dim=1)
                logsumexp = part if logsumexp is None else torch.logaddexp(logsumexp, part)
                # A single chunk fits the promised memory; keeping it saves the backward pass the product.
                kept = logits if single else None
        if logsumexp is None:
            logsumexp = queries.new_full((len(queries),), -torch.inf)
        ctx.save_for_backward(queries, scale, targets, logsumexp, kept, *(codes or (None, None)), *blocks)
        ctx.chunk_size, ctx.ring = chunk_size, ring
        return logsumexp if targets is None else logsumexp - of_targets

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # The autocast of the forward pass does not apply here, but that of the caller of `backward()` does.
        with torch.autocast(grad.device.type, enabled=False):
            return _OverKeys.gradients(ctx, grad)

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        queries, scale, targets, logsumexp, kept, query_codes, key_codes, *blocks = ctx.saved_tensors
        # For a query without any key left: its softmax is 0 everywhere, not infinity minus infinity.
        logsumexp = logsumexp.masked_fill(logsumexp == -torch.inf, 0)
        needs_queries, needs_scale, _, _, _, _, _, *needs_blocks = ctx.needs_input_grad
        codes = None if query_codes is None else (query_codes, key_codes)
        scaled = queries * scale if kept is None else None
        grad = grad[:, None]
        weighted = queries * (scale * grad) if any(needs_blocks) else None
        direction = torch.zeros_like(queries) if needs_queries or needs_scale else None
        block_grads = [
            torch.zeros_like(block) if needed else None for block, needed in zip(blocks, needs_blocks, strict=True)
        ]
        for visit in visits_of(ctx.ring, blocks, targets, codes, block_grads):
            for index, rows, start in chunks_of(visit.blocks, ctx.chunk_size):
                block = visit.blocks[index][rows]
                # The gradient with respect to the logits is softmax minus one-hot.
                place = place_of(visit.targets, start, len(block))
                if scaled is None:
                    logits_grad = (kept - logsumexp[:, None]).exp_()
                else:
                    logits_grad = scaled @ block.t()
                    if visit.codes is not None:
                        logits_grad.masked_fill_(left_out(visit.codes, start, len(block), place), -torch.inf)
                    logits_grad.sub_(logsumexp[:, None]).exp_()
                if place is not None:
                    logits_grad.scatter_add_(1, place.column, -place.here[:, None].to(logits_grad.dtype))
                if direction is not None:
                    direction.addmm_(logits_grad, block)
                if (block_grad := visit.grads[index]) is not None and weighted is not None:
                    block_grad[rows].addmm_(logits_grad.t(), weighted)
        scale_grad = (direction * queries * grad).sum() if direction is not None and needs_scale else None
        query_grad = direction.mul_(scale * grad) if direction is not None and needs_queries else None
        return query_grad, scale_grad, None, None, None, None, None, *block_grads

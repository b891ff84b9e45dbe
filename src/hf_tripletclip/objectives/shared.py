# SPDX-License-Identifier: Apache-2.0
"""Softmax terms computed together: the product of two roles is made once for the terms of both directions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch.autograd.function import once_differentiable

from hf_tripletclip.objectives.chunks import Place, left_out, place_of
from hf_tripletclip.objectives.rows import Rows
from hf_tripletclip.objectives.terms import LossTerm, Term, roles_of


def sum_of_terms(
    terms: Sequence[LossTerm], rows: Rows, scale: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """
    The weighted sum of the terms, and their values. In one process, all plain softmax terms are computed together:
    `tripletclip` needs the products of v with T, v with T', v' with T' and v' with T, each once for both directions.
    With several processes, the keys of a direction are those of all processes, and its queries only this one's: no two
    directions have the same product.

    Args:
        terms (`Sequence[LossTerm]`): The terms.
        rows ([`Rows`]), scale (`torch.Tensor` of shape `()`): As in [`LossTerm.value`].

    Returns:
        The sum, `()`, and the values by name, `()` each and without gradients.
    """
    together = [term for term in terms if _is_plain(term, rows)]
    values: dict[int, torch.Tensor] = {}
    losses: list[torch.Tensor] = []
    if together:
        roles = roles_of(together)
        directions = [direction_of(term, rows, roles) for term in together]
        loss, parts = softmax_terms([rows.own[role] for role in roles], scale, directions, rows.chunk_size)
        losses.append(loss)
        values = {id(term): part for term, part in zip(together, parts, strict=True)}
    by_name: dict[str, torch.Tensor] = {}
    for term in terms:
        if (known := values.get(id(term))) is not None:
            by_name[term.name] = known
            continue
        value = term.value(rows, scale)
        by_name[term.name] = value.detach()
        losses.append(term.weight * value)
    return torch.stack(losses).sum(), by_name


def _is_plain(term: LossTerm, rows: Rows) -> TypeGuard[Term]:
    """Whether [`softmax_terms`] can compute a term."""
    # A subclass may compute another value, and a weight that is a tensor may need a gradient.
    if type(term) is not Term or not isinstance(term.weight, (int, float)) or rows.processes > 1:
        return False
    # If repeats are masked, and a query has several targets, the keys that are left out differ from target to target.
    return not rows.identities or rows.pairs(term.query, term.keys[0])[0] is None


@dataclass(frozen=True)
class Direction:
    """
    A softmax term for [`softmax_terms`], which knows embeddings by their numbers.

    Args:
        query (`int`): The queries.
        keys (`tuple[int, ...]`): The keys. The targets lie in the first.
        weight (`float`): Factor of the term in the loss.
        pairs (`int`): How many pairs the term is the mean of, at least 1.
        targets (`torch.Tensor` of shape `(queries,)`, *optional*): int64, the target of each query.
        askers (`torch.Tensor` of shape `(rows of the first keys,)`, *optional*):
            int64, the query of each target, if a query may have any number of targets. Without `targets` and `askers`
            row i is the target of query i.
        codes (`tuple[torch.Tensor, ...]`): Which keys are left out, as in
            [`~hf_tripletclip.objectives.chunks.Codes`]: the codes of the queries, then those of each of the keys.
            Empty if none is left out. Not together with `askers`.
    """

    query: int
    keys: tuple[int, ...]
    weight: float
    pairs: int
    targets: torch.Tensor | None = None
    askers: torch.Tensor | None = None
    codes: tuple[torch.Tensor, ...] = ()


def direction_of(term: Term, rows: Rows, roles: Sequence[str]) -> Direction:
    """The term for [`softmax_terms`], with embeddings numbered as in `roles`."""
    askers, targets = rows.pairs(term.query, term.keys[0])
    codes = rows.codes(term.query, term.keys[0], term.keys)
    return Direction(
        query=roles.index(term.query),
        keys=tuple(map(roles.index, term.keys)),
        weight=term.weight,
        pairs=max(len(rows.own[term.query if askers is None else term.keys[0]]), 1),
        targets=targets,
        askers=askers,
        codes=() if codes is None else (codes.queries, *codes.keys),
    )


def softmax_terms(
    embeddings: Sequence[torch.Tensor], scale: torch.Tensor, directions: Sequence[Direction], chunk_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The weighted sum of softmax terms, each of which is the mean of [`~hf_tripletclip.objectives.info_nce`] over its
    pairs. The product of two embeddings is made in tiles, which update the logsumexp of the queries among its rows and
    of those among its columns; the backward pass makes the tiles again. If all products together have at most
    `chunk_size`² numbers, they are kept instead. Memory is that of the gradients and of some tiles. There is no second
    derivative. `torch.compile` compiles products that are kept, and calls the kernel as it is for others.

    Args:
        embeddings (`Sequence[torch.Tensor]`, each of shape `(n, dim)`): All float32, or all float64.
        scale (`torch.Tensor` of shape `()`): Factor on the cosines.
        directions (`Sequence[Direction]`): The terms.
        chunk_size (`int`): Rows and columns of a tile; on CPUs half of it, so that a tile stays in the caches.

    Returns:
        The sum, `()`, and the value of each term without gradients, `(terms,)`.
    """
    side = max(chunk_size // 2, 1) if embeddings[0].device.type == "cpu" else chunk_size
    products = products_of(embeddings, directions)
    size = sum(len(embeddings[one]) * len(embeddings[other]) for one, other, _ in products)
    with torch.autocast(embeddings[0].device.type, enabled=False):
        scale = scale.to(embeddings[0].dtype)
        keep = size <= chunk_size**2
        # `torch.compile` would write out the loop over all tiles.
        compute = _SoftmaxTerms.apply if keep else _without_compiling
        return compute(scale, tuple(directions), products, side, keep, *embeddings)


@dataclass(frozen=True)
class Use:
    """Where a direction uses a product: its number, which of its keys, and whether its queries are the rows."""

    number: int
    key: int
    by_rows: bool


Product = tuple[int, int, tuple[Use, ...]]


def products_of(embeddings: Sequence[torch.Tensor], directions: Sequence[Direction]) -> tuple[Product, ...]:
    """The products that the directions need: the numbers of rows and columns, and the directions that use each."""
    products: dict[tuple[int, int], list[Use]] = {}
    for number, direction in enumerate(directions):
        for place, key in enumerate(direction.keys):
            rows, columns = direction.query, key
            # The gradient of the scale comes with that of the rows: they should not be a locked tower's.
            turn = embeddings[columns].requires_grad and not embeddings[rows].requires_grad
            if (columns, rows) in products or (turn and (rows, columns) not in products):
                rows, columns = columns, rows
            products.setdefault((rows, columns), []).append(Use(number, place, rows == direction.query))
    return tuple((rows, columns, tuple(uses)) for (rows, columns), uses in products.items())


class _Tile:
    """A tile of a product as one direction sees it: `logits`, `(queries, keys)`, a view."""

    def __init__(self, logits: torch.Tensor, rows: slice, columns: slice, use: Use, direction: Direction) -> None:
        self.use, self.direction = use, direction
        self.logits = logits if use.by_rows else logits.t()
        self.queries, self.keys = (rows, columns) if use.by_rows else (columns, rows)
        self.place = self._place() if use.key == 0 else None

    def _place(self) -> Place | None:
        """Where the targets are: for each query, or with `askers` in the transposed tile for each key."""
        index, own, other = self.direction.targets, self.queries, self.keys
        if self.direction.askers is not None:
            index, own, other = self.direction.askers, self.keys, self.queries
        if index is not None:
            index = index[own]
        elif own.start < other.stop and other.start < own.stop:
            index = torch.arange(own.start, own.stop, device=self.logits.device)
        return place_of(index, other.start, other.stop - other.start)

    def by_pairs(self, values: torch.Tensor) -> torch.Tensor:
        """Values of the tile as `place` sees them, a view."""
        return values if self.direction.askers is None else values.t()

    def left_out(self) -> torch.Tensor | None:
        """Which keys are left out, bool `(queries, keys)`."""
        if not self.direction.codes:
            return None
        asked, *answers = self.direction.codes
        codes = asked[self.queries], answers[self.use.key]
        return left_out(codes, self.keys.start, self.logits.shape[1], self.place)

    def update(self, logsumexp: torch.Tensor, of_pairs: torch.Tensor) -> None:
        """Add the tile to the logsumexp of all queries, and its targets to the logits of all pairs."""
        values = self.logits
        if self.place is not None:
            found = self.by_pairs(values).gather(1, self.place.column).squeeze(1) * self.place.here
            of_pairs[self.queries if self.direction.askers is None else self.keys] += found
        if (out := self.left_out()) is not None:
            values = values.masked_fill(out, -torch.inf)
        running = logsumexp[self.queries]
        running.copy_(torch.logaddexp(running, torch.logsumexp(values, dim=1)))

    def gradient(self, logsumexp: torch.Tensor, numbers: torch.Tensor | None) -> torch.Tensor:
        """Softmax minus one-hot, for each pair of a query; `(rows, columns)` of the product."""
        values = (self.logits - logsumexp[self.queries, None]).exp_()
        if (out := self.left_out()) is not None:
            values.masked_fill_(out, 0)
        if numbers is not None:
            values.mul_(numbers[self.queries, None])
        if self.place is not None:
            self.by_pairs(values).scatter_add_(1, self.place.column, -self.place.here[:, None].to(values.dtype))
        return values if self.use.by_rows else values.t()


def _slices(length: int, side: int) -> Iterator[slice]:
    for start in range(0, length, side):
        yield slice(start, min(start + side, length))


class _SoftmaxTerms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        scale: torch.Tensor,
        directions: tuple[Direction, ...],
        products: tuple[Product, ...],
        side: int,
        keep: bool,
        *embeddings: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logsumexps = [scale.new_full((len(embeddings[one.query]),), -torch.inf) for one in directions]
        of_pairs = [
            scale.new_zeros(len(embeddings[one.query if one.askers is None else one.keys[0]])) for one in directions
        ]
        kept: list[torch.Tensor] = []
        for one, other, uses in products:
            for rows in _slices(len(embeddings[one]), side):
                scaled = embeddings[one][rows] * scale
                for columns in _slices(len(embeddings[other]), side):
                    logits = scaled @ embeddings[other][columns].t()
                    if keep:
                        kept.append(logits)
                    for use in uses:
                        tile = _Tile(logits, rows, columns, use, directions[use.number])
                        tile.update(logsumexps[use.number], of_pairs[use.number])
        losses = []
        for direction, logsumexp, target in zip(directions, logsumexps, of_pairs, strict=True):
            of_askers = logsumexp if direction.askers is None else logsumexp[direction.askers]
            losses.append((of_askers - target).sum() / direction.pairs)
        loss = torch.stack([one.weight * value for one, value in zip(directions, losses, strict=True)]).sum()
        values = torch.stack(losses)
        ctx.save_for_backward(scale, *embeddings, *logsumexps, *kept)
        ctx.directions, ctx.products, ctx.side, ctx.keep = directions, products, side, keep
        ctx.mark_non_differentiable(values)
        return loss, values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
        # The autocast of the forward pass does not apply here, but that of the caller of `backward()` does.
        with torch.autocast(grad.device.type, enabled=False):
            return _SoftmaxTerms.gradients(ctx, grad)

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        directions: tuple[Direction, ...] = ctx.directions
        needs_scale, _, _, _, _, *needed = ctx.needs_input_grad
        saved = iter(ctx.saved_tensors)
        scale = next(saved)
        embeddings = list(itertools.islice(saved, len(needed)))
        # For a query without any key left: its softmax is 0 everywhere, not infinity minus infinity.
        logsumexps = [one.masked_fill(one == -torch.inf, 0) for one in itertools.islice(saved, len(directions))]
        numbers = [  # of pairs of each query
            None
            if one.askers is None
            else torch.zeros_like(logsumexp).index_add_(0, one.askers, scale.new_ones(len(one.askers)))
            for one, logsumexp in zip(directions, logsumexps, strict=True)
        ]
        grads = [torch.zeros_like(one) if need else None for one, need in zip(embeddings, needed, strict=True)]
        scale_grad = torch.zeros_like(scale)
        for one, other, uses in ctx.products:
            grad_of_rows, grad_of_columns = grads[one], grads[other]
            factors = [directions[use.number].weight / directions[use.number].pairs for use in uses]
            largest = max(map(abs, factors)) or 1.0
            for rows in _slices(len(embeddings[one]), ctx.side):
                of_rows = embeddings[one][rows]
                scaled = of_rows * scale
                to_rows = torch.zeros_like(of_rows)
                for columns in _slices(len(embeddings[other]), ctx.side):
                    of_columns = embeddings[other][columns]
                    logits = next(saved) if ctx.keep else scaled @ of_columns.t()
                    total: torch.Tensor | None = None
                    for use, factor in zip(uses, factors, strict=True):
                        tile = _Tile(logits, rows, columns, use, directions[use.number])
                        part = tile.gradient(logsumexps[use.number], numbers[use.number])
                        if total is not None:
                            total.add_(part, alpha=factor / largest)
                        else:
                            total = part if factor == largest else part.mul_(factor / largest)
                    assert total is not None  # a product has a use
                    if needs_scale or grad_of_rows is not None:
                        to_rows.addmm_(total, of_columns, alpha=largest)
                    if grad_of_columns is not None:
                        grad_of_columns[columns].addmm_(total.t(), of_rows, alpha=largest)
                scale_grad += (to_rows * of_rows).sum()
                if grad_of_rows is not None:
                    grad_of_rows[rows] += to_rows
        for one_grad in grads:
            if one_grad is not None:
                one_grad.mul_(scale * grad)
        return scale_grad * grad if needs_scale else None, None, None, None, None, *grads


@torch.compiler.disable
def _without_compiling(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return _SoftmaxTerms.apply(*arguments)

# SPDX-License-Identifier: Apache-2.0
"""The terms that compare a row only with its own hard negatives. A row without any is left out, and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from hf_tripletclip.objectives.rows import Rows
from hf_tripletclip.objectives.terms import LossTerm, symbol

MISSING = -1  # no index


@dataclass(frozen=True)
class OwnLogits:
    """
    Logits of pairs and of the hard negatives in the same row.

    Args:
        target (`torch.Tensor` of shape `(n,)`): Logit of each pair.
        negatives (`torch.Tensor` of shape `(n, K)`): Logits of the row's own negatives, filled with minus infinity if
            the row has fewer than K.
    """

    target: torch.Tensor
    negatives: torch.Tensor


def own_negatives(rows: Rows, query: str, keys: Sequence[str], scale: torch.Tensor) -> torch.Tensor:
    """Logits of each row with its own negatives, `(B, K)`, filled with minus infinity if a row has fewer."""
    queries = rows.own[query]
    return torch.cat(
        [rows.by_row(role, scale * (queries[rows.owners(role)] * rows.own[role]).sum(dim=-1)) for role in keys], dim=1
    )


def own_logits(
    rows: Rows, query: str, target: str, keys: Sequence[str], scale: torch.Tensor, teacher: bool = False
) -> OwnLogits:
    """Logits of the pairs whose row has negatives, and of these negatives."""
    targets = rows.teacher[target] if teacher else rows.own[target]
    pairs = scale * (rows.own[query][rows.owners(target)] * targets).sum(dim=-1)
    return with_negatives(rows, target, pairs, own_negatives(rows, query, keys, scale))


def with_negatives(rows: Rows, target: str, pairs: torch.Tensor, negatives: torch.Tensor) -> OwnLogits:
    """Select the pairs whose row has a negative, from all pairs' logits, `(n,)`, and all rows' negatives, `(B, K)`."""
    owners = rows.owners(target)
    there = negatives.isfinite().any(dim=1)[owners]
    return OwnLogits(pairs[there], negatives[owners][there])


def own_losses(own: OwnLogits, gamma: float, smoothing: float) -> torch.Tensor:
    """The focal, smoothed cross-entropy of each pair against its row's negatives, `(n,)`, as in [`OwnTerm`]."""
    logits = torch.cat([own.target[:, None], own.negatives], dim=1)
    there = logits.isfinite()
    costs = torch.where(there, -torch.log_softmax(logits, dim=1), 0)
    if gamma:
        costs = costs * (-torch.expm1(-costs)) ** gamma
    if not smoothing:
        return costs[:, 0]
    shared = smoothing / there.sum(dim=1)
    return (1 - smoothing) * costs[:, 0] + shared * costs.sum(dim=1)


def settings_of(gamma: float, smoothing: float, factor: float | None = None, latex: bool = False) -> str:
    """The settings that differ from plain cross-entropy, for a formula."""
    named = {r"\gamma" if latex else "γ": gamma, r"\varepsilon" if latex else "ε": smoothing, "s": factor}
    is_, between = ("=", ",") if latex else (" = ", ", ")
    return between.join(f"{name}{is_}{value:g}" for name, value in named.items() if value)


@dataclass(frozen=True)
class OwnTerm(LossTerm):
    """
    Each query against the hard negatives of its own row: the cross-entropy over ``{s q_i . k_i, s q_i . n_i1, ...}``,
    averaged over the pairs whose row has a negative. With `gamma` the loss is focal (Lin et al. 2017,
    arXiv 1708.02002), with `smoothing` the labels are smoothed (Szegedy et al. 2016, arXiv 1512.00567):
    ``- sum_c y_c (1 - p_c)^gamma log p_c``, with ``y_c = smoothing / (K + 1)``, plus ``1 - smoothing`` for the target.

    Args:
        query, target (`str`): Roles of the queries and of their targets.
        keys (`tuple[str, ...]`): Roles of the hard negatives, any number per row.
        weight (`float`): Factor in the loss.
        gamma (`float`, defaults to 0): 0, or at least 1.
        smoothing (`float`, defaults to 0): At least 0, less than 1.
        teacher (`bool`, defaults to `False`): Whether the target is the frozen teacher's embedding.
        factor (`float`, *optional*): Factor on the cosines in place of `exp(logit_scale)`.
    """

    definition: ClassVar[str] = (
        r"\mathrm{own}(q \to k \mid n) = \frac{1}{n} \sum_i \left[ \log \left( e^{s\, q_i \cdot k_i} + "
        r"\sum_m e^{s\, q_i \cdot n_{im}} \right) - s\, q_i \cdot k_i \right]"
    )

    query: str
    target: str
    keys: tuple[str, ...]
    weight: float
    gamma: float = 0.0
    smoothing: float = 0.0
    teacher: bool = False
    factor: float | None = None

    @property
    def name(self) -> str:
        return f"{self.query}_to_own_{self.target}"

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.query, self.target, *self.keys)))

    @property
    def teacher_roles(self) -> tuple[str, ...]:
        return (self.target,) if self.teacher else ()

    @property
    def one_per_row(self) -> tuple[str, ...]:
        return (self.query,)

    @property
    def formula(self) -> str:
        settings = settings_of(self.gamma, self.smoothing, self.factor)
        target = f"{symbol(self.target)}*" if self.teacher else symbol(self.target)
        keys = ", ".join(map(symbol, self.keys))
        return f"own{f'[{settings}]' if settings else ''}({symbol(self.query)} → {target} | {keys})"

    @property
    def latex(self) -> str:
        settings = settings_of(self.gamma, self.smoothing, self.factor, latex=True)
        # Braces, because LaTeX refuses a prime and an asterisk as two superscripts of one letter.
        target = f"{{{symbol(self.target)}}}^{{*}}" if self.teacher else symbol(self.target)
        keys = ", ".join(map(symbol, self.keys))
        index = f"_{{{settings}}}" if settings else ""
        return rf"\mathrm{{own}}{index}({symbol(self.query)} \to {target} \mid {keys})"

    def value(self, rows: Rows, scale: torch.Tensor) -> torch.Tensor:
        if self.factor is not None:
            scale = torch.full_like(scale, self.factor)
        own = own_logits(rows, self.query, self.target, self.keys, scale, self.teacher)
        return rows.mean(own_losses(own, self.gamma, self.smoothing))


@dataclass(frozen=True)
class MarginTerm(LossTerm):
    """
    ``weight * mean_ik relu(margin + s q_i . n_ik - s q_i . k_i)`` over the rows' own negatives. The margin adapts: it
    is the mean of ``s q_i . k_i - s q_i . n_ik`` over the batch, as a constant, at most `largest` (Zhang et al. 2023,
    arXiv 2306.08832, equations 5 and 6).

    Args:
        query, target (`str`): Roles of the queries and of their targets.
        keys (`tuple[str, ...]`): Roles of the hard negatives, any number per row.
        weight (`float`): Factor in the loss.
        largest (`float`, defaults to 10): The largest margin.
    """

    definition: ClassVar[str] = (
        r"\mathrm{M}(q, k \mid n) = \frac{1}{n} \sum_{i,m} "
        r"\max(0,\, \theta + s\, q_i \cdot n_{im} - s\, q_i \cdot k_i)"
    )

    query: str
    target: str
    keys: tuple[str, ...]
    weight: float
    largest: float = 10.0

    @property
    def name(self) -> str:
        return f"{self.query}_{self.target}_margin"

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.query, self.target, *self.keys)

    @property
    def one_per_row(self) -> tuple[str, ...]:
        return (self.query,)

    @property
    def formula(self) -> str:
        return f"M({symbol(self.query)}, {symbol(self.target)} | {', '.join(map(symbol, self.keys))})"

    @property
    def latex(self) -> str:
        return rf"\mathrm{{M}}({symbol(self.query)}, {symbol(self.target)} \mid {', '.join(map(symbol, self.keys))})"

    def value(self, rows: Rows, scale: torch.Tensor) -> torch.Tensor:
        own = own_logits(rows, self.query, self.target, self.keys, scale)
        gaps = (own.target[:, None] - own.negatives)[own.negatives.isfinite()]
        total, number = rows.sum_of_all(gaps.sum(), torch.tensor(len(gaps), device=gaps.device))
        margin = (total / number.clamp(min=1)).clamp(max=self.largest).to(gaps)
        return rows.mean(torch.relu(margin - gaps))


@dataclass(frozen=True)
class PairwiseTerm(LossTerm):
    """
    Each query must rank its row's target above each of the row's own hard negatives, one at a time:
    ``weight * mean log(1 + e^(-s (q - prior * mean q) . (k_i - n_im)))`` over all queries and negatives of a row, the
    pairwise logistic loss of RankNet (Burges et al. 2005). `prior` subtracts a share of the batch's mean query, so
    that the ranking depends on what distinguishes this query from the others.

    Args:
        query (`str`): Role of the queries, any number per row.
        target (`str`): Role of their targets, one per row.
        keys (`tuple[str, ...]`): Roles of the hard negatives, any number per row.
        weight (`float`): Factor in the loss.
        prior (`float`, defaults to 0): Share of the mean query over all processes that is subtracted from each query.
    """

    definition: ClassVar[str] = (
        r"\mathrm{rank}_\alpha(q, k \mid n) = \frac{1}{n} \sum_{i,m} \log \left( 1 + "
        r"e^{-s\, (q_i - \alpha \bar q) \cdot (k_i - n_{im})} \right)"
    )

    query: str
    target: str
    keys: tuple[str, ...]
    weight: float
    prior: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.query}_ranks_{self.target}"

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.query, self.target, *self.keys)

    @property
    def gathered(self) -> tuple[str, ...]:
        return (self.query,) if self.prior else ()

    @property
    def one_per_row(self) -> tuple[str, ...]:
        return (self.target,)

    @property
    def formula(self) -> str:
        prior = f"[α = {self.prior:g}]" if self.prior else ""
        return f"rank{prior}({symbol(self.query)}, {symbol(self.target)} | {', '.join(map(symbol, self.keys))})"

    @property
    def latex(self) -> str:
        keys = ", ".join(map(symbol, self.keys))
        return rf"\mathrm{{rank}}_{{{self.prior:g}}}({symbol(self.query)}, {symbol(self.target)} \mid {keys})"

    def value(self, rows: Rows, scale: torch.Tensor) -> torch.Tensor:
        queries, targets, owners = rows.own[self.query], rows.own[self.target], rows.owners(self.query)
        if self.prior:
            queries = queries - self.prior * rows.mean_of_everyone(self.query)
        costs = []
        for role in self.keys:
            numbers = torch.arange(len(rows.own[role]), device=owners.device)
            negatives = rows.by_row(role, numbers, MISSING)[owners]  # of each query's row, (queries, K)
            of_query, place = (negatives != MISSING).nonzero(as_tuple=True)
            gaps = targets[owners[of_query]] - rows.own[role][negatives[of_query, place]]
            costs.append(torch.nn.functional.softplus(-scale * (queries[of_query] * gaps).sum(dim=-1)))
        return rows.mean(torch.cat(costs))


@dataclass(frozen=True)
class AnyOwnTerm(LossTerm):
    """
    ``-log [sum_m e^(s q_i . d_im) / (sum_m e^(s q_i . d_im) + sum_m e^(s q_i . n_im))]``, averaged over the rows that
    have both d and n: at least one of a row's targets must stand out from its own hard negatives (Doveh et al. 2023,
    arXiv 2305.19595).

    Args:
        query, target (`str`): Roles of q and d.
        keys (`tuple[str, ...]`): Roles of the hard negatives n, any number per row.
        weight (`float`): Factor in the loss.
    """

    definition: ClassVar[str] = (
        r"\mathrm{MIL}_\mathrm{own}(q \to d \mid n) = -\frac{1}{n} \sum_i \log \frac{\sum_m e^{s\, q_i \cdot d_{im}}}"
        r"{\sum_m e^{s\, q_i \cdot d_{im}} + \sum_m e^{s\, q_i \cdot n_{im}}}"
    )

    query: str
    target: str
    keys: tuple[str, ...]
    weight: float

    @property
    def name(self) -> str:
        return f"{self.query}_to_any_own_{self.target}"

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.query, self.target, *self.keys)

    @property
    def one_per_row(self) -> tuple[str, ...]:
        return (self.query,)

    @property
    def formula(self) -> str:
        return f"MIL_own({symbol(self.query)} → {symbol(self.target)} | {', '.join(map(symbol, self.keys))})"

    @property
    def latex(self) -> str:
        keys = ", ".join(map(symbol, self.keys))
        return rf"\mathrm{{MIL}}_\mathrm{{own}}({symbol(self.query)} \to {symbol(self.target)} \mid {keys})"

    def value(self, rows: Rows, scale: torch.Tensor) -> torch.Tensor:
        targets = own_negatives(rows, self.query, [self.target], scale)
        negatives = own_negatives(rows, self.query, self.keys, scale)
        there = targets.isfinite().any(dim=1) & negatives.isfinite().any(dim=1)
        own = targets[there].logsumexp(dim=1)
        return rows.mean(torch.logaddexp(own, negatives[there].logsumexp(dim=1)) - own)

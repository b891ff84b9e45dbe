# SPDX-License-Identifier: Apache-2.0
"""The base class of terms, and the terms that compare a row with the whole batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.utils.checkpoint import checkpoint

from hf_tripletclip.objectives.chunks import Codes
from hf_tripletclip.objectives.infonce import info_nce, logsumexp_over
from hf_tripletclip.objectives.rows import Rows
from hf_tripletclip.roles import ROLES


class LossTerm:
    """
    A term of a loss: a frozen dataclass that names the roles that it uses, and computes its value from the rows. The
    loss, the dataset columns and the documentation of an objective follow from its terms.

    Attributes:
        weight (`float`): Factor in the loss.
        definition (`str`): LaTeX that defines the term's symbol, for a model's card.
    """

    definition: ClassVar[str] = ""
    weight: float

    @property
    def name(self) -> str:
        """The term's name in the log, such as `image_to_text`."""
        raise NotImplementedError

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that the term uses."""
        raise NotImplementedError

    @property
    def gathered(self) -> tuple[str, ...]:
        """The roles of which the term uses the rows of all processes, `rows.everyone`."""
        return ()

    @property
    def key_roles(self) -> tuple[str, ...]:
        """The roles of the keys that the term hands to a kernel, `rows.keys`. They may go round in a ring."""
        return ()

    @property
    def by_row(self) -> tuple[str, ...]:
        """The roles that the term takes row by row: each has one embedding per row, or a mask."""
        return self.roles

    @property
    def one_per_row(self) -> tuple[str, ...]:
        """The roles of which each row must have exactly one embedding, with which the row's others are compared."""
        return ()

    @property
    def matched(self) -> tuple[tuple[str, str], ...]:
        """
        Two roles each that form pairs, row by row. If a row may have any number of both, it must have as many of one
        as of the other.
        """
        return ()

    @property
    def uses_bias(self) -> bool:
        """Whether the term uses a bias on the logits, `rows.bias`. A softmax does not: it would cancel out."""
        return False

    @property
    def pairs(self) -> tuple[str, ...]:
        """The roles of the pairs that the term compares with the batch: a repeated content counts as wrong there."""
        return ()

    @property
    def teacher_roles(self) -> tuple[str, ...]:
        """The roles of which the term uses a frozen teacher's embeddings."""
        return ()

    @property
    def needs_tokens(self) -> tuple[str, ...]:
        """The roles whose patches or words the term uses, `rows.tokens`."""
        return ()

    @property
    def needs_states(self) -> tuple[str, ...]:
        """The roles whose texts the term's decoder reads, `rows.states`."""
        return ()

    @property
    def needs_labels(self) -> tuple[str, ...]:
        """The roles whose texts the term's decoder must write, `rows.labels`."""
        return ()

    @property
    def formula(self) -> str:
        """The term in symbols, as in `docs/objectives.md`."""
        raise NotImplementedError

    @property
    def latex(self) -> str:
        """The term as LaTeX, as on a model card."""
        raise NotImplementedError

    def value(self, rows: Rows, scale: torch.Tensor) -> torch.Tensor:
        """
        The unweighted value of the term, `()`. The mean of this value over the processes is the term over all rows.

        Args:
            rows ([`Rows`]): The embeddings.
            scale (`torch.Tensor` of shape `()`): `exp(logit_scale)`.
        """
        raise NotImplementedError


def symbol(role: str) -> str:
    """The letter for one embedding of a role."""
    return ROLES[role].symbol


def whole(role: str) -> str:
    """The capital letter for all embeddings of a role in the batch."""
    return symbol(role).upper()


def union(roles: Iterable[str], sign: str = " ∪ ") -> str:
    """The union of all embeddings of some roles, in symbols."""
    return sign.join(map(whole, roles))


@dataclass(frozen=True)
class Term(LossTerm):
    """
    ``weight * mean_i [logsumexp_j(s q_i . k_j) - s q_i . k_i]``: each query must find its own row of the first block
    of keys among all keys. If a row has several targets or queries of a role, each forms its own pair; a row without
    any forms none.

    Args:
        query (`str`): Role of the queries.
        keys (`tuple[str, ...]`): Roles of the keys; row i of the first is the target of query i.
        weight (`float`): Factor in the loss.
    """

    definition: ClassVar[str] = (
        r"\mathrm{CE}(q \to K) = \frac{1}{n} \sum_{i=1}^{n} "
        r"\left[ \log \sum_{k \in K} e^{s\, q_i \cdot k} - s\, q_i \cdot k_i \right]"
    )

    query: str
    keys: tuple[str, ...]
    weight: float

    @property
    def name(self) -> str:
        return f"{self.query}_to_{self.keys[0]}"

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.query, *self.keys)

    @property
    def key_roles(self) -> tuple[str, ...]:
        return self.keys

    @property
    def by_row(self) -> tuple[str, ...]:
        return (self.query, self.keys[0])

    @property
    def matched(self) -> tuple[tuple[str, str], ...]:
        return ((self.query, self.keys[0]),)

    @property
    def pairs(self) -> tuple[str, ...]:
        return (self.query, self.keys[0])

    @property
    def formula(self) -> str:
        return f"CE({symbol(self.query)} → {union(self.keys)})"

    @property
    def latex(self) -> str:
        keys = union(self.keys, r" \cup ")
        return rf"\mathrm{{CE}}({symbol(self.query)} \to {keys})"

    def value(self, rows: Rows, scale: torch.Tensor) -> torch.Tensor:
        target = self.keys[0]
        of_query, of_target = rows.pairs(self.query, target)
        queries = rows.own[self.query] if of_query is None else rows.own[self.query][of_query]
        keys = rows.keys(self.keys)
        losses = info_nce(
            queries,
            keys.blocks,
            scale,
            first_target=keys.starts[0],
            targets=None if of_target is None else keys.starts[0] + of_target,
            chunk_size=rows.chunk_size,
            reduction="none",
            excluded=rows.codes(self.query, target, self.keys),
            ring=keys.ring,
        )
        # The role of which rows may have several determines the number of pairs. The choice depends on the role alone,
        # because it must be the same on all processes, and one of them may have no masks.
        counted = self.query if ROLES[self.query].mask is not None else target
        total = rows.total(counted)
        if total is None:
            return rows.mean(losses)
        # Scaled so that the mean over processes is the mean over all rows, however many each process has.
        return losses.sum() * (rows.processes / max(total, 1))


@dataclass(frozen=True)
class WithinTerm(LossTerm):
    """
    ``weight * mean_i [log(e^(s v_i . t_i) + sum_k e^(s t_i . k)) - s v_i . t_i]`` for the pair `(v, t)`: the caption
    must be closer to its image than to any key of its own modality.

    Args:
        pair (`tuple[str, str]`): Roles of v and t.
        keys (`tuple[str, ...]`): Roles of the keys, which are taken from the whole batch.
        weight (`float`): Factor in the loss.
    """

    definition: ClassVar[str] = (
        r"\mathrm{W}(v, t \mid K) = \frac{1}{n} \sum_i \left[ \log \left( e^{s\, v_i \cdot t_i} + "
        r"\sum_{k \in K} e^{s\, t_i \cdot k} \right) - s\, v_i \cdot t_i \right]"
    )

    pair: tuple[str, str]
    keys: tuple[str, ...]
    weight: float

    @property
    def name(self) -> str:
        return f"{self.pair[1]}_within_{self.keys[0]}"

    @property
    def roles(self) -> tuple[str, ...]:
        return (*self.pair, *self.keys)

    @property
    def key_roles(self) -> tuple[str, ...]:
        return self.keys

    @property
    def by_row(self) -> tuple[str, ...]:
        return self.pair

    @property
    def formula(self) -> str:
        return f"W({', '.join(map(symbol, self.pair))} | {union(self.keys)})"

    @property
    def latex(self) -> str:
        keys = union(self.keys, r" \cup ")
        return rf"\mathrm{{W}}({', '.join(map(symbol, self.pair))} \mid {keys})"

    def value(self, rows: Rows, scale: torch.Tensor) -> torch.Tensor:
        other, query = (rows.own[role] for role in self.pair)
        keys = rows.keys(self.keys)
        pair = scale * (other * query).sum(dim=-1)
        codes = rows.codes(self.pair[1], self.pair[0], self.keys)
        others = logsumexp_over(query, keys.blocks, scale, chunk_size=rows.chunk_size, excluded=codes, ring=keys.ring)
        return rows.mean(torch.logaddexp(pair, others) - pair)


@dataclass(frozen=True)
class AnyTerm(LossTerm):
    """
    MIL-NCE over several targets of a row (Miech et al. 2020, arXiv 1912.06430, equation 1), as DAC uses it: the mean
    over rows that have a d of ``-log [sum_m e^(s v_i . d_im) / (sum_jm e^(s v_i . d_jm) + sum_jm e^(s v_j . d_im))]``.
    At least one of the row's targets must stand out.

    Args:
        query (`str`): Role of v.
        target (`str`): Role of d, any number per row.
        weight (`float`): Factor in the loss.
    """

    definition: ClassVar[str] = (
        r"\mathrm{MIL}(v \to D) = -\frac{1}{n} \sum_i \log \frac{\sum_m e^{s\, v_i \cdot d_{im}}}"
        r"{\sum_{j,m} e^{s\, v_i \cdot d_{jm}} + \sum_{j,m} e^{s\, v_j \cdot d_{im}}}"
    )

    query: str
    target: str
    weight: float

    @property
    def name(self) -> str:
        return f"{self.query}_to_any_{self.target}"

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.query, self.target)

    @property
    def key_roles(self) -> tuple[str, ...]:
        return (self.query, self.target)

    @property
    def one_per_row(self) -> tuple[str, ...]:
        return (self.query,)

    @property
    def formula(self) -> str:
        return f"MIL({symbol(self.query)} → {whole(self.target)})"

    @property
    def latex(self) -> str:
        return rf"\mathrm{{MIL}}({symbol(self.query)} \to {whole(self.target)})"

    def value(self, rows: Rows, scale: torch.Tensor) -> torch.Tensor:
        owners = rows.owners(self.target)
        there = torch.zeros(len(rows.own[self.query]), dtype=torch.bool, device=owners.device)
        there[owners] = True
        queries, targets = rows.own[self.query], rows.own[self.target]
        of_pairs = scale * (queries[owners] * targets).sum(dim=-1)
        own = rows.by_row(self.target, of_pairs)[there].logsumexp(dim=1)
        codes = rows.codes_of_any(self.query, self.target)
        forth = self._over(rows, queries[there], self.target, scale, None if codes is None else codes.select(there))
        back = self._over(rows, targets, self.query, scale, rows.codes(self.target, self.query, (self.query,)))
        if codes is not None:  # the codes left the row's own targets out too: add them again
            forth, back = torch.logaddexp(forth, own), torch.logaddexp(back, of_pairs)
        return rows.mean(torch.logaddexp(forth, rows.by_row(self.target, back)[there].logsumexp(dim=1)) - own)

    @staticmethod
    def _over(rows: Rows, queries: torch.Tensor, role: str, scale: torch.Tensor, codes: Codes | None) -> torch.Tensor:
        keys = rows.keys((role,))
        return logsumexp_over(queries, keys.blocks, scale, chunk_size=rows.chunk_size, excluded=codes, ring=keys.ring)


@dataclass(frozen=True)
class CyclicTerm(LossTerm):
    """
    The consistency terms of CyCLIP (Goel et al. 2022, arXiv 2205.14459, equations 3 and 4), on cosines:
    ``within``: ``mean_i sum_j (v_i . v_j - t_i . t_j)^2``; ``across``: ``mean_i sum_j (v_i . t_j - v_j . t_i)^2``.

    Args:
        kind (`str`): `within` or `across`.
        pair (`tuple[str, str]`): Roles of v and t.
        weight (`float`): Factor in the loss.
    """

    definition: ClassVar[str] = (
        r"C_\mathrm{within}(v, t) = \frac{1}{n} \sum_{i,j} (v_i \cdot v_j - t_i \cdot t_j)^2, \quad "
        r"C_\mathrm{across}(v, t) = \frac{1}{n} \sum_{i,j} (v_i \cdot t_j - v_j \cdot t_i)^2"
    )

    kind: str
    pair: tuple[str, str]
    weight: float

    @property
    def name(self) -> str:
        return f"cyclic_{self.kind}"

    @property
    def roles(self) -> tuple[str, ...]:
        return self.pair

    @property
    def gathered(self) -> tuple[str, ...]:
        return self.pair

    @property
    def formula(self) -> str:
        return f"C_{self.kind}({', '.join(map(symbol, self.pair))})"

    @property
    def latex(self) -> str:
        return rf"C_\mathrm{{{self.kind}}}({', '.join(map(symbol, self.pair))})"

    def value(self, rows: Rows, scale: torch.Tensor) -> torch.Tensor:
        one, other = (rows.own[role] for role in self.pair)
        all_ones, all_others = (rows.everyone[role] for role in self.pair)
        total = one.new_zeros(())
        for start in range(0, len(all_ones), rows.chunk_size):
            part = slice(start, start + rows.chunk_size)
            # The backward pass computes a chunk's matrices again, so memory is as in the kernel.
            total = total + checkpoint(
                self._squares, one, other, all_ones[part], all_others[part], use_reentrant=False
            )
        return total * (rows.processes / max(len(all_ones), 1))

    def _squares(
        self, one: torch.Tensor, other: torch.Tensor, ones: torch.Tensor, others: torch.Tensor
    ) -> torch.Tensor:
        with torch.autocast(one.device.type, enabled=False):
            if self.kind == "within":
                return (one @ ones.T - other @ others.T).square().sum()
            return (one @ others.T - other @ ones.T).square().sum()


@dataclass(frozen=True)
class CloseTerm(LossTerm):
    """
    ``weight * mean |a_i - b_i|^2`` over the pairs of all rows; if a row has several b, each forms a pair.

    Args:
        query, target (`str`): Roles of a and b.
        weight (`float`): Factor in the loss.
    """

    definition: ClassVar[str] = r"\Delta(a, b) = \frac{1}{n} \sum_i \lVert a_i - b_i \rVert^2"

    query: str
    target: str
    weight: float

    @property
    def name(self) -> str:
        return f"{self.query}_close_to_{self.target}"

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.query, self.target)

    @property
    def one_per_row(self) -> tuple[str, ...]:
        return (self.query,)

    @property
    def formula(self) -> str:
        return f"Δ({symbol(self.query)}, {symbol(self.target)})"

    @property
    def latex(self) -> str:
        return rf"\Delta({symbol(self.query)}, {symbol(self.target)})"

    def value(self, rows: Rows, scale: torch.Tensor) -> torch.Tensor:
        query, target = rows.own[self.query], rows.own[self.target]
        return rows.mean((query[rows.owners(self.target)] - target).square().sum(dim=-1))


def roles_of(terms: Iterable[LossTerm]) -> tuple[str, ...]:
    """The roles that the terms use, in the order of `ROLES`."""
    used = {role for term in terms for role in term.roles}
    return tuple(role for role in ROLES if role in used)

# SPDX-License-Identifier: Apache-2.0
"""The rows of a batch as the terms of an objective see them: this process's, and those of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from hf_tripletclip.objectives.embeddings import Tokens
from hf_tripletclip.objectives.infonce import CHUNK_SIZE, Codes

UNKNOWN = -1  # contents are not negative


@dataclass(frozen=True)
class Rows:
    """
    What an objective computes with, each embedding float32 (float64 if one of them was float64).

    Args:
        own (`dict[str, torch.Tensor]`): This process's embeddings by role, `(rows, dim)`: the queries.
        everyone (`dict[str, torch.Tensor]`):
            The embeddings of all processes, `(rows of all, dim)`, with gradients: the keys. Those of `own` if there
            is one process or negatives are not shared.
        starts (`dict[str, int]`): Row of `everyone` at which `own` starts.
        processes (`int`): Number of processes that share their rows.
        masks (`dict[str, torch.Tensor]`): Whose each of this process's embeddings is, bool `(B, K)`, for roles that a
            row may have any number of.
        owner_rows (`dict[str, torch.Tensor]`): The same as int64 `(rows,)`: the row that each belongs to.
        identities (`dict[str, torch.Tensor]`): By role, if repeats are masked, of this process: int64 `(rows, 3)`, see
            [`identities_of`].
        identities_of_everyone (`dict[str, torch.Tensor]`): Those of all processes.
        teacher (`dict[str, torch.Tensor]`): This process's embeddings by a frozen teacher.
        tokens (`dict[str, Tokens]`): Patches and words of this process's images and texts, in the dtype of `own`.
        states, labels (`dict[str, torch.Tensor]`): What a decoder reads of this process's texts, and must write.
        chunk_size (`int`): Keys per chunk of the kernel.
    """

    own: dict[str, torch.Tensor]
    everyone: dict[str, torch.Tensor]
    starts: dict[str, int]
    processes: int
    masks: dict[str, torch.Tensor] = field(default_factory=dict)
    owner_rows: dict[str, torch.Tensor] = field(default_factory=dict)
    identities: dict[str, torch.Tensor] = field(default_factory=dict)
    identities_of_everyone: dict[str, torch.Tensor] = field(default_factory=dict)
    teacher: dict[str, torch.Tensor] = field(default_factory=dict)
    tokens: dict[str, Tokens] = field(default_factory=dict)
    states: dict[str, torch.Tensor] = field(default_factory=dict)
    labels: dict[str, torch.Tensor] = field(default_factory=dict)
    chunk_size: int = CHUNK_SIZE

    def owners(self, role: str) -> torch.Tensor:
        """The row of the batch that each of this process's embeddings of a role belongs to, int64 `(n,)`."""
        if role not in self.masks:
            return torch.arange(len(self.own[role]), device=self.own[role].device)
        return self.owner_rows[role]

    def by_row(self, role: str, values: torch.Tensor, fill: float = -torch.inf) -> torch.Tensor:
        """Values of this process's embeddings of a role, `(n,)`, as `(B, K)`, with `fill` if a row has fewer."""
        mask = self.masks.get(role)
        if mask is None:
            return values[:, None]
        return values.new_full(mask.shape, fill).masked_scatter(mask, values)

    def sum_of_all(self, *values: torch.Tensor) -> torch.Tensor:
        """Numbers, added up over the processes that share rows, without gradients; `(len(values),)`."""
        dtype = next(iter(self.own.values())).dtype
        total = torch.stack([value.detach().to(dtype) for value in values])
        if self.processes > 1:
            dist.all_reduce(total)
        return total

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """
        The mean of values over all processes' rows, however many each has: the mean of what the processes get is
        that mean. Zero, with gradients, if nobody has any.
        """
        if self.processes == 1:
            return values.sum() / max(len(values), 1)
        (number,) = self.sum_of_all(torch.tensor(len(values), device=values.device))
        return values.sum() * (self.processes / number.clamp(min=1))  # a tensor: nobody waits for the device

    def mean_of_everyone(self, role: str) -> torch.Tensor:
        """The mean embedding of a role over all processes, with gradients, `(dim,)`; zero if there is none."""
        return self.everyone[role].sum(dim=0) / max(len(self.everyone[role]), 1)

    def pairs(self, query: str, target: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """
        Which query and which target make each pair: int64 indices into `own`, or `None` for all in their order. If a
        row has several of one role, each makes a pair with the row's one of the other; if it has several of both, the
        first belongs to the first.
        """
        several = [role for role in (query, target) if role in self.masks]
        if len(several) != 1:
            return None, None
        owners = self.owners(several[0])
        return (None, owners) if several[0] == query else (owners, None)

    def codes_of_any(self, query: str, target: str) -> Codes | None:
        """
        The same for queries with any number of targets, which are left out too: what is one of the row's targets, and
        those of a row with the query's picture or caption.

        Args:
            query (`str`): Role of the queries, one per row.
            target (`str`): Role of their targets, and of the keys.
        """
        if not self.identities:
            return None
        asked, wanted = self.identities[query], self.by_row(target, self.identities[target][:, 0], UNKNOWN)
        queries = torch.cat([wanted, asked[:, 1:]], dim=1)
        queries = queries.masked_fill(queries == UNKNOWN, UNKNOWN - 1)
        keys = self.identities_of_everyone[target]
        return Codes(queries, [torch.cat([keys[:, :1].expand(-1, wanted.shape[1]), keys[:, 1:]], dim=1)])

    def codes(self, query: str, target: str, keys: Sequence[str]) -> Codes | None:
        """
        What tells the kernel which keys are left out for which pairs: those that are what the pair's target is, and
        those of a row with the query's picture or caption.

        Args:
            query, target (`str`): Role of the queries and of their targets.
            keys (`Sequence[str]`): Roles of the keys.
        """
        if not self.identities:
            return None
        asked, wanted = self.identities[query], self.identities[target]
        of_query, of_target = self.pairs(query, target)
        asked = asked if of_query is None else asked[of_query]
        wanted = wanted if of_target is None else wanted[of_target]
        queries = torch.stack([wanted[:, 0], asked[:, 1], asked[:, 2]], dim=1)
        queries = queries.masked_fill(queries == UNKNOWN, UNKNOWN - 1)  # what is not known is like nothing
        return Codes(queries, [self.identities_of_everyone[role] for role in keys])


def identities_of(
    contents: Mapping[str, torch.Tensor], masks: Mapping[str, torch.Tensor], owners: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """
    What each embedding is, and which picture and caption it belongs to.

    Args:
        contents (`Mapping[str, torch.Tensor]`): int64 `(rows,)` by role, not negative: the same number for the same.
        masks, owners (`Mapping[str, torch.Tensor]`): As in [`Embeddings`].

    Returns:
        `dict[str, torch.Tensor]`: int64 `(rows, 3)` by role: its content, that of its picture and that of its caption;
        `UNKNOWN` if it has none. A picture is its own, and so is a text.
    """
    found = {}
    for role, own in contents.items():
        side = "negative_" if role.startswith("negative_") else ""
        partner = contents.get(f"{side}{'text' if role.endswith('image') else 'image'}")
        if partner is not None and role in masks and len(masks[role]) == len(partner) and not side:
            partner = partner[owners[role]]
        if partner is None or len(partner) != len(own):
            partner = torch.full_like(own, UNKNOWN)
        picture, caption = (own, partner) if role.endswith("image") else (partner, own)
        found[role] = torch.stack([own, picture, caption], dim=1)
    return found

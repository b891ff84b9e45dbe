# SPDX-License-Identifier: Apache-2.0
"""The rows of a batch as the terms of an objective see them: those of this process, and those of all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from hf_tripletclip.objectives.chunks import CHUNK_SIZE, Codes
from hf_tripletclip.objectives.embeddings import Tokens
from hf_tripletclip.objectives.exchange import Ring

UNKNOWN = -1  # contents are not negative


@dataclass(frozen=True)
class Keys:
    """
    The keys of some roles for a kernel.

    Args:
        blocks (`list[torch.Tensor]`): The keys of each role: those of all processes, or with a ring those of this one.
        starts (`list[int]`): Row of each block at which this process's own start.
        ring ([`Ring`], *optional*): What makes the kernel visit the keys of all processes.
    """

    blocks: list[torch.Tensor]
    starts: list[int]
    ring: Ring | None = None


@dataclass(frozen=True)
class Rows:
    """
    The input of an objective's terms. Embeddings are float32, or float64 if one of them was float64.

    Args:
        own (`dict[str, torch.Tensor]`): This process's embeddings by role, `(rows, dim)`: the queries.
        everyone (`dict[str, torch.Tensor]`):
            The embeddings of all processes, `(rows of all, dim)`, with gradients: the keys. They equal `own` if there
            is one process or negatives are not shared. Keys that go round in a ring are not here: see [`keys`].
        starts (`dict[str, int]`): Row of `everyone` at which `own` starts.
        processes (`int`): Number of processes that share their rows.
        masks (`dict[str, torch.Tensor]`): For roles of which a row may have any number: which row each of this
            process's embeddings belongs to, bool `(B, K)`.
        owner_rows (`dict[str, torch.Tensor]`): The same as int64 `(rows,)`: the row that each embedding belongs to.
        identities (`dict[str, torch.Tensor]`): If repeats are masked, what this process's embeddings stand for, int64
            `(rows, 3)` by role, see [`identities_of`].
        identities_of_everyone (`dict[str, torch.Tensor]`): The same for all processes.
        teacher (`dict[str, torch.Tensor]`): A frozen teacher's embeddings of this process's inputs.
        tokens (`dict[str, Tokens]`): Patches and words of this process's images and texts, in the dtype of `own`.
        states, labels (`dict[str, torch.Tensor]`): What a decoder reads for this process's texts, and must write.
        counts (`dict[str, tuple[int, ...]]`): For keys that go round in a ring: the rows of each process.
        bias (`torch.Tensor` of shape `()`, *optional*): What is added to the logits, for terms that use it.
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
    counts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    bias: torch.Tensor | None = None
    chunk_size: int = CHUNK_SIZE

    def keys(self, roles: Sequence[str]) -> Keys:
        """The keys of some roles, for a kernel."""
        if all(role in self.everyone for role in roles):
            return Keys([self.everyone[role] for role in roles], [self.starts[role] for role in roles])
        counts = zip(*(self.counts[role] for role in roles), strict=True)
        return Keys([self.own[role] for role in roles], [0] * len(roles), Ring(tuple(counts)))

    def total(self, role: str) -> int | None:
        """How many embeddings of a role all processes have together; `None` if it is no role of keys."""
        if role in self.counts:
            return sum(self.counts[role])
        return len(self.everyone[role]) if role in self.everyone else None

    def owners(self, role: str) -> torch.Tensor:
        """For a role, the row of the batch that each of this process's embeddings belongs to, int64 `(n,)`."""
        if role not in self.masks:
            return torch.arange(len(self.own[role]), device=self.own[role].device)
        return self.owner_rows[role]

    def by_row(self, role: str, values: torch.Tensor, fill: float = -torch.inf) -> torch.Tensor:
        """Arrange values of a role's embeddings, `(n,)`, by row as `(B, K)`; rows with fewer get `fill`."""
        mask = self.masks.get(role)
        if mask is None:
            return values[:, None]
        return values.new_full(mask.shape, fill).masked_scatter(mask, values)

    def sum_of_all(self, *values: torch.Tensor) -> torch.Tensor:
        """Each value summed over the processes that share rows, without gradients; `(len(values),)`."""
        dtype = next(iter(self.own.values())).dtype
        total = torch.stack([value.detach().to(dtype) for value in values])
        if self.processes > 1:
            dist.all_reduce(total)
        return total

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """
        The mean of values over the rows of all processes. Each process gets its share times the number of processes,
        so that the mean over the processes is the mean over all rows. Zero, with gradients, if there are no rows.
        """
        if self.processes == 1:
            return values.sum() / max(len(values), 1)
        (number,) = self.sum_of_all(torch.tensor(len(values), device=values.device))
        return values.sum() * (self.processes / number.clamp(min=1))  # a tensor, which does not wait for the device

    def mean_of_everyone(self, role: str) -> torch.Tensor:
        """A role's mean embedding over all processes, with gradients, `(dim,)`; zero if there are no embeddings."""
        return self.everyone[role].sum(dim=0) / max(len(self.everyone[role]), 1)

    def pairs(self, query: str, target: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """
        Which query and which target form each pair: int64 indices into `own`, or `None` for all in their order. If a
        row has several embeddings of one role, each forms a pair with the row's one embedding of the other role. If it
        has several of both, the first query belongs to the first target, and so on.
        """
        several = [role for role in (query, target) if role in self.masks]
        if len(several) != 1:
            return None, None
        owners = self.owners(several[0])
        return (None, owners) if several[0] == query else (owners, None)

    def codes_of_any(self, query: str, target: str) -> Codes | None:
        """
        As [`codes`], for queries with any number of targets. The kernel leaves out all keys that equal one of the
        row's targets (also the targets themselves), and the keys of rows with the query's picture or caption.

        Args:
            query (`str`): Role of the queries, one per row.
            target (`str`): Role of their targets and of the keys.
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
        Which keys the kernel leaves out for each pair: keys that equal the pair's target, and keys of rows with the
        query's picture or caption. `None` if repeats are not masked.

        Args:
            query, target (`str`): Role of the queries and role of their targets.
            keys (`Sequence[str]`): Roles of the keys.
        """
        if not self.identities:
            return None
        asked, wanted = self.identities[query], self.identities[target]
        of_query, of_target = self.pairs(query, target)
        asked = asked if of_query is None else asked[of_query]
        wanted = wanted if of_target is None else wanted[of_target]
        queries = torch.stack([wanted[:, 0], asked[:, 1], asked[:, 2]], dim=1)
        queries = queries.masked_fill(queries == UNKNOWN, UNKNOWN - 1)  # an unknown content equals nothing
        return Codes(queries, [self.identities_of_everyone[role] for role in keys])


def identities_of(
    contents: Mapping[str, torch.Tensor], masks: Mapping[str, torch.Tensor], owners: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """
    The content of each embedding, and the contents of the picture and the caption that it belongs to.

    Args:
        contents (`Mapping[str, torch.Tensor]`): int64 `(rows,)` by role, at least 0: equal numbers for equal contents.
        masks, owners (`Mapping[str, torch.Tensor]`): As in [`Embeddings`].

    Returns:
        `dict[str, torch.Tensor]`: int64 `(rows, 3)` by role: the embedding's content, its picture's and its caption's,
        `UNKNOWN` if there is none. A picture belongs to itself, and so does a text.
    """
    identities = {}
    for role, own in contents.items():
        side = "negative_" if role.startswith("negative_") else ""
        partner = contents.get(f"{side}{'text' if role.endswith('image') else 'image'}")
        if partner is not None and role in masks and len(masks[role]) == len(partner) and not side:
            partner = partner[owners[role]]
        if partner is None or len(partner) != len(own):
            partner = torch.full_like(own, UNKNOWN)
        picture, caption = (own, partner) if role.endswith("image") else (partner, own)
        identities[role] = torch.stack([own, picture, caption], dim=1)
    return identities

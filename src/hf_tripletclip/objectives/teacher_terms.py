# SPDX-License-Identifier: Apache-2.0
"""The terms that keep the model close to a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from hf_tripletclip.objectives.rows import Rows
from hf_tripletclip.objectives.terms import LossTerm, symbol


@dataclass(frozen=True)
class TeacherTerm(LossTerm):
    """
    ``weight * sum |e_i - e*_i|^2`` over the rows of all processes. `e*` is a frozen teacher's embedding of the same
    input.

    Args:
        role (`str`): Role of e.
        weight (`float`): Factor in the loss.
    """

    definition: ClassVar[str] = r"\Delta^{*}(e) = \sum_i \lVert e_i - e^{*}_i \rVert^2"

    role: str
    weight: float

    @property
    def name(self) -> str:
        return f"{self.role}_close_to_teacher"

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    @property
    def teacher_roles(self) -> tuple[str, ...]:
        return (self.role,)

    @property
    def formula(self) -> str:
        return f"Δ*({symbol(self.role)})"

    @property
    def latex(self) -> str:
        return rf"\Delta^{{*}}({symbol(self.role)})"

    def value(self, rows: Rows, scale: torch.Tensor) -> torch.Tensor:
        return (rows.own[self.role] - rows.teacher[self.role]).square().sum() * rows.processes


@dataclass(frozen=True)
class PriorTerm(LossTerm):
    """
    ``weight * mean_i (s m . (e_i - e*_i))^2``, where `m` is the mean query over all processes and `e*` a frozen
    teacher's embedding of the same input. It preserves a text's language prior: its score whatever the picture (Lin et
    al. 2024, arXiv 2306.01879).

    Args:
        query (`str`): Role of the queries whose mean is m.
        role (`str`): Role of e.
        weight (`float`): Factor in the loss.
    """

    definition: ClassVar[str] = (
        r"\mathrm{prior}(q, e) = \frac{1}{n} \sum_i \left( s\, \bar q \cdot (e_i - e^{*}_i) \right)^2"
    )

    query: str
    role: str
    weight: float

    @property
    def name(self) -> str:
        return f"{self.role}_prior"

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.query, self.role)

    @property
    def gathered(self) -> tuple[str, ...]:
        return (self.query,)

    @property
    def by_row(self) -> tuple[str, ...]:
        return (self.role,)

    @property
    def teacher_roles(self) -> tuple[str, ...]:
        return (self.role,)

    @property
    def formula(self) -> str:
        return f"prior({symbol(self.query)}, {symbol(self.role)})"

    @property
    def latex(self) -> str:
        return rf"\mathrm{{prior}}({symbol(self.query)}, {symbol(self.role)})"

    def value(self, rows: Rows, scale: torch.Tensor) -> torch.Tensor:
        moved = rows.own[self.role] - rows.teacher[self.role]
        return rows.mean((scale * (moved * rows.mean_of_everyone(self.query)).sum(dim=-1)).square())

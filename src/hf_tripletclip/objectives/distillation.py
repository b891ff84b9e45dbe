# SPDX-License-Identifier: Apache-2.0
"""
Distillation from a frozen teacher: a term that any objective can add, so that fine-tuning keeps what the model knew.

`e_i` is the student's and `e*_i` the teacher's L2-normalised embedding of the same input. The two kinds are:

- `embedding`: ``mean over roles and rows of |e_i - e*_i|^2``. Every input keeps the place that the teacher gives it.
- `similarity`: ``1/2 [KL(p*(v_i) | p(v_i)) + KL(p*(t_i) | p(t_i))]``, averaged over rows. `p(q)` is the softmax of
  ``s q . k`` over the keys `k` of the other modality in the batch, hard negatives included; `p*` is the teacher's.
  Inputs keep their similarities, but the space may rotate. `s` is the student's scale, as a constant.

Both are the teacher-student terms of knowledge distillation (Hinton et al. 2015, arXiv 1503.02531), with the model's
own starting point as the teacher.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hf_tripletclip.roles import ROLES, TRIPLET_IMAGES, TRIPLET_TEXTS

if TYPE_CHECKING:
    from hf_tripletclip.objectives.rows import Rows

KINDS = ("embedding", "similarity")
SETTINGS = {"kind", "weight", "roles"}
# Role of the queries -> roles of their keys, if the objective uses them.
OTHER_MODALITY = {"image": TRIPLET_TEXTS, "text": TRIPLET_IMAGES}


class Distillation:
    """
    The settings and the computation of a distillation term.

    Args:
        kind (`str`, defaults to `"similarity"`): `embedding` or `similarity`, see the top of this module.
        weight (`float`, defaults to 1.0): Factor in the loss.
        roles (`Sequence[str]`, *optional*): Roles whose embeddings stay close to the teacher's, such as `["text"]` for
            captions without their negatives and without images. Defaults to all roles of the objective. For
            `similarity` they are the queries and the keys: `image` and `text`, with or without others.

    Raises:
        ValueError: The kind or a role is unknown, the roles do not fit the kind, or the weight is not a positive
            number.
    """

    def __init__(self, kind: str = "similarity", weight: float = 1.0, roles: Sequence[str] | None = None) -> None:
        if kind not in KINDS:
            raise ValueError(f"`distillation` has the kind {kind!r}; give {' or '.join(KINDS)}.")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
            raise ValueError(
                f"`distillation` has the weight {weight!r}; give a number greater than 0, or leave it out."
            )
        listed = isinstance(roles, (list, tuple)) and roles and all(role in tuple(ROLES) for role in roles)
        if roles is not None and not listed:
            raise ValueError(f"`distillation` has the roles {roles!r}; give a list of some of {', '.join(ROLES)}.")
        if roles is not None and kind == "similarity" and not {"image", "text"} <= set(roles):
            raise ValueError(
                f"`distillation` of the kind similarity compares images with texts, but its roles are {list(roles)!r}"
                ": add image and text, or give the kind embedding."
            )
        self.kind = kind
        self.weight = weight
        self.roles = None if roles is None else list(roles)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments, as a config holds them."""
        return {name: value for name, value in vars(self).items() if name != "roles" or value is not None}

    def select(self, roles: Iterable[str]) -> tuple[str, ...]:
        """
        Select those of an objective's roles that the distillation applies to.

        Raises:
            ValueError: The objective does not use one of `self.roles`.
        """
        used = tuple(roles)
        if self.roles is None:
            return used
        if missing := [role for role in self.roles if role not in used]:
            raise ValueError(
                f"`distillation` has the role {missing[0]}, which the objective does not use; it uses "
                f"{', '.join(used)}."
            )
        return tuple(role for role in used if role in self.roles)

    def __call__(self, student: Rows, teacher: Rows, scale: torch.Tensor) -> torch.Tensor:
        """
        Args:
            student ([`Rows`]): The model's embeddings, with gradients.
            teacher ([`Rows`]): The teacher's embeddings of the same rows, without gradients.
            scale (`torch.Tensor` of shape `()`): `exp(logit_scale)`.

        Returns:
            `torch.Tensor` of shape `()`: the unweighted term. Its mean over the processes is the mean over all rows.
        """
        if self.kind == "embedding":
            return self._embedding(student, teacher)
        return self._similarity(student, teacher, scale.detach())

    @staticmethod
    def _embedding(student: Rows, teacher: Rows) -> torch.Tensor:
        means = [
            (student.own[role] - target).square().sum() * student.processes / max(len(teacher.everyone[role]), 1)
            for role, target in teacher.own.items()
        ]
        return torch.stack(means).mean()

    @staticmethod
    def _similarity(student: Rows, teacher: Rows, scale: torch.Tensor) -> torch.Tensor:
        halves = []
        for query, roles in OTHER_MODALITY.items():
            keys = [role for role in roles if role in teacher.own]
            wanted, actual = (_log_softmax(rows, query, keys, scale) for rows in (teacher, student))
            total = torch.nn.functional.kl_div(actual, wanted, reduction="sum", log_target=True)
            halves.append(total * student.processes / len(teacher.everyone[query]))
        return torch.stack(halves).mean()


def _log_softmax(rows: Rows, query: str, roles: Sequence[str], scale: torch.Tensor) -> torch.Tensor:
    keys = torch.cat([rows.everyone[role] for role in roles])
    with torch.autocast(keys.device.type, enabled=False):
        return torch.log_softmax(scale * rows.own[query] @ keys.T, dim=-1)


def make_distillation(settings: Distillation | Mapping[str, object] | None) -> Distillation | None:
    """
    Make a [`Distillation`] from the settings that a config holds, such as `{"kind": "embedding", "weight": 2.0}`.

    Raises:
        ValueError: A setting is unknown or out of range.
    """
    if settings is None or isinstance(settings, Distillation):
        return settings
    if not isinstance(settings, Mapping) or (unknown := sorted(settings.keys() - SETTINGS)):
        wrong = settings if not isinstance(settings, Mapping) else ", ".join(map(str, unknown))
        raise ValueError(f"`distillation` takes `kind`, `weight` and `roles`, not {wrong!r}.")
    return Distillation(**settings)  # type: ignore[arg-type]

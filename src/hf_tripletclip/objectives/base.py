# SPDX-License-Identifier: Apache-2.0
"""What an objective is: terms over embeddings, and the loss that they add up to."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from hf_tripletclip.objectives.distillation import Distillation, make_distillation
from hf_tripletclip.objectives.infonce import (
    CHUNK_SIZE,
    as_scale,
    common_dtype,
    gather_with_gradients,
    info_nce,
    world_size,
)

# Role of an embedding -> the dataset column and the model input that it comes from.
COLUMNS = {"image": "image", "text": "caption", "negative_image": "neg_image", "negative_text": "neg_caption"}
MODEL_INPUTS = {
    "image": "pixel_values",
    "text": "input_ids",
    "negative_image": "negative_pixel_values",
    "negative_text": "negative_input_ids",
}
WORDS = {
    "image": "images",
    "text": "captions",
    "negative_image": "hard negative images",
    "negative_text": "hard negative captions",
}
LENGTH_TOLERANCE = 0.01  # bfloat16 rounds lengths by less


@dataclass(frozen=True)
class Embeddings:
    """
    The L2-normalised embeddings of a batch by role, each `torch.Tensor` of shape `(rows, dim)`, floating.

    Args:
        image: Images, one per row of the batch.
        text: Their captions, as many.
        negative_image (*optional*): Hard negative images.
        negative_text (*optional*): Hard negative captions.
        teacher (`Mapping[str, torch.Tensor]`, *optional*): For distillation: a frozen teacher's embeddings of the
            same inputs, by role.
        normalized (`bool`, defaults to `False`): Whether rows are known to have length 1. Otherwise the objective
            looks, which waits for the device.
    """

    image: torch.Tensor
    text: torch.Tensor
    negative_image: torch.Tensor | None = None
    negative_text: torch.Tensor | None = None
    teacher: Mapping[str, torch.Tensor] | None = None
    normalized: bool = False


@dataclass(frozen=True)
class Term:
    """
    ``weight * mean_i [logsumexp_j(s q_i . k_j) - s q_i . k_i]``: each query must find its own row of the first block
    of keys among all keys.

    Args:
        query (`str`): Role of the queries.
        keys (`tuple[str, ...]`): Roles of the keys; row i of the first is the target of query i.
        weight (`float`): Factor in the loss.
    """

    query: str
    keys: tuple[str, ...]
    weight: float

    @property
    def name(self) -> str:
        """Such as `image_to_text`."""
        return f"{self.query}_to_{self.keys[0]}"


def roles_of(terms: Iterable[Term]) -> tuple[str, ...]:
    """Roles of the embeddings that the terms use, in the order of `COLUMNS`."""
    used = {role for term in terms for role in (term.query, *term.keys)}
    return tuple(role for role in COLUMNS if role in used)


@dataclass(frozen=True)
class ObjectiveOutput:
    """
    Args:
        loss (`torch.Tensor` of shape `()`): The loss, with gradients.
        parts (`dict[str, torch.Tensor]`): The terms by name, unweighted and detached scalars.
    """

    loss: torch.Tensor
    parts: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Rows:
    """
    What an objective computes with, each embedding float32 (float64 if one of them was float64).

    Args:
        own (`dict[str, torch.Tensor]`): This process's embeddings by role, `(rows, dim)`: the queries.
        everyone (`dict[str, torch.Tensor]`):
            The embeddings of all processes, `(rows of all, dim)`, with gradients: the keys. Those of `own` where
            there is one process or negatives are not shared.
        starts (`dict[str, int]`): Row of `everyone` at which `own` starts.
        processes (`int`): Number of processes that share their rows.
    """

    own: dict[str, torch.Tensor]
    everyone: dict[str, torch.Tensor]
    starts: dict[str, int]
    processes: int


class Objective:
    """
    A contrastive training objective. A subclass names its `terms`; roles, columns, computation and documentation
    follow from them. One with further terms overrides `compute`, where the rows are checked and gathered already, and
    adds to what this class returns.

    Args:
        negatives_across_devices (`bool`, defaults to `True`):
            Whether the denominators run over the rows of all processes. The mean of the processes' losses, and the
            gradients after DDP has averaged them, are then those of one process with the concatenated batch.
        chunk_size (`int`, defaults to 2048): Keys per chunk of the kernel; memory grows with rows x `chunk_size`.
        distillation ([`~hf_tripletclip.objectives.distillation.Distillation`] or `Mapping`, *optional*):
            Adds a term that holds the model to a frozen teacher: `{"kind": "similarity" or "embedding", "weight": 1}`.

    Raises:
        ValueError: `chunk_size` is not positive, or a setting of `distillation` is out of range.
    """

    name: ClassVar[str]
    terms: ClassVar[tuple[Term, ...]]

    def __init__(
        self,
        negatives_across_devices: bool = True,
        chunk_size: int = CHUNK_SIZE,
        distillation: Any = None,
    ) -> None:
        if chunk_size < 1:
            raise ValueError(f"`chunk_size` is {chunk_size}; give at least 1.")
        self.negatives_across_devices = negatives_across_devices
        self.chunk_size = chunk_size
        self.distillation = make_distillation(distillation)

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of the embeddings that the terms use."""
        return roles_of(self.terms)

    @property
    def columns(self) -> tuple[str, ...]:
        """Dataset columns that the objective needs."""
        return tuple(COLUMNS[role] for role in self.roles)

    @classmethod
    def arguments(cls) -> dict[str, inspect.Parameter]:
        """The arguments by name, with those that `**kwargs` hands on to the classes above."""
        found: dict[str, inspect.Parameter] = {}
        for one in cls.__mro__:
            if "__init__" not in vars(one):
                continue
            _, *own = inspect.signature(one.__init__).parameters.values()  # type: ignore[misc]
            kinds = {parameter.kind for parameter in own}
            found |= {
                parameter.name: parameter
                for parameter in own
                if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
                and parameter.name not in found
            }
            if inspect.Parameter.VAR_KEYWORD not in kinds:
                break
        return found

    @property
    def settings(self) -> dict[str, Any]:
        """
        The arguments that differ from their defaults, as `objective_kwargs` of a config holds them. Each is read from
        the attribute of its name.

        Raises:
            ValueError: There is no such attribute.
        """
        found: dict[str, Any] = {}
        for name, parameter in self.arguments().items():
            if not hasattr(self, name):
                raise ValueError(f"{type(self).__name__} takes `{name}`: keep it as `self.{name}`.")
            if (value := getattr(self, name)) != parameter.default:
                found[name] = vars(value).copy() if isinstance(value, Distillation) else value
        return found

    def __call__(self, embeddings: Embeddings, scale: torch.Tensor | float) -> ObjectiveOutput:
        """
        Args:
            embeddings ([`Embeddings`]): Of this process's rows. Roles that no term uses are ignored.
            scale (`float` or `torch.Tensor` of one element): `exp(logit_scale)`.

        Raises:
            TypeError: The embeddings are no [`Embeddings`].
            ValueError: A role is missing, rows are not L2-normalised, shapes or dtypes do not fit, queries and targets
                differ in number, there are no rows, or the scale is no positive number.
        """
        if not isinstance(embeddings, Embeddings):
            raise TypeError(
                f"An objective takes `Embeddings(image=..., text=...)` and a scale, not a {type(embeddings).__name__}."
            )
        rows = self.gather(self.check(embeddings))
        scale = as_scale(scale, next(iter(rows.own.values())))
        output = self.compute(rows, scale)
        if self.distillation is None:
            return output
        value = self.distillation(rows, self.gather(self._of_teacher(embeddings, rows)), scale)
        return ObjectiveOutput(
            loss=output.loss + self.distillation.weight * value,
            parts={**output.parts, "distillation": value.detach()},
        )

    def _of_teacher(self, embeddings: Embeddings, rows: Rows) -> dict[str, torch.Tensor]:
        """The teacher's embeddings of the roles that the terms use, without gradients."""
        teacher = embeddings.teacher or {}
        for role, own in rows.own.items():
            if role not in teacher or teacher[role].shape != own.shape:
                found = tuple(teacher[role].shape) if role in teacher else "none"
                raise ValueError(
                    f"Distillation needs the teacher's {role} embeddings of shape {tuple(own.shape)}; there are "
                    f"{found}. `TripletCLIPTrainer` makes them; otherwise give `teacher_embeds`."
                )
        taught = {role: teacher[role].detach().to(own) for role, own in rows.own.items()}
        _check_lengths(taught, "the teacher's ")
        return taught

    def compute(self, rows: Rows, scale: torch.Tensor) -> ObjectiveOutput:
        """The terms and their weighted sum; `scale` as in `__call__`."""
        losses: list[torch.Tensor] = []
        parts: dict[str, torch.Tensor] = {}
        for term in self.terms:
            targets = rows.everyone[term.keys[0]]
            if len(targets) == 0:
                raise ValueError(f"The objective {self.name!r} got no rows: there is no {term.keys[0]} embedding.")
            total = info_nce(
                rows.own[term.query],
                [rows.everyone[role] for role in term.keys],
                scale,
                first_target=rows.starts[term.keys[0]],
                chunk_size=self.chunk_size,
                reduction="sum",
            )
            # Over processes the *mean* of the losses is the mean over all rows, however many each process has.
            mean = total * (rows.processes / len(targets))
            parts[term.name] = mean.detach()
            losses.append(term.weight * mean)
        return ObjectiveOutput(loss=torch.stack(losses).sum(), parts=parts)

    def gather(self, own: dict[str, torch.Tensor]) -> Rows:
        """The embeddings by role together with those of the other processes, each gathered once."""
        # Cast first: gradients of several terms and processes then add up in float32.
        dtype = common_dtype(list(own.values()))
        own = {role: value.to(dtype) for role, value in own.items()}
        if not self.negatives_across_devices or world_size() == 1:
            return Rows(own=own, everyone=own, starts=dict.fromkeys(own, 0), processes=1)
        key_roles = [role for role in own if any(role in term.keys for term in self.terms)]
        gathered, starts = gather_with_gradients([own[role] for role in key_roles])
        return Rows(
            own=own,
            everyone=dict(zip(key_roles, gathered, strict=True)),
            starts=dict(zip(key_roles, starts, strict=True)),
            processes=world_size(),
        )

    def check(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
        """The embeddings that the terms use, by role; raises `ValueError` where they do not do."""
        own: dict[str, torch.Tensor] = {}
        for role in self.roles:
            value = getattr(embeddings, role)
            if value is None:
                raise ValueError(
                    f"The objective {self.name!r} needs {role} embeddings, those of {WORDS[role]}: give them as "
                    f"`Embeddings({role}=...)`, or to the model as `{MODEL_INPUTS[role]}` (dataset column "
                    f"{COLUMNS[role]!r})."
                )
            if not isinstance(value, torch.Tensor) or value.ndim != 2 or not value.is_floating_point():
                tensor = isinstance(value, torch.Tensor)
                found = f"{tuple(value.shape)}, {value.dtype}" if tensor else f"a {type(value).__name__}"
                raise ValueError(
                    f"The objective {self.name!r} needs {role} embeddings of shape (rows, dim), floating; they are "
                    f"{found}."
                )
            own[role] = value
        dims = {role: value.shape[1] for role, value in own.items()}
        if len(set(dims.values())) > 1:
            raise ValueError(f"The objective {self.name!r} needs embeddings of one dimension; they have {dims}.")
        for term in self.terms:
            queries, targets = own[term.query], own[term.keys[0]]
            if len(queries) != len(targets):
                raise ValueError(
                    f"The objective {self.name!r} pairs {term.query} with {term.keys[0]} row by row, but there are "
                    f"{len(queries)} rows of the one and {len(targets)} of the other."
                )
        if not embeddings.normalized:
            _check_lengths(own)
        return own


@torch.no_grad()
def _check_lengths(by_role: Mapping[str, torch.Tensor], whose: str = "") -> None:
    """Raise `ValueError` where rows are not of length 1."""
    for role, value in by_role.items():
        if len(value) == 0:
            continue
        lengths = value.float().norm(dim=-1)
        if not bool((lengths - 1).abs().max() <= LENGTH_TOLERANCE):  # NaN is not either
            worst = lengths[(lengths - 1).abs().nan_to_num(torch.inf).argmax()].item()
            raise ValueError(
                f"Objectives compare directions, and {whose}{role} embeddings are not L2-normalised: a row has length "
                f"{worst:.4g}. Divide by it: `torch.nn.functional.normalize(embeddings, dim=-1)`."
            )

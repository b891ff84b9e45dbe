# SPDX-License-Identifier: Apache-2.0
"""The base class of objectives: terms over embeddings, and the loss that they add up to."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from hf_tripletclip.objectives.chunks import CHUNK_SIZE, as_bias, as_scale, common_dtype
from hf_tripletclip.objectives.distillation import Distillation, make_distillation
from hf_tripletclip.objectives.embeddings import Embeddings, ObjectiveOutput, Tokens, check_lengths
from hf_tripletclip.objectives.exchange import (
    EXCHANGES,
    gather_rows,
    gather_with_gradients,
    goes_round,
    row_counts,
    world_size,
)
from hf_tripletclip.objectives.rows import Rows, identities_of
from hf_tripletclip.objectives.shared import sum_of_terms
from hf_tripletclip.objectives.terms import LossTerm, roles_of
from hf_tripletclip.roles import ROLES

REPEATS = ("negative", "mask")


class Objective:
    """
    A contrastive training objective. A subclass names its `terms`; roles, columns, computation and documentation
    follow from them. A subclass with terms of another form overrides `compute`, which receives rows that are checked
    and gathered already, and adds these terms to the result of this class.

    Args:
        negatives_across_devices (`bool`, defaults to `True`):
            Whether the denominators run over the rows of all processes. If so, the mean of the processes' losses, and
            the gradients after DDP has averaged them, equal those of one process with the concatenated batch.
        chunk_size (`int`, defaults to 2048): Keys per chunk of the kernels; memory grows with rows x `chunk_size` at
            most. In one process, tiles of a softmax have this many rows and columns, on CPUs half as many.
        distillation ([`~hf_tripletclip.objectives.distillation.Distillation`] or `Mapping`, *optional*):
            Adds a term that keeps the model close to a teacher: `{"kind": "similarity" or "embedding", "weight": 1}`.
            With `"roles": ["text"]` it applies to some embeddings only.
        teacher_decay (`float`, *optional*):
            Makes the teacher a moving average of the model: after each optimizer step a weight of the teacher becomes
            `teacher_decay` times itself plus `1 - teacher_decay` times the model's weight (Tarvainen and Valpola 2017,
            arXiv 1703.01780). With `None` or 1 the teacher stays the model as it was before training.
        repeats (`str`, defaults to `"negative"`):
            How to treat a key of another row that is a right answer too: it is the same picture or text as the query's
            target, or it belongs to the same picture or text as the query, such as another caption of the same
            photograph. `"negative"`: as a wrong answer, like the published methods. `"mask"`: it is left out of the
            denominators.
        key_exchange (`str`, defaults to `"gather"`):
            How the denominators reach the rows of the other processes. `"gather"`: every process holds the keys of
            all, in one collective. `"ring"`: keys go from process to process, so that each holds those of two others
            at most, in as many steps as there are processes, forward and backward, for each term. `"auto"`: the ring
            if all keys together take more than 256 MiB. The results are the same. Keys that a term or `distillation`
            needs whole are gathered all the same.

    Raises:
        ValueError: `chunk_size` is not positive, `repeats` or `key_exchange` is none of these, or a setting of
            `distillation` or `teacher_decay` is out of range.
    """

    name: ClassVar[str]
    terms: tuple[LossTerm, ...]
    # Whether each pass over the data draws a row's caption at random from its caption and its paraphrases.
    draws_captions: ClassVar[bool] = False
    # The current optimizer step, from 0; `None` in evaluation. The trainer sets it.
    step: int | None = None
    # Whether batches must be filled with the nearest neighbours of their rows.
    needs_neighbours: ClassVar[bool] = False
    # The bias on logits for models that have none, if the objective uses one; a setting of such objectives.
    bias: float | None = None

    def __init__(
        self,
        negatives_across_devices: bool = True,
        chunk_size: int = CHUNK_SIZE,
        distillation: Any = None,
        repeats: str = "negative",
        teacher_decay: float | None = None,
        key_exchange: str = "gather",
    ) -> None:
        if key_exchange not in EXCHANGES:
            raise ValueError(f"`key_exchange` is {key_exchange!r}; it can be {' or '.join(map(repr, EXCHANGES))}.")
        if not isinstance(chunk_size, int) or chunk_size < 1:
            raise ValueError(f"`chunk_size` is {chunk_size!r}; give a whole number of at least 1.")
        if repeats not in REPEATS:
            raise ValueError(f"`repeats` is {repeats!r}; it can be {' or '.join(map(repr, REPEATS))}.")
        self.negatives_across_devices = negatives_across_devices
        self.chunk_size = chunk_size
        self.distillation = make_distillation(distillation)
        self.repeats = repeats
        self.key_exchange = key_exchange
        self.teacher_decay = _check_decay(teacher_decay)

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of the embeddings that the terms use."""
        return roles_of(self.terms)

    @property
    def columns(self) -> tuple[str, ...]:
        """Dataset columns that the objective needs."""
        return tuple(ROLES[role].column for role in self.roles)

    def active_terms(self) -> tuple[LossTerm, ...]:
        """The terms of this `step`: all of them, unless the objective alternates between terms."""
        return self.terms

    @property
    def uses_bias(self) -> bool:
        """Whether a term uses a bias on the logits: the model's `logit_bias`, or the setting `bias`."""
        return any(term.uses_bias for term in self.terms)

    @property
    def needs_teacher(self) -> bool:
        """Whether the objective compares the model with a teacher."""
        return self.distillation is not None or any(term.teacher_roles for term in self.terms)

    @property
    def token_roles(self) -> tuple[str, ...]:
        """The roles whose patches or words the objective needs."""
        return self._needed("needs_tokens")

    @property
    def state_roles(self) -> tuple[str, ...]:
        """The roles whose texts a decoder reads."""
        return self._needed("needs_states")

    @property
    def label_roles(self) -> tuple[str, ...]:
        """The roles whose texts a decoder must write."""
        return self._needed("needs_labels")

    def _needed(self, what: str) -> tuple[str, ...]:
        needed = {role for term in self.terms for role in getattr(term, what)}
        return tuple(role for role in ROLES if role in needed)

    @property
    def teacher_roles(self) -> tuple[str, ...]:
        """
        The roles whose embeddings are compared with a teacher's.

        Raises:
            ValueError: `distillation` names a role that the objective does not use.
        """
        distilled = () if self.distillation is None else self.distillation.select(self.roles)
        used = {*distilled, *(role for term in self.terms for role in term.teacher_roles)}
        return tuple(role for role in self.roles if role in used)

    def check_teacher(self) -> None:
        """
        Check the teacher's settings against the terms, which are complete once the objective is made.

        Raises:
            ValueError: `distillation` names a role that the objective does not use, or `teacher_decay` is given though
                there is no teacher.
        """
        _ = self.teacher_roles
        if self.teacher_decay is not None and not self.needs_teacher:
            raise ValueError(
                f"`teacher_decay` moves a teacher, but the objective {self.name!r} with these settings has none: give "
                "`distillation` too, or leave `teacher_decay` out."
            )

    @property
    def teacher_moves(self) -> bool:
        """Whether the teacher follows the model."""
        return self.teacher_decay not in (None, 1)

    @property
    def decoder_width(self) -> int | None:
        """
        How many numbers the decoder reads per text; `None` if the objective has no decoder. Raises `ValueError` if the
        decoder cannot be loaded.
        """
        return None

    def prepare_collator(self, collator: Any) -> Any:
        """Extend the trainer's collator of raw rows by other inputs that the objective needs in a batch."""
        return collator

    @property
    def masks_repeats(self) -> bool:
        """Whether the objective needs to know which rows hold the same pictures and texts."""
        return self.repeats == "mask"

    @property
    def content_roles(self) -> tuple[str, ...]:
        """The roles of which the objective needs to know which rows hold the same content."""
        return self.roles if self.masks_repeats else ()

    @classmethod
    def arguments(cls) -> dict[str, inspect.Parameter]:
        """The arguments by name, with those that `**kwargs` passes on to the base classes."""
        arguments: dict[str, inspect.Parameter] = {}
        for one in cls.__mro__:
            if "__init__" not in vars(one):
                continue
            _, *own = inspect.signature(one.__init__).parameters.values()  # type: ignore[misc]
            kinds = {parameter.kind for parameter in own}
            arguments |= {
                parameter.name: parameter
                for parameter in own
                if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
                and parameter.name not in arguments
            }
            if inspect.Parameter.VAR_KEYWORD not in kinds:
                break
        return arguments

    @property
    def settings(self) -> dict[str, Any]:
        """
        The arguments that differ from their defaults, as `objective_kwargs` of a config holds them. Each is read from
        the attribute with its name.

        Raises:
            ValueError: An argument has no such attribute.
        """
        changed: dict[str, Any] = {}
        for name, parameter in self.arguments().items():
            if not hasattr(self, name):
                raise ValueError(f"{type(self).__name__} takes `{name}`: store it as `self.{name}`.")
            if (value := getattr(self, name)) != parameter.default:
                changed[name] = value.settings if isinstance(value, Distillation) else value
        return changed

    def __call__(
        self, embeddings: Embeddings, scale: torch.Tensor | float, bias: torch.Tensor | float | None = None
    ) -> ObjectiveOutput:
        """
        Args:
            embeddings ([`Embeddings`]): The embeddings of this process's rows. Roles that no term uses are ignored.
            scale (`float` or `torch.Tensor` of one element): `exp(logit_scale)`.
            bias (`float` or `torch.Tensor` of one element, *optional*): The model's `logit_bias`, which is added to
                the logits. An objective with `uses_bias` needs it, or has the setting `bias` for models without one;
                others ignore it, because it cancels out in a softmax.

        Returns:
            [`ObjectiveOutput`]: The loss, and its terms.

        Raises:
            TypeError: `embeddings` is not an [`Embeddings`].
            ValueError: A role is missing, rows are not L2-normalised, shapes or dtypes do not fit, queries and targets
                differ in number, there are no rows, the scale is not a positive number, or the bias is missing or
                not a finite number.
        """
        if not isinstance(embeddings, Embeddings):
            raise TypeError(
                f"An objective takes `Embeddings(image=..., text=...)` and a scale, not a {type(embeddings).__name__}."
            )
        own = self.check(embeddings)
        teacher = self._teacher_embeddings(embeddings, own)
        bias = self._bias(bias)
        rows = self.gather(own, embeddings, teacher)
        like = next(iter(rows.own.values()))
        scale = as_scale(scale, like)
        if bias is not None:
            rows = dataclasses.replace(rows, bias=as_bias(bias, like))
        output = self.compute(rows, scale)
        if self.distillation is None:
            return output
        distilled = {role: teacher[role] for role in self.distillation.select(self.roles)}
        value = self.distillation(rows, self.gather(distilled, embeddings, {}), scale)
        return ObjectiveOutput(
            loss=output.loss + self.distillation.weight * value,
            parts={**output.parts, "distillation": value.detach()},
        )

    def _bias(self, given: torch.Tensor | float | None) -> torch.Tensor | float | None:
        """The bias: the model's, or else the setting; `None` if no term uses one."""
        if not self.uses_bias:
            return None
        self.check_bias(given)
        return self.bias if given is None else given

    def check_bias(self, given: torch.Tensor | float | None) -> None:
        """Raise `ValueError` if a term uses a bias, and neither this objective nor the model (`given`) has one."""
        if self.uses_bias and given is None and self.bias is None:
            raise ValueError(
                f"The objective {self.name!r} uses a bias, and the model has no `logit_bias`: give the objective a "
                "fixed one, such as `objective_kwargs={'bias': -10}`, or call it with `bias=...`."
            )

    def _teacher_embeddings(self, embeddings: Embeddings, own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The teacher's embeddings of the roles that are compared with it, without gradients."""
        roles, teacher = self.teacher_roles, embeddings.teacher or {}
        for role in roles:
            if role not in teacher or teacher[role].shape != own[role].shape:
                given = f"their shape is {tuple(teacher[role].shape)}" if role in teacher else "there are none"
                raise ValueError(
                    f"Distillation needs the teacher's {role} embeddings of shape {tuple(own[role].shape)}, but "
                    f"{given}. `TripletCLIPTrainer` makes them; without it, give `teacher_embeds`."
                )
        values = {role: teacher[role].detach().to(own[role]) for role in roles}
        check_lengths(values, "the teacher's ")
        return values

    def compute(self, rows: Rows, scale: torch.Tensor) -> ObjectiveOutput:
        """The terms and their weighted sum; `scale` as in `__call__`."""
        for role in ("image", "text"):
            if rows.total(role) == 0:
                raise ValueError(f"The objective {self.name!r} received no rows: there is no {role} embedding.")
        loss, parts = sum_of_terms(self.active_terms(), rows, scale)
        for role, mask in rows.masks.items():
            # Times the number of processes, because the log shows the mean over processes.
            parts[f"rows_without_{role}"] = (~mask.any(dim=1)).sum().to(loss.dtype) * rows.processes
        return ObjectiveOutput(loss=loss, parts=parts)

    def gather(self, own: dict[str, torch.Tensor], embeddings: Embeddings, teacher: dict[str, torch.Tensor]) -> Rows:
        """The embeddings by role, together with those of the other processes. Each is gathered once."""
        # Cast first: gradients of several terms and processes then add up in float32.
        dtype = common_dtype(list(own.values()))
        own = {role: value.to(dtype) for role, value in own.items()}
        masks = {role: mask for role, mask in (embeddings.masks or {}).items() if role in own}
        identities: dict[str, torch.Tensor] = {}
        if self.masks_repeats and embeddings.contents is not None:
            contents = {role: embeddings.contents[role] for role in own}
            identities = identities_of(contents, masks, embeddings.owners)
        fields: dict[str, Any] = {
            "own": own,
            "masks": masks,
            "owner_rows": {role: embeddings.owners[role] for role in masks},
            "identities": identities,
            "teacher": {role: value.to(dtype) for role, value in teacher.items()},
            "tokens": {
                role: Tokens(tokens.values.to(dtype), tokens.mask)
                for role, tokens in (embeddings.tokens or {}).items()
                if role in self.token_roles
            },
            "states": {role: embeddings.states[role].to(dtype) for role in self.state_roles if embeddings.states},
            "labels": {role: embeddings.labels[role] for role in self.label_roles if embeddings.labels},
            "chunk_size": self.chunk_size,
        }
        if not self.negatives_across_devices or world_size() == 1:
            return Rows(
                everyone=own, starts=dict.fromkeys(own, 0), processes=1, identities_of_everyone=identities, **fields
            )
        # Distillation compares all rows with all.
        distilled = () if self.distillation is None else self.distillation.select(self.roles)
        whole = {*distilled, *(role for term in self.terms for role in term.gathered)}
        keys = {role for term in self.terms for role in term.key_roles}
        shared = [role for role in own if role in whole or role in keys] or list(own)
        counts = row_counts([own[role] for role in shared])
        by_role = dict(zip(shared, map(tuple, zip(*counts, strict=True)), strict=True))
        width = own[shared[0]].shape[1] * dtype.itemsize
        gathered = shared
        if goes_round(self.key_exchange, counts, width):
            gathered = [role for role in shared if role not in keys or role in whole]
        everyone, starts = gather_with_gradients(
            [own[role] for role in gathered], list(zip(*(by_role[role] for role in gathered), strict=True))
        )
        of_all = dict(zip(identities, gather_rows(list(identities.values())), strict=True))
        return Rows(
            everyone=dict(zip(gathered, everyone, strict=True)),
            starts=dict(zip(gathered, starts, strict=True)),
            processes=world_size(),
            identities_of_everyone=of_all,
            counts=by_role,
            **fields,
        )

    def check(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
        """The embeddings that the terms use, by role; raises `ValueError` if they are unusable."""
        own: dict[str, torch.Tensor] = {}
        for role in self.roles:
            value = getattr(embeddings, role)
            if value is None:
                raise ValueError(
                    f"The objective {self.name!r} needs {role} embeddings (of {ROLES[role].words}): give them as "
                    f"`Embeddings({role}=...)`, or give the model `{ROLES[role].model_input}` (dataset column "
                    f"{ROLES[role].column!r})."
                )
            if not isinstance(value, torch.Tensor) or value.ndim != 2 or not value.is_floating_point():
                tensor = isinstance(value, torch.Tensor)
                given = f"{value.dtype} of shape {tuple(value.shape)}" if tensor else f"a {type(value).__name__}"
                raise ValueError(
                    f"The objective {self.name!r} needs {role} embeddings of a floating dtype and shape (rows, dim), "
                    f"but they are {given}."
                )
            own[role] = value
        dims = {role: value.shape[1] for role, value in own.items()}
        if len(set(dims.values())) > 1:
            raise ValueError(f"The objective {self.name!r} needs embeddings of equal dimension, but they have {dims}.")
        self._check_numbers(own, embeddings)
        if self.masks_repeats:
            self._check_contents(own, embeddings)
        self._check_tokens(own, embeddings.tokens or {})
        self._check_decoded(own, embeddings)
        if not embeddings.normalized:
            check_lengths(own)
        return own

    def _check_numbers(self, own: dict[str, torch.Tensor], embeddings: Embeddings) -> None:
        """Check that a role that a term takes row by row has one embedding per row, or a mask."""
        masks = embeddings.masks or {}
        for role in own.keys() & masks.keys():
            mask, wanted = masks[role], len(own[role])
            if ROLES[role].mask is None:
                raise ValueError(f"Each row has one {role} embedding: leave out the mask of {role}.")
            if mask.dtype != torch.bool or mask.ndim != 2 or len(embeddings.owners[role]) != wanted:
                raise ValueError(
                    f"The mask of {role} tells which row each of its {wanted} embeddings belongs to: give a bool "
                    f"tensor of shape (rows, K) with {wanted} `True` values; it is {mask.dtype} of shape "
                    f"{tuple(mask.shape)} with {int(mask.sum())}."
                )
        for term in self.terms:
            for roles in dict.fromkeys((term.by_row, *term.matched)):
                self._check_rows(roles, own, masks)
            for role in term.one_per_row:
                if role in masks and embeddings.owners[role].tolist() != list(range(len(masks[role]))):
                    raise ValueError(
                        f"The term {term.name} of the objective {self.name!r} needs exactly one {role} in each row, "
                        "but some row has several or none."
                    )
            for pair in term.matched:
                if all(role in masks for role in pair) and not torch.equal(
                    *(embeddings.owners[role] for role in pair)
                ):
                    raise ValueError(
                        f"The objective {self.name!r} pairs {ROLES[pair[0]].words} with {ROLES[pair[1]].words} one by "
                        "one, but some row does not have as many of the one as of the other."
                    )

    def _check_rows(
        self, roles: tuple[str, ...], own: Mapping[str, torch.Tensor], masks: Mapping[str, torch.Tensor]
    ) -> None:
        """Check that some roles have equally many rows."""
        ordered = sorted(roles, key=list(ROLES).index)
        for role in ordered[1:]:
            first = ordered[0]
            rows, number = (len(masks.get(one, own[one])) for one in (first, role))
            several = ROLES[role].mask is not None and role not in masks
            hint = f" If a row may have any number of the latter, give `masks={{{role!r}: ...}}`." if several else ""
            if number != rows:
                raise ValueError(
                    f"The objective {self.name!r} pairs {ROLES[first].words} with {ROLES[role].words} row by row, "
                    f"but there are {rows} rows of the first and {number} of the second.{hint}"
                )

    def _check_tokens(self, own: dict[str, torch.Tensor], given: Mapping[str, Tokens]) -> None:
        dims = {}
        for role in self.token_roles:
            tokens, number = given.get(role), len(own[role])
            if tokens is None or not tokens.fit(number):
                parts = () if tokens is None else (tokens.values, tokens.mask)
                shown = " and ".join(f"{part.dtype} of shape {tuple(part.shape)}" for part in parts) or "none"
                raise ValueError(
                    f"The objective {self.name!r} uses {'patches' if ROLES[role].is_image else 'words'}: it needs "
                    f"`Embeddings(tokens={{{role!r}: Tokens(values, mask)}})`, floating of shape ({number}, "
                    f"length, dim) and bool of shape ({number}, length); given: {shown}. The model makes them from "
                    "pixels and token ids."
                )
            dims[role] = tokens.values.shape[2]
        if len(set(dims.values())) > 1:
            raise ValueError(f"The objective {self.name!r} needs tokens of equal dimension, but they have {dims}.")

    def _check_decoded(self, own: dict[str, torch.Tensor], embeddings: Embeddings) -> None:
        for what, roles in (("states", self.state_roles), ("labels", self.label_roles)):
            for role in roles:
                value = (getattr(embeddings, what) or {}).get(role)
                fits = value is not None and value.ndim == 2 and len(value) == len(own[role])
                if value is None or not fits or value.is_floating_point() != (what == "states"):
                    given = "none" if value is None else f"{value.dtype} of shape {tuple(value.shape)}"
                    wanted, width = ("int64", "length") if what == "labels" else ("floating", "width of the decoder")
                    raise ValueError(
                        f"The objective {self.name!r} has a decoder: it needs `Embeddings({what}={{{role!r}: ...}})`, "
                        f"{wanted} of shape ({len(own[role])}, {width}); given: {given}. The model makes states, "
                        f"and `TripletCLIPTrainer` adds `{ROLES[role].decoder_targets}` to batches of raw rows."
                    )

    def _check_contents(self, own: dict[str, torch.Tensor], embeddings: Embeddings) -> None:
        contents = embeddings.contents or {}
        for role, value in own.items():
            if role not in contents or contents[role].shape != (len(value),):
                raise ValueError(
                    f'`repeats="mask"` needs to know which {ROLES[role].words} are the same: give '
                    f"`Embeddings(contents={{{role!r}: ...}})`, int64 of shape ({len(value)},). The model makes them."
                )


def check_weight(name: str, value: float) -> float:
    """Return the value of a setting; raises `ValueError` unless it is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"`{name}` is {value!r}; give a number of at least 0.")
    return value


def _check_decay(value: float | None) -> float | None:
    if value is None or (not isinstance(value, bool) and isinstance(value, (int, float)) and 0 <= value <= 1):
        return value
    raise ValueError(f"`teacher_decay` is {value!r}; give a number from 0 to 1, such as 0.9996, or leave it out.")

# SPDX-License-Identifier: Apache-2.0
"""What a step of generation is: a batch of rows in, further columns of the same rows out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, TypeAlias, TypeVar

from datasets import Features

# Column -> one value per row, as `Dataset.map(batched=True)` has it. Images are `{"bytes", "path"}`, never decoded.
Batch: TypeAlias = dict[str, list[Any]]

Item = TypeVar("Item")

ERROR = "error"  # why a row could not be made, `None` if it could: words for counting, then a colon and detail


@dataclasses.dataclass
class Stage(ABC):
    """
    A source of negative captions, of negative images or of scores: a dataclass whose fields are its settings.

    It is called with batches of at most `batch_size` rows that have the columns `ID` and `requires`, and returns the
    columns `produces` and `error`. A row that fails has an error and `None` elsewhere: one bad row never raises. So
    `Dataset.map(stage, batched=True, batch_size=stage.batch_size)` runs one too.

    What a row becomes depends on the settings and its batch alone: batches are cut from work units that are planned
    once, so a rerun with other workers or machines gives the same. Randomness comes from [`row_seed`]. Models are
    loaded in `setup`, once per process.

    Fields that do not change what comes out, such as `device`, are named in `not_settings`.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()  # columns that it also reads if they exist
    uses_device: ClassVar[bool] = True  # whether it computes on `device`, a GPU if there is one
    not_settings: ClassVar[frozenset[str]] = frozenset({"device"})

    batch_size: int = 64
    device: str | None = None

    @property
    @abstractmethod
    def produces(self) -> Features:
        """The columns that it adds, without `error`."""

    @abstractmethod
    def __call__(self, batch: Batch) -> Batch:
        """The new columns, as many entries as the batch has rows, in its order."""

    def check(self) -> None:  # noqa: B027 (most sources need nothing)
        """Called before work starts: raise `ImportError` or `OSError` if what calls need is not installed."""

    def setup(self) -> None:  # noqa: B027 (most sources have nothing to load)
        """Load what calls need. A second call does nothing."""

    @property
    def label(self) -> str:
        """What the column `generator` says of it, such as `diffusers:stabilityai/sdxl-turbo`."""
        model = getattr(self, "model", None)
        return f"{self.name}:{model}" if isinstance(model, str) else self.name

    def settings(self) -> dict[str, Any]:
        """Everything that determines what it makes, as JSON knows it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}
        chosen = {name: value for name, value in fields.items() if name not in self.not_settings}
        return json.loads(json.dumps({"stage": self.name, **chosen}))

    def fingerprint(self) -> str:
        """A hash of the settings."""
        return hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()[:16]


def row_seed(seed: int, row_id: str, purpose: str = "") -> int:
    """A seed in 0..2**32-1 for a row: the same on every machine, another for every purpose."""
    digest = hashlib.sha256(f"{seed}\x1f{purpose}\x1f{row_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big")


def in_random_order(items: Iterable[Item], rng: random.Random) -> list[Item]:
    """A copy in random order, by `random.random`, which is the same in all versions of Python."""
    order = list(items)
    for number in range(len(order) - 1, 0, -1):
        other = int(rng.random() * (number + 1))
        order[number], order[other] = order[other], order[number]
    return order


def failed(stage: Stage, batch: Batch, errors: list[str]) -> Batch:
    """The columns of a batch of which no row could be made."""
    return {**{name: [None] * len(errors) for name in stage.produces}, ERROR: list(errors)}


def short_reason(error: str) -> str:
    """What errors are counted by: `captions: refusal: I cannot ...` as `captions: refusal`."""
    return ":".join(error.split(":")[:2])

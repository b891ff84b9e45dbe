# SPDX-License-Identifier: Apache-2.0
"""What all language models have in common that are asked for negative captions, wherever they run."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from datasets import Features, Value
from transformers.utils import logging

from hf_tripletclip.data.schema import CAPTION, ID, NEG_CAPTION, NEGATIVE_TYPE
from hf_tripletclip.generation.captions.parsing import parse_answer
from hf_tripletclip.generation.captions.prompts import EXAMPLES, build_messages, check_kinds, choose_kind, instruction
from hf_tripletclip.generation.captions.unwrapping import without_thoughts
from hf_tripletclip.generation.stage import ERROR, Batch, Stage, row_seed
from hf_tripletclip.utils.redact import one_line

logger = logging.get_logger(__name__)

MAX_DETAIL = 120  # characters of a rejected answer in its row's error


class Question(NamedTuple):
    """One attempt at one row."""

    id: str
    caption: str
    kind: str | None
    attempt: int  # 0, 1, ...
    seed: int  # of this attempt

    @property
    def messages(self) -> list[dict[str, str]]:
        return build_messages(self.caption, self.kind)


class Answer(NamedTuple):
    """What came of a question: the model's words, or an error that asking again would not mend."""

    text: str = ""
    cut: bool = False  # it reached the largest length
    error: str | None = None


@dataclasses.dataclass
class InstructedCaptions(Stage):
    """
    A language model that is asked for negative captions; [`LLMCaptions`] and [`InferenceCaptions`] say where it runs.

    An answer that [`~hf_tripletclip.generation.captions.parsing.parse_answer`] rejects is asked for again, from
    another seed, at most `max_attempts` times in all; the row's error is the reason of the last one. A model that has
    used up the length of an answer for its thoughts is not asked again: it would do so again.
    """

    requires: ClassVar[tuple[str, ...]] = (CAPTION,)
    length: ClassVar[str]  # the setting that bounds an answer

    model: str = "mistralai/Mistral-7B-Instruct-v0.2"
    seed: int = 0
    kinds: Sequence[str] | str | None = None
    temperature: float = 0.7
    top_p: float = 0.95
    max_attempts: int = 3
    batch_size: int = 256

    def __post_init__(self) -> None:
        self.kinds = check_kinds(self.kinds)
        if not self.temperature >= 0:
            raise ValueError(f"`temperature` is {self.temperature}; give 0 or more.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"`top_p` is {self.top_p}; give more than 0 and at most 1.")
        for name in ("max_attempts", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give at least 1.")

    @property
    def produces(self) -> Features:
        return Features({NEG_CAPTION: Value("string"), NEGATIVE_TYPE: Value("string")})

    def settings(self) -> dict[str, Any]:
        chosen: tuple[str | None, ...] = tuple(self.kinds or (None,))
        prompts = {kind or "free": {"instruction": instruction(kind), "examples": EXAMPLES[kind]} for kind in chosen}
        return {**super().settings(), "prompts": {name: _as_json(prompt) for name, prompt in prompts.items()}}

    @abstractmethod
    def answer(self, questions: list[Question], ids: list[str]) -> list[Answer]:
        """The answers to questions about some rows of the batch whose rows have these ids, in their order."""

    def __call__(self, batch: Batch) -> Batch:
        from hf_tripletclip.data.decoding import BrokenValue, decode_caption  # imports torch

        self.setup()
        ids = [str(row_id) for row_id in batch[ID]]
        kinds = [choose_kind(self._kinds, self.seed, row_id) for row_id in ids]
        captions: dict[int, str] = {}  # of the rows that still lack a negative
        negatives: list[str | None] = [None] * len(ids)
        errors: list[str | None] = [None] * len(ids)
        for row, caption in enumerate(batch[CAPTION]):
            try:
                captions[row] = decode_caption(caption)
            except BrokenValue as error:
                errors[row] = str(error)
        for attempt in range(self.max_attempts):
            rows = list(captions)
            if not rows:
                break
            purpose = f"caption {attempt}"
            questions = [
                Question(ids[row], captions[row], kinds[row], attempt, row_seed(self.seed, ids[row], purpose))
                for row in rows
            ]
            for row, answer in zip(rows, self.answer(questions, ids), strict=True):
                if answer.error is not None:
                    errors[row] = answer.error
                    del captions[row]
                    continue
                if answer.cut and not (without_thoughts(answer.text) or "").strip():
                    errors[row] = self._no_answer()
                    del captions[row]
                    continue
                parsed = parse_answer(answer.text, captions[row], kinds[row], answer.cut)
                negatives[row], errors[row] = parsed.caption, None
                if parsed.reason is None:
                    del captions[row]
                else:
                    said = one_line(answer.text)[:MAX_DETAIL]
                    errors[row] = parsed.reason + (f": {said}" if said else "")
        types = [kind if negative is not None else None for kind, negative in zip(kinds, negatives, strict=True)]
        return {NEG_CAPTION: negatives, NEGATIVE_TYPE: types, ERROR: errors}

    def _no_answer(self) -> str:
        """The error of a row whose answer is all thoughts, cut at its largest length. The first is a warning too."""
        hint = (
            f"{getattr(self, self.length)} tokens are too few for a model that thinks before it answers: give more, "
            "such as 2048, or turn its thinking off if possible"
        )
        logger.warning_once(f"{self.label} gives no answer within `{self.length}`: {hint}. Such rows are left out.")
        return f"no answer within `{self.length}`: {hint}"

    @property
    def _kinds(self) -> tuple[str, ...] | None:
        return tuple(self.kinds) if self.kinds else None


def _as_json(prompt: dict[str, Any]) -> dict[str, Any]:
    return {**prompt, "examples": [list(example) for example in prompt["examples"]]}

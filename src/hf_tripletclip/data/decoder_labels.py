# SPDX-License-Identifier: Apache-2.0
"""The collator of training with a decoder: what the decoder must write stands beside what the text tower reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hf_tripletclip.data.collator import TripletCollator
from hf_tripletclip.roles import BY_COLUMN, ROLES

LONGEST = 77  # labels of a text, as of the code that was released with READ-CLIP
IGNORED = -100


@dataclass
class LabelCollator(TripletCollator):
    """
    A [`TripletCollator`] that adds `paraphrase_decoder_targets` and the like: int64 `(N, L)`, a decoder's token ids of
    the same texts in the same order, at most 77, padded with -100.

    Args:
        label_tokenizer: The decoder's tokenizer.
        label_columns (`Sequence[str]`): The columns of texts that it must write.
    """

    label_tokenizer: Any = None
    label_columns: Sequence[str] = ()

    def _captions(self, decoded: list[dict[str, Any]], rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = super()._captions(decoded, rows)
        for column in self.label_columns:
            if column in self.columns:
                values = [row[column] for row in decoded]
                texts = [text for one in values for text in ([one] if isinstance(one, str) else one)]
                batch[BY_COLUMN[column].decoder_targets] = labels_of(self.label_tokenizer, texts)
        return batch


def labels_of(tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """Token ids of texts, int64 `(texts, longest)`, padded with -100."""
    if not texts:
        return torch.full((0, 1), IGNORED)
    ids = [torch.tensor(one) for one in tokenizer(list(texts), truncation=True, max_length=LONGEST)["input_ids"]]
    return torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=IGNORED)


def with_labels(collator: Any, tokenizer: Any, roles: Sequence[str]) -> Any:
    """
    The collator, with labels of some roles.

    Args:
        collator: A [`TripletCollator`]; one of rows that are tensors already stays as it is: it hands on labels too.
        tokenizer: The decoder's.
        roles (`Sequence[str]`): Whose texts the decoder writes.

    Raises:
        ValueError: It is another collator of raw rows.
    """
    if not isinstance(collator, TripletCollator) or isinstance(collator, LabelCollator):
        return collator
    if type(collator) is not TripletCollator:
        names = ", ".join(ROLES[role].decoder_targets for role in roles)
        raise ValueError(
            f"The objective has a decoder, which needs {names} in each batch: use a `TripletCollator`, or a "
            f"`LabelCollator` in place of {type(collator).__name__}."
        )
    given = {field.name: getattr(collator, field.name) for field in dataclasses.fields(collator)}
    return LabelCollator(**given, label_tokenizer=tokenizer, label_columns=[ROLES[role].column for role in roles])

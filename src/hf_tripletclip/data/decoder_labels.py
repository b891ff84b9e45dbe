# SPDX-License-Identifier: Apache-2.0
"""The collator for objectives with a decoder: it adds the token ids that the decoder must write."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hf_tripletclip.data.collator import TripletCollator
from hf_tripletclip.roles import BY_COLUMN, IGNORED, ROLES

LONGEST = 77  # labels per text, as in the released code of READ-CLIP


@dataclass
class LabelCollator(TripletCollator):
    """
    A [`TripletCollator`] that adds inputs such as `paraphrase_decoder_targets`: int64 `(N, L)`, the decoder's token
    ids of the same texts in the same order, at most 77 per text, padded with -100.

    Args:
        label_tokenizer: The decoder's tokenizer.
        label_columns (`Sequence[str]`): The columns of texts that the decoder must write.
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
    Extend a collator by the labels of some roles.

    Args:
        collator: A [`TripletCollator`]. A collator of rows that are tensors already is returned unchanged, because it
            passes labels on too.
        tokenizer: The decoder's tokenizer.
        roles (`Sequence[str]`): The roles whose texts the decoder must write.

    Raises:
        ValueError: `collator` is another subclass of [`TripletCollator`].
    """
    if not isinstance(collator, TripletCollator) or isinstance(collator, LabelCollator):
        return collator
    if type(collator) is not TripletCollator:
        names = ", ".join(ROLES[role].decoder_targets for role in roles)
        raise ValueError(
            f"The objective has a decoder, which needs {names} in each batch: use a `TripletCollator` or a "
            f"`LabelCollator` instead of {type(collator).__name__}."
        )
    given = {field.name: getattr(collator, field.name) for field in dataclasses.fields(collator)}
    return LabelCollator(**given, label_tokenizer=tokenizer, label_columns=[ROLES[role].column for role in roles])

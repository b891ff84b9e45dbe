# SPDX-License-Identifier: Apache-2.0
"""`TripletCollator`: raw rows in, a batch for `TripletCLIPModel` out, broken rows reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from transformers import default_data_collator
from transformers.utils import logging

from hf_tripletclip.data.broken import BrokenRows
from hf_tripletclip.data.decoding import (
    BrokenValue,
    decode_caption,
    decode_image,
    first_caption,
    is_several,
    known_reason,
    row_name,
)
from hf_tripletclip.data.drawing import CaptionDraw, SeveralDraw
from hf_tripletclip.data.pixels import FastPixels
from hf_tripletclip.data.schema import (
    CAPTION,
    COLUMNS,
    NEG_CAPTION,
    NEG_IMAGE,
    NEGATIVE_TYPE,
    NEGATIVE_TYPES,
    PARAPHRASE,
)
from hf_tripletclip.data.tokenizer import end_token_id, misread, tokenize_captions
from hf_tripletclip.roles import BY_COLUMN, ROLES, Role

logger = logging.get_logger(__name__)

# What the model takes: rows that have these have been through a processor.
TENSORS = frozenset(role.model_input for role in ROLES.values())
NEGATIVES = (NEG_IMAGE, NEG_CAPTION)


class KnownImages(Protocol):
    """Images of which something is known that spares their decoding."""

    def open(self, value: Any, decode_size: int | None) -> Any:
        """What stands for an image, decoded or not. Raises `BrokenValue` where it cannot be read."""

    def inputs(
        self, images: Sequence[Any], pixels: Callable[[list[Any]], torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What stands for the `pixel_values` of opened images, a row each, and what a batch has beside them."""


@dataclass
class TripletCollator:
    r"""
    Collates raw rows into a batch for [`~hf_tripletclip.TripletCLIPModel`].

    Rows hold images as PIL, bytes, `{"bytes", "path"}`, paths or arrays and captions as `str` or UTF-8 `bytes`. Each
    is decoded once, on its way through the processor. A row that cannot be used (an unreadable, truncated or
    dangerously large image; a missing, empty or undecodable caption) is left out of the batch and reported; a caption
    longer than `max_length` is cut and reported, and so is one that the text tower does not read to its end. What is
    written in a caption like a special token is text. Give it datasets whose images are
    [`~hf_tripletclip.data.loading.undecoded`]: one that decodes images itself stops at a broken one.

    Args:
        processor ([`~transformers.CLIPProcessor`]): Image processor and tokenizer.
        columns (`Sequence[str]`): Columns to collate, of `image`, `caption`, `neg_image`, `neg_caption`, `paraphrase`,
            `dense_caption`.
        max_length (`int`, *optional*): Tokens per caption, such as the model's `max_position_embeddings`; at most the
            tokenizer's `model_max_length`, which is the default.
        pad_to_multiple_of (`int`, *optional*): Pad captions to a multiple of this many tokens, or to
            `max_length` where that is less.
        broken_rows ([`BrokenRows`], *optional*): Where broken rows are reported. Defaults to a temporary file.
        decode_size (`int`, *optional*):
            Decode JPEG files at a half, a quarter or an eighth of their size where that leaves both sides at least
            this long: the model's image size, or twice that for pixels that are closer to the processor's own. By
            default files are decoded whole.
        first_negative (`bool`, defaults to `False`):
            Of rows with several hard negatives use the first only; rows without one are then broken.
        draw_captions ([`~hf_tripletclip.data.drawing.CaptionDraw`], *optional*):
            Draw each row's caption from its `caption`, which may then be a list, and its `paraphrase`, if it has any.
        draw_several ([`~hf_tripletclip.data.drawing.SeveralDraw`], *optional*):
            Of a row's lists of negatives, paraphrases or dense captions draw at most so many. A negative caption and
            the image in its place are drawn together.
        return_loss (`bool`, defaults to `False`):
            Put `return_loss=True` into batches, which the loss of transformers' plain `Trainer` needs;
            `TripletCLIPTrainer` asks for the loss itself.
        known_images ([`KnownImages`], *optional*):
            Asked before an image is decoded; `TripletCLIPTrainer` gives it with `cache_locked_towers`. In the place of
            pixels a batch then has what it gives.

    Returns (of a call):
        `dict[str, torch.Tensor]` for B usable rows: `pixel_values` float32 `(B, 3, H, W)`, `input_ids` and
        `attention_mask` int64 `(B, L)`, with L the longest caption of the batch, `negative_pixel_values`,
        `negative_input_ids` and `negative_attention_mask` likewise; and, where rows have a `negative_type`, that as
        int64 `(B,)`: an index into `NEGATIVE_TYPES`, -1 for others.

        `paraphrase_input_ids` and `dense_input_ids`, with their attention masks, hold paraphrases and dense captions.

        If `neg_caption`, `neg_image`, `paraphrase` or `dense_caption` is a list in some row, those of all rows stand
        in one tensor, such as `negative_input_ids` `(N, L)`, those of a row together, and `negative_mask` bool
        `(B, K)` tells whose they are: a row with k of them has k times `True`, one without any none. K is the most
        that a row has. The other masks are `negative_image_mask`, `paraphrase_mask` and `dense_mask`. A row may lack
        paraphrases and dense captions.

        Of lists of negative captions and negative images each caption belongs to the image in its place: where one
        of both cannot be used, both are left out.

    Raises:
        ValueError: A column is missing from the rows, all rows of a batch are broken, there is no processor, or
            a row has not as many negative captions as negative images.
    """

    processor: Any
    columns: Sequence[str] = COLUMNS
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    broken_rows: BrokenRows = field(default_factory=BrokenRows)
    decode_size: int | None = None
    first_negative: bool = False
    draw_captions: CaptionDraw | None = None
    draw_several: SeveralDraw | None = None
    return_loss: bool = False
    known_images: KnownImages | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.broken_rows is None:
            self.broken_rows = BrokenRows()
        if self.processor is None:
            raise ValueError(
                "Raw images and captions need a processor: give the trainer `processing_class=load_processor(...)`."
            )
        if unknown := [name for name in self.columns if name not in BY_COLUMN]:
            raise ValueError(f"TripletCollator collates {', '.join(BY_COLUMN)}; it knows no {', '.join(unknown)}.")
        self._pixels = FastPixels(self.processor.image_processor)
        self._end = end_token_id(self.processor.tokenizer)
        if self._end is None:
            logger.warning_once(
                "The tokenizer does not end captions with a token of its own: a CLIP, which takes their embeddings at "
                "that token, would find all captions alike."
            )

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        problems: list[str] = []
        batch, usable = self._collate(rows, problems)
        if not usable:
            raise ValueError(
                f"All {len(rows)} rows of a batch are broken, such as {'; '.join(problems[:3])}. They are listed in "
                f"{self.broken_rows.path}"
            )
        return {**batch, "return_loss": True} if self.return_loss else batch

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, torch.Tensor], list[Mapping[str, Any]]]:
        """The batch, and the rows that are in it: those that are not broken. Without any the batch is empty."""
        return self._collate(rows, [])

    def _collate(
        self, rows: Sequence[Mapping[str, Any]], problems: list[str]
    ) -> tuple[dict[str, torch.Tensor], list[Mapping[str, Any]]]:
        if not rows:
            raise ValueError("There is nothing to collate: the batch has no rows.")
        if missing := [name for name in self.columns if name not in rows[0]]:
            hint = " They are tensors already: use transformers' `default_data_collator`."
            raise ValueError(
                f"The rows lack {', '.join(map(repr, missing))}; they have {', '.join(map(repr, rows[0]))}."
                + ("" if TENSORS.isdisjoint(rows[0]) else hint)
            )
        several = {name for name in self.columns if self._is_list(name, rows)}
        if not several.isdisjoint(NEGATIVES):  # a negative caption and its image have the same place
            several |= set(NEGATIVES) & set(self.columns)
        decoded: list[dict[str, Any]] = []
        usable: list[Mapping[str, Any]] = []
        for row in rows:
            values: dict[str, Any] = {}
            try:
                for name in self.columns:
                    values[name] = self._decode(row, name, several)
            except BrokenValue as error:
                column: str | None = self.columns[len(values)]
                (key, digest), reason = row_name(row), str(error)
                if (known := known_reason(row, cast(str, column))) is not None:
                    reason, column = known
                self.broken_rows.add(key, reason, column, digest=digest)
                head, colon, detail = reason.partition(":")
                problems.append(f"{key}: {head}{f' in {column}' if column else ''}{colon}{detail}")
            else:
                decoded.append(values)
                usable.append(row)
        if not usable:
            return {}, []
        batch = {**self._images(decoded), **self._captions(decoded, usable)}
        for name in several:
            counts = torch.tensor([len(values[name]) for values in decoded])
            batch[cast(str, BY_COLUMN[name].mask)] = torch.arange(int(counts.max())) < counts[:, None]
        if NEGATIVE_TYPE in rows[0]:
            kinds = [row.get(NEGATIVE_TYPE) for row in usable]
            batch[NEGATIVE_TYPE] = torch.tensor(
                [NEGATIVE_TYPES.index(kind) if kind in NEGATIVE_TYPES else -1 for kind in kinds]
            )
        return batch, usable

    def _is_list(self, name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether rows of the batch may have any number of a column's values."""
        if BY_COLUMN[name].mask is None or (self.first_negative and name in NEGATIVES):
            return False
        values = [row.get(name) for row in rows]
        return any(map(is_several, values)) or (name not in NEGATIVES and any(value is None for value in values))

    def _decode(self, row: Mapping[str, Any], name: str, several: set[str]) -> Any:
        role = BY_COLUMN[name]
        value = self._with_partners(row, name) if self._is_paired(row, name, several) else row.get(name)
        if name == CAPTION and self.draw_captions is not None:
            written = [*_listed(value), *_listed(row.get(PARAPHRASE))]
            return self.draw_captions(self._each(row, name, written, role) or [decode_caption(None)])
        if name == CAPTION and self.first_negative:
            return first_caption(value)
        if name not in several and not (role.mask is not None and is_several(value)):
            return self._decode_one(value, role)
        values = _listed(value)
        if name in several and role.is_image:  # only those that are drawn need be decoded
            return self._each(row, name, self._drawn(row, name, [one for one in values if one is not None]), role)
        if name in several:
            return self._drawn(row, name, self._each(row, name, values, role))
        if role.is_image:  # others need not be decoded
            values = [one for one in values if one is not None][:1]
        found = self._each(row, name, values, role)
        if not found:
            raise BrokenValue("missing image" if role.is_image else "missing caption")
        return found[0]

    def _drawn(self, row: Mapping[str, Any], name: str, values: list[Any]) -> list[Any]:
        """Those of a row's usable values that are drawn in this pass."""
        if self.draw_several is None:
            return values
        texts = [str(text) for column in (CAPTION, NEG_CAPTION) for text in _listed(row.get(column))]
        return self.draw_several(name, values, texts)

    def _each(self, row: Mapping[str, Any], name: str, values: Sequence[Any], role: Role) -> list[Any]:
        """Those of a list's values that can be used; the others are reported."""
        found = []
        for one in values:
            try:
                found.append(self._decode_one(one, role))
            except BrokenValue as error:
                if one is not None:  # a list may be padded with nulls
                    if role.is_image:  # its caption would be another's
                        raise
                    key, digest = row_name(row)
                    self.broken_rows.add(key, str(error), name, digest=digest, skipped=False)
        return found

    def _decode_one(self, value: Any, role: Role) -> Any:
        if not role.is_image:
            return decode_caption(value)
        known = self.known_images
        return decode_image(value, self.decode_size) if known is None else known.open(value, self.decode_size)

    def _is_paired(self, row: Mapping[str, Any], name: str, several: set[str]) -> bool:
        """Whether a value is one of a row's lists of negative captions and images, which belong to each other."""
        if name not in NEGATIVES or not set(NEGATIVES) <= set(self.columns):
            return False
        return name in several or any(is_several(row.get(one)) for one in NEGATIVES)

    def _with_partners(self, row: Mapping[str, Any], name: str) -> Sequence[Any]:
        """A row's negative captions or images, without those whose partner cannot be used, which are reported."""
        captions, images = ([*_listed(row.get(one))] for one in (NEG_CAPTION, NEG_IMAGE))
        if len(captions) != len(images):  # lists may be padded with nulls
            captions, images = ([one for one in values if one is not None] for values in (captions, images))
        if len(captions) != len(images):
            if self.first_negative:  # those of an objective that takes captions alone, or images
                return captions if name == NEG_CAPTION else images
            raise ValueError(
                f"The row {row_name(row)[0]} has {len(captions)} negative caption{'' if len(captions) == 1 else 's'} "
                f"and {len(images)} negative image{'' if len(images) == 1 else 's'}, of which each needs one: give as "
                "many captions as images, or train with an objective that takes captions alone, such as `negclip`."
            )
        found = []
        for caption, image in zip(captions, images, strict=True):
            if caption is None and image is None:
                continue
            try:
                decode_caption(caption)
                problem = None if image is not None else (NEG_IMAGE, "missing image")
            except BrokenValue as error:
                problem = (NEG_CAPTION, str(error))
            if problem is None:
                found.append(caption if name == NEG_CAPTION else image)
            elif problem[0] == name:
                key, digest = row_name(row)
                self.broken_rows.add(key, problem[1], name, digest=digest, skipped=False)
        return found

    def _roles(self, images: bool) -> list[Role]:
        return [role for role in ROLES.values() if role.is_image == images and role.column in self.columns]

    def _images(self, decoded: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        roles = self._roles(images=True)
        values = [[image for row in decoded for image in _listed(row[role.column])] for role in roles]
        if not any(values):
            return {}
        images = [one for of_role in values for one in of_role]
        if self.known_images is None:
            return _split({"pixel_values": self._pixels(images)}, roles, values)
        known, beside = self.known_images.inputs(images, self._pixels)
        return _split({"pixel_values": known}, roles, values) | beside

    def _captions(self, decoded: list[dict[str, Any]], rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        captions: list[str] = []
        origins: list[tuple[str, int]] = []  # column and row of each caption
        roles, values = self._roles(images=False), []
        for role in roles:
            name, before = role.column, len(captions)
            for number, row in enumerate(decoded):
                of_row = _listed(row[name])
                captions += of_row
                origins += [(name, number)] * len(of_row)
            values.append(captions[before:])
        if not captions:
            return {}
        tokenizer = self.processor.tokenizer
        limit = min(self.max_length or tokenizer.model_max_length, tokenizer.model_max_length)
        encoded = tokenize_captions(tokenizer, captions)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        if max(lengths) > limit:
            for (column, number), length in zip(origins, lengths, strict=True):
                if length > limit:
                    key, digest = row_name(rows[number])
                    reason = f"caption cut: {length} tokens, the limit is {limit}"
                    self.broken_rows.add(key, reason, column, digest=digest, skipped=False)
            encoded = tokenize_captions(tokenizer, captions, truncation=True, max_length=limit)
        for (column, number), ids in zip(origins, encoded["input_ids"], strict=True):
            if self._end is not None and (wrong := misread(ids, self._end)):
                key, digest = row_name(rows[number])
                self.broken_rows.add(key, wrong, column, digest=digest, skipped=False)
        longest, multiple = min(max(lengths), limit), self.pad_to_multiple_of or 1
        length = min(-(-longest // multiple) * multiple, limit)
        padded = tokenizer.pad(encoded, return_tensors="pt", padding="max_length", max_length=length)
        inputs = {name: padded[name] for name in ("input_ids", "attention_mask")}
        return _split(inputs, roles, values)


@dataclass
class TensorCollator:
    """
    Collates rows that hold the model's inputs as tensors, as transformers' `default_data_collator` does. If each row
    has K negatives, paraphrases or dense captions, such as `negative_input_ids` `(K, L)`, those of all rows stand in
    one tensor, and the mask that tells whose they are is added.

    Args:
        end (`int`, *optional*): Id of the token at which the text tower pools, which every caption must have.

    Raises:
        ValueError: A caption has it not.
    """

    end: int | None = None

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        batch = _in_one_tensor(default_data_collator(rows))
        for name in (role.model_input for role in ROLES.values() if not role.is_image):
            ids = batch.get(name)
            if self.end is None or ids is None:
                continue
            if lacking := (~(ids == self.end).any(dim=-1)).flatten().nonzero().flatten().tolist():
                raise ValueError(
                    f"`{name}` of {len(lacking)} of the {len(rows)} rows in a batch has no end-of-text token "
                    f"({self.end}), at which the text tower takes the embedding, such as "
                    f"{ids.flatten(0, -2)[lacking[0]].tolist()[:8]}...: make them with the model's own processor, and "
                    "shorten captions by its `truncation=True`."
                )
        return batch


def _in_one_tensor(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch whose rows have K of a role each, `(B, K, ...)`, as the model takes it: `(B * K, ...)` and a mask."""
    found = dict(batch)
    for role in ROLES.values():
        values = batch.get(role.model_input)
        if role.mask is None or values is None or values.ndim != (5 if role.is_image else 3):
            continue
        found |= {name: batch[name].flatten(0, 1) for name in role.model_inputs if name in batch}
        found.setdefault(role.mask, torch.ones(values.shape[:2], dtype=torch.bool))
    return found


def _listed(value: Any) -> Sequence[Any]:
    return value if is_several(value) else [value]


def _split(
    tensors: dict[str, torch.Tensor], roles: Sequence[Role], values: Sequence[Sequence[Any]]
) -> dict[str, torch.Tensor]:
    """What went through the processor together, by the names of the model's inputs."""
    numbers = [len(of_role) for of_role in values]
    return {
        f"{role.prefix}{name}": part
        for name, tensor in tensors.items()
        for role, part in zip(roles, tensor.split(numbers), strict=True)
    }

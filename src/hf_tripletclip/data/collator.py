# SPDX-License-Identifier: Apache-2.0
"""`TripletCollator`: makes a batch for `TripletCLIPModel` of raw rows, and reports broken ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from transformers import default_data_collator
from transformers.utils import logging

from hf_tripletclip.data.broken_rows import BrokenRows
from hf_tripletclip.data.decoding import (
    BrokenValue,
    decode_caption,
    decode_image,
    first_caption,
    is_several,
    known_reason,
    row_name,
)
from hf_tripletclip.data.draws import CaptionDraw, SeveralDraw
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
from hf_tripletclip.data.tokenizer import FIXED_LENGTH_PROCESSORS, end_token_id, misread, tokenize_captions
from hf_tripletclip.roles import BY_COLUMN, ROLES, Role

logger = logging.get_logger(__name__)

# Model inputs: rows that have these went through a processor already.
TENSORS = frozenset(role.model_input for role in ROLES.values())
NEGATIVES = (NEG_IMAGE, NEG_CAPTION)


class KnownImages(Protocol):
    """A store that knows something about images, so that they need not be decoded."""

    def open(self, value: Any, decode_size: int | None) -> Any:
        """The store's object for an image, decoded or not. Raises `BrokenValue` if the image cannot be read."""

    def inputs(
        self, images: Sequence[Any], pixels: Callable[[list[Any]], torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """A tensor that replaces the `pixel_values` of opened images, a row each, and further inputs of the batch."""


LONGEST = 2**20  # tokens; a tokenizer that names no length has a huge one


@dataclass
class TripletCollator:
    r"""
    Collates raw rows into a batch for [`~hf_tripletclip.TripletCLIPModel`].

    Rows hold images as PIL, bytes, `{"bytes", "path"}`, paths or arrays, and captions as `str` or UTF-8 `bytes`. Each
    is decoded once. A row that cannot be used (an unreadable, truncated or dangerously large image; a missing, empty
    or undecodable caption) is left out of the batch and reported. A caption longer than `max_length` is cut and
    reported; a caption that the text tower does not read to its end is reported too. Special tokens that are spelt out
    in a caption are read as text. Give it datasets with [`~hf_tripletclip.data.loading.undecoded`] images: a dataset
    that decodes images itself stops at a broken one.

    Args:
        processor ([`~transformers.CLIPProcessor`]): Image processor and tokenizer.
        columns (`Sequence[str]`): Columns to collate: any of `image`, `caption`, `neg_image`, `neg_caption`,
            `paraphrase` and `dense_caption`.
        max_length (`int`, *optional*): Tokens per caption, such as the model's `max_position_embeddings`. The
            tokenizer's `model_max_length` is the default and the upper limit.
        pad_to_multiple_of (`int`, *optional*): Pad captions to a multiple of this many tokens, but at most to
            `max_length`.
        broken_rows ([`BrokenRows`], *optional*): The report of broken rows. Defaults to a temporary file.
        decode_size (`int`, *optional*):
            Decode JPEG files at a half, a quarter or an eighth of their size if both sides stay at least this long.
            Give the model's image size, or twice that for pixels that are closer to the processor's own. By default
            files are decoded at full size.
        first_negative (`bool`, defaults to `False`):
            Use only the first of a row's hard negatives; a row without one is then broken.
        draw_captions ([`~hf_tripletclip.data.draws.CaptionDraw`], *optional*):
            Draws each row's caption from its `caption`, which may then be a list, and its `paraphrase`, if it has any.
        draw_several ([`~hf_tripletclip.data.draws.SeveralDraw`], *optional*):
            Limits how many of a row's negatives, paraphrases or dense captions are drawn. A negative caption and its
            image are drawn together.
        return_loss (`bool`, defaults to `False`):
            Put `return_loss=True` into batches, which the loss of transformers' plain `Trainer` needs;
            `TripletCLIPTrainer` asks for the loss itself.
        known_images ([`KnownImages`], *optional*):
            A store that is asked before an image is decoded, and whose tensors replace pixels in the batch.
            `TripletCLIPTrainer` sets it with `cache_locked_towers`.

    Attributes:
        fixed_length (`bool`): Whether captions are padded to `max_length` and have no mask. The class of the processor
            says so.

    Returns (of a call):
        `dict[str, torch.Tensor]` for B usable rows: `pixel_values` float32 `(B, 3, H, W)`; `input_ids` and
        `attention_mask` int64 `(B, L)`, where L is the length of the longest caption of the batch; of a SigLIP, L is
        `max_length` and there is no mask, because it has learned captions that are padded so; and
        `negative_pixel_values`, `negative_input_ids` and `negative_attention_mask` likewise. If rows have a
        `negative_type`, it is int64 `(B,)`: an index into `NEGATIVE_TYPES`, -1 for other values.

        `paraphrase_input_ids` and `dense_input_ids`, with their attention masks, hold paraphrases and dense captions.

        If `neg_caption`, `neg_image`, `paraphrase` or `dense_caption` is a list in some row, one tensor holds those of
        all rows in their order, such as `negative_input_ids` `(N, L)`. `negative_mask`, bool `(B, K)`, tells which row
        they belong to: a row with k of them has k `True` values. K is the largest number of a row. The other masks are
        `negative_image_mask`, `paraphrase_mask` and `dense_mask`. A row may lack paraphrases and dense captions.

        In lists of negative captions and negative images, each caption belongs to the image at the same position. If
        one of the two cannot be used, both are left out.

    Raises:
        ValueError: A column is missing from the rows, all rows of a batch are broken, there is no processor, or a
            row's numbers of negative captions and negative images differ.
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
            raise ValueError(
                f"TripletCollator has no columns {', '.join(unknown)}: it collates {', '.join(BY_COLUMN)}."
            )
        self._pixels = FastPixels(self.processor.image_processor)
        # Texts of one length have no place at which the tower pools but the last, whatever stands there.
        self.fixed_length = type(self.processor).__name__ in FIXED_LENGTH_PROCESSORS
        self._end = None if self.fixed_length else end_token_id(self.processor.tokenizer)
        if self._end is None and not self.fixed_length:
            logger.warning_once(
                "The tokenizer does not end captions with a special token. A CLIP takes a caption's embedding at that "
                "token, so all captions would get the same embedding."
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
        """The batch, and the rows in it: those that are not broken. If there are none, the batch is empty."""
        return self._collate(rows, [])

    def _collate(
        self, rows: Sequence[Mapping[str, Any]], problems: list[str]
    ) -> tuple[dict[str, torch.Tensor], list[Mapping[str, Any]]]:
        if not rows:
            raise ValueError("The batch has no rows: there is nothing to collate.")
        if missing := [name for name in self.columns if name not in rows[0]]:
            hint = " They are tensors already: use transformers' `default_data_collator`."
            raise ValueError(
                f"The rows lack {', '.join(map(repr, missing))}; they have {', '.join(map(repr, rows[0]))}."
                + ("" if TENSORS.isdisjoint(rows[0]) else hint)
            )
        several = {name for name in self.columns if self._is_list(name, rows)}
        if not several.isdisjoint(NEGATIVES):  # a negative caption and its image have the same position
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
        """Whether rows of the batch may hold any number of values in a column."""
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
        if name in several and role.is_image:  # only the drawn ones are decoded
            return self._each(row, name, self._drawn(row, name, [one for one in values if one is not None]), role)
        if name in several:
            return self._drawn(row, name, self._each(row, name, values, role))
        if role.is_image:  # only the first one is decoded
            values = [one for one in values if one is not None][:1]
        usable = self._each(row, name, values, role)
        if not usable:
            raise BrokenValue("missing image" if role.is_image else "missing caption")
        return usable[0]

    def _drawn(self, row: Mapping[str, Any], name: str, values: list[Any]) -> list[Any]:
        """The values of a row that are drawn in this pass over the data."""
        if self.draw_several is None:
            return values
        texts = [str(text) for column in (CAPTION, NEG_CAPTION) for text in _listed(row.get(column))]
        return self.draw_several(name, values, texts)

    def _each(self, row: Mapping[str, Any], name: str, values: Sequence[Any], role: Role) -> list[Any]:
        """The usable values of a list; the others are reported."""
        usable = []
        for one in values:
            try:
                usable.append(self._decode_one(one, role))
            except BrokenValue as error:
                if one is not None:  # a list may be padded with nulls
                    if role.is_image:  # without it, captions would belong to wrong images
                        raise
                    key, digest = row_name(row)
                    self.broken_rows.add(key, str(error), name, digest=digest, skipped=False)
        return usable

    def _decode_one(self, value: Any, role: Role) -> Any:
        if not role.is_image:
            return decode_caption(value)
        if self.known_images is not None:
            return self.known_images.open(value, self.decode_size)
        return self._pixels.shrink(decode_image(value, self.decode_size))

    def _is_paired(self, row: Mapping[str, Any], name: str, several: set[str]) -> bool:
        """Whether a column holds lists of negative captions or images, which belong to each other by position."""
        if name not in NEGATIVES or not set(NEGATIVES) <= set(self.columns):
            return False
        return name in several or any(is_several(row.get(one)) for one in NEGATIVES)

    def _with_partners(self, row: Mapping[str, Any], name: str) -> Sequence[Any]:
        """A row's negative captions or images, without those whose partner is unusable; these are reported."""
        captions, images = ([*_listed(row.get(one))] for one in (NEG_CAPTION, NEG_IMAGE))
        if len(captions) != len(images):  # lists may be padded with nulls
            captions, images = ([one for one in values if one is not None] for values in (captions, images))
        if len(captions) != len(images):
            if self.first_negative:  # for an objective that takes only captions, or only images
                return captions if name == NEG_CAPTION else images
            raise ValueError(
                f"The row {row_name(row)[0]} has {len(captions)} negative caption{'' if len(captions) == 1 else 's'} "
                f"but {len(images)} negative image{'' if len(images) == 1 else 's'}: give as many captions as images, "
                "or train with an objective that takes only negative captions, such as `negclip`."
            )
        kept = []
        for caption, image in zip(captions, images, strict=True):
            if caption is None and image is None:
                continue
            try:
                decode_caption(caption)
                problem = None if image is not None else (NEG_IMAGE, "missing image")
            except BrokenValue as error:
                problem = (NEG_CAPTION, str(error))
            if problem is None:
                kept.append(caption if name == NEG_CAPTION else image)
            elif problem[0] == name:
                key, digest = row_name(row)
                self.broken_rows.add(key, problem[1], name, digest=digest, skipped=False)
        return kept

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
        known, further = self.known_images.inputs(images, self._pixels)
        return _split({"pixel_values": known}, roles, values) | further

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
        if self.fixed_length and limit > LONGEST:
            raise ValueError(
                "Captions are padded to the length that the text tower takes, and the tokenizer does not say which: "
                "give `max_length`, such as `model.max_text_length`."
            )
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
        length = limit if self.fixed_length else min(-(-longest // multiple) * multiple, limit)
        padded = tokenizer.pad(encoded, return_tensors="pt", padding="max_length", max_length=length)
        names = ("input_ids",) if self.fixed_length else ("input_ids", "attention_mask")
        inputs = {name: padded[name] for name in names}
        return _split(inputs, roles, values)


@dataclass
class TensorCollator:
    """
    Collates rows that hold the model's inputs as tensors, like transformers' `default_data_collator`. If each row has
    K negatives, paraphrases or dense captions, such as `negative_input_ids` `(K, L)`, one tensor holds those of all
    rows, and the mask that tells which row they belong to is added.

    Args:
        end (`int`, *optional*): Id of the token at which the text tower pools; every caption must have it.
        max_length (`int`, *optional*): Tokens that the text tower takes.
        fixed_length (`bool`, defaults to `False`): Whether captions must have all of them. Attention masks are then
            left out: such a tower has learned captions without.

    Raises:
        ValueError: A caption lacks that token, or has another length.
    """

    end: int | None = None
    max_length: int | None = None
    fixed_length: bool = False

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        batch = _in_one_tensor(default_data_collator(rows))
        for role in (role for role in ROLES.values() if not role.is_image):
            name = role.model_input
            ids = batch.get(name)
            if ids is None or ids.is_floating_point():  # a tower's output of before
                continue
            if self.fixed_length:
                batch.pop(role.attention_mask, None)
            length, limit = ids.shape[-1], self.max_length
            if limit is not None and (length > limit or (self.fixed_length and length < limit)):
                remedy = '`padding="max_length"`, `truncation=True`' if self.fixed_length else "`truncation=True`"
                raise ValueError(
                    f"`{name}` has {length} tokens in each row of a batch, and the text tower takes {limit}: tokenize "
                    f"with {remedy} and `max_length={limit}`."
                )
            if self.end is None:
                continue
            if lacking := (~(ids == self.end).any(dim=-1)).flatten().nonzero().flatten().tolist():
                raise ValueError(
                    f"In {len(lacking)} of the {len(rows)} rows of a batch, `{name}` has no end-of-text token "
                    f"({self.end}), at which the text tower takes the embedding; one is "
                    f"{ids.flatten(0, -2)[lacking[0]].tolist()[:8]}... Tokenize with the model's own processor, and "
                    "shorten captions with its `truncation=True`."
                )
        return batch


def _in_one_tensor(batch: dict[str, Any]) -> dict[str, Any]:
    """Flatten inputs with K entries per row, `(B, K, ...)`, to `(B * K, ...)` and a mask, as the model takes them."""
    flat = dict(batch)
    for role in ROLES.values():
        values = batch.get(role.model_input)
        if role.mask is None or values is None or values.ndim != (5 if role.is_image else 3):
            continue
        flat |= {name: batch[name].flatten(0, 1) for name in role.model_inputs if name in batch}
        flat.setdefault(role.mask, torch.ones(values.shape[:2], dtype=torch.bool))
    return flat


def _listed(value: Any) -> Sequence[Any]:
    return value if is_several(value) else [value]


def _split(
    tensors: dict[str, torch.Tensor], roles: Sequence[Role], values: Sequence[Sequence[Any]]
) -> dict[str, torch.Tensor]:
    """Split the processor's output for all roles into the model's inputs for each role."""
    numbers = [len(of_role) for of_role in values]
    return {
        f"{role.prefix}{name}": part
        for name, tensor in tensors.items()
        for role, part in zip(roles, tensor.split(numbers), strict=True)
    }

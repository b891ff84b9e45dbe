# SPDX-License-Identifier: Apache-2.0
"""`TripletCollator`: raw rows in, a batch for `TripletCLIPModel` out, broken rows reported."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from hf_tripletclip.data.broken import BrokenRows
from hf_tripletclip.data.schema import (
    CAPTION,
    CAPTION_COLUMNS,
    COLUMNS,
    IMAGE,
    IMAGE_COLUMNS,
    KEY_COLUMNS,
    NEG_CAPTION,
    NEG_IMAGE,
    NEGATIVE_TYPE,
    NEGATIVE_TYPES,
)


class BrokenValue(ValueError):
    """A value of a row that cannot be used; its message is the reason."""


def decode_image(value: Any) -> Image.Image:
    """
    An RGB image from whatever a dataset holds: PIL, bytes, `{"bytes", "path"}`, a path, a numpy array or a tensor of
    shape `(H, W)`, `(H, W, 3)` or `(3, H, W)`, uint8.

    Raises:
        BrokenValue: It is missing, truncated, no image or too large to be opened safely.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if value is None:
        raise BrokenValue("missing image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if isinstance(value, (bytes, bytearray)):
                value = Image.open(io.BytesIO(value))
            elif isinstance(value, (str, os.PathLike)):
                value = Image.open(value)
            elif isinstance(value, (np.ndarray, torch.Tensor)):
                array = np.asarray(value)
                if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
                    array = array.transpose(1, 2, 0)
                value = Image.fromarray(array.squeeze(-1) if array.ndim == 3 and array.shape[2] == 1 else array)
            if not isinstance(value, Image.Image):
                raise BrokenValue(f"unreadable image: a {type(value).__name__} is no image")
            if 0 in value.size:
                raise BrokenValue("unreadable image: it has no pixels")
            return value.convert("RGB")  # decodes, so that a truncated file shows here
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenValue(f"image too large: {error}") from error
    except (OSError, EOFError, UnidentifiedImageError, SyntaxError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, BrokenValue):
            raise
        raise BrokenValue(f"unreadable image: {error}") from error


def decode_caption(value: Any) -> str:
    """
    A caption from `str` or UTF-8 `bytes`.

    Raises:
        BrokenValue: It is missing, empty or not UTF-8.
    """
    if value is None:
        raise BrokenValue("missing caption")
    if isinstance(value, (bytes, bytearray)):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BrokenValue("caption is not UTF-8") from error
    if not isinstance(value, str):
        raise BrokenValue(f"caption is no text: it is a {type(value).__name__}")
    if not value.strip():
        raise BrokenValue("empty caption")
    if any("\ud800" <= letter <= "\udfff" for letter in value):  # lone surrogates, such as JSON can hold
        raise BrokenValue("caption is not UTF-8")
    return value


@dataclass
class TripletCollator:
    r"""
    Collates raw rows into a batch for [`~hf_tripletclip.TripletCLIPModel`].

    Rows hold images as PIL, bytes, `{"bytes", "path"}`, paths or arrays and captions as `str` or UTF-8 `bytes`. Each
    is decoded once, on its way through the processor. A row that cannot be used (an unreadable, truncated or
    dangerously large image; a missing, empty or undecodable caption) is left out of the batch and reported; a caption
    longer than `max_length` is cut and reported.

    Args:
        processor ([`~transformers.CLIPProcessor`]): Image processor and tokenizer.
        columns (`Sequence[str]`): Columns to collate, of `image`, `caption`, `neg_image`, `neg_caption`.
        max_length (`int`, *optional*): Tokens per caption, such as the model's `max_position_embeddings`; at most the
            tokenizer's `model_max_length`, which is the default.
        pad_to_multiple_of (`int`, *optional*): Pad captions to a multiple of this many tokens.
        broken_rows ([`BrokenRows`], *optional*): Where broken rows are reported.

    Returns (of a call):
        `dict[str, torch.Tensor]` for B usable rows: `pixel_values` float32 `(B, 3, H, W)`, `input_ids` and
        `attention_mask` int64 `(B, L)`, with L the longest caption of the batch, `negative_pixel_values`,
        `negative_input_ids` and `negative_attention_mask` likewise; and, where rows have a `negative_type`, that as
        int64 `(B,)`: an index into `NEGATIVE_TYPES`, -1 for others.

    Raises:
        ValueError: A column is missing from the rows, all rows of a batch are broken, or there is no processor.
    """

    processor: Any
    columns: Sequence[str] = COLUMNS
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    broken_rows: BrokenRows = field(default_factory=BrokenRows)

    def __post_init__(self) -> None:
        if self.processor is None:
            raise ValueError(
                "Raw images and captions need a processor: give the trainer `processing_class=load_processor(...)`."
            )
        if unknown := [name for name in self.columns if name not in COLUMNS]:
            raise ValueError(f"TripletCollator collates {', '.join(COLUMNS)}; it knows no {', '.join(unknown)}.")

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch, usable = self.collate(rows)
        if not usable:
            reasons = "; ".join(f"{_key(row)}: {self._broken(row)}" for row in rows[:3])
            raise ValueError(
                f"All {len(rows)} rows of a batch are broken, such as {reasons}. They are listed in "
                f"{self.broken_rows.path}"
            )
        return batch

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, torch.Tensor], list[Mapping[str, Any]]]:
        """The batch, and the rows that are in it: those that are not broken. Without any the batch is empty."""
        if missing := [name for name in self.columns if name not in rows[0]]:
            hint = " They are tensors already: use transformers' `default_data_collator`."
            raise ValueError(
                f"The rows lack {', '.join(map(repr, missing))}; they have {', '.join(map(repr, rows[0]))}."
                + (hint if "pixel_values" in rows[0] else "")
            )
        decoded: list[dict[str, Any]] = []
        usable: list[Mapping[str, Any]] = []
        for row in rows:
            try:
                decoded.append({name: self._decode(row, name) for name in self.columns})
                usable.append(row)
            except BrokenValue as error:
                self.broken_rows.add(_key(row), str(error))
        if not usable:
            return {}, []
        batch = {**self._images(decoded), **self._captions(decoded)}
        if NEGATIVE_TYPE in rows[0]:
            kinds = [row.get(NEGATIVE_TYPE) for row in usable]
            batch[NEGATIVE_TYPE] = torch.tensor(
                [NEGATIVE_TYPES.index(kind) if kind in NEGATIVE_TYPES else -1 for kind in kinds]
            )
        return batch, usable

    def _broken(self, row: Mapping[str, Any]) -> str:
        """Why a row cannot be used."""
        try:
            for name in self.columns:
                self._decode(row, name)
        except BrokenValue as error:
            return str(error)
        return "nothing is wrong with it"

    def _decode(self, row: Mapping[str, Any], name: str) -> Any:
        try:
            value = row.get(name)
            return decode_image(value) if name in IMAGE_COLUMNS else decode_caption(value)
        except BrokenValue as error:
            reason, _, detail = str(error).partition(": ")
            raise BrokenValue(f"{reason} in {name}" + (f": {detail}" if detail else "")) from error

    def _images(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images = [row[name] for name in IMAGE_COLUMNS if name in self.columns for row in rows]
        if not images:
            return {}
        pixels = self.processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
        return _split({"pixel_values": pixels}, len(rows), IMAGE in self.columns, NEG_IMAGE in self.columns)

    def _captions(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        captions = [row[name] for name in CAPTION_COLUMNS if name in self.columns for row in rows]
        if not captions:
            return {}
        tokenizer = self.processor.tokenizer
        limit = min(self.max_length or tokenizer.model_max_length, tokenizer.model_max_length)
        encoded = tokenizer(captions)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        if max(lengths) > limit:
            for caption, length in zip(captions, lengths, strict=True):
                if length > limit:
                    self.broken_rows.add(repr(caption[:60]), f"caption cut: {length} tokens, the limit is {limit}")
            encoded = tokenizer(captions, truncation=True, max_length=limit)
        padded = tokenizer.pad(encoded, return_tensors="pt", pad_to_multiple_of=self.pad_to_multiple_of)
        inputs = {name: padded[name] for name in ("input_ids", "attention_mask")}
        return _split(inputs, len(rows), CAPTION in self.columns, NEG_CAPTION in self.columns)


def _split(tensors: dict[str, torch.Tensor], rows: int, positive: bool, negative: bool) -> dict[str, torch.Tensor]:
    """Positives and negatives went through the processor together; name them apart."""
    batch = {}
    for name, tensor in tensors.items():
        if positive:
            batch[name] = tensor[:rows]
        if negative:
            batch[f"negative_{name}"] = tensor[-rows:]
    return batch


def _key(row: Mapping[str, Any]) -> str:
    for name in KEY_COLUMNS:
        if row.get(name) is not None:
            return str(row[name])
    for name in CAPTION_COLUMNS:
        if isinstance(row.get(name), (str, bytes, bytearray)) and row[name]:
            return repr(row[name][:60])
    return "without a key or a caption"

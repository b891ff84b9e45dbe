# SPDX-License-Identifier: Apache-2.0
"""`TripletCollator`: raw rows in, a batch for `TripletCLIPModel` out, broken rows reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from hf_tripletclip.data.broken import BrokenRows
from hf_tripletclip.data.decoding import BrokenValue, decode_caption, decode_image, row_name
from hf_tripletclip.data.schema import (
    CAPTION,
    CAPTION_COLUMNS,
    COLUMNS,
    IMAGE,
    IMAGE_COLUMNS,
    NEG_CAPTION,
    NEG_IMAGE,
    NEGATIVE_TYPE,
    NEGATIVE_TYPES,
)

# What the model takes: rows that have these have been through a processor.
TENSORS = frozenset(f"{side}{name}" for side in ("", "negative_") for name in ("pixel_values", "input_ids"))


@dataclass
class TripletCollator:
    r"""
    Collates raw rows into a batch for [`~hf_tripletclip.TripletCLIPModel`].

    Rows hold images as PIL, bytes, `{"bytes", "path"}`, paths or arrays and captions as `str` or UTF-8 `bytes`. Each
    is decoded once, on its way through the processor. A row that cannot be used (an unreadable, truncated or
    dangerously large image; a missing, empty or undecodable caption) is left out of the batch and reported; a caption
    longer than `max_length` is cut and reported. Give it datasets whose images are
    [`~hf_tripletclip.data.loading.undecoded`]: one that decodes images itself stops at a broken one.

    Args:
        processor ([`~transformers.CLIPProcessor`]): Image processor and tokenizer.
        columns (`Sequence[str]`): Columns to collate, of `image`, `caption`, `neg_image`, `neg_caption`.
        max_length (`int`, *optional*): Tokens per caption, such as the model's `max_position_embeddings`; at most the
            tokenizer's `model_max_length`, which is the default.
        pad_to_multiple_of (`int`, *optional*): Pad captions to a multiple of this many tokens, or to
            `max_length` where that is less.
        broken_rows ([`BrokenRows`], *optional*): Where broken rows are reported. Defaults to a temporary file.

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
        if self.broken_rows is None:
            self.broken_rows = BrokenRows()
        if self.processor is None:
            raise ValueError(
                "Raw images and captions need a processor: give the trainer `processing_class=load_processor(...)`."
            )
        if unknown := [name for name in self.columns if name not in COLUMNS]:
            raise ValueError(f"TripletCollator collates {', '.join(COLUMNS)}; it knows no {', '.join(unknown)}.")

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        problems: list[str] = []
        batch, usable = self._collate(rows, problems)
        if not usable:
            raise ValueError(
                f"All {len(rows)} rows of a batch are broken, such as {'; '.join(problems[:3])}. They are listed in "
                f"{self.broken_rows.path}"
            )
        return batch

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
        decoded: list[dict[str, Any]] = []
        usable: list[Mapping[str, Any]] = []
        for row in rows:
            values: dict[str, Any] = {}
            try:
                for name in self.columns:
                    decode = decode_image if name in IMAGE_COLUMNS else decode_caption
                    values[name] = decode(row.get(name))
            except BrokenValue as error:
                (key, digest), reason, column = row_name(row), str(error), self.columns[len(values)]
                self.broken_rows.add(key, reason, column, digest=digest)
                head, colon, detail = reason.partition(":")
                problems.append(f"{key}: {head} in {column}{colon}{detail}")
            else:
                decoded.append(values)
                usable.append(row)
        if not usable:
            return {}, []
        batch = {**self._images(decoded), **self._captions(decoded, usable)}
        if NEGATIVE_TYPE in rows[0]:
            kinds = [row.get(NEGATIVE_TYPE) for row in usable]
            batch[NEGATIVE_TYPE] = torch.tensor(
                [NEGATIVE_TYPES.index(kind) if kind in NEGATIVE_TYPES else -1 for kind in kinds]
            )
        return batch, usable

    def _images(self, decoded: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images = [values[name] for name in IMAGE_COLUMNS if name in self.columns for values in decoded]
        if not images:
            return {}
        processor = self.processor.image_processor
        pixels = processor(images=images, return_tensors="pt", **_needless_steps(processor, images))["pixel_values"]
        return _split({"pixel_values": pixels}, len(decoded), IMAGE in self.columns, NEG_IMAGE in self.columns)

    def _captions(self, decoded: list[dict[str, Any]], rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        columns = [name for name in CAPTION_COLUMNS if name in self.columns]
        captions = [values[name] for name in columns for values in decoded]
        if not captions:
            return {}
        tokenizer = self.processor.tokenizer
        limit = min(self.max_length or tokenizer.model_max_length, tokenizer.model_max_length)
        encoded = tokenizer(captions, verbose=False)  # it would warn of long captions without saying which
        lengths = [len(ids) for ids in encoded["input_ids"]]
        if max(lengths) > limit:
            for index, length in enumerate(lengths):
                if length > limit:
                    column, number = divmod(index, len(rows))
                    key, digest = row_name(rows[number])
                    reason = f"caption cut: {length} tokens, the limit is {limit}"
                    self.broken_rows.add(key, reason, columns[column], digest=digest, skipped=False)
            encoded = tokenizer(captions, truncation=True, max_length=limit)
        longest, multiple = min(max(lengths), limit), self.pad_to_multiple_of or 1
        length = min(-(-longest // multiple) * multiple, limit)
        padded = tokenizer.pad(encoded, return_tensors="pt", padding="max_length", max_length=length)
        inputs = {name: padded[name] for name in ("input_ids", "attention_mask")}
        return _split(inputs, len(decoded), CAPTION in self.columns, NEG_CAPTION in self.columns)


def _needless_steps(processor: Any, images: list[Image.Image]) -> dict[str, bool]:
    """
    Switches off what would leave these RGB images as they are: half of the processor's time where all are of the
    model's size already, and the same pixels to the last bit.
    """
    steps = {}
    if getattr(processor, "do_convert_rgb", None):
        steps["do_convert_rgb"] = False
    size = getattr(processor, "size", None)
    if getattr(processor, "do_resize", None) and size:
        edge, target = size.get("shortest_edge"), (size.get("width"), size.get("height"))
        if all(min(image.size) == edge if edge else image.size == target for image in images):
            steps["do_resize"] = False
    return steps


def _split(tensors: dict[str, torch.Tensor], rows: int, positive: bool, negative: bool) -> dict[str, torch.Tensor]:
    """Positives and negatives went through the processor together; name them apart."""
    batch = {}
    for name, tensor in tensors.items():
        if positive:
            batch[name] = tensor[:rows]
        if negative:
            batch[f"negative_{name}"] = tensor[-rows:]
    return batch

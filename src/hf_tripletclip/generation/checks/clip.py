# SPDX-License-Identifier: Apache-2.0
"""How well images and captions of a triplet fit together, by a CLIP-like model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar

import torch
from datasets import Features, Value

from hf_tripletclip.checkpoints.load import image_features, load_clip_like, text_features, tokenize
from hf_tripletclip.data.decoding import BrokenValue, decode_caption, decode_image
from hf_tripletclip.data.schema import (
    CAPTION,
    CAPTION_SIMILARITY,
    CLIP_SCORE,
    COLUMNS,
    CROSS_CLIP_SCORE,
    IMAGE,
    IMAGE_COLUMNS,
    IMAGE_SIMILARITY,
    NEG_CAPTION,
    NEG_CLIP_SCORE,
    NEG_CROSS_CLIP_SCORE,
    NEG_IMAGE,
)
from hf_tripletclip.generation.stage import ERROR, Batch, Stage
from hf_tripletclip.utils.devices import check_dtype, loading, pick_device, pick_dtype

# Score -> the two columns whose embeddings it compares.
PAIRS = {
    CLIP_SCORE: (IMAGE, CAPTION),
    NEG_CLIP_SCORE: (NEG_IMAGE, NEG_CAPTION),
    CROSS_CLIP_SCORE: (IMAGE, NEG_CAPTION),
    NEG_CROSS_CLIP_SCORE: (NEG_IMAGE, CAPTION),
    IMAGE_SIMILARITY: (IMAGE, NEG_IMAGE),
    CAPTION_SIMILARITY: (CAPTION, NEG_CAPTION),
}


@dataclasses.dataclass
class ClipScores(Stage):
    r"""
    Cosines of the embeddings of a row's images and captions: of the positive pair, the negative pair, the two crossed
    pairs, the two images and the two captions.

    An image or caption that a batch has several times is encoded once. Captions longer than the model's limit are
    cut. If the rows lack a column altogether, such as `neg_image` in a dataset of captions, the scores that need
    it are `None` and the others are computed.

    Args:
        model (`str`, defaults to `"openai/clip-vit-large-patch14"`): A directory or the id of a Hub repository: a
            CLIP, one of the published TripletCLIP layout, or any model with `get_image_features` and
            `get_text_features` that `AutoModel` opens, such as SigLIP. The default is what the paper filters by.
        revision (`str`, *optional*): Branch, tag or commit of the repository.
        dtype (`str`, defaults to `"auto"`): Of the model, `float32`, `float16` or `bfloat16`; `auto` is `float16` on
            an accelerator. Cosines are taken in float32.
        batch_size (`int`, defaults to 64): Images or captions that are encoded at once.
        device (`str`, *optional*): The accelerator by default.

    Adds `clip_score`, `neg_clip_score`, `cross_clip_score` (image and negative caption), `neg_cross_clip_score`
    (negative image and caption), `image_similarity` and `caption_similarity`, float32.

    Raises:
        ValueError: A setting is out of range, or the model does not embed images and captions.
        OSError: The model is not there or cannot be reached. Both when it is loaded.
    """

    name: ClassVar[str] = "clip"
    requires: ClassVar[tuple[str, ...]] = (IMAGE, CAPTION)
    optional: ClassVar[tuple[str, ...]] = (NEG_IMAGE, NEG_CAPTION)

    model: str = "openai/clip-vit-large-patch14"
    revision: str | None = None
    dtype: str = "auto"

    _model: Any = dataclasses.field(default=None, init=False, repr=False, compare=False)
    _processor: Any = dataclasses.field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` is {self.batch_size}; give at least 1.")

    @property
    def produces(self) -> Features:
        return Features({name: Value("float32") for name in PAIRS})

    def setup(self) -> None:
        if self._model is None:
            device = pick_device(self.device)
            with loading(self.model, "a CLIP-like model"):
                model, self._processor = load_clip_like(
                    self.model, revision=self.revision, dtype=pick_dtype(self.dtype, device)
                )
            self._model = model.to(device).eval()

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Batch:
        self.setup()
        rows = len(next(iter(batch.values())))
        columns = {name: batch[name] for name in COLUMNS if name in batch}
        images, captions = _Unique(decode_image, image_key), _Unique(decode_caption, decode_caption)
        unique = {name: images if name in IMAGE_COLUMNS else captions for name in columns}
        places: list[dict[str, int]] = []  # of each whole row, which of the unique values are its own
        whole: list[int] = []
        errors: list[str | None] = [None] * rows
        for row in range(rows):
            found: dict[str, int] = {}
            try:
                for name, column in columns.items():
                    found[name] = unique[name].add(column[row])
            except BrokenValue as error:
                reason, colon, detail = str(error).partition(":")
                errors[row] = f"{reason} in {list(columns)[len(found)]}{colon}{detail}"
            else:
                places.append(found)
                whole.append(row)
        scores: Batch = {name: [None] * rows for name in PAIRS}
        if not whole:
            return {**scores, ERROR: errors}
        embeddings = {}
        if images.values:
            embeddings[id(images)] = self._embed(images.values, self._image_features)
        if captions.values:
            embeddings[id(captions)] = self._embed(captions.values, self._caption_features)
        sides = {name: embeddings[id(unique[name])][[found[name] for found in places]] for name in columns}
        for name, (one, other) in PAIRS.items():
            if one not in sides or other not in sides:
                continue
            for row, score in zip(whole, (sides[one] * sides[other]).sum(-1).tolist(), strict=True):
                scores[name][row] = score
                if not math.isfinite(score):  # a diverged model, or one that overflows in half precision
                    errors[row] = f"score is not finite: {name}"
        for row in (row for row in whole if errors[row]):
            for scored in scores.values():
                scored[row] = None
        return {**scores, ERROR: errors}

    def _embed(self, values: list[Any], features: Callable[[list[Any]], torch.Tensor]) -> torch.Tensor:
        """L2-normalised float32 embeddings on the CPU."""
        parts = []
        for start in range(0, len(values), self.batch_size):
            embeddings = features(values[start : start + self.batch_size])
            parts.append(torch.nn.functional.normalize(embeddings.float(), dim=-1).cpu())
        return torch.cat(parts)

    def _image_features(self, images: list[Any]) -> torch.Tensor:
        inputs = self._processor(images=images, return_tensors="pt")
        return image_features(self._model, **inputs.to(self._model.device, self._model.dtype))

    def _caption_features(self, captions: list[str]) -> torch.Tensor:
        inputs = tokenize(self._model, self._processor, captions)
        return text_features(self._model, **inputs.to(self._model.device))


class _Unique:
    """Decoded values, each once."""

    def __init__(self, decode: Callable[[Any], Any], key: Callable[[Any], Hashable]) -> None:
        self.decode = decode
        self.key = key
        self.values: list[Any] = []
        self._places: dict[Hashable, int] = {}

    def add(self, value: Any) -> int:
        """The place of a value in `values`."""
        key = self.key(value)
        if key not in self._places:
            self.values.append(self.decode(value))
            self._places[key] = len(self.values) - 1
        return self._places[key]


def image_key(value: Any) -> Hashable:
    """What distinguishes an undecoded image from others of a batch: its file, or the object."""
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    return value if isinstance(value, (bytes, str)) else id(value)

# SPDX-License-Identifier: Apache-2.0
"""Distances between the embeddings of triplets: cosines within and across modalities, and the modality gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset

from hf_tripletclip.data.decoding import BrokenValue, decode_caption, is_several
from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.data.schema import CAPTION, CAPTION_COLUMNS, IMAGE, IMAGE_COLUMNS, NEGATIVE_TYPE
from hf_tripletclip.evaluation.benchmark import Family
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.images import ImageCell
from hf_tripletclip.evaluation.items import Item, fingerprint, predict
from hf_tripletclip.evaluation.questions import ItemBenchmark
from hf_tripletclip.evaluation.readers.tables import load_triplets
from hf_tripletclip.results.result import EvaluationResult, Mean
from hf_tripletclip.results.scoring import TIE, cosines

QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
GAP = "modality_gap"


@dataclass(kw_only=True)
class Similarity(ItemBenchmark):
    r"""
    The distributions of the cosines between the images and captions of triplets, and the modality gap (Liang et al.
    2022, "Mind the Gap", arXiv 2203.02053): the Euclidean distance between the mean of the L2-normalised image
    embeddings and that of the caption embeddings, over the positive pairs.

    Metrics are **cosines, -1 to 1, not fractions**, of the pairs of columns that the data has: `image_caption`,
    `image_neg_caption`, `neg_image_caption`, `neg_image_neg_caption`, `image_neg_image`, `caption_neg_caption`, each
    with `_mean`, `_std`, `_q05`, `_q25`, `_median`, `_q75`, `_q95`; and `modality_gap`, 0 to 2. Predictions hold the
    cosines of each row under the pair's name, for histograms. Nothing is compared: there is no chance, tie rate or
    baseline.

    Args:
        data (`str` or `datasets.Dataset`): Triplets: a dataset, or anything that
            [`~hf_tripletclip.data.load_tripletdata`] loads, such as `scenes`. If a row has several captions, the first
            counts.
        split (`str`, *optional*): Defaults to `test`, or the only one.
        columns (`dict[str, str]` or `str`, *optional*): Our names of columns -> the dataset's, or a preset's name.
        images (`str`, *optional*): Folder of the images that the rows name. Defaults to that of the rows' file.
        allow_missing, max_rows: As in [`Benchmark`]. There is one protocol.
    """

    name: ClassVar[str] = "similarity"
    title: ClassVar[str] = "Similarity"
    reference: ClassVar[str] = "Liang et al. 2022, arXiv 2203.02053"
    primary: ClassVar[str] = GAP
    raw: ClassVar[bool] = True
    family: ClassVar[Family] = "embeddings"

    data: Any
    split: str | None = None
    columns: dict[str, str] | str | None = None
    images: str | None = None

    @property
    def source(self) -> str:
        return "a dataset in memory" if isinstance(self.data, Dataset) else str(self.data)

    @cached_property
    def dataset(self) -> Dataset:
        """The triplets, their images undecoded."""
        loaded = self.data
        if not isinstance(loaded, Dataset):
            loaded = load_triplets(str(loaded), self.split, columns=self.columns, images=self.images)
        if len(self._roles(loaded, IMAGE_COLUMNS)) + len(self._roles(loaded, CAPTION_COLUMNS)) < 2:
            raise ValueError(
                f"{self.title}: {self.source} has the columns {', '.join(loaded.column_names)}; at least two of "
                f"{', '.join((*IMAGE_COLUMNS, *CAPTION_COLUMNS))} are needed."
            )
        return undecoded(loaded)

    @staticmethod
    def _roles(dataset: Dataset, columns: Sequence[str]) -> list[str]:
        return [name for name in columns if name in dataset.column_names]

    def items(self) -> list[Item]:
        images, captions = (self._roles(self.dataset, names) for names in (IMAGE_COLUMNS, CAPTION_COLUMNS))
        cells = [ImageCell.of_column(self.dataset, name) for name in images]
        about = self.dataset.select_columns([name for name in self.dataset.column_names if name not in images])
        rows = about if about.column_names else [{} for _ in range(len(self.dataset))]
        return [
            Item(
                key=str(number),
                images=tuple(column[number] for column in cells),
                captions=tuple(self._caption(row[name], number, name) for name in captions),
                comparisons={},
                category=row.get(NEGATIVE_TYPE),
            )
            for number, row in enumerate(rows)
        ]

    def _caption(self, value: Any, row: int, column: str) -> str:
        try:
            return decode_caption(value[0] if is_several(value) and len(value) else value)
        except BrokenValue as error:
            raise ValueError(f"{self.title}: {self.source}, row {row}: {error} in {column}") from error

    def run(self, encoder: Encoder) -> EvaluationResult:
        items, images, texts, counts = self.encoded(encoder)
        roles = {
            **{name: [images[item.images[place]] for item in items] for place, name in self._places(IMAGE_COLUMNS)},
            **{name: [texts[item.captions[place]] for item in items] for place, name in self._places(CAPTION_COLUMNS)},
        }
        embeddings = {name: torch.stack(rows) for name, rows in roles.items()}
        pairs = {
            f"{one}_{other}": cosines(embeddings[one], embeddings[other]) for one, other in pairs_of(list(embeddings))
        }
        predictions = predict(items, images, texts)
        del predictions[TIE]
        return self.make_result(
            encoder,
            predictions={**predictions, **{name: values.tolist() for name, values in pairs.items()}},
            means={f"{name}_mean": Mean(name) for name in pairs},
            chance={},
            counts={"rows": len(items), "images": len(images), "captions": len(texts), **counts},
            source=self.source,
            fingerprint=fingerprint(items),
            metrics={**spread(pairs), **modality_gap(embeddings)},
        )

    def _places(self, columns: Sequence[str]) -> list[tuple[int, str]]:
        return list(enumerate(self._roles(self.dataset, columns)))

    def settings(self, encoder: Encoder) -> dict[str, Any]:
        return {**super().settings(encoder), "scores": "cosine in float32; the metrics are no fractions"}


def pairs_of(roles: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of columns: an image before a caption, a positive before its negative."""
    order = {name: place for place, name in enumerate((*IMAGE_COLUMNS, *CAPTION_COLUMNS))}
    return list(combinations(sorted(roles, key=order.__getitem__), 2))


def spread(pairs: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Standard deviation (of the rows, not an estimate of more) and quantiles of each pair's cosines."""
    found = {}
    for name, values in pairs.items():
        found[f"{name}_std"] = values.double().std(correction=0).item()
        for label, value in zip(QUANTILES, np.quantile(values.numpy(), list(QUANTILES.values())), strict=True):
            found[f"{name}_{label}"] = float(value)
    return found


def modality_gap(embeddings: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """The distance between the means of the L2-normalised images and captions, if there are both."""
    if IMAGE not in embeddings or CAPTION not in embeddings:
        return {}
    centre = embeddings[IMAGE].double().mean(dim=0) - embeddings[CAPTION].double().mean(dim=0)
    return {GAP: centre.norm().item()}

# SPDX-License-Identifier: Apache-2.0
"""The dataset of mined negatives on disk: standard columns, a card, the neighbours, and what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Features, Image, List, Value

from hf_tripletclip.data.decoding import BrokenValue
from hf_tripletclip.data.schema import (
    CAPTION,
    CAPTION_SIMILARITY,
    CLIP_SCORE,
    CROSS_CLIP_SCORE,
    GENERATOR,
    ID,
    IMAGE,
    IMAGE_SIMILARITY,
    NEG_CAPTION,
    NEG_CLIP_SCORE,
    NEG_CROSS_CLIP_SCORE,
    NEG_ID,
    NEG_IMAGE,
    SOURCE,
)
from hf_tripletclip.generation.plan import NEIGHBOURS_FOLDER
from hf_tripletclip.mining.candidates import Mined
from hf_tripletclip.mining.neighbours import Neighbours, captions_digest
from hf_tripletclip.mining.output import WRITTEN, write_rows
from hf_tripletclip.mining.pairs import Pairs, stored_cell, stored_image
from hf_tripletclip.mining.settings import MiningSettings

NOT_FOUND = "no negative: no near pair passed the guards"


@dataclass
class MinedSplit:
    """
    A split and the negatives that were found for it.

    Args:
        pairs ([`Pairs`]): Its pairs.
        mined ([`Mined`]): Their negatives.
        images, texts (`numpy.ndarray` of shapes `(images, dim)` and `(pairs, dim)`): Their embeddings.
    """

    pairs: Pairs
    mined: Mined
    images: Any
    texts: Any

    def cosine(self, image: int, caption: int) -> float:
        """The cosine of the image of one pair and the caption of another."""
        return float(self.images[self.pairs.image_of[image]] @ self.texts[caption])

    def rows(self, settings: MiningSettings) -> list[tuple[int, list[int]]]:
        """
        The rows that are written: each is a pair and its negatives. With `"pairs"` a row has one negative, and a pair
        has a row for each of its negatives.
        """
        if settings.num_negatives == 0:
            return [(pair, []) for pair in range(len(self.pairs))]
        chosen = [(pair, few[: settings.num_negatives]) for pair, few in enumerate(self.mined.negatives) if few]
        if settings.with_images:
            return [(pair, [one]) for pair, few in chosen for one in few]
        return chosen

    def left_out(self, settings: MiningSettings) -> list[tuple[int, str, str]]:
        """Row, key and reason of the pairs that are not written."""
        pairs = self.pairs
        without = [
            (pairs.rows[pair], pairs.keys[pair], NOT_FOUND)
            for pair, few in enumerate(self.mined.negatives)
            if settings.num_negatives and not few
        ]
        return sorted([*pairs.problems, *without])


def dataset_features(pairs: Pairs, settings: MiningSettings) -> Features:
    """The columns of the dataset."""
    text, number = Value("string"), Value("float32")
    features = {ID: text, IMAGE: Image(), CAPTION: text}
    several = settings.num_negatives > 1 and not settings.with_images
    of_negative = List(text) if several else text
    if settings.num_negatives:
        features |= {NEG_IMAGE: Image()} if settings.with_images else {}
        features |= {NEG_CAPTION: of_negative}
    kept = dict(pairs.further)
    features |= {name: kept.pop(name) for name in (NEG_IMAGE, NEG_CAPTION) if name in kept}
    features |= {**kept, CLIP_SCORE: number}
    if settings.num_negatives:
        if not several:
            features |= dict.fromkeys((CROSS_CLIP_SCORE, CAPTION_SIMILARITY), number)
        if settings.with_images:
            features |= dict.fromkeys((NEG_CLIP_SCORE, NEG_CROSS_CLIP_SCORE, IMAGE_SIMILARITY), number)
        features |= {NEG_ID: of_negative, GENERATOR: text}
    return Features({**features, SOURCE: text})


def write_split(
    folder: Path,
    split: MinedSplit,
    settings: MiningSettings,
    *,
    generator: str,
    source: str,
    rows_per_file: int,
    progress: bool,
) -> None:
    """
    Write the data and the neighbours of a split.

    Args:
        folder (`Path`): The dataset's.
        split ([`MinedSplit`]): The split; it has rows.
        settings ([`MiningSettings`]): What was mined.
        generator, source (`str`): What the columns of these names say.
        rows_per_file (`int`): Rows of a parquet file.
        progress (`bool`): Whether to show a progress bar.

    Raises:
        OSError: It cannot be written.
    """
    pairs, rows = split.pairs, split.rows(settings)
    constants = {SOURCE: source} | ({GENERATOR: generator} if settings.num_negatives else {})
    write_rows(
        folder,
        pairs.split,
        ({**row, **constants} for row in _rows(split, rows, settings)),
        len(rows),
        dataset_features(pairs, settings),
        rows_per_file=rows_per_file,
        progress=progress,
    )
    _neighbours(split, rows).save(folder / NEIGHBOURS_FOLDER / f"{pairs.split}.parquet")


def _rows(
    split: MinedSplit, rows: Sequence[tuple[int, list[int]]], settings: MiningSettings
) -> Iterator[Mapping[str, Any]]:
    for start in range(0, len(rows), WRITTEN):
        yield from _some_rows(split, rows[start : start + WRITTEN], settings)


def _some_rows(
    split: MinedSplit, rows: Sequence[tuple[int, list[int]]], settings: MiningSettings
) -> Iterator[Mapping[str, Any]]:
    pairs = split.pairs
    further = [{}] * len(rows) if pairs.dataset is None else pairs.dataset[[pairs.rows[pair] for pair, _ in rows]]
    if isinstance(further, Mapping):
        further = [{name: further[name][place] for name in further} for place in range(len(rows))]
    several = settings.num_negatives > 1 and not settings.with_images
    pictures = [name for name, feature in pairs.further.items() if isinstance(feature, Image)]
    for (pair, negatives), beside in zip(rows, further, strict=True):
        row: dict[str, Any] = {
            **beside,
            **{name: _picture(beside[name]) for name in pictures},
            ID: pairs.keys[pair],
            IMAGE: stored_image(pairs.images[pairs.image_of[pair]]),
            CAPTION: pairs.captions[pair],
            CLIP_SCORE: split.cosine(pair, pair),
        }
        if several:
            row |= {
                NEG_CAPTION: [pairs.captions[one] for one in negatives],
                NEG_ID: [pairs.keys[one] for one in negatives],
            }
        elif negatives:
            other = negatives[0]
            place = split.mined.negatives[pair].index(other)
            row |= {
                ID: pairs.keys[pair] if place == 0 else f"{pairs.keys[pair]}-negative{place}",
                NEG_CAPTION: pairs.captions[other],
                NEG_ID: pairs.keys[other],
                CROSS_CLIP_SCORE: split.cosine(pair, other),
                CAPTION_SIMILARITY: float(split.texts[pair] @ split.texts[other]),
            }
            if settings.with_images:
                one, another = (split.images[pairs.image_of[of]] for of in (pair, other))
                row |= {
                    NEG_IMAGE: stored_image(pairs.images[pairs.image_of[other]]),
                    NEG_CLIP_SCORE: split.cosine(other, other),
                    NEG_CROSS_CLIP_SCORE: split.cosine(other, pair),
                    IMAGE_SIMILARITY: float(one @ another),
                }
        yield row


def _picture(cell: Any) -> dict[str, Any] | None:
    """An image of another column. One that cannot be read is missing; training reports such rows."""
    try:
        return stored_cell(cell)
    except BrokenValue:
        return None


def _neighbours(split: MinedSplit, rows: Sequence[tuple[int, list[int]]]) -> Neighbours:
    """The neighbours by the rows that are written; of a pair in several rows the first row counts."""
    pairs = split.pairs
    first: dict[int, int] = {}
    for row, (pair, _) in enumerate(rows):
        first.setdefault(pair, row)
    return Neighbours.of_lists(
        [pairs.groups[pairs.image_of[pair]] for pair, _ in rows],
        [[first[one] for one in split.mined.negatives[pair] if one in first] for pair, _ in rows],
        captions_digest(pairs.captions[pair] for pair, _ in rows),
    )

# SPDX-License-Identifier: Apache-2.0
"""The dataset of joined pairs on disk: standard columns, and what was left out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from datasets import Features, Image, List, Value

from hf_tripletclip.data.decoding import BrokenValue
from hf_tripletclip.data.schema import (
    CAPTION,
    DENSE_CAPTION,
    GENERATOR,
    ID,
    IMAGE,
    NEG_CAPTION,
    NEGATIVE_TYPE,
    PARAPHRASE,
    SOURCE,
)
from hf_tripletclip.joining.choosing import Joined, JoinedSplit
from hf_tripletclip.joining.pictures import each, unpacked
from hf_tripletclip.joining.settings import JoinSettings
from hf_tripletclip.mining.output import write_rows
from hf_tripletclip.mining.pairs import Pairs, stored_image

PART_IDS = "part_ids"  # the pairs that a row is made of, in the order of the caption


def dataset_features(settings: JoinSettings) -> Features:
    """The columns of the dataset."""
    text = Value("string")
    negative = List(text) if settings.singles else text
    return Features(
        {
            ID: text,
            IMAGE: Image(),
            CAPTION: text,
            NEG_CAPTION: negative,
            NEGATIVE_TYPE: negative,
            PARAPHRASE: List(text) if settings.singles or settings.num_paraphrases > 1 else text,
            DENSE_CAPTION: List(text),
            PART_IDS: List(text),
            GENERATOR: text,
            SOURCE: text,
        }
    )


def number_of_rows(split: JoinedSplit, settings: JoinSettings) -> int:
    """How many rows a split has."""
    return len(split.rows) + (len(split.pairs) if settings.singles else 0)


def write_split(
    folder: Path,
    split: JoinedSplit,
    settings: JoinSettings,
    *,
    generator: str,
    source: str,
    rows_per_file: int,
    pool: ProcessPoolExecutor | None,
    progress: bool,
) -> None:
    """
    Write the data of a split.

    Args:
        folder (`Path`): The dataset's.
        split ([`JoinedSplit`]): The split; it has rows.
        settings ([`JoinSettings`]): What is joined, and how.
        generator, source (`str`): What the columns of these names say.
        rows_per_file (`int`): Rows of a parquet file.
        pool (`ProcessPoolExecutor`, *optional*): Joins the pictures; by default this process does.
        progress (`bool`): Whether to show a progress bar.

    Raises:
        OSError: It cannot be written, or an image has changed since it was read first.
    """
    rows = _rows(split, settings, pool)
    write_rows(
        folder,
        split.pairs.split,
        ({**row, GENERATOR: generator, SOURCE: source} for row in rows),
        number_of_rows(split, settings),
        dataset_features(settings),
        rows_per_file=rows_per_file,
        progress=progress,
    )


def _rows(split: JoinedSplit, settings: JoinSettings, pool: ProcessPoolExecutor | None) -> Iterator[dict[str, Any]]:
    pairs = split.pairs
    how = (settings.size, settings.format, settings.quality)
    arguments = ((*(_content(pairs, pair) for pair in row.pictures), row.stacked, *how) for row in split.rows)
    try:
        for row, picture in zip(split.rows, each(unpacked, arguments, pool), strict=True):
            yield _joined_row(pairs, row, picture, settings)
    except BrokenValue as error:
        raise OSError(f"An image of {pairs.split} has changed since it was read first: {error}") from error
    if settings.singles:
        for pair, key in enumerate(pairs.keys):
            yield {
                ID: key,
                IMAGE: {"bytes": _content(pairs, pair), "path": None},
                CAPTION: pairs.captions[pair],
                **{name: [] for name in (NEG_CAPTION, NEGATIVE_TYPE, PARAPHRASE, DENSE_CAPTION)},
                PART_IDS: [key],
            }


def _joined_row(pairs: Pairs, row: Joined, picture: bytes, settings: JoinSettings) -> dict[str, Any]:
    keys = [pairs.keys[pair] for pair in (row.first, row.second)]
    several = settings.singles or settings.num_paraphrases > 1
    return {
        ID: "+".join(keys),
        IMAGE: {"bytes": picture, "path": None},
        CAPTION: row.caption,
        NEG_CAPTION: [row.negative] if settings.singles else row.negative,
        NEGATIVE_TYPE: [row.kind] if settings.singles else row.kind,
        PARAPHRASE: row.paraphrases if several else row.paraphrases[0],
        DENSE_CAPTION: [pairs.captions[pair] for pair in (row.first, row.second)],
        PART_IDS: keys,
    }


def _content(pairs: Pairs, pair: int) -> bytes:
    return stored_image(pairs.images[pairs.image_of[pair]])["bytes"]

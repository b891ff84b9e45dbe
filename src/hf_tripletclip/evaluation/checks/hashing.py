# SPDX-License-Identifier: Apache-2.0
"""Perceptual hashes of images, and which of two sets of hashes are near each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_tripletclip.data.decoding import BrokenValue
from hf_tripletclip.evaluation.readers.images import ImageRef

BITS = 64
MAX_DISTANCE = 6  # bits: other sizes and compressions of a photograph stay within, others are beyond 16
MOST = 12  # bits; beyond, photographs of the same composition are near each other
PLAIN = 16  # bits: the median splits a picture's frequencies in halves; fewer on one side means that most are equal
BATCH = 32  # images that a worker hands over at a time
CANDIDATES = 4_000_000  # pairs that are compared at a time


def check_distance(max_distance: int) -> None:
    """
    Check the setting before images are read.

    Raises:
        ValueError: It is out of range.
    """
    if not 0 <= max_distance <= MOST:
        raise ValueError(f"`max_distance` is {max_distance}; give 0 to {MOST} bits.")


def image_hashes(
    images: Sequence[ImageRef], *, num_workers: int = 0, progress: bool = True
) -> tuple[dict[ImageRef, int], int, int]:
    """
    The perceptual hash of each image: `imagehash.phash`, 64 bits as an integer.

    Args:
        images (`Sequence[ImageRef]`): Give each once.
        num_workers (`int`, defaults to 0): Processes that read them.
        progress (`bool`, defaults to `True`): Whether to show a progress bar.

    Returns:
        `tuple`: Image -> hash, the number of images that are missing or broken, and that of images that are too plain
        to be told from other plain ones. Both have no hash.

    Raises:
        ImportError: `imagehash` is not installed.
    """
    try:
        import imagehash  # noqa: F401 - before workers start
    except ImportError as error:
        raise ImportError(
            'To compare images by their hashes, install imagehash: pip install "hf_tripletclip[leakage]"'
        ) from error
    batches: Any = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None, collate_fn=_hash_all, num_workers=num_workers)
    found: dict[ImageRef, int] = {}
    unread = plain = 0
    with tqdm(total=len(images), desc="Hashing images", unit="image", disable=not progress, leave=False) as bar:
        for batch, hashes in zip(batches, loader, strict=True):
            for image, value in zip(batch, hashes, strict=True):
                if value is None:
                    unread += 1
                elif not PLAIN <= value.bit_count() <= BITS - PLAIN:
                    plain += 1
                else:
                    found[image] = value
            bar.update(len(batch))
    return found, unread, plain


def _hash_all(images: Sequence[ImageRef]) -> list[int | None]:
    import imagehash

    hashes: list[int | None] = []
    for image in images:
        try:
            hashes.append(int(str(imagehash.phash(image.load())), 16))
        except BrokenValue:
            hashes.append(None)
    return hashes


def near(ours: Sequence[int], theirs: Sequence[int], max_distance: int) -> list[tuple[int, int, int]]:
    """
    The pairs of hashes that differ in few bits.

    The bits are cut into one band more than may differ, so that near hashes agree in a band at least: only those are
    compared.

    Args:
        ours, theirs (`Sequence[int]`): Hashes of 64 bits; give each once.
        max_distance (`int`): Bits that may differ.

    Returns:
        `list[tuple[int, int, int]]`: One of ours, one of theirs, and the number of bits in which they differ.
    """
    first, second = (np.array(hashes, dtype=np.uint64) for hashes in (ours, theirs))
    found: dict[tuple[int, int], int] = {}
    edges = np.linspace(0, BITS, max_distance + 2).astype(int)
    for start, stop in pairwise(edges):
        mask = np.uint64((1 << int(stop)) - (1 << int(start)))
        bands = first & mask
        order = np.argsort(bands, kind="stable")
        bands, sorted_first = bands[order], first[order]
        low = np.searchsorted(bands, second & mask, side="left")
        high = np.searchsorted(bands, second & mask, side="right")
        for part in _parts(high - low):
            counts = (high - low)[part]
            their_places = np.repeat(np.arange(len(second))[part], counts)
            offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            our_places = np.repeat(low[part], counts) + offsets
            distances = _bits(sorted_first[our_places] ^ second[their_places])
            for place in np.flatnonzero(distances <= max_distance):
                pair = (int(sorted_first[our_places[place]]), int(second[their_places[place]]))
                found[pair] = int(distances[place])
    return [(one, other, bits) for (one, other), bits in found.items()]


def _parts(counts: np.ndarray) -> list[slice]:
    """Slices that have about `CANDIDATES` pairs each."""
    parts = np.cumsum(counts) // CANDIDATES
    edges = [0, *(np.flatnonzero(np.diff(parts)) + 1), len(counts)]
    return [slice(one, other) for one, other in pairwise(edges) if other > one]


_BITS_OF_16 = np.array([number.bit_count() for number in range(1 << 16)], dtype=np.uint8)


def _bits(values: np.ndarray) -> np.ndarray:
    """How many bits of each uint64 are set."""
    return _BITS_OF_16[values.view(np.uint16).reshape(-1, 4)].sum(axis=1, dtype=np.int64)

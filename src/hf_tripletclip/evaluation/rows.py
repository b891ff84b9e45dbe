# SPDX-License-Identifier: Apache-2.0
"""What benchmarks of one image per row share: the embeddings of the images that are there and can be read."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hf_tripletclip.evaluation.benchmark import Benchmark, missing_images
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.processes import in_all_processes
from hf_tripletclip.evaluation.readers.images import ImageRef


def encode_rows(
    benchmark: Benchmark, encoder: Encoder, images: Sequence[ImageRef], source: str
) -> tuple[list[int], dict[ImageRef, torch.Tensor], dict[str, int]]:
    """
    The embeddings of the images of rows, each image once.

    Args:
        benchmark ([`Benchmark`]): Says whether rows may be left out.
        encoder ([`Encoder`]): The model.
        images (`Sequence[ImageRef]`): Of each row, its image.
        source (`str`): Where the rows come from, for the message.

    Returns:
        `tuple`: The rows that remain, the embedding of each image, and the number of rows that are `missing` and
        `broken`.

    Raises:
        MissingImages: An image is missing or broken, and rows may not be left out.
        ValueError: No row remains.
    """
    unique = list(dict.fromkeys(images))

    def those_there() -> dict[ImageRef, bool]:
        there = {image: image.exists() for image in unique}
        missing = sum(not there[image] for image in images)
        if missing and not benchmark.allow_missing:
            absent = [image for image in unique if not there[image]]
            raise missing_images(benchmark.title, missing, len(images), "are missing", absent)
        return there

    there = in_all_processes(those_there)
    rows = [row for row, image in enumerate(images) if there[image]]
    counts = {"missing": len(images) - len(rows)}
    unique = [image for image in unique if there[image]]
    embeddings, reasons = encoder.images(unique)
    if reasons:
        bad = {unique[index]: reason for index, reason in reasons.items()}
        whole = [row for row in rows if images[row] not in bad]
        counts["broken"] = len(rows) - len(whole)
        if not benchmark.allow_missing:
            names = [f"{image.name} ({reason})" for image, reason in bad.items()]
            raise missing_images(benchmark.title, counts["broken"], len(images), "cannot be read", names)
        rows = whole
    if not rows:
        raise ValueError(f"{benchmark.title}: no row is left to evaluate in {source}.")
    return rows, {image: embeddings[index] for index, image in enumerate(unique) if index not in reasons}, counts

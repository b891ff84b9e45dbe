# SPDX-License-Identifier: Apache-2.0
"""`inspect`: one HTML file that shows a triplet dataset."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_tripletclip.generation.inspect import sections
from hf_tripletclip.generation.inspect.measures import left_out_reasons
from hf_tripletclip.generation.inspect.rows import Row, read_sample
from hf_tripletclip.utils.pages.page import write_page

MAX_KINDS = 20
OTHER_KINDS = "other kinds"


def inspect(
    name_or_path: str | os.PathLike[str],
    output: str | os.PathLike[str] = "inspect.html",
    *,
    split: str | None = None,
    samples: int = 60,
    seed: int = 0,
    columns: Mapping[str, str] | str | None = None,
    max_rows: int = 20_000,
    max_images: int = 1_000,
    progress: bool = True,
    **kwargs: Any,
) -> Path:
    """
    Write a page that shows a triplet dataset: pairs with the words that differ, scores and what filters on them would
    leave, kinds, lengths and what the captions give away, concepts, and what is broken.

    The page is one file without references to others. A large dataset is not read to its end: the page says which
    rows were.

    Args:
        name_or_path, split, columns, kwargs: As in [`~hf_tripletclip.data.load_tripletdata`]; all splits by default.
        output (`str` or `os.PathLike`, defaults to `"inspect.html"`): The file to write.
        samples (`int`, defaults to 60): Rows to show with their images.
        seed (`int`, defaults to 0): Of the choice of rows whose images are decoded.
        max_rows (`int`, defaults to 20,000): Rows of each split that are read, from all over it.
        max_images (`int`, defaults to 1,000): Rows of each split whose images are decoded; at least `samples` are.
        progress (`bool`, defaults to `True`): Whether to show progress bars.

    Returns:
        `Path`: The page.

    Raises:
        FileNotFoundError: There is no such dataset.
        OSError: The page cannot be written.
        ValueError: A number is out of range, there are no captions, or `columns` is wrong.
    """
    for name, value, least in (("samples", samples, 0), ("max_rows", max_rows, 1), ("max_images", max_images, 0)):
        if value < least:
            raise ValueError(f"`{name}` is {value}; give at least {least}.")
    path = Path(output)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file for the page, such as {path / 'inspect.html'}.")
    path.parent.mkdir(parents=True, exist_ok=True)  # before the work, so that it is not done for nothing
    read = read_sample(
        name_or_path,
        split=split,
        columns=columns,
        max_rows=max_rows,
        max_images=max(max_images, samples),
        seed=seed,
        progress=progress,
        **kwargs,
    )
    rows = [row for sample in read for row in sample.rows]
    _merge_rare_kinds(rows)
    splits = [sample.name for sample in read]
    title = Path(name_or_path).resolve().name if Path(name_or_path).exists() else os.fspath(name_or_path)
    parts = {
        "Pairs": sections.pairs(read, samples),
        "Scores": sections.scores(rows),
        "Filters": sections.filters(rows),
        "Captions": sections.captions(rows, splits),
        "Concepts": sections.coverage(rows),
        "Broken rows": sections.broken(read, left_out_reasons(Path(name_or_path))),
    }
    return write_page(
        path,
        title=f"{title}: hard negative pairs",
        heading=title,
        overview=sections.overview(read),
        sections=parts,
        command="tripletclip inspect",
    )


def _merge_rare_kinds(rows: list[Row]) -> None:
    """Count rare kinds as one: if each row had its own kind, the table of kinds would not end."""
    counts = Counter(kind for row in rows for kind in row.kinds if kind)
    if len(counts) <= MAX_KINDS:
        return
    common = {kind for kind, _ in counts.most_common(MAX_KINDS)}
    for row in rows:
        row.kinds = [kind if kind is None or kind in common else OTHER_KINDS for kind in row.kinds]

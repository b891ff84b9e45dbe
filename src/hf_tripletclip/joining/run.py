# SPDX-License-Identifier: Apache-2.0
"""`join`: from image-caption pairs to rows of two joined images, which CLIC trains on."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

from tqdm.auto import tqdm
from transformers.utils import logging

from hf_tripletclip.data.decoding import BrokenValue
from hf_tripletclip.generation.holding import begin, locked
from hf_tripletclip.generation.publish import GenerationReport, public_name
from hf_tripletclip.generation.wordnet import load_wordnet
from hf_tripletclip.joining.choosing import JoinedSplit, choose
from hf_tripletclip.joining.pictures import each, is_wide
from hf_tripletclip.joining.publish import dataset_features, number_of_rows, write_split
from hf_tripletclip.joining.settings import JoinSettings
from hf_tripletclip.mining.output import choose_settings, counted, new_dataset, open_output, plan_of
from hf_tripletclip.mining.pairs import Pairs, read_pairs, stored_image
from hf_tripletclip.utils.worker_pool import worker_pool

logger = logging.get_logger(__name__)

STEP = "join"  # in the plan
GENERATOR_NAME = "join:rules"
MANY_WORDS = 60  # about 77 tokens of CLIP


def join(
    dataset: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    settings: JoinSettings | None = None,
    splits: Sequence[str] | None = None,
    columns: Mapping[str, str] | str | None = None,
    images: str | os.PathLike[str] | None = None,
    dataset_kwargs: Mapping[str, Any] | None = None,
    rows_per_file: int = 10_000,
    license: str | None = None,
    num_workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
    **joining: Any,
) -> GenerationReport:
    """
    Make a dataset of joined pairs (CLIC, Peleg et al. 2025, arXiv 2505.24424). Each row has two images joined to one
    and both captions joined to one. `paraphrase` has the captions in the other order; in `neg_caption` a word of the
    one is exchanged with a word of the other; `dense_caption` has the two captions.

    Each pair is joined with a random pair of its split whose image has the same shape, wide or high. The same
    arguments write the same dataset, with any number of workers. `load_dataset(output)` opens it without this package.

    Args:
        dataset, splits, columns, images: As in [`~hf_tripletclip.mining.pairs.read_pairs`].
        output (`str` or `os.PathLike`): The folder to write.
        settings ([`JoinSettings`], *optional*): What is joined, and how; or its fields one by one, as in
            `join(..., rounds=2)`.
        dataset_kwargs (`Mapping`, *optional*): For `load_dataset` (`revision`, ...), or for `load_scenes`.
        rows_per_file (`int`, defaults to 10,000): Rows of a parquet file.
        license (`str`, *optional*): The license of the dataset, an identifier of the Hub.
        num_workers (`int`, *optional*): Processes that decode and join images; with 0 this process does. Defaults to
            the number of CPUs.
        overwrite (`bool`, defaults to `False`): Start anew when the output holds a dataset of other settings. The old
            one is replaced once the new one is whole.
        progress (`bool`, defaults to `True`): Whether to show progress bars.
        joining: Fields of [`JoinSettings`].

    Returns:
        [`~hf_tripletclip.generation.GenerationReport`]: How many pairs there were, how many rows were made, and why
            pairs were left out.

    Raises:
        FileExistsError: The output holds something else, or a dataset of other settings.
        ImportError: NLTK is not installed.
        OSError: The data or WordNet is not there, or the output cannot be written.
        ValueError: A setting is out of range, the output is part of the data, or no pair can be joined.
    """
    settings = choose_settings(JoinSettings, settings, joining, "join")
    if rows_per_file < 1:
        raise ValueError(f"`rows_per_file` is {rows_per_file}; give at least 1.")
    if num_workers is None:
        num_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if num_workers < 0:
        raise ValueError(f"`num_workers` is {num_workers}; give 0 or more.")
    load_wordnet()
    name, target = open_output(dataset, output)
    with locked(target), contextlib.ExitStack() as stack:
        started = time.monotonic()
        parts = read_pairs(
            name,
            splits=splits,
            columns=columns,
            images=None if images is None else os.path.expanduser(os.fspath(images)),
            **(dataset_kwargs or {}),
        )
        plan = plan_of(name, parts, STEP, settings.to_dict(), rows_per_file=rows_per_file, license=license)
        if begin(plan, target, overwrite):
            return GenerationReport.load(target)  # type: ignore[return-value]
        if (pool := worker_pool(num_workers)) is not None:
            stack.callback(pool.shutdown, cancel_futures=True)
        found = [_join_split(part, settings, pool, progress) for part in parts]
        report = _report(plan.rows, found, settings)
        if not any(split.rows for split in found):
            reasons = "; ".join(f"{number:,} × {reason}" for reason, number in report.left_out.items())
            raise ValueError(f"None of the {plan.rows:,} pairs can be joined with another: {reasons}.")
        left_out = {split.pairs.split: split.left_out for split in found}
        with new_dataset(target, plan, report, dataset_features(settings), left_out) as folder:
            for split in found:
                if split.pairs.split in report.kept:
                    write_split(
                        folder,
                        split,
                        settings,
                        generator=GENERATOR_NAME,
                        source=public_name(name),
                        rows_per_file=rows_per_file,
                        pool=pool,
                        progress=progress,
                    )
        report.seconds = time.monotonic() - started
        return report


def _join_split(pairs: Pairs, settings: JoinSettings, pool: ProcessPoolExecutor | None, progress: bool) -> JoinedSplit:
    wide: list[bool] = []
    broken: dict[int, str] = {}
    shapes = each(partial(_shape, size=settings.size), map(_stored, pairs.images), pool)
    bar = tqdm(
        shapes,
        total=len(pairs.images),
        unit="images",
        desc=f"reading {pairs.split}",
        disable=not progress,
        leave=False,
    )
    for number, shape in enumerate(bar):
        if isinstance(shape, str):
            broken[number] = shape
        else:
            wide.append(shape)
    if broken:
        logger.warning(f"{len(broken)} images of {pairs.split} cannot be read; their pairs are left out.")
        pairs = pairs.without(broken)
    chosen = choose(pairs, wide, settings)
    if long := sum(len(row.caption.split()) > MANY_WORDS for row in chosen.rows):
        logger.warning(
            f"{long:,} of {len(chosen.rows):,} joined captions of {pairs.split} have more than {MANY_WORDS} words. A "
            "text tower of CLIP reads 77 tokens: of longer ones it may see neither the second picture's caption nor "
            "the word that was exchanged. Join shorter captions, such as the first sentence of each."
        )
    return chosen


def _stored(image: Any) -> bytes | str:
    """The file of an image, or why there is none."""
    try:
        return stored_image(image)["bytes"]
    except BrokenValue as error:
        return str(error)


def _shape(content: bytes | str, size: int) -> bool | str:
    return content if isinstance(content, str) else is_wide(content, size)


def _report(rows: int, found: Sequence[JoinedSplit], settings: JoinSettings) -> GenerationReport:
    kept = {split.pairs.split: number_of_rows(split, settings) for split in found if split.rows}
    left_out = counted(line for split in found for line in split.left_out)
    return GenerationReport(rows=rows, kept=kept, left_out=left_out)

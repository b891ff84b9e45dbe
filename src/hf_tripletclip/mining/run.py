# SPDX-License-Identifier: Apache-2.0
"""`mine`: from image-caption pairs to a dataset whose negatives are its own nearest images and captions."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers.utils import logging

from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.generation.holding import begin, locked
from hf_tripletclip.generation.plan import MINING_PAGE, WORK_FOLDER
from hf_tripletclip.generation.publish import GenerationReport, public_name, rate
from hf_tripletclip.mining.candidates import find_negatives
from hf_tripletclip.mining.output import choose_settings, counted, new_dataset, open_output, plan_of
from hf_tripletclip.mining.page import write_mining_page
from hf_tripletclip.mining.pairs import Pairs, read_pairs
from hf_tripletclip.mining.publish import MinedSplit, dataset_features, write_split
from hf_tripletclip.mining.settings import MiningSettings

logger = logging.get_logger(__name__)

STEP = "mine"  # in the plan
EMBEDDINGS_FOLDER = "embeddings"  # in the work folder
ENCODED = 4_096  # images or captions at a time: what a killed run loses at most


@dataclass
class MiningReport(GenerationReport):
    """
    Args:
        rows (`int`): Pairs of the source.
        kept (`dict[str, int]`): Split -> rows of the dataset.
        left_out (`dict[str, int]`): Why pairs are not in it -> how many.
        seconds (`float`): How long this call took.
        looked_at (`int`): Near pairs that were looked at.
        refused (`dict[str, int]`): Guard -> near pairs that it refused, the most frequent first.
        without (`int`): Pairs that have no neighbour at all.
        short (`int`): Pairs with fewer negatives than asked for, or none.
    """

    looked_at: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    without: int = 0
    short: int = 0

    def summary(self) -> str:
        kept = sum(self.kept.values())
        lines = [
            f"{kept:,} rows of {self.rows:,} pairs: " + ", ".join(f"{n:,} {split}" for split, n in self.kept.items())
        ]
        if self.seconds:
            lines[0] += f"; {self.seconds:.0f} s, {rate(self.rows / self.seconds)} pairs/s"
        lines.append(f"  {self.looked_at:>8,} near pairs were looked at")
        lines += [f"  {number:>8,} of them refused: {reason}" for reason, number in self.refused.items()]
        lines += [f"  {number:>8,} × left out: {reason}" for reason, number in self.left_out.items()]
        if self.short:
            lines.append(f"  {self.short:>8,} pairs have fewer negatives than asked for")
        return "\n".join(lines)


def mine(
    dataset: str | os.PathLike[str],
    model: Any,
    output: str | os.PathLike[str],
    *,
    processor: Any = None,
    settings: MiningSettings | None = None,
    splits: Sequence[str] | None = None,
    columns: Mapping[str, str] | str | None = None,
    images: str | os.PathLike[str] | None = None,
    dataset_kwargs: Mapping[str, Any] | None = None,
    rows_per_file: int = 10_000,
    license: str | None = None,
    samples: int = 60,
    overwrite: bool = False,
    progress: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
    encoder_kwargs: Mapping[str, Any] | None = None,
    **mining: Any,
) -> MiningReport:
    """
    Make a dataset whose hard negatives are its own nearest images and captions, as a model sees them.

    The search is exact and deterministic: equal scores are in the order of the rows. Each split is searched
    separately. `load_dataset(output)` opens the dataset without this package. `output/mining.html` shows what was
    found, and `output/neighbours` has the nearest rows of each row, for training on batches of neighbours.

    Args:
        dataset, splits, columns, images: As in [`~hf_tripletclip.mining.pairs.read_pairs`].
        model (`str`, model or [`~hf_tripletclip.evaluation.Encoder`]): A directory or Hub id of a CLIP-like model, or
            a model with its `processor`.
        output (`str` or `os.PathLike`): The folder to write.
        processor (*optional*): The processor of a model that is given as an object.
        settings ([`MiningSettings`], *optional*): What is mined; or its fields one by one, as in
            `mine(..., num_negatives=4)`.
        dataset_kwargs (`Mapping`, *optional*): For `load_dataset` (`revision`, ...), or for `load_scenes`.
        rows_per_file (`int`, defaults to 10,000): Rows of a parquet file.
        license (`str`, *optional*): The license of the dataset, an identifier of the Hub.
        samples (`int`, defaults to 60): Rows that the page shows.
        overwrite (`bool`, defaults to `False`): Start anew when the output holds a dataset of other settings. The old
            one is replaced once the new one is whole.
        progress (`bool`, defaults to `True`): Whether to show progress bars.
        cache_dir (`str` or `os.PathLike`, *optional*): Keep embeddings in this folder. By default they are kept in the
            output until the dataset is whole, so that a run that was stopped goes on.
        encoder_kwargs (`Mapping`, *optional*): Settings of [`~hf_tripletclip.evaluation.Encoder`]: `batch_size`,
            `device`, `autocast`, `num_workers`.
        mining: Fields of [`MiningSettings`].

    Returns:
        [`MiningReport`]: What was found and refused.

    Raises:
        FileExistsError: The output holds something else, or a dataset of other settings.
        OSError: The data or the model is not there, or the output cannot be written.
        ValueError: A setting is out of range, the output is part of the data, no pair has a negative, or this is one
            of several processes.
    """
    settings = choose_settings(MiningSettings, settings, mining, "mine")
    for name, value in (("rows_per_file", rows_per_file), ("samples", samples)):
        if value < (name == "rows_per_file"):
            raise ValueError(f"`{name}` is {value}; give at least {int(name == 'rows_per_file')}.")
    name, target = open_output(dataset, output)
    with locked(target):
        started = time.monotonic()
        work = target / WORK_FOLDER
        options = {"progress": progress, **(encoder_kwargs or {})} if not isinstance(model, Encoder) else {}
        if not isinstance(model, Encoder):
            options["cache_dir"] = work / EMBEDDINGS_FOLDER if cache_dir is None else cache_dir
        encoder = Encoder.of(model, processor, **options)
        if encoder.state.num_processes > 1:
            raise ValueError("`mine` runs in one process: start it without a launcher of several.")
        parts = read_pairs(
            name,
            splits=splits,
            columns=columns,
            images=None if images is None else os.path.expanduser(os.fspath(images)),
            keep_negatives=settings.num_negatives == 0,
            **(dataset_kwargs or {}),
        )
        mined_by = {"model": encoder.name, "fingerprint": encoder.fingerprint[:16]}
        plan = plan_of(name, parts, STEP, mined_by | settings.to_dict(), rows_per_file=rows_per_file, license=license)
        if begin(plan, target, overwrite):
            return MiningReport.load(target)  # type: ignore[return-value]
        found = [_mine_split(part, encoder, settings, progress) for part in parts]
        report = _report(plan.rows, found, settings)
        if not report.kept:
            said = ", ".join(f"{pairs:,} by `{guard}`" for guard, pairs in report.refused.items()) or "none"
            raise ValueError(
                f"None of the {plan.rows:,} pairs has a negative: of {report.looked_at:,} near pairs were "
                f"refused {said}. Looser guards, such as a smaller `relative_margin` or a larger `range_max`, let "
                "more through."
            )
        written = [split for split in found if split.pairs.split in report.kept]
        left_out = {split.pairs.split: split.left_out(settings) for split in found}
        features = dataset_features(written[0].pairs, settings)
        with new_dataset(target, plan, report, features, left_out) as folder:
            for split in written:
                write_split(
                    folder,
                    split,
                    settings,
                    generator=f"{STEP}:{public_name(encoder.name)}",
                    source=public_name(name),
                    rows_per_file=rows_per_file,
                    progress=progress,
                )
            title = target.resolve().name
            write_mining_page(
                folder / MINING_PAGE, found, report, settings, title=title, model=encoder.name, samples=samples
            )
        report.seconds = time.monotonic() - started
        return report


def _mine_split(pairs: Pairs, encoder: Encoder, settings: MiningSettings, progress: bool) -> MinedSplit:
    blocks = [encoder.images(pairs.images[at : at + ENCODED]) for at in range(0, len(pairs.images), ENCODED)]
    broken = {
        number * ENCODED + place: reason for number, (_, few) in enumerate(blocks) for place, reason in few.items()
    }
    width = next((block.shape[1] for block, _ in blocks if block.shape[1]), 0)
    images = torch.cat(
        [block if block.shape[1] else torch.full((len(block), width), torch.nan) for block, _ in blocks]
    )
    if broken:
        logger.warning(f"{len(broken)} images of {pairs.split} cannot be read; their pairs are left out.")
        images = images[[place for place in range(len(images)) if place not in broken]]
        pairs = pairs.without(broken)
    unique = list(dict.fromkeys(pairs.captions))
    parts = [encoder.texts(unique[at : at + ENCODED]) for at in range(0, len(unique), ENCODED)]
    places = {caption: place for place, caption in enumerate(unique)}
    texts = torch.cat(parts)[[places[caption] for caption in pairs.captions]] if unique else torch.empty(0, width)
    device = encoder.device if encoder.device.type == "cuda" else torch.device("cpu")  # MPS has no float64
    with tqdm(total=len(pairs), unit="pairs", desc=f"mining {pairs.split}", disable=not progress, leave=False) as bar:
        mined = find_negatives(pairs, images, texts, settings, device=device, progress=bar)
    return MinedSplit(pairs, mined, images.numpy(), texts.numpy())


def _report(rows: int, found: Sequence[MinedSplit], settings: MiningSettings) -> MiningReport:
    kept = {split.pairs.split: len(split.rows(settings)) for split in found}
    refused: Counter[str] = Counter()
    for split in found:
        refused.update(split.mined.refused)
    return MiningReport(
        rows=rows,
        kept={split: number for split, number in kept.items() if number},
        left_out=counted(line for split in found for line in split.left_out(settings)),
        looked_at=sum(split.mined.looked_at for split in found),
        refused=dict(sorted(refused.items(), key=lambda one: (-one[1], one[0]))),
        without=sum(not few for split in found for few in split.mined.negatives),
        short=sum(len(few) < settings.num_negatives for split in found for few in split.mined.negatives),
    )

# SPDX-License-Identifier: Apache-2.0
"""`Benchmark`, the base class of all benchmarks: what a benchmark declares, and what all results share."""

from __future__ import annotations

import abc
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType
from typing import Any, ClassVar, Literal

import torch
import transformers
from transformers.utils import logging

from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.images import LISTED, ImageRef
from hf_tripletclip.results.result import EvaluationResult, Mean
from hf_tripletclip.results.scoring import TIE, intervals, tally
from hf_tripletclip.utils.processes import in_all_processes
from hf_tripletclip.version import __version__

logger = logging.get_logger(__name__)

Family = Literal["composition", "retention", "embeddings"]
# Class variables of a benchmark that each of its results carries, for reports and model cards.
DECLARED = ("title", "hub_dataset", "task", "raw", "family", "tradeoff", "also_true")


class MissingImages(FileNotFoundError):
    """Images that the annotations name do not exist."""


@dataclasses.dataclass(kw_only=True)
class Benchmark(abc.ABC):
    """
    A benchmark, as a dataclass of its settings. A subclass is one file in `benchmarks/` and one line of the registry.

    Besides `name`, `title`, `reference` and `primary`, a subclass sets the class variables that differ from the
    defaults:

    - `official_difference`: what `protocol="official"` does differently;
    - `hub_dataset`: the id of the Hub dataset with its data, if the data is a single dataset;
    - `task`: the Hub's name of the task, for `model-index`;
    - `raw`: the metrics are plain numbers, such as cosines: not shares, and the highest is not the best;
    - `family`: `composition`, `retention` (what fine-tuning may lose) or `embeddings`;
    - `tradeoff`: metrics that reports plot, those of composition benchmarks against those of retention benchmarks;
    - `also_true`: pairs besides `i0c0`, `i1c1`, ... whose caption is true of the image.

    Args:
        protocol (`"strict"` or `"official"`, defaults to `"strict"`): Our rules, see
            [`~hf_tripletclip.results.scoring`], or those of the benchmark's own script: `official_difference` says
            how they differ. Then images and captions are also prepared as that script does, see
            [`~hf_tripletclip.evaluation.official`].
        allow_missing (`bool`, defaults to `False`): Leave out rows whose images are missing or broken and count them
            in the result. By default such rows are an error.
        max_rows (`int`, *optional*): Evaluate only this many rows, drawn at random, for a quick look. The result says
            so.
    """

    name: ClassVar[str]  # in the registry
    title: ClassVar[str]  # as people write it
    reference: ClassVar[str]  # paper, with arXiv id
    primary: ClassVar[str]  # the metric to show when there is room for only one
    official_difference: ClassVar[str] = ""
    hub_dataset: ClassVar[str | None] = None
    task: ClassVar[str] = "zero-shot-image-classification"
    raw: ClassVar[bool] = False
    family: ClassVar[Family] = "composition"
    tradeoff: ClassVar[tuple[str, ...]] = ()
    also_true: ClassVar[tuple[str, ...]] = ()

    protocol: Literal["strict", "official"] = "strict"
    allow_missing: bool = False
    max_rows: int | None = None

    # Whether `images` was given for several benchmarks at once: a benchmark that does not need it then ignores it.
    images_for_all: bool = dataclasses.field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # paths become texts, as in a result's file
            if isinstance(value := getattr(self, field.name), os.PathLike):
                setattr(self, field.name, os.fspath(value))
        if self.protocol not in ("strict", "official"):
            raise ValueError(f"{self.name}: `protocol` is {self.protocol!r}; give strict or official.")
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"{self.name}: `max_rows` is {self.max_rows}; give at least 1.")

    @abc.abstractmethod
    def run(self, encoder: Encoder) -> EvaluationResult:
        """
        Evaluate a model.

        Raises:
            OSError: The data does not exist.
            ValueError: The data does not have the expected form.
        """

    def contents(self) -> Iterable[tuple[str, Sequence[ImageRef], Sequence[str]]]:
        """
        The key, the images and the captions of each row, for
        [`~hf_tripletclip.evaluation.checks.leakage`], which looks for them in a training set.

        Raises:
            ValueError: This benchmark does not list its contents.
        """
        raise ValueError(f"{self.title}: there is no leakage check for this benchmark.")

    def details(self) -> Iterable[Any]:
        """
        What else decides the metrics, besides `contents`: categories, comparisons, class names, ... as JSON values. A
        result in a folder is used again only if these are the same.
        """
        return ()

    @classmethod
    def tradeoff_part(cls, result: EvaluationResult) -> EvaluationResult:
        """The part of a result that the `tradeoff` plot shows: all of it, unless a subclass chooses."""
        return result

    def __call__(self, model: Any, processor: Any = None, **options: Any) -> EvaluationResult:
        """
        Evaluate a model.

        Args:
            model: An [`Encoder`], a model, or a directory or Hub id to load one from.
            processor ([`~transformers.ProcessorMixin`], *optional*): The processor of a model that is given as an
                object.
            options: Arguments of [`Encoder`]: `batch_size`, `device`, `autocast`, `cache_dir`, ...

        Raises:
            OSError: The model or the data does not exist.
            ValueError: The model or the data does not have the expected form.
        """
        encoder = Encoder.of(model, processor, **options)
        return self.run(encoder.as_official() if self.protocol == "official" else encoder)

    def check_images_used(self, images: Iterable[ImageRef], source: str) -> None:
        """
        Check that the `images` folder that the user gave has an effect.

        Args:
            images (`Iterable[ImageRef]`): The images of the benchmark; only the first one is checked.
            source (`str`): Where the rows come from, for the message.

        Raises:
            ValueError: The images are in the rows themselves, so the folder would have no effect.
        """
        folder = getattr(self, "images", None)
        first = next(iter(images), None)
        if folder is None or first is None or first.in_file():
            return
        problem = f"{self.name}: the images are in {source} itself, so the folder {folder} (`images`) is not used"
        if not self.images_for_all:
            raise ValueError(f"{problem}: leave it out")
        logger.warning(f"{problem}.")

    def encode_rows(
        self, encoder: Encoder, images: Sequence[ImageRef], source: str
    ) -> tuple[list[int], dict[ImageRef, torch.Tensor], dict[str, int]]:
        """
        The embeddings of the images of rows that have one image each. An image of several rows is encoded once.

        Args:
            encoder ([`Encoder`]): The model.
            images (`Sequence[ImageRef]`): The image of each row.
            source (`str`): Where the rows come from, for the message.

        Returns:
            `tuple`: The rows that remain, the embedding of each image, and the number of rows that are `missing` and
            `broken`.

        Raises:
            MissingImages: An image is missing or broken, and `allow_missing` is not set.
            ValueError: No row remains.
        """
        unique = list(dict.fromkeys(images))

        def look() -> dict[ImageRef, bool]:
            there = {image: image.exists() for image in unique}
            missing = sum(not there[image] for image in images)
            if missing and not self.allow_missing:
                absent = [image for image in unique if not there[image]]
                raise missing_images(self.title, missing, len(images), "are missing", absent)
            return there

        there = in_all_processes(look)
        rows = [row for row, image in enumerate(images) if there[image]]
        counts = {"missing": len(images) - len(rows)}
        unique = [image for image in unique if there[image]]
        embeddings, reasons = encoder.images(unique)
        if reasons:
            bad = {unique[index]: reason for index, reason in reasons.items()}
            whole = [row for row in rows if images[row] not in bad]
            counts["broken"] = len(rows) - len(whole)
            if not self.allow_missing:
                names = [f"{image.name} ({reason})" for image, reason in bad.items()]
                raise missing_images(self.title, counts["broken"], len(images), "cannot be read", names)
            rows = whole
        if not rows:
            raise ValueError(f"{self.title}: no row is left to evaluate in {source}.")
        return rows, {image: embeddings[index] for index, image in enumerate(unique) if index not in reasons}, counts

    # ---- What results share ----

    def settings(self, encoder: Encoder) -> dict[str, Any]:
        """What decides the numbers, apart from model and data: this benchmark's fields and the precision."""
        plain = (str, int, float, bool, list, tuple, dict, NoneType)
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}
        fields = {name: value for name, value in values.items() if isinstance(value, plain)}
        scores = "cosine in float32, strictly greater wins"
        if self.protocol == "official" and self.official_difference:
            scores = f"official: {self.official_difference}"
        return {**fields, "scores": scores, "autocast": encoder.autocast, "batch_size": encoder.batch_size}

    def make_result(
        self,
        encoder: Encoder,
        *,
        predictions: dict[str, list[Any]],
        means: Mapping[str, Mean],
        chance: Mapping[str, float],
        counts: Mapping[str, int],
        source: str,
        fingerprint: str,
        baselines: Mapping[str, dict[str, float]] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> EvaluationResult:
        """
        A result: the metrics that `means` computes from the predictions, their intervals, and what the class declares.

        Args:
            encoder ([`Encoder`]): The model.
            predictions (`dict[str, list]`): Columns; `cluster` says which rows are drawn together.
            means (`Mapping[str, Mean]`): The metrics. A metric for which no row counts is left out.
            chance, counts, baselines: As in [`EvaluationResult`].
            source (`str`): Where the data came from.
            fingerprint (`str`): The digest of the data.
            metrics (`Mapping[str, float]`, *optional*): More metrics, without intervals.
        """
        values = {name: tally(predictions, mean) for name, mean in means.items()}
        values = {name: value for name, value in values.items() if value == value}
        kept = {name: mean for name, mean in means.items() if name in values}
        if TIE in predictions:
            values["tie_rate"] = tally(predictions, Mean(TIE))
        values |= metrics or {}
        return EvaluationResult(
            benchmark=self.name,
            metrics=values,
            chance={name: value for name, value in chance.items() if name in values},
            counts=dict(counts),
            settings=self.settings(encoder),
            predictions=predictions,
            primary=self.primary if self.primary in values else next(iter(values), None),
            intervals=intervals(predictions, kept),
            baselines=dict(baselines or {}),
            means=kept,
            model=encoder.description(),
            data={"source": source, "fingerprint": fingerprint},
            versions={
                "hf_tripletclip": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            **self.declared(),
        )

    @classmethod
    def declared(cls) -> dict[str, Any]:
        """The class variables that each result carries, by name."""
        return {name: getattr(cls, name) for name in DECLARED}


def missing_images(title: str, rows: int, total: int, problem: str, images: Sequence[ImageRef | str]) -> MissingImages:
    """
    The error that says which images of a benchmark cannot be used.

    Args:
        title (`str`): The benchmark.
        rows, total (`int`): How many rows need these images, and how many rows there are.
        problem (`str`): Such as "are missing".
        images (`Sequence[ImageRef | str]`): The images, or their names.
    """
    names = [image if isinstance(image, str) else getattr(image, "path", image.name) for image in images]
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return MissingImages(
        f"{title}: {len(names)} images, of {rows} of {total} rows, {problem}: {', '.join(names[:LISTED])}{more}. Say "
        "where they are with --images (`images`), or leave these rows out with --allow-missing (allow_missing=True); "
        "the result then has their number."
    )

# SPDX-License-Identifier: Apache-2.0
"""What a benchmark is: `Benchmark`."""

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
from hf_tripletclip.evaluation.readers.images import ImageRef
from hf_tripletclip.results.result import EvaluationResult, Mean
from hf_tripletclip.results.statistics import TIE, intervals, tally
from hf_tripletclip.version import __version__

logger = logging.get_logger(__name__)

LISTED = 5  # names in a message


class MissingImages(FileNotFoundError):
    """Images that the annotations name are not there."""


@dataclasses.dataclass(kw_only=True)
class Benchmark(abc.ABC):
    """
    A benchmark, as a dataclass of its settings. A subclass is one file and one line of the registry.

    Args:
        protocol (`"strict"` or `"official"`, defaults to `"strict"`): Our rules, see
            [`~hf_tripletclip.results.statistics`], or those of the benchmark's own script, where they differ:
            `official_difference` says how. Then images and captions are prepared as there, too, see
            [`~hf_tripletclip.evaluation.official`].
        allow_missing (`bool`, defaults to `False`): Leave out rows whose images are missing or broken, and count them
            in the result, instead of refusing to go on.
        max_rows (`int`, *optional*): Only so many rows, drawn at random, for a quick look; the result says so.
    """

    name: ClassVar[str]  # in the registry
    title: ClassVar[str]  # as people write it
    reference: ClassVar[str]  # paper, with arXiv id
    primary: ClassVar[str]  # the metric that stands for the benchmark
    official_difference: ClassVar[str] = ""  # what `protocol="official"` does otherwise; empty where nothing

    protocol: Literal["strict", "official"] = "strict"
    allow_missing: bool = False
    max_rows: int | None = None

    # Whether `images` was said of several benchmarks at once: one that does not need it then goes on without.
    images_for_all: bool = dataclasses.field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # paths are texts, as a result's file has them
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
            OSError: The data is not there.
            ValueError: The data is not what it should be.
        """

    def contents(self) -> Iterable[tuple[str, Sequence[ImageRef], Sequence[str]]]:
        """
        The key, the images and the captions of each row, for the check of a training set against them, see
        [`~hf_tripletclip.evaluation.checks.leakage`].

        Raises:
            ValueError: This benchmark does not say what is in it.
        """
        raise ValueError(f"{self.title}: there is no leakage check for this benchmark.")

    def details(self) -> Iterable[Any]:
        """
        What else decides the metrics, besides `contents`: categories, comparisons, class names, ... as JSON knows it.
        A result in a folder is only kept where these are the same.
        """
        return ()

    def __call__(self, model: Any, processor: Any = None, **options: Any) -> EvaluationResult:
        """
        Evaluate a model.

        Args:
            model: An [`Encoder`], a model, or a directory or Hub id to load one from.
            processor ([`~transformers.ProcessorMixin`], *optional*): Of a model that is given as an object.
            options: Of [`Encoder`]: `batch_size`, `device`, `autocast`, `cache_dir`, ...

        Raises:
            OSError: The model or the data is not there.
            ValueError: The model or the data is not what it should be.
        """
        if isinstance(model, Encoder):
            if options or processor is not None:
                raise ValueError("an Encoder has its processor and settings: give them where it is made.")
            return self._run(model)
        if isinstance(model, (str, os.PathLike)):
            if processor is not None:
                raise ValueError("a model that is loaded by name brings its processor: leave `processor` out.")
            return self._run(Encoder.from_pretrained(model, **options))
        if processor is None:
            raise ValueError("give the processor of the model: benchmark(model, processor)")
        return self._run(Encoder(model, processor, **options))

    def check_images_used(self, images: Iterable[ImageRef], source: str) -> None:
        """
        Check that a folder of images that the user said is one where images were looked for.

        Args:
            images (`Iterable[ImageRef]`): The images of the benchmark; the first tells.
            source (`str`): Where the rows come from, for the message.

        Raises:
            ValueError: The images are in the rows themselves, so that the folder would have no effect.
        """
        folder = getattr(self, "images", None)
        first = next(iter(images), None)
        if folder is None or first is None or first.in_file():
            return
        problem = f"{self.name}: the images are in {source} itself, so the folder {folder} (`images`) is not looked at"
        if not self.images_for_all:
            raise ValueError(f"{problem}: leave it out")
        logger.warning(f"{problem}.")

    def _run(self, encoder: Encoder) -> EvaluationResult:
        return self.run(encoder.as_official() if self.protocol == "official" else encoder)

    # ---- What results share ----

    def settings(self, encoder: Encoder) -> dict[str, Any]:
        """What determines the numbers, apart from model and data: this benchmark's fields and the precision."""
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
        A result with the metrics that `means` says how to take from the predictions, and their intervals.

        Args:
            encoder ([`Encoder`]): The model.
            predictions (`dict[str, list]`): Columns; `cluster` says which rows are drawn together.
            means (`Mapping[str, Mean]`): The metrics. One that no row counts for is left out.
            chance, counts, baselines: As in [`EvaluationResult`].
            source (`str`): Where the data came from.
            fingerprint (`str`): Of the data.
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
            title=self.title,
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
        )


def missing_images(title: str, rows: int, total: int, problem: str, images: Sequence[ImageRef | str]) -> MissingImages:
    """
    The error that says which images of a benchmark cannot be used.

    Args:
        title (`str`): The benchmark.
        rows, total (`int`): How many rows need these images, and how many rows there are.
        problem (`str`): Such as "are missing".
        images (`Sequence[ImageRef | str]`): The images, or what to call them.
    """
    names = [image if isinstance(image, str) else getattr(image, "path", image.name) for image in images]
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return MissingImages(
        f"{title}: {len(names)} images, of {rows} of {total} rows, {problem}: {', '.join(names[:LISTED])}{more}. Say "
        "where they are (`images`), or leave these rows out with --allow-missing (allow_missing=True); the result "
        "then has their number."
    )

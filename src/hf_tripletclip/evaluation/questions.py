# SPDX-License-Identifier: Apache-2.0
"""`ItemBenchmark`: a benchmark that consists of questions."""

from __future__ import annotations

import abc
import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch

from hf_tripletclip.evaluation.benchmark import Benchmark, missing_images
from hf_tripletclip.evaluation.checks.blind import blind_baselines
from hf_tripletclip.evaluation.checks.probe import probe_baseline
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.images import LISTED, ImageRef
from hf_tripletclip.evaluation.items import CATEGORY, Item, fingerprint, images_of, outcomes_of, predict
from hf_tripletclip.evaluation.registry import location_field
from hf_tripletclip.results.result import EvaluationResult, Mean
from hf_tripletclip.results.scoring import sample_rows
from hf_tripletclip.utils.processes import in_all_processes

# Questions; image -> embedding; caption -> embedding; counts of the rows that were left out.
Encoded = tuple[list[Item], dict[ImageRef, torch.Tensor], dict[str, torch.Tensor], dict[str, int]]


@dataclasses.dataclass(kw_only=True)
class ItemBenchmark(Benchmark):
    """
    A benchmark of questions. A subclass returns them from `items`.

    If the first image of each question is a photograph and a model drew the second one, the subclass also sets
    `drawn_images = True`. Then results say how well a linear classifier tells the two apart.
    """

    drawn_images: ClassVar[bool] = False

    _checked: list[Item] | None = dataclasses.field(default=None, init=False, repr=False, compare=False)

    @abc.abstractmethod
    def items(self) -> list[Item]:
        """
        All questions.

        Raises:
            OSError: The data does not exist.
            ValueError: The data does not have the expected form.
        """

    @property
    def source(self) -> str:
        """Where the questions come from, for the result: by default, what the setting for the data's place holds."""
        setting = location_field(type(self))
        return self.name if setting is None else str(getattr(self, setting))

    def chance(self, items: Sequence[Item]) -> dict[str, float]:
        """Outcome -> the share that guessing gets right. It also holds for metrics that are means of the outcome."""
        return {}

    def means(self, predictions: Mapping[str, list[Any]], outcomes: Sequence[str]) -> dict[str, Mean]:
        """
        The metrics. With one outcome, by default: its mean in each category under the category's name, `macro` (over
        the categories) and `micro` (over the rows); without categories, only the outcome's name. With several
        outcomes: the outcome (over the rows), `<outcome>_<category>` and `<outcome>_macro`.
        """
        categories = list(dict.fromkeys(value for value in predictions[CATEGORY] if value is not None))
        found: dict[str, Mean] = {}
        for outcome in outcomes:
            alone, prefix = len(outcomes) == 1 and bool(categories), f"{outcome}_"
            if not alone:
                found[outcome] = Mean(outcome)
            for category in categories:
                found[category if alone else f"{prefix}{category}"] = Mean(outcome, where={CATEGORY: category})
            if categories:
                found["macro" if alone else f"{prefix}macro"] = Mean(outcome, by=CATEGORY)
            if alone:
                found["micro"] = Mean(outcome)
        return found

    def official_outcomes(self, item: Item, scores: Mapping[str, float]) -> dict[str, bool]:
        """Outcome -> right or wrong, by the benchmark's own script. By default, by our rules."""
        return outcomes_of(item, scores)

    def baselines(
        self,
        items: Sequence[Item],
        images: Mapping[ImageRef, torch.Tensor],
        texts: Mapping[str, torch.Tensor],
        predictions: Mapping[str, list[Any]],
        means: Mapping[str, Mean],
    ) -> dict[str, dict[str, float]]:
        """
        What can be reached without understanding: without looking at the image, see
        [`~hf_tripletclip.evaluation.checks.blind`], and, with `drawn_images`, how well a linear classifier tells drawn
        images from real ones, see [`~hf_tripletclip.evaluation.checks.probe`].

        Args:
            items (`Sequence[Item]`): The questions.
            images, texts (`Mapping`): The embedding, of shape `(dim,)`, of each image and caption.
            predictions (`Mapping[str, list]`): The model's.
            means (`Mapping[str, Mean]`): The metrics.

        Returns:
            `dict[str, dict[str, float]]`: Baseline -> metric -> value.
        """
        every = torch.stack(list(images.values())) if images else torch.empty(0, 0)
        found = blind_baselines(items, every, texts, predictions, means)
        if self.drawn_images:
            found |= probe_baseline([item.images for item in items if len(item.images) == 2], images)
        return found

    def contents(self) -> Iterable[tuple[str, Sequence[ImageRef], Sequence[str]]]:
        return [(item.key, item.images, item.captions) for item in self.checked_items()]

    def details(self) -> Iterable[Any]:
        for item in self.checked_items():
            comparisons = {name: [list(both) for both in pairs] for name, pairs in item.comparisons.items()}
            yield [item.category, dict(item.columns), comparisons]

    def run(self, encoder: Encoder) -> EvaluationResult:
        items, images, texts, counts = self.encoded(encoder)
        predictions = predict(items, images, texts, self.official_outcomes if self.protocol == "official" else None)
        outcomes = list(items[0].comparisons)
        means = self.means(predictions, outcomes)
        guesses = self.chance(items)
        categories = Counter(item.category for item in items if item.category is not None)
        return self.make_result(
            encoder,
            predictions=predictions,
            means=means,
            chance={name: guesses[mean.outcome] for name, mean in means.items() if mean.outcome in guesses},
            counts={"rows": len(items), "images": len(images), "captions": len(texts), **counts, **categories},
            source=self.source,
            fingerprint=fingerprint(items),
            baselines=self.baselines(items, images, texts, predictions, means),
        )

    def encoded(self, encoder: Encoder) -> Encoded:
        """
        The questions whose images exist and can be read, the embedding of each of their images and captions, and how
        many questions were left out.

        Raises:
            MissingImages: Images are missing or broken, and `allow_missing` is not set.
            ValueError: No question is left.
        """
        items, absent = in_all_processes(self._with_images)
        counts = {"missing": absent}
        images, reasons = encode_images(encoder, items)
        if broken := [item for item in items if any(image in reasons for image in item.images)]:
            names = [f"{image.name} ({reasons[image]})" for image in images_of(broken) if image in reasons]
            self._refuse(broken, len(items), "cannot be read", names)
            counts["broken"] = len(broken)
            gone = {item.key for item in broken}
            items = [item for item in items if item.key not in gone]
        if not items:
            raise ValueError(f"{self.title}: no row is left to evaluate in {self.source}.")
        return items, images, encode_texts(encoder, items), counts

    def _with_images(self) -> tuple[list[Item], int]:
        """The questions whose images exist, and the number of other questions."""
        items = self.checked_items()
        absent = [item for item in items if not all(image.exists() for image in item.images)]
        if absent:
            self._refuse(absent, len(items), "are missing", [i for i in images_of(absent) if not i.exists()])
            gone = {item.key for item in absent}
            items = [item for item in items if item.key not in gone]
        return items, len(absent)

    def checked_items(self) -> list[Item]:
        """
        `items`, or a sample of `max_rows` of them. They are read once.

        Raises:
            ValueError: There are no items, or two have the same key.
        """
        if self._checked is None:
            self._checked = self._check_items()
        return self._checked

    def _check_items(self) -> list[Item]:
        items = self.items()
        if not items:
            raise ValueError(f"{self.title}: {self.source} has no rows.")
        self.check_images_used((image for item in items for image in item.images), self.source)
        if len({item.key for item in items}) < len(items):
            twice = [key for key, number in Counter(item.key for item in items).items() if number > 1]
            raise ValueError(f"{self.title}: {self.source} has several rows of the keys {twice[:LISTED]}.")
        return [items[index] for index in sample_rows(len(items), self.max_rows)]

    def _refuse(self, rows: Sequence[Item], total: int, problem: str, images: Sequence[Any]) -> None:
        if not self.allow_missing:
            raise missing_images(self.title, len(rows), total, problem, images)


def encode_images(encoder: Encoder, items: Sequence[Item]) -> tuple[dict[ImageRef, torch.Tensor], dict[ImageRef, str]]:
    """The embedding of each image of the items, and for the other images the reason why they have none."""
    unique = images_of(items)
    embeddings, reasons = encoder.images(unique)
    found = {image: embeddings[index] for index, image in enumerate(unique) if index not in reasons}
    return found, {unique[index]: reason for index, reason in reasons.items()}


def encode_texts(encoder: Encoder, items: Sequence[Item]) -> dict[str, torch.Tensor]:
    """The embedding of each caption of the items."""
    unique = list(dict.fromkeys(caption for item in items for caption in item.captions))
    return dict(zip(unique, encoder.texts(unique), strict=True))

# SPDX-License-Identifier: Apache-2.0
"""Any triplet dataset as a benchmark: `Triplets`, and `evaluate_triplets` for a model and a dataset in memory."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from accelerate import PartialState
from datasets import Dataset

from hf_tripletclip.checkpoints.load import max_text_length
from hf_tripletclip.data.broken_rows import BrokenRows
from hf_tripletclip.data.decoding import BrokenValue, decode_caption, first_caption, is_several, known_reason, row_name
from hf_tripletclip.data.loading import check_columns, undecoded
from hf_tripletclip.data.schema import (
    CAPTION,
    CAPTION_COLUMNS,
    ERROR,
    HELD_OUT,
    IMAGE,
    IMAGE_COLUMNS,
    KEY_COLUMNS,
    NEG_CAPTION,
    NEG_IMAGE,
    NEGATIVE_TYPE,
)
from hf_tripletclip.data.tokenizer import tokenize_captions
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.images import ImageCell, ImageRef
from hf_tripletclip.evaluation.items import CATEGORY, Item, fingerprint, predict
from hf_tripletclip.evaluation.questions import ItemBenchmark, encode_images, encode_texts
from hf_tripletclip.evaluation.readers.tables import load_triplets
from hf_tripletclip.evaluation.triplets import (
    chance_of,
    comparisons_of,
    kinds_of,
    recalls,
    triplet_means,
)
from hf_tripletclip.results.result import EvaluationResult, Mean
from hf_tripletclip.results.scoring import TIE
from hf_tripletclip.utils.processes import in_all_processes

ROW = "row"  # the column of predictions: the row's index in the dataset
TEXT_COLUMNS = (CAPTION, NEG_CAPTION, NEGATIVE_TYPE, HELD_OUT, ERROR)

AROUND = 8  # tokens at most, such as the beginning and the end of the text


@dataclass(kw_only=True)
class Triplets(ItemBenchmark):
    r"""
    Any triplet dataset: the paper's evaluation on TripletData (Patel et al. 2024, arXiv 2411.02545), `scenes`, or one
    that `hf_tripletclip.generation` made.

    Metrics: those of [`~hf_tripletclip.evaluation.triplet_metrics`]: `accuracy`, `accuracy_<kind>`, `accuracy_macro`,
    `text_score`, `image_score`, `group_score` and these per kind, `tie_rate`, recall of the positive pairs; and
    `held_out_...` of the rows that the dataset calls held out. Without negative images there is `accuracy` only, and
    without negative captions `image_accuracy` only. If a row has several negative captions, the first counts.

    Args:
        data (`str` or `datasets.Dataset`, defaults to `scenes`): What
            [`~hf_tripletclip.data.load_tripletdata`] loads, or a dataset.
        split (`str`, *optional*): Defaults to `test`, or the only one.
        columns (`dict[str, str]` or `str`, *optional*): Our name -> the dataset's own, or the name of a preset.
        images (`str`, *optional*): Folder of the images that the rows name. Defaults to that of the rows' file.
        revision (`str`, *optional*): Branch, tag or commit of a Hub dataset.
        drawn_images (`bool`, defaults to `False`): The images are photographs and the negative ones were drawn by a
            model: also say how well a linear classifier tells them apart.
        broken_rows ([`BrokenRows`], *optional*): Where broken rows are reported. Defaults to a temporary file.
        protocol, allow_missing, max_rows: As in [`Benchmark`]. Rows with broken images or captions are refused unless
            `allow_missing`.
    """

    name: ClassVar[str] = "triplets"
    title: ClassVar[str] = "Triplets"
    reference: ClassVar[str] = "Patel et al. 2024, arXiv 2411.02545"
    primary: ClassVar[str] = "group_score"
    tradeoff: ClassVar[tuple[str, ...]] = ("group_score",)

    data: str | Dataset = "scenes"
    split: str | None = None
    columns: dict[str, str] | str | None = None
    images: str | None = None
    revision: str | None = None
    drawn_images: bool = False  # type: ignore[misc]
    broken_rows: BrokenRows = field(default_factory=BrokenRows, repr=False, compare=False)

    @property
    def source(self) -> str:
        if isinstance(self.data, str):
            return self.data
        return f"{self.data.info.dataset_name or 'a dataset'} ({self.data.split})"

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The rows, with undecoded images."""
        loaded: Any = self.data
        if isinstance(loaded, str):
            loaded = load_triplets(
                loaded, self.split, columns=self.columns, images=self.images, revision=self.revision
            )
        check_columns(loaded, (IMAGE, CAPTION))
        if len(loaded) == 0:
            raise ValueError("There is nothing to evaluate: the dataset is empty.")
        return undecoded(loaded.with_format(None))

    def items(self) -> list[Item]:
        """The rows whose captions can be used; others are reported to `broken_rows`."""
        dataset = self.dataset
        there = set(dataset.column_names)
        rows = dataset.select_columns([name for name in TEXT_COLUMNS if name in there])
        usable = [_usable_places(row.get(NEG_CAPTION)) for row in rows]
        pictures = [
            # A cell reads no more than its column.
            ImageCell.of_column(dataset.select_columns([name]), name, usable if name == NEG_IMAGE else None)
            for name in IMAGE_COLUMNS
            if name in there
        ]
        comparisons = comparisons_of(negative_image=NEG_IMAGE in there, negative_text=NEG_CAPTION in there)
        keys = _keys(dataset)
        found = []
        for number, (row, *images) in enumerate(zip(rows, *pictures, strict=True)):
            if NEG_IMAGE in there and usable[number] is not None and (place := images[-1].place) is not None:
                row = {**row, NEG_CAPTION: row[NEG_CAPTION][place]}  # the caption of that image
            if (captions := self._captions(number, row)) is not None:
                found.append(
                    Item(
                        key=keys[number],
                        images=tuple(images),
                        captions=captions,
                        comparisons=comparisons,
                        category=row.get(NEGATIVE_TYPE),
                        columns={ROW: number} | ({HELD_OUT: bool(row[HELD_OUT])} if HELD_OUT in row else {}),
                    )
                )
        if not found:
            self._check(0, len(dataset))
        self._passed_over = len(dataset) - len(found)
        return found

    def _captions(self, number: int, row: Mapping[str, Any]) -> tuple[str, ...] | None:
        found = []
        for name in CAPTION_COLUMNS:
            if name in row:
                try:
                    found.append(first_caption(row[name]))
                except BrokenValue as error:
                    self._report(number, name, str(error))
                    return None
        return tuple(found)

    def means(self, predictions: Mapping[str, list[Any]], outcomes: Sequence[str]) -> dict[str, Mean]:
        return triplet_means(outcomes, kinds_of(predictions[CATEGORY]), held_out=any(predictions.get(HELD_OUT, ())))

    def run(self, encoder: Encoder) -> EvaluationResult:
        items = in_all_processes(self.checked_items)
        tried = len(self.dataset) if self.max_rows is None else len(items) + self._passed_over
        self._check(len(items), tried)
        images, reasons = encode_images(encoder, items)
        items = self._whole(items, reasons)
        self._check(len(items), tried)
        texts = encode_texts(encoder, items)
        self._report_cut(encoder, items)
        predictions = predict(items, images, texts)
        if not (outcomes := list(items[0].comparisons)):
            del predictions[TIE]  # nothing was compared
        means = self.means(predictions, outcomes)
        found = recalls(
            torch.stack([images[item.images[0]] for item in items]),
            torch.stack([texts[item.captions[0]] for item in items]),
            [item.images[0] for item in items],
            [item.captions[0] for item in items],
        )
        result = self.make_result(
            encoder,
            predictions=predictions,
            means=means,
            chance={**chance_of(means, len(items)), **found.chance},
            counts=self._counts(predictions, tried),
            source=self.source,
            fingerprint=fingerprint(items),
            baselines=self.baselines(items, images, texts, predictions, means),
            metrics=found.metrics,
        )
        names = sorted(result.metrics, key=lambda name: name.startswith(HELD_OUT))  # the whole first
        result.metrics = {name: result.metrics[name] for name in names}
        result.primary = next((name for name in (self.primary, *outcomes) if name in result.metrics), names[0])
        return result

    def _counts(self, predictions: Mapping[str, list[Any]], tried: int) -> dict[str, int]:
        rows = len(predictions[ROW])
        counts = {"rows": rows, "broken": tried - rows}
        if held_out := sum(predictions.get(HELD_OUT, ())):
            counts[HELD_OUT] = held_out
        kinds = Counter(predictions[CATEGORY])
        return counts | {kind: kinds[kind] for kind in kinds_of(predictions[CATEGORY])}

    # ---- Broken rows ----

    def _whole(self, items: Sequence[Item], reasons: Mapping[ImageRef, str]) -> list[Item]:
        """The items whose images can be read; others are reported."""
        whole = []
        for item in items:
            broken = [
                (name, image) for name, image in zip(IMAGE_COLUMNS, item.images, strict=False) if image in reasons
            ]
            if broken:
                self._report(item.columns[ROW], broken[0][0], reasons[broken[0][1]])
            else:
                whole.append(item)
        return whole

    def _report(self, number: int, column: str | None, reason: str, *, skipped: bool = True) -> None:
        if PartialState().is_main_process:  # all processes see all rows
            row = self.dataset[number]
            reason, column = known_reason(row, column or "") or (reason, column)
            key, digest = row_name(row)
            self.broken_rows.add(key, reason, column, digest=digest, skipped=skipped)

    def _report_cut(self, encoder: Encoder, items: Sequence[Item]) -> None:
        """Report the captions that the text tower sees the beginning of."""
        limit = max_text_length(encoder.model, encoder.processor)
        every = dict.fromkeys(caption for item in items for caption in item.captions)
        # A token has at least one byte, apart from those that a tokenizer puts around the caption.
        if not (captions := [caption for caption in every if len(caption.encode()) + AROUND > limit]):
            return
        tokens = tokenize_captions(encoder.processor.tokenizer, captions)["input_ids"]
        lengths = {caption: len(ids) for caption, ids in zip(captions, tokens, strict=True)}
        for item in items:
            for name, caption in zip(CAPTION_COLUMNS, item.captions, strict=False):
                if lengths.get(caption, 0) > limit:
                    reason = f"caption cut: {lengths[caption]} tokens, the limit is {limit}"
                    self._report(item.columns[ROW], name, reason, skipped=False)

    def _check(self, left: int, tried: int) -> None:
        if left == tried or (left and self.allow_missing):
            return
        head = (
            f"{tried - left} of the {tried} rows cannot be used" if left else f"None of the {tried} rows can be used"
        )
        hint = (
            ""
            if self.allow_missing
            else (". Leave them out with --allow-missing (allow_missing=True); the result then has their number")
        )
        raise ValueError(f"{head}: {self.broken_rows.counts()}. They are listed in {self.broken_rows.path}{hint}")


def _usable_places(captions: Any) -> list[int] | None:
    """The places of the captions that can be used, if there are several."""
    if not is_several(captions):
        return None
    found = []
    for place, caption in enumerate(captions):
        with contextlib.suppress(BrokenValue):
            decode_caption(caption)
            found.append(place)
    return found


def _keys(dataset: Dataset) -> list[str]:
    """The names of rows: the first key column without repetitions, or the rows' numbers."""
    for name in KEY_COLUMNS:
        if name in dataset.column_names:
            keys = [str(value) for value in dataset[name]]
            if len(set(keys)) == len(keys):
                return keys
    return [str(number) for number in range(len(dataset))]


def evaluate_triplets(
    model: Any,
    processor: Any,
    dataset: Any,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    num_workers: int = 0,
    progress: bool = True,
    broken_rows: BrokenRows | None = None,
) -> EvaluationResult:
    """
    Evaluate a CLIP-like model on a triplet dataset; rows that are broken are left out. In a distributed job all
    processes must call it; they share the work, and each returns the whole result.

    Args:
        model ([`~transformers.CLIPModel`] or ours): It is used in evaluation mode; afterwards it is in
            the mode that it was in before.
        processor ([`~transformers.CLIPProcessor`]): Its processor.
        dataset (`datasets.Dataset`): `image`, `caption` and one or both of `neg_image`, `neg_caption`; with
            `negative_type` there are metrics per kind, with `held_out` also `held_out_...` of those rows alone.
        batch_size (`int`, defaults to 64): Images or captions at a time.
        device (`torch.device` or `str`, *optional*): The device to evaluate on. Defaults to the model's.
        num_workers (`int`, defaults to 0): Processes that decode and preprocess.
        progress (`bool`, defaults to `True`): Whether to show progress bars.
        broken_rows ([`BrokenRows`], *optional*): The report of broken rows. Defaults to a temporary file.

    Returns:
        [`EvaluationResult`] with the metrics of [`~hf_tripletclip.evaluation.triplet_metrics`] and, per usable row,
        `row` (its index in the dataset), `key`, `category` (its `negative_type`), `held_out` if the dataset has
        it, the scores that are compared (`score_i0c0`, `score_i0c1`, ... with i1 the negative image and c1 the
        negative caption) and the outcomes. `counts["broken"]` is the number of rows left out.

    Raises:
        ValueError: A column is missing, the dataset is empty or has no usable row, or the model has diverged.
    """
    encoder = Encoder(
        model, processor, batch_size=batch_size, device=device, num_workers=num_workers, progress=progress
    )
    benchmark = Triplets(data=dataset, allow_missing=True, broken_rows=broken_rows or BrokenRows())
    return benchmark.run(encoder)

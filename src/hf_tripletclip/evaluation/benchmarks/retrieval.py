# SPDX-License-Identifier: Apache-2.0
"""Retrieval: find the captions of an image among all captions, and the image of a caption among all images."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

import torch

from hf_tripletclip.evaluation.benchmark import Benchmark, Family
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.images import LISTED, ImageRef
from hf_tripletclip.evaluation.items import KEY
from hf_tripletclip.evaluation.readers.retrieval_sets import Captioned, read_captioned
from hf_tripletclip.evaluation.recall import rank, recall_by_chance, topk_hits
from hf_tripletclip.results.result import EvaluationResult, Mean
from hf_tripletclip.results.scoring import CLUSTER, TIE, sample_rows
from hf_tripletclip.utils.processes import in_all_processes

RECALL_AT = (1, 5, 10)
IMAGE_TO_TEXT, TEXT_TO_IMAGE = "image_to_text", "text_to_image"
DIRECTION = "direction"
FIVE: Final = 5
OFFICIAL_OR_FIVE: Final = "default"
MEAN_RECALL = "mean_recall"

Targets = list[list[int]]


@dataclass(kw_only=True)
class Retrieval(Benchmark):
    r"""
    Image-text retrieval, in the splits of Karpathy and Fei-Fei (2015, arXiv 1412.2306): COCO (5,000 images of five
    captions), Flickr30k (1,000), or any set of images and captions.

    Metrics: `image_to_text_recall@1`, `@5`, `@10`: the share of images of which a caption is among the k best of all
    captions (others call it text retrieval); `text_to_image_recall@1`, `@5`, `@10`: the share of captions whose image
    is among the k best of all images (image retrieval); `mean_recall`, the mean of the six. Scores are exact, in
    chunks, without the whole matrix. A caption is right for an image if the data has it, word for word, for that
    image; so of two images with one caption both are right for it.

    Args:
        data (`str`): One of
            - Karpathy's `dataset_coco.json`, `dataset_flickr30k.json` or `dataset_flickr8k.json`;
            - COCO's `captions_val2017.json`, which has no splits;
            - a set in CLIP_benchmark's layout: a folder, or `clip-benchmark/wds_mscoco_captions`,
              `clip-benchmark/wds_flickr30k`, `clip-benchmark/wds_flickr8k` on the Hub;
            - a folder, a file or a Hub id that `datasets` opens: a table with an image and its captions, a list or one
              a row.
        images (`str`, *optional*): Folder of the images of a JSON file. Defaults to the file's folder, or one in it.
        split (`str`, defaults to `"test"`): The split.
        captions_per_image (`int`, *optional*): Only so many, the first ones, of each image; `None` for all. Defaults
            to 5, and with `protocol="official"` to all, as CLIP_benchmark takes them: 25,010 instead of 25,000 for
            COCO's 5,000 images.
        image_column, caption_column (`str`, *optional*): The columns of a table. By default the only one of images,
            and `caption`, `captions`, `txt`, `text` or `sentences`.
        config, revision (`str`, *optional*): Of a Hub dataset.
        protocol, allow_missing: As in [`Benchmark`].
        max_rows (`int`, *optional*): Only so many images, with their captions. Fewer candidates make it easier.
    """

    name: ClassVar[str] = "retrieval"
    title: ClassVar[str] = "Retrieval"
    reference: ClassVar[str] = "Karpathy and Fei-Fei 2015, arXiv 1412.2306"
    primary: ClassVar[str] = MEAN_RECALL
    task: ClassVar[str] = "image-text-retrieval"
    family: ClassVar[Family] = "retention"
    tradeoff: ClassVar[tuple[str, ...]] = (f"{IMAGE_TO_TEXT}_recall@5", f"{TEXT_TO_IMAGE}_recall@5")
    official_difference: ClassVar[str] = (
        "as CLIP_benchmark: float32 scores, of equal ones torch.topk takes some, equal captions of two images are "
        "different captions, and all captions of an image count"
    )

    data: str
    images: str | None = None
    split: str = "test"
    captions_per_image: int | Literal["default"] | None = OFFICIAL_OR_FIVE
    image_column: str | None = None
    caption_column: str | None = None
    config: str | None = None
    revision: str | None = None

    _rows: list[Captioned] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.captions_per_image, int) and self.captions_per_image < 1:
            raise ValueError(f"retrieval: `captions_per_image` is {self.captions_per_image}; give at least 1.")

    def rows(self) -> list[Captioned]:
        """
        All images and their captions. They are read once.

        Raises:
            OSError: The data does not exist.
            ValueError: The data does not have the expected form.
        """
        if self._rows is None:
            self._rows = self._read_rows()
        return self._rows

    def _read_rows(self) -> list[Captioned]:
        rows = read_captioned(
            self.data,
            self.images,
            self.split,
            image_column=self.image_column,
            caption_column=self.caption_column,
            config=self.config,
            revision=self.revision,
        )
        self.check_images_used((row.image for row in rows), self.data)
        rows = [rows[index] for index in sample_rows(len(rows), self.max_rows)]
        if twice := [key for key, number in Counter(row.key for row in rows).items() if number > 1]:
            raise ValueError(f"Retrieval: {self.data} has several images of the names {twice[:LISTED]}.")
        if not any(row.captions for row in rows):
            raise ValueError(f"Retrieval: {self.data} has no captions.")
        return [row._replace(captions=row.captions[: self.kept_captions]) for row in rows]

    @property
    def kept_captions(self) -> int | None:
        """The number of captions of each image that count; `None` for all."""
        if self.captions_per_image == OFFICIAL_OR_FIVE:
            return None if self.protocol == "official" else FIVE
        assert not isinstance(self.captions_per_image, str)
        return self.captions_per_image

    def contents(self) -> Iterable[tuple[str, Sequence[ImageRef], Sequence[str]]]:
        return [(row.key, (row.image,), row.captions) for row in self.rows()]

    def run(self, encoder: Encoder) -> EvaluationResult:
        rows = in_all_processes(self.rows)
        kept, images, counts = self.encode_rows(encoder, [row.image for row in rows], self.data)
        rows = [rows[index] for index in kept]
        captions = [caption for row in rows for caption in row.captions]
        owners = [index for index, row in enumerate(rows) for _ in row.captions]
        if not captions:
            raise ValueError(f"Retrieval: no caption is left to evaluate in {self.data}.")
        unique = list(dict.fromkeys(captions))
        texts = dict(zip(unique, encoder.texts(unique), strict=True))
        image_rows = torch.stack([images[row.image] for row in rows])
        text_rows = torch.stack([texts[caption] for caption in captions])
        if self.protocol == "official":
            to_text, to_image = own_pairs(owners, len(rows))
        else:
            to_text, to_image = true_pairs(rows, captions)
        asked = [index for index, targets in enumerate(to_text) if targets]  # the others are only candidates
        to_text = [to_text[index] for index in asked]
        clusters = _clusters(rows)
        numbers = [number for row in rows for number in range(len(row.captions))]
        predictions = _joined(
            self._predict(IMAGE_TO_TEXT, image_rows[asked], text_rows, to_text, captions)
            | {KEY: [f"{IMAGE_TO_TEXT}/{rows[index].key}" for index in asked]}
            | {CLUSTER: [clusters[index] for index in asked]},
            self._predict(TEXT_TO_IMAGE, text_rows, image_rows, to_image, [row.key for row in rows])
            | {KEY: [f"{TEXT_TO_IMAGE}/{rows[i].key}/{n}" for i, n in zip(owners, numbers, strict=True)]}
            | {CLUSTER: [clusters[index] for index in owners]},
        )
        chance = _chance(IMAGE_TO_TEXT, to_text, len(captions)) | _chance(TEXT_TO_IMAGE, to_image, len(rows))
        return self.make_result(
            encoder,
            predictions=predictions,
            means=MEANS,
            chance={**chance, MEAN_RECALL: sum(chance.values()) / len(chance)},
            counts={
                "rows": len(predictions[KEY]),
                "images": len(rows),
                "captions": len(captions),
                "unique_images": len(images),
                "unique_captions": len(unique),
                **counts,
            },
            source=self.data,
            fingerprint=_fingerprint(rows),
        )

    def _predict(
        self, direction: str, queries: torch.Tensor, candidates: torch.Tensor, targets: Targets, names: Sequence[str]
    ) -> dict[str, list[Any]]:
        """The columns of one direction. `rival` is the name of the wrong candidate with the highest score."""
        found = rank(queries, candidates, targets)
        if self.protocol == "official":
            hits = topk_hits(queries, candidates, targets, RECALL_AT)
        else:
            hits = {k: found.rank < k for k in RECALL_AT}
        mean = torch.stack([hits[k].double() for k in RECALL_AT]).mean(dim=0)
        return {
            DIRECTION: [direction] * len(queries),
            "rank": found.rank.tolist(),
            "rival": [names[index] if index >= 0 else None for index in found.rival.tolist()],
            **{f"recall@{k}": hits[k].tolist() for k in RECALL_AT},
            MEAN_RECALL: mean.tolist(),
            TIE: found.tied.tolist(),
        }


MEANS = {
    f"{direction}_recall@{k}": Mean(f"recall@{k}", where={DIRECTION: direction})
    for direction in (IMAGE_TO_TEXT, TEXT_TO_IMAGE)
    for k in RECALL_AT
} | {MEAN_RECALL: Mean(MEAN_RECALL, by=DIRECTION)}


def own_pairs(owners: Sequence[int], images: int) -> tuple[Targets, Targets]:
    """The places of each image's own captions, and of each caption's own image."""
    to_text: Targets = [[] for _ in range(images)]
    for caption, image in enumerate(owners):
        to_text[image].append(caption)
    return to_text, [[image] for image in owners]


def true_pairs(rows: Sequence[Captioned], captions: Sequence[str]) -> tuple[Targets, Targets]:
    """
    For each image, the places of all captions that the data has, word for word, for it or an equal image; for each
    caption, the places of all images that the data has for these words.
    """
    words: dict[Any, set[str]] = {}
    pictures: dict[str, set[Any]] = {}
    for row in rows:
        words.setdefault(row.image, set()).update(row.captions)
        for caption in row.captions:
            pictures.setdefault(caption, set()).add(row.image)
    of_words: dict[str, list[int]] = {}
    for index, caption in enumerate(captions):
        of_words.setdefault(caption, []).append(index)
    of_picture: dict[Any, list[int]] = {}
    for index, row in enumerate(rows):
        of_picture.setdefault(row.image, []).append(index)
    to_text = [sorted(place for caption in words[row.image] for place in of_words[caption]) for row in rows]
    to_image = [
        sorted(place for picture in pictures[caption] for place in of_picture[picture]) for caption in captions
    ]
    return to_text, to_image


def _chance(direction: str, targets: Targets, candidates: int) -> dict[str, float]:
    right = Counter(map(len, targets))
    return {
        f"{direction}_recall@{k}": sum(
            number * recall_by_chance(many, candidates, k) for many, number in right.items()
        )
        / len(targets)
        for k in RECALL_AT
    }


def _clusters(rows: Sequence[Captioned]) -> list[int]:
    known: dict[Any, int] = {}
    return [known.setdefault(row.image, len(known)) for row in rows]


def _joined(first: dict[str, list[Any]], second: dict[str, list[Any]]) -> dict[str, list[Any]]:
    names = [KEY, *(name for name in first if name != KEY)]
    return {name: [*first[name], *second[name]] for name in names}


def _fingerprint(rows: Sequence[Captioned]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        line = json.dumps([row.key, row.image.identity, row.captions])
        digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:16]

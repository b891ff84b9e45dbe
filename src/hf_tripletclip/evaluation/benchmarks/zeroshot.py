# SPDX-License-Identifier: Apache-2.0
"""Zero-shot classification: find the class of an image by the prompts of all classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch

from hf_tripletclip.evaluation.benchmark import Benchmark, Family
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.images import ImageRef
from hf_tripletclip.evaluation.items import KEY
from hf_tripletclip.evaluation.readers.class_sets import LabelledSet, read_labelled
from hf_tripletclip.evaluation.readers.clip_benchmark import COLLECTIONS, VTAB18, locate, short_name
from hf_tripletclip.evaluation.readers.prompts import (
    IMAGENET,
    imagenet_classes,
    openai_templates,
    prompt,
    read_templates,
)
from hf_tripletclip.evaluation.recall import first_hits, rank, recall_by_chance, topk_hits
from hf_tripletclip.results.result import EvaluationResult, Mean
from hf_tripletclip.results.scoring import CLUSTER, TIE, sample_rows
from hf_tripletclip.utils.processes import in_all_processes

SET, CLASS, LABEL = "set", "class", "label"
TOP1, TOP5, PER_CLASS = "top1", "top5", "mean_per_class"
BEST = "best"  # the column of predictions that the mean per class is of
METRICS = (TOP1, TOP5, PER_CLASS)


@dataclass(kw_only=True)
class ZeroShot(Benchmark):
    r"""
    Zero-shot classification (Radford et al. 2021, arXiv 2103.00020): the class whose prompts, averaged, are nearest to
    the image.

    Metrics: `top1` and `top5` (over the images; no `top5` of fewer than six classes), `mean_per_class` (top-1 of each
    class, averaged over the classes). Of several sets: these of each, as `<set>_top1` and so on, and the means over
    the sets as `top1`, `top5` (over those sets that have one) and `mean_per_class`; of the 18 sets also as
    `vtab_top1`, `vtab_top5` and `vtab_mean_per_class`. Classes of the same name do not compete: ImageNet has two
    names twice.

    Args:
        data (`str`, *optional*): One of
            - a set in CLIP_benchmark's layout: a folder, or the id of one of `clip-benchmark/wds_*` on the Hub;
            - a folder of images with a subfolder for each class, or with such a folder for the split. Class names are
              the lines of `classnames.txt` in it, in the order of the subfolders' names, or these names; of ImageNet's
              subfolders (`n01440764`), the class names of OpenAI;
            - a folder, a file or a Hub id that `datasets` opens: a table of images and `ClassLabel`s, such as
              `ILSVRC/imagenet-1k`, which gets the class names of OpenAI.
            With `datasets`: a folder in which these sets lie, as `wds_vtab-dtd`.
        datasets (`list[str]`, *optional*): Several sets: paths, Hub ids, CLIP_benchmark's names (`imagenet1k`,
            `vtab/dtd`), taken from the folder `data` or else from `clip-benchmark/wds_*` on the Hub; `vtab18` for the
            18 sets `VTAB18`.
        images (`str`, *optional*): Folder of the images that a table names. Defaults to the table's folder.
        split (`str`, defaults to `"test"`): The split. ImageNet's is `validation` or `val` elsewhere than in
            CLIP_benchmark's layout.
        classnames (`str` or `list[str]`, *optional*): The class names in the order of the labels, a file of one a
            line, or `imagenet1k`. Defaults to the set's own.
        templates (`str` or `list[str]`, *optional*): Prompts with `{c}` for the class name, a file of one a line, or
            `openai` for the 80 that OpenAI made for ImageNet. Defaults to the set's own, or to `openai` if it has
            none, as in CLIP_benchmark.
        image_column, label_column (`str`, *optional*): The columns of a table. By default the only ones of images and
            of `ClassLabel`, or `image` and `label`, `labels`, `cls` or `fine_label`.
        config, revision (`str`, *optional*): Of a Hub dataset.
        protocol, allow_missing: As in [`Benchmark`].
        max_rows (`int`, *optional*): Only so many images of each set.
    """

    name: ClassVar[str] = "zeroshot"
    title: ClassVar[str] = "Zero-shot classification"
    reference: ClassVar[str] = "Radford et al. 2021, arXiv 2103.00020"
    primary: ClassVar[str] = TOP1
    family: ClassVar[Family] = "retention"
    tradeoff: ClassVar[tuple[str, ...]] = (TOP1,)
    official_difference: ClassVar[str] = (
        "as CLIP_benchmark: float32 scores, of equal ones torch.topk takes some and, for the mean per class, argmax "
        "the first, classes of the same name compete, and five classes have a top5"
    )

    data: str | None = None
    datasets: list[str] | None = None
    images: str | None = None
    split: str = "test"
    classnames: str | list[str] | None = None
    templates: str | list[str] | None = None
    image_column: str | None = None
    label_column: str | None = None
    config: str | None = None
    revision: str | None = None

    _read: dict[str, LabelledSet] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data and not self.datasets:
            raise ValueError(
                "zeroshot: give `data`, a set (--data zeroshot=PATH_OR_HUB_ID), or `datasets`, a list of sets such as "
                "vtab18."
            )
        if self.datasets and self.classnames is not None:
            raise ValueError("zeroshot: `classnames` are those of one set; with `datasets` each has its own.")

    def sources(self) -> dict[str, str]:
        """
        The name of a set in metrics -> its place.

        Raises:
            ValueError: Two sets would have the same name.
        """
        if not self.datasets:
            return {short_name(str(self.data)): str(self.data)}
        names = [name for given in self.datasets for name in COLLECTIONS.get(given, (given,))]
        found: dict[str, str] = {}
        for name in names:
            if (short := short_name(name)) in found:
                raise ValueError(f"zeroshot: two of the sets would be called {short!r}: {found[short]} and {name}")
            found[short] = locate(name, self.data)
        return found

    def read(self, source: str) -> LabelledSet:
        """
        The images of a set, or a sample of `max_rows` of them. They are read once.

        Raises:
            OSError: The data does not exist.
            ValueError: The data does not have the expected form.
        """
        if source in self._read:
            return self._read[source]
        found = read_labelled(
            source,
            self.split,
            classnames=self.classnames,
            image_column=self.image_column,
            label_column=self.label_column,
            config=self.config,
            revision=self.revision,
            images=self.images,
        )
        self.check_images_used(() if source == "scenes" else found.images, source)
        self._read[source] = found.select(sample_rows(len(found.images), self.max_rows))
        return self._read[source]

    def contents(self) -> Iterable[tuple[str, Sequence[ImageRef], Sequence[str]]]:
        """The keys and images; the class of an image is not a caption, so there are no captions."""
        for name, source in self.sources().items():
            found = self.read(source)
            for key, image in zip(found.keys, found.images, strict=True):
                yield f"{name}/{key}", (image,), ()

    def details(self) -> Iterable[Any]:
        templates = None if self.templates is None else read_templates(self.templates)
        for source in self.sources().values():
            found = self.read(source)
            yield [found.classnames, templates or found.templates or openai_templates(), found.labels]

    def run(self, encoder: Encoder) -> EvaluationResult:
        sources = self.sources()
        templates = None if self.templates is None else read_templates(self.templates)
        several = len(sources) > 1
        parts, digest = [], hashlib.sha256()
        # All sets are read before the first is encoded, so that a missing one does not waste the work on the others.
        read = in_all_processes(lambda: {name: self.read(source) for name, source in sources.items()})
        for name, source in sources.items():
            found = read[name]
            used = templates or found.templates or openai_templates()
            digest.update(_fingerprint(found, used).encode())
            parts.append(self._evaluate(encoder, found, used, source, name, alone=not several))
        predictions, counts = _joined(parts)
        means = {metric: mean for part in parts for metric, mean in part.means.items()}
        chance = {metric: guess for part in parts for metric, guess in part.chance.items()}
        if several:
            counts |= {part.name: len(part.columns[KEY]) for part in parts}
            over = {outcome: Mean(outcome, by=SET) for outcome in (TOP1, TOP5)}
            over[PER_CLASS] = Mean(BEST, by=LABEL, over=SET)
            means |= over
            chance |= _over_sets(chance)
            if set(sources) == set(map(short_name, VTAB18)):
                means |= {f"vtab_{metric}": mean for metric, mean in over.items()}
        return self.make_result(
            encoder,
            predictions=predictions,
            means=means,
            chance=chance,
            counts=counts,
            source=", ".join(sources.values()),
            fingerprint=digest.hexdigest()[:16],
        )

    @classmethod
    def tradeoff_part(cls, result: EvaluationResult) -> EvaluationResult:
        """ImageNet, if it is one of several sets, because published figures are on ImageNet."""
        names = {metric: f"{IMAGENET}_{metric}" for metric in (TOP1, TOP5)}
        metrics = {metric: value for metric, name in names.items() if (value := result.metrics.get(name))}
        if not metrics:
            return result
        counts = {"rows": result.counts.get(IMAGENET, 0), "classes": len(imagenet_classes())}
        return replace(result, metrics=metrics, counts=counts, data={"source": IMAGENET})

    def _evaluate(
        self, encoder: Encoder, found: LabelledSet, templates: Sequence[str], source: str, name: str, *, alone: bool
    ) -> _Part:
        rows, images, counts = self.encode_rows(encoder, found.images, source)
        found = found.select(rows)
        classes = class_embeddings(encoder, found.classnames, templates)
        queries = torch.stack([images[image] for image in found.images])
        number = len(found.classnames)
        official = self.protocol == "official"
        targets = [[label] for label in found.labels] if official else same_names(found)
        ranking = rank(queries, classes, targets)
        hits = topk_hits(queries, classes, targets, (1, 5)) if official else {k: ranking.rank < k for k in (1, 5)}
        has_top5 = number >= (5 if official else 6)
        known: dict[Any, int] = {}
        columns: dict[str, list[Any]] = {
            KEY: found.keys if alone else [f"{name}/{key}" for key in found.keys],
            CLUSTER: [known.setdefault(image, len(known)) for image in found.images],
            SET: [name] * len(rows),
            LABEL: found.labels,
            CLASS: [found.classnames[label] for label in found.labels],
            "rank": ranking.rank.tolist(),
            "rival": [found.classnames[label] if label >= 0 else None for label in ranking.rival.tolist()],
            TOP1: hits[1].tolist(),
            TOP5: hits[5].tolist() if has_top5 else [None] * len(rows),
            BEST: first_hits(queries, classes, targets).tolist() if official else hits[1].tolist(),
            TIE: ranking.tied.tolist(),
        }
        right = [len(labels) for labels in targets]
        of_class = dict(zip(found.labels, right, strict=True))
        chance = {TOP1: _mean(right) / number, PER_CLASS: _mean(list(of_class.values())) / number}
        means = {TOP1: Mean(TOP1, where={SET: name}), PER_CLASS: Mean(BEST, by=LABEL, where={SET: name})}
        if has_top5:
            chance[TOP5] = _mean([recall_by_chance(few, number, 5) for few in right])
            means[TOP5] = Mean(TOP5, where={SET: name})
        prefix = "" if alone else f"{name}_"
        return _Part(
            name=name,
            columns=columns,
            means={f"{prefix}{metric}": means[metric] for metric in METRICS if metric in means},
            chance={f"{prefix}{metric}": guess for metric, guess in chance.items()},
            counts={"rows": len(rows), "images": len(images), "classes": number, **counts},
        )


class _Part(NamedTuple):
    """The outcome on one set."""

    name: str
    columns: dict[str, list[Any]]
    means: dict[str, Mean]
    chance: dict[str, float]
    counts: dict[str, int]


def _joined(parts: Sequence[_Part]) -> tuple[dict[str, list[Any]], dict[str, int]]:
    """The predictions of all sets, with different clusters in each, and the sums of the counts."""
    columns: dict[str, list[Any]] = {column: [] for column in parts[0].columns}
    counts: dict[str, int] = {}
    for part in parts:
        before = counts.get("images", 0)
        for column, values in part.columns.items():
            columns[column] += [value + before for value in values] if column == CLUSTER else values
        for name, number in part.counts.items():
            counts[name] = counts.get(name, 0) + number
    return columns, counts


def class_embeddings(encoder: Encoder, names: Sequence[str], templates: Sequence[str]) -> torch.Tensor:
    """
    The embedding of each class: the mean of the L2-normalised embeddings of its prompts, normalised again (Radford et
    al. 2021, arXiv 2103.00020). Each prompt is encoded once.

    Returns:
        `torch.Tensor` of shape `(classes, dim)`, float32.
    """
    prompts = [[prompt(template, name) for template in templates] for name in names]
    unique = list(dict.fromkeys(text for texts in prompts for text in texts))
    places = {text: place for place, text in enumerate(unique)}
    embeddings = encoder.texts(unique)
    means = torch.stack([embeddings[[places[text] for text in texts]].double().mean(dim=0) for texts in prompts])
    return torch.nn.functional.normalize(means, dim=-1).float()


def same_names(found: LabelledSet) -> list[list[int]]:
    """For each image, the labels of all classes with the name of its own class."""
    alike: dict[str, list[int]] = {}
    for label, name in enumerate(found.classnames):
        alike.setdefault(name, []).append(label)
    return [alike[found.classnames[label]] for label in found.labels]


def _over_sets(values: Mapping[str, float]) -> dict[str, float]:
    """The mean over the sets of each metric."""
    found = {}
    for metric in METRICS:
        if of_sets := [value for name, value in values.items() if name.endswith(f"_{metric}")]:
            found[metric] = sum(of_sets) / len(of_sets)
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _fingerprint(found: LabelledSet, templates: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps([found.classnames, list(templates)]).encode("utf-8", "surrogatepass"))
    for key, image, label in zip(found.keys, found.images, found.labels, strict=True):
        digest.update(f"{key}:{image.identity}:{label}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()

# SPDX-License-Identifier: Apache-2.0
"""Real or drawn: how well a linear classifier tells drawn images from photographs by their embeddings.

Where negative images come from a generator, a model may learn to see that an image was drawn instead of what it shows.
Near the chance of 0.5 the embeddings hide it; near 1 a high score on such pairs need not be understanding.

The classifier is a logistic regression on standardised L2-normalised embeddings, with scikit-learn's default penalty
(C = 1) and both classes weighing the same. It is tried on images that it was not fitted on: rows that share an image
are in one fold, so that no image is in two. Its accuracy is the mean of those of the two classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_tripletclip.evaluation.readers.images import ImageCell, ImageRef
from hf_tripletclip.results.result import Mean
from hf_tripletclip.results.statistics import CLUSTER, intervals, tally

if TYPE_CHECKING:
    from hf_tripletclip.evaluation.encoder import Encoder

BASELINE = "real or drawn"
CHANCE = 0.5
FOLDS = 5
# Of the bootstrap's interval. It takes tries as independent, but each of two images in different folds is tried by a
# classifier that was fitted on the other: what makes one of them right makes the other right too. At most that doubles
# the variance (of a sum over all pairs each counts twice); unstretched, intervals held the truth in 90 % of
# simulations without any difference instead of 95 %, with this in 97 %.
STRETCH = 2**0.5
STEPS = 100  # of the optimiser at most
DRAWN = "drawn"  # column: the class
RIGHT = "right"  # column: whether the classifier says so


@dataclass(frozen=True)
class RealOrDrawn:
    """
    What the classifier found.

    Args:
        accuracy (`float`): Mean of the accuracies on real and on drawn images, 0 to 1. Chance is 0.5.
        interval (`tuple[float, float]`): Its 95 % interval: that of the bootstrap, made wider by `STRETCH`, because
            the tries of a cross-validation are not independent.
        real, drawn (`int`): Images of each class.
        both (`int`): Images that are real in one row and drawn in another, and were left out.
        broken (`int`): Images that could not be read.
    """

    accuracy: float
    interval: tuple[float, float]
    real: int
    drawn: int
    both: int = 0
    broken: int = 0


def real_or_drawn(encoder: Encoder, dataset: Any, *, real: str = "image", drawn: str = "neg_image") -> RealOrDrawn:
    """
    Whether the drawn images of a training set give themselves away to a model.

    Args:
        encoder ([`Encoder`]): The model.
        dataset (`datasets.Dataset`): With an image and a drawn one in each row.
        real, drawn (`str`, defaults to `image` and `neg_image`): Their columns.

    Raises:
        ValueError: A column is missing, or there are too few images that are not linked by rows.
    """
    from hf_tripletclip.data.loading import check_columns, undecoded

    check_columns(dataset, (real, drawn))
    dataset = undecoded(dataset, (real, drawn))
    rows = list(
        zip(ImageCell.of_column(dataset, real), ImageCell.of_column(dataset, drawn), strict=True),
    )
    unique = list(dict.fromkeys(image for row in rows for image in row))
    embeddings, reasons = encoder.images(unique)
    found: dict[ImageRef, torch.Tensor] = {
        image: embeddings[index] for index, image in enumerate(unique) if index not in reasons
    }
    return probe(rows, found, broken=len(reasons))


def probe_baseline(
    rows: Sequence[Sequence[ImageRef]], embeddings: Mapping[ImageRef, torch.Tensor]
) -> dict[str, dict[str, float]]:
    """The probe as a baseline of a result: its accuracy and the ends of its interval; none of too few images."""
    try:
        found = probe(rows, embeddings)
    except TooFewImages:
        return {}
    low, high = found.interval
    return {BASELINE: {"accuracy": found.accuracy, "accuracy_low": low, "accuracy_high": high}}


class TooFewImages(ValueError):
    """There are too few images to try the classifier on others than those that it was fitted on."""


def probe(
    rows: Sequence[Sequence[ImageRef]], embeddings: Mapping[ImageRef, torch.Tensor], *, broken: int = 0, seed: int = 0
) -> RealOrDrawn:
    """
    Cross-validate the classifier.

    Args:
        rows (`Sequence[Sequence[ImageRef]]`): The real and the drawn image of each row.
        embeddings (`Mapping[ImageRef, torch.Tensor]`): The L2-normalised embedding, of shape `(dim,)`, of each image;
            an image without one is left out.
        broken (`int`, defaults to 0): For the result.
        seed (`int`, defaults to 0): Of the folds.

    Raises:
        TooFewImages: Fewer than two of either class, or rows link all of them.
    """
    pictured = dict.fromkeys(row[0] for row in rows if row[0] in embeddings)
    drawn = dict.fromkeys(row[1] for row in rows if row[1] in embeddings)
    both = pictured.keys() & drawn.keys()
    images = [image for image in (*pictured, *drawn) if image not in both]
    labels = np.array([image not in pictured for image in images], dtype=bool)
    cluster = _linked(rows)
    clusters = np.array([cluster[image] for image in images], dtype=np.int64)
    folds = _folds(clusters, seed)
    if any(len(set(labels[folds != fold])) < 2 for fold in range(FOLDS)):
        raise TooFewImages(
            f"Too few images to tell real from drawn ones by: {int((~labels).sum())} real and {int(labels.sum())} "
            f"drawn ones in {len(set(clusters))} groups that share none."
        )
    features = torch.stack([embeddings[image] for image in images]).double()
    right = np.zeros(len(images), dtype=bool)
    for fold in sorted(set(folds)):
        tried = folds == fold
        guesses = _fit(features[~tried], torch.from_numpy(labels[~tried]))(features[tried])
        right[tried] = guesses.numpy() == labels[tried]
    columns = {RIGHT: right.tolist(), DRAWN: labels.tolist(), CLUSTER: clusters.tolist()}
    mean = Mean(RIGHT, by=DRAWN)
    accuracy = tally(columns, mean)
    low, high = (accuracy + STRETCH * (edge - accuracy) for edge in intervals(columns, {RIGHT: mean})[RIGHT])
    return RealOrDrawn(
        accuracy=accuracy,
        interval=(max(0.0, low), min(1.0, high)),
        real=int((~labels).sum()),
        drawn=int(labels.sum()),
        both=len(both),
        broken=broken,
    )


def _linked(rows: Sequence[Sequence[ImageRef]]) -> dict[ImageRef, int]:
    """A number for each image, the same for those that rows link, directly or through others."""
    parents: dict[ImageRef, ImageRef] = {}

    def root(image: ImageRef) -> ImageRef:
        parents.setdefault(image, image)
        while parents[image] != image:
            parents[image] = parents[parents[image]]
            image = parents[image]
        return image

    for row in rows:
        one, other = root(row[0]), root(row[1])
        parents[other] = one
    numbers: dict[ImageRef, int] = {}
    return {image: numbers.setdefault(root(image), len(numbers)) for image in list(parents)}


def _folds(clusters: np.ndarray, seed: int) -> np.ndarray:
    """The fold of each image: clusters, the largest first, go where there are fewest images."""
    names, sizes = np.unique(clusters, return_counts=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    shuffled = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    filled = np.zeros(FOLDS, dtype=np.int64)
    fold_of = np.zeros(len(names), dtype=np.int64)
    for place in shuffled:
        fold_of[place] = filled.argmin()
        filled[fold_of[place]] += sizes[place]
    return fold_of[np.searchsorted(names, clusters)]


def _fit(features: torch.Tensor, labels: torch.Tensor) -> Any:
    """A classifier, float64 features `(N, dim)` -> boolean `(N,)`, fitted on these."""
    mean, scale = features.mean(dim=0), features.std(dim=0, correction=0).clamp_min(1e-12)
    standard = (features - mean) / scale
    signs = labels.double() * 2 - 1
    share = labels.double().mean()
    weight = torch.where(labels, 0.5 / share, 0.5 / (1 - share)).double()  # of both classes together the same
    parameters = torch.zeros(features.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        margins = signs * (standard @ parameters[:-1] + parameters[-1])
        penalty = parameters[:-1].square().sum() / (2 * len(features))
        value = (weight * torch.nn.functional.softplus(-margins)).mean() + penalty
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    found = parameters.detach()
    return lambda other: ((other - mean) / scale) @ found[:-1] + found[-1] > 0

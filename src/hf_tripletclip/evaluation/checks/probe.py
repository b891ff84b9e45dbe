# SPDX-License-Identifier: Apache-2.0
"""Real or drawn: how well a linear classifier tells drawn images from photographs by their embeddings.

If a generator drew the negative images, a model may learn to see that an image was drawn instead of what it shows.
Near the chance of 0.5 the embeddings hide it. Near 1, a high score on such pairs need not be understanding.

The classifier is scikit-learn's `LogisticRegression` on standardised L2-normalised embeddings, with its default
penalty (C = 1) and the same weight for both classes. It is tried on images that it was not fitted on, by `GroupKFold`:
rows that share an image are in one fold, so no image is in two folds. Its accuracy is the mean of the accuracies of
the two classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.utils import logging

from hf_tripletclip.data.loading import check_columns, undecoded
from hf_tripletclip.evaluation.images import ImageCell, ImageRef
from hf_tripletclip.results.result import Mean
from hf_tripletclip.results.scoring import CLUSTER, intervals, tally
from hf_tripletclip.utils.extras import optional_imports

if TYPE_CHECKING:
    from hf_tripletclip.evaluation.encoder import Encoder

logger = logging.get_logger(__name__)

BASELINE = "real or drawn"
FOLDS = 5
# The factor by which the bootstrap's interval is made wider. The bootstrap takes tries as independent, but each of two
# images in different folds is tried by a classifier that was fitted on the other one: what makes one of them right
# makes the other right too. At most this doubles the variance (each term of a sum over all pairs counts twice). In
# simulations without any difference, 86 % of intervals contain 0.5 without the factor, and 95 % with it.
STRETCH = 2**0.5
STEPS = 1_000  # of the optimiser at most
DRAWN = "drawn"  # column: the class
RIGHT = "right"  # column: whether the classifier is right


@dataclass(frozen=True)
class RealOrDrawn:
    """
    The accuracy of the classifier.

    Args:
        accuracy (`float`): Mean of the accuracies on real and on drawn images, 0 to 1. Chance is 0.5.
        interval (`tuple[float, float]`): Its 95 % interval: that of the bootstrap, made wider by `STRETCH`, because
            the tries of a cross-validation are not independent.
        real, drawn (`int`): Images of each class.
        both (`int`): Images that are real in one row and drawn in another. They were left out.
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
    How well the embeddings of a model tell the drawn images of a training set from the real ones.

    Args:
        encoder ([`Encoder`]): The model.
        dataset (`datasets.Dataset`): With an image and a drawn one in each row.
        real, drawn (`str`, defaults to `image` and `neg_image`): Their columns.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: A column is missing, or there are too few images that are not linked by rows.
    """
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
    """
    The accuracy and the ends of its interval as a baseline of a result. It is left out if there are too few images,
    or, with a warning, if scikit-learn is not installed.
    """
    try:
        found = probe(rows, embeddings)
    except TooFewImages:
        return {}
    except ImportError as error:
        logger.warning_once(f"The baseline `{BASELINE}` is left out: {error}")
        return {}
    low, high = found.interval
    return {BASELINE: {"accuracy": found.accuracy, "accuracy_low": low, "accuracy_high": high}}


class TooFewImages(ValueError):
    """There are too few images to try the classifier on images that it was not fitted on."""


def probe(
    rows: Sequence[Sequence[ImageRef]], embeddings: Mapping[ImageRef, torch.Tensor], *, broken: int = 0
) -> RealOrDrawn:
    """
    Cross-validate the classifier.

    Args:
        rows (`Sequence[Sequence[ImageRef]]`): The real and the drawn image of each row.
        embeddings (`Mapping[ImageRef, torch.Tensor]`): The L2-normalised embedding, of shape `(dim,)`, of each image.
            An image without one is left out.
        broken (`int`, defaults to 0): For the result.

    Raises:
        ImportError: scikit-learn is not installed.
        TooFewImages: There are fewer than two images of a class, or rows link all of them.
    """
    with optional_imports():
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GroupKFold, cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

    pictured = dict.fromkeys(row[0] for row in rows if row[0] in embeddings)
    drawn = dict.fromkeys(row[1] for row in rows if row[1] in embeddings)
    both = pictured.keys() & drawn.keys()
    images = [image for image in (*pictured, *drawn) if image not in both]
    labels = np.array([image not in pictured for image in images], dtype=bool)
    linked = _linked(rows) if rows else {}
    groups = np.array([linked[image] for image in images], dtype=np.int64)
    number = len(set(groups))
    folds = list(GroupKFold(min(FOLDS, number)).split(images, labels, groups)) if number > 1 else []
    if not folds or any(len(set(labels[fitted])) < 2 for fitted, _ in folds):
        raise TooFewImages(
            f"Too few images to tell real from drawn ones by: {int((~labels).sum())} real and {int(labels.sum())} "
            f"drawn ones in {number} groups that share none."
        )
    features = torch.stack([embeddings[image] for image in images]).double().numpy()
    classifier = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=STEPS))
    right = cross_val_predict(classifier, features, labels, cv=folds) == labels
    columns = {RIGHT: right.tolist(), DRAWN: labels.tolist(), CLUSTER: groups.tolist()}
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
    """The group of each image: images that rows link, directly or through others, have the same number."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    numbers: dict[ImageRef, int] = {}
    ends = np.array([[numbers.setdefault(image, len(numbers)) for image in row] for row in rows]).T
    links = coo_array((np.ones(len(rows)), tuple(ends)), shape=(len(numbers), len(numbers)))
    groups = connected_components(links, directed=False)[1].tolist()
    return dict(zip(numbers, groups, strict=True))

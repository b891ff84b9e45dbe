# SPDX-License-Identifier: Apache-2.0
"""The blind score: how often a classifier picks the right caption without looking at the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from hf_tripletclip.utils.markdown import markdown_table

MAX_WORDS = 3_000  # the most frequent ones: a rare word gives away few answers
MAX_ROWS = 20_000  # of a group in a table


def blind_score(positives: Sequence[str], negatives: Sequence[str], *, seed: int = 0) -> float:
    """
    Accuracy of a classifier that sees only the two captions of a row, as bags of words and lengths, and picks the
    positive. If the negatives of a dataset give themselves away, the score is above 0.5, which is chance.

    The classifier is a logistic regression on the difference of the two captions' features. It is fitted on one half
    of the rows and tested on the other.

    Args:
        positives, negatives (`Sequence[str]`): The captions of the rows. Only the 3,000 most frequent words count.
        seed (`int`, defaults to 0): Seed of the random halves.

    Returns:
        `float`: Accuracy on the half for testing, 0 to 1.

    Raises:
        ValueError: There are fewer than 4 rows.
    """
    import torch  # here, because workers that draw scenes do not need it

    if len(positives) < 4 or len(positives) != len(negatives):
        raise ValueError(f"give as many negatives as positives, at least 4; got {len(positives)} and {len(negatives)}")
    occurring = Counter(word for caption in (*positives, *negatives) for word in caption.split())
    words = sorted(sorted(occurring), key=occurring.__getitem__, reverse=True)[:MAX_WORDS]
    column = {word: index for index, word in enumerate(words)}
    features = torch.zeros(len(positives), len(words) + 2)
    for sign, captions in ((1.0, positives), (-1.0, negatives)):
        split = [caption.split() for caption in captions]
        places = [(row, column[word]) for row, said in enumerate(split) for word in said if word in column]
        if places:
            features.index_put_(tuple(torch.tensor(places).T), torch.tensor(sign), accumulate=True)
        features[:, -2] += sign * torch.tensor([float(len(said)) for said in split])
        features[:, -1] += sign * torch.tensor([len(caption) / 10 for caption in captions])
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    fitted, tried = features[order].tensor_split(2)
    weights = torch.zeros(features.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        # The positive minus the negative should score above zero.
        value = torch.nn.functional.softplus(-fitted @ weights).mean() + 1e-3 * weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    scores = tried @ weights.detach()
    # A tie, such as after a swap of two objects, counts as half a right answer.
    return ((scores > 0).float() + 0.5 * (scores == 0).float()).mean().item()


def blind_table(groups: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """
    The blind score of each group of rows, with the interval of two standard errors around chance, as Markdown.

    Args:
        groups (`Mapping[str, Sequence[tuple[str, str]]]`): Name -> positive and negative caption of each row. If a
            group has more than 20,000 rows, an evenly spread part is used; groups of fewer than 4 are left out.
    """
    rows = []
    for name, pairs in groups.items():
        pairs = pairs[:: -(-len(pairs) // MAX_ROWS) or 1]
        if len(pairs) >= 4:
            score = blind_score([positive for positive, _ in pairs], [negative for _, negative in pairs])
            error = 0.5 / (len(pairs) // 2) ** 0.5  # of the half for testing
            rows.append([name, len(pairs), f"{score:.3f}", f"{0.5 - 2 * error:.3f} to {0.5 + 2 * error:.3f}"])
    return markdown_table(["rows of", "number", "blind score", "0.5 ± two standard errors"], rows)

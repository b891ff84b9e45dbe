# SPDX-License-Identifier: Apache-2.0
"""Which near pairs become negatives: the guards against those that are true, in order, from the nearest on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch

from hf_tripletclip.generation.captions.content import LEFT_OUT, SAME, content_problem, word_stems
from hf_tripletclip.mining.pairs import Pairs, text_identity
from hf_tripletclip.mining.search import nearest
from hf_tripletclip.mining.settings import MiningSettings

OWN_TEXT = "the other image has this caption"
SAME_WORDS = "same words, or some of them"
COMPARED = 16  # captions of an image that a candidate's words are compared with
STRANGE = 2  # words that two captions of the same words may not share: "entry way" is "entryway"


@dataclass
class Mined:
    """
    What was found for the pairs of a split.

    Args:
        negatives (`list[list[int]]`): Of each pair, other pairs, the nearest first.
        scores (`list[list[float]]`): Their similarities, of the kind that they were ranked by.
        looked_at (`int`): Candidates.
        refused (`Counter[str]`): Guard -> candidates that it refused; each counts for the first.
    """

    negatives: list[list[int]]
    scores: list[list[float]]
    looked_at: int = 0
    refused: Counter[str] = field(default_factory=Counter)


def find_negatives(
    pairs: Pairs,
    images: torch.Tensor,
    texts: torch.Tensor,
    settings: MiningSettings,
    *,
    device: torch.device | str = "cpu",
    progress: object = None,
) -> Mined:
    """
    The nearest pairs of each pair that pass the guards, at most `settings.wanted`.

    Args:
        pairs ([`Pairs`]): The pairs.
        images (`torch.Tensor` of shape `(images, dim)`): Embeddings of `pairs.images`.
        texts (`torch.Tensor` of shape `(pairs, dim)`): Embeddings of `pairs.captions`.
        settings ([`MiningSettings`]): What is near, and the guards.
        device (`torch.device` or `str`, defaults to `"cpu"`): Where the search runs.
        progress (*optional*): A bar whose `update` gets the number of pairs that are done.

    Captions of the same image, equal captions (their words) and equal images never compete.
    """
    search = _Search(pairs, images, texts, settings)
    mined = Mined([[] for _ in range(len(pairs))], [[] for _ in range(len(pairs))])
    k = min(settings.range_max, len(search.candidates))
    found = nearest(search.queries, search.candidates, max(k, 1), search.exempt, device=device)
    for start, indices, scores in found:
        for place, (items, values) in enumerate(zip(indices.tolist(), scores.tolist(), strict=True), start):
            for pair in search.askers[place]:
                _choose(search, pair, items, values, mined)
                if progress is not None:
                    progress.update()  # type: ignore[attr-defined]
    return mined


class _Search:
    """What is asked and what is searched: images or captions, each once, and the pairs that they stand for."""

    def __init__(self, pairs: Pairs, images: torch.Tensor, texts: torch.Tensor, settings: MiningSettings) -> None:
        self.pairs, self.settings = pairs, settings
        self.images, self.texts = images.numpy(), texts.numpy()
        self.groups = [pairs.groups[image] for image in pairs.image_of]  # of each pair
        identities: dict[str, int] = {}
        self.text_of = [identities.setdefault(text_identity(one), len(identities)) for one in pairs.captions]
        self.texts_of_group: dict[int, dict[int, int]] = {}  # with a pair that has it
        for pair, group in enumerate(self.groups):
            self.texts_of_group.setdefault(group, {}).setdefault(self.text_of[pair], pair)
        self._stems: dict[int, tuple[frozenset[str], ...]] = {}
        by_text, by_image = settings.similarity != "image", settings.similarity != "text"
        # What is searched, and the pairs of each.
        self.pairs_of: list[list[int]] = [[] for _ in range(len(identities) if by_text else len(pairs.images))]
        for pair in range(len(pairs)):
            self.pairs_of[self.text_of[pair] if by_text else pairs.image_of[pair]].append(pair)
        firsts = [of[0] for of in self.pairs_of if of]
        self.candidates = texts[firsts] if by_text else images
        # What is asked, and the pairs of each.
        askers: list[list[int]] = [[] for _ in range(len(pairs.images))]
        for pair, image in enumerate(pairs.image_of):
            askers[image].append(pair)
        self.askers = askers if by_image else [[pair] for pair in range(len(pairs))]
        self.queries = images if by_image else texts
        groups = pairs.groups if by_image else self.groups
        members: dict[int, list[int]] = {}
        for image, group in enumerate(pairs.groups):
            members.setdefault(group, []).append(image)
        own = {group: sorted(of) for group, of in self.texts_of_group.items()} if by_text else members
        self.exempt: Sequence[Sequence[int]] = [own.get(group, ()) for group in groups]

    def pairs_at(self, item: int, pair: int) -> Iterator[int]:
        """The pairs that a near item stands for, those with the nearest captions first."""
        of = self.pairs_of[item]
        if len(of) == 1 or self.settings.similarity != "image":
            return iter(of)
        near = self.texts[of] @ self.texts[pair]
        return iter([of[place] for place in np.argsort(-near, kind="stable")])

    def cosine(self, image: int, caption: int) -> float:
        """The cosine of a pair's image and another's caption."""
        return float(self.images[self.pairs.image_of[image]] @ self.texts[caption])

    def problem(self, pair: int, other: int, limits: Sequence[tuple[str, float]]) -> str | None:
        """Which guard refuses another pair as the negative of one; `None` when none does."""
        own = self.texts_of_group[self.groups[pair]]
        if self.groups[pair] == self.groups[other] or self.text_of[other] in own:
            return OWN_TEXT
        if self.settings.with_images and self.text_of[pair] in self.texts_of_group[self.groups[other]]:
            return OWN_TEXT
        crossed = [self.cosine(pair, other)] + ([self.cosine(other, pair)] if self.settings.with_images else [])
        for name, limit in limits:
            if max(crossed) > limit:
                return name
        if any(self.same_words(place, other) for place in islice(own.values(), COMPARED)):
            return SAME_WORDS
        return None

    def same_words(self, pair: int, other: int) -> bool:
        """Whether another caption says what a pair's says, or a part of it."""
        known = frozenset[str]().union(*self.stems(pair))
        if sum(known.isdisjoint(word) for word in self.stems(other)) > STRANGE:
            return False  # a quick check
        captions = self.pairs.captions
        return content_problem(captions[pair], captions[other]) in (SAME, LEFT_OUT)

    def stems(self, pair: int) -> tuple[frozenset[str], ...]:
        """Those of the words of a caption, which are looked up once."""
        text = self.text_of[pair]
        if (found := self._stems.get(text)) is None:
            found = self._stems[text] = tuple(word_stems(self.pairs.captions[pair]))
        return found


def _choose(search: _Search, pair: int, items: Sequence[int], scores: Sequence[float], mined: Mined) -> None:
    settings = search.settings
    positive = search.cosine(pair, pair)
    limits = []
    if settings.absolute_margin is not None:
        limits.append(("absolute_margin", positive - settings.absolute_margin))
    if settings.relative_margin is not None:
        limits.append(("relative_margin", positive - abs(positive) * settings.relative_margin))
    for rank, (item, score) in enumerate(zip(items, scores, strict=True)):
        if item < 0 or len(mined.negatives[pair]) == settings.wanted:
            return
        mined.looked_at += 1
        if rank < settings.range_min:
            reason: str | None = "range_min"
        elif settings.max_score is not None and score > settings.max_score:
            reason = "max_score"
        elif settings.min_score is not None and score < settings.min_score:
            reason = "min_score"
        else:
            reason = None
            for other in search.pairs_at(item, pair):
                problem = search.problem(pair, other, limits)
                if problem is None:
                    mined.negatives[pair].append(other)
                    mined.scores[pair].append(score)
                    reason = None
                    break
                reason = reason or problem
        if reason is not None:
            mined.refused[reason] += 1

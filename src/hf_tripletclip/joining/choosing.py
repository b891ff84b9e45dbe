# SPDX-License-Identifier: Apache-2.0
"""Which pairs are joined, and what the joined picture's captions say."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from hf_tripletclip.generation.stage import row_seed
from hf_tripletclip.joining.settings import JoinSettings
from hf_tripletclip.joining.words import exchange, joined, parse, stems_of
from hf_tripletclip.mining.pairs import Pairs, text_identity

NO_ENGLISH = "English only: this caption is in another language"
NO_PARTNER = "no partner: there is no other picture of this shape that has another caption"
NO_WORDS = "no word can be exchanged with those of the partners that were tried"


@dataclass(frozen=True)
class Joined:
    """
    A row: two pairs by their numbers, and the captions of both.

    Args:
        first, second (`int`): The pairs, in the order of the caption.
        pictures (`tuple[int, int]`): The same pairs, in the order of the picture.
        stacked (`bool`): Whether the pictures are one above the other.
        caption, negative, kind (`str`): The caption, the hard negative one and what was exchanged.
        paraphrases (`list[str]`): Other captions that are true.
    """

    first: int
    second: int
    pictures: tuple[int, int]
    stacked: bool
    caption: str
    negative: str
    kind: str
    paraphrases: list[str]


@dataclass
class JoinedSplit:
    """The rows that were chosen for a split, and the pairs that were left out: row, key and reason."""

    pairs: Pairs
    rows: list[Joined] = field(default_factory=list)
    left_out: list[tuple[int, str, str]] = field(default_factory=list)


def choose(pairs: Pairs, wide: Sequence[bool], settings: JoinSettings) -> JoinedSplit:
    """
    Draw partners for each pair, and the word that is exchanged. The draws depend only on the seed, the keys and the
    number of pairs.

    Args:
        pairs ([`Pairs`]): The pairs of a split, whose images can be read.
        wide (`Sequence[bool]`): Of each image, whether it is at least as wide as high: only pictures of one shape are
            joined, as in the code released with CLIC.
        settings ([`JoinSettings`]): How many, and the seed.
    """
    chosen = JoinedSplit(pairs, left_out=list(pairs.problems))
    of_shape: dict[bool, list[int]] = {True: [], False: []}
    texts: dict[int, list[str]] = {}  # of the same image
    for pair, image in enumerate(pairs.image_of):
        of_shape[wide[image]].append(pair)
        texts.setdefault(pairs.groups[image], []).append(pairs.captions[pair])
    known = {group: set(map(text_identity, of)) for group, of in texts.items()}
    said = {group: stems_of(of) for group, of in texts.items()}
    groups = [pairs.groups[image] for image in pairs.image_of]
    for pair, image in enumerate(pairs.image_of):
        candidates = of_shape[wide[image]]
        rng = random.Random(row_seed(settings.seed, pairs.keys[pair], "join"))
        reason = NO_ENGLISH if parse(pairs.captions[pair]) is None else NO_PARTNER
        taken: set[int] = set()
        for _ in range(settings.tries * settings.rounds if reason == NO_PARTNER else 0):
            other = candidates[int(rng.random() * len(candidates))]
            if other in taken or groups[other] == groups[pair]:
                continue
            if text_identity(pairs.captions[other]) in known[groups[pair]]:
                continue  # the other picture shows the same
            reason = NO_WORDS
            both = (said[groups[pair]], said[groups[other]])
            exchanged = exchange(pairs.captions[pair], pairs.captions[other], rng, both)
            if exchanged is None:
                continue
            taken.add(other)
            row = _row(pairs, pair, other, wide[image], (exchanged.first, exchanged.second), exchanged.kind, rng)
            row.paraphrases.extend(_further(texts, groups, row, settings.num_paraphrases, pairs, rng))
            chosen.rows.append(row)
            if len(taken) == settings.rounds:
                break
        if not taken:
            chosen.left_out.append((pairs.rows[pair], pairs.keys[pair], reason))
    chosen.left_out.sort()
    return chosen


def _row(
    pairs: Pairs, pair: int, other: int, wide: bool, negative: tuple[str, str], kind: str, rng: random.Random
) -> Joined:
    first, second = pairs.captions[pair], pairs.captions[other]
    return Joined(
        pair,
        other,
        (pair, other) if rng.random() < 0.5 else (other, pair),
        stacked=wide,
        caption=joined(first, second),
        negative=joined(*negative) if rng.random() < 0.5 else joined(*negative[::-1]),
        kind=kind,
        paraphrases=[joined(second, first)],
    )


def _further(
    texts: dict[int, list[str]],
    groups: Sequence[int],
    row: Joined,
    number: int,
    pairs: Pairs,
    rng: random.Random,
) -> list[str]:
    """Other captions of both images, joined; if one image has none, its own caption is used again."""
    said: list[list[str]] = []
    for pair in (row.first, row.second):
        own = pairs.captions[pair]
        others = [text for text in dict.fromkeys(texts[groups[pair]]) if text != own]
        for place in range(len(others) - 1, 0, -1):
            at = int(rng.random() * (place + 1))
            others[place], others[at] = others[at], others[place]
        said.append([*others[: number - 1], own])
    made: dict[str, None] = {}
    for place in range(max(map(len, said)) - 1):
        both = [few[min(place, len(few) - 1)] for few in said]
        made.setdefault(joined(*(both if rng.random() < 0.5 else both[::-1])))
    return [text for text in made if text not in (row.caption, *row.paraphrases)][: number - 1]

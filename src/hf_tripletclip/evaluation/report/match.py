# SPDX-License-Identifier: Apache-2.0
"""A row of a benchmark as HTML: its images and captions, what scores how high, and what should have won."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from hf_tripletclip.data.decoding import BrokenValue
from hf_tripletclip.evaluation.items import Item, places
from hf_tripletclip.evaluation.readers.images import ImageFile
from hf_tripletclip.utils.pages.markup import text
from hf_tripletclip.utils.pages.pictures import thumbnail
from hf_tripletclip.utils.pages.words import marked_captions


@dataclass(frozen=True)
class Row:
    """
    A question and what the model said.

    Args:
        item ([`Item`]): The question.
        scores (`Mapping[str, float]`): By pair, such as `i0c1`.
        outcomes (`Mapping[str, bool]`): By name, those that count for this row.
    """

    item: Item
    scores: Mapping[str, float]
    outcomes: Mapping[str, bool]

    @property
    def is_right(self) -> bool:
        return all(self.outcomes.values())

    @property
    def margin(self) -> float:
        """Of all comparisons, the least by which the pair that should win wins."""
        return min(self.scores[one] - self.scores[other] for one, other in self.comparisons())

    def comparisons(self) -> list[tuple[str, str]]:
        """Those of the outcomes that count, each once."""
        wins = [both for name in self.outcomes for both in self.item.comparisons.get(name, ())]
        return list(dict.fromkeys(wins))


def card(row: Row) -> str:
    """The row as a card of a grid."""
    item = row.item
    kinds = [item.category or "no category"]
    failed = [name for name, right in row.outcomes.items() if not right]
    tags = f'<span class="tag">{text(item.category)}</span>' if item.category else ""
    for name, right in row.outcomes.items():
        style, sign = ("good", "✓") if right else ("bad", "✗")
        tags += f'<span class="tag {style}">{sign} {text(name.replace("_", " "))}</span>'
    return (
        f'<article class="card" data-kinds="{text(json.dumps(kinds))}" data-failed="{text(json.dumps(failed))}"'
        f' data-verdict="{"right" if row.is_right else "wrong"}"'
        f' data-scores="{text(json.dumps({"margin": round(row.margin, 6)}))}">'
        f'<p class="tags">{tags}</p>{_match(row)}<p class="quiet where">{_where(item)}</p></article>'
    )


def _where(item: Item) -> str:
    names = [image.name for image in item.images if isinstance(image, ImageFile)]
    key = item.key if len(item.key) <= 80 else item.key[:79] + "…"
    return " · ".join(text(part) for part in dict.fromkeys([key, *names]))


def _match(row: Row) -> str:
    """The captions below each other, with their scores below each image."""
    item = row.item
    own, others = marked_captions(item.captions[0], item.captions[1:]) if item.captions else ("", [])
    true = _true_captions(row)
    columns = range(len(item.images))
    pictures = [_picture(item, place) for place in columns]
    alone = len(pictures) == 1
    head = "" if alone else f"<tr><td></td>{''.join(f'<td>{picture}</td>' for picture in pictures)}</tr>"
    body = ""
    for place, words in enumerate([own, *others]):
        style = "positive" if place in true else "negative"
        cells = "".join(_score(row, f"i{image}c{place}") for image in columns)
        body += f'<tr><th scope="row" class="caption {style}" dir="auto">{words}</th>{cells}</tr>'
    for pair in row.scores:  # of two captions or two images
        (first, one), (second, other) = places(pair)
        if first == second:
            name = f"{'captions' if first == 'c' else 'images'} {one + 1} and {other + 1}"
            span = f' colspan="{len(pictures)}"' if len(pictures) > 1 else ""
            body += f'<tr><th scope="row" class="between">{name}</th>{_score(row, pair, span)}</tr>'
    top = f'<div class="pictures alone">{pictures[0]}</div>' if alone else ""
    return f'{top}<table class="match">{head}{body}</table>'


def _true_captions(row: Row) -> set[int]:
    """Captions that should win on the first image; without images the first."""
    found = {0}
    for one, _ in row.comparisons():
        (first, image), (second, caption) = places(one)
        if (first, second) == ("i", "c") and image == 0:
            found.add(caption)
    return found


def _picture(item: Item, place: int) -> str:
    words = "image" if len(item.images) == 1 else f"image {place + 1}"
    try:
        source = thumbnail(item.images[place].load())
    except BrokenValue as error:  # it may have gone since
        return f'<p class="quiet">{text(words)}: {text(error)}</p>'
    return f'<img src="{source}" alt="{words}" loading="lazy">'


def _score(row: Row, pair: str, more: str = "") -> str:
    """A cell: the score, and whether it is higher than all that it should be higher than."""
    if pair not in row.scores:
        return f"<td{more}></td>"
    losers = [other for one, other in row.comparisons() if one == pair]
    value = f"{row.scores[pair]:.3f}"
    if not losers:
        return f"<td{more}>{value}</td>"
    wins = all(row.scores[pair] > row.scores[other] for other in losers)
    style, sign = ("good", "✓") if wins else ("bad", "✗")
    return f'<td{more} class="{style}">{value} {sign}</td>'

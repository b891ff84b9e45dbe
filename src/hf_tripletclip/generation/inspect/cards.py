# SPDX-License-Identifier: Apache-2.0
"""The grid of pairs: pictures, captions with their differing words marked, kind, scores and generator."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence

from hf_tripletclip.data.schema import IMAGE, IMAGE_COLUMNS, NEG_IMAGE
from hf_tripletclip.generation.inspect.measures import NO_KIND
from hf_tripletclip.generation.inspect.sample import Look, Row
from hf_tripletclip.utils.pages.markup import text
from hf_tripletclip.utils.pages.words import marked_captions

MAX_NEGATIVES = 8  # of a row


def choose(looks: Sequence[Look], number: int) -> list[Look]:
    """
    Rows to show: those without broken parts, the kinds and splits in turn so that rare ones are among them.
    """
    groups: dict[tuple[str, str], deque[Look]] = {}
    for look in looks:
        if look.row is not None and not look.problems:
            kind = next((kind for kind in look.row.kinds if kind), NO_KIND)
            groups.setdefault((kind, look.row.split), deque()).append(look)
    waiting = deque(groups[name] for name in sorted(groups))
    chosen: list[Look] = []
    while waiting and len(chosen) < number:
        group = waiting.popleft()
        chosen.append(group.popleft())
        if group:
            waiting.append(group)
    return chosen


def card(look: Look) -> str:
    """A row as HTML."""
    row = look.row
    assert row is not None  # `choose` takes no others
    own, others = marked_captions(row.caption, row.negatives)
    negatives = []
    several = len(row.negatives) > 1
    for words, kind in list(zip(others, row.kinds, strict=True))[:MAX_NEGATIVES]:
        tag = f' <span class="tag">{text(kind)}</span>' if several and kind else ""
        negatives.append(f'<p class="caption negative" dir="auto">{words}{tag}</p>')
    if len(row.negatives) > MAX_NEGATIVES:
        negatives.append(f'<p class="quiet">and {len(row.negatives) - MAX_NEGATIVES} more</p>')
    if not row.negatives:
        negatives.append('<p class="quiet">no hard negative caption</p>')
    kinds = list(dict.fromkeys(kind or NO_KIND for kind in row.kinds)) or [NO_KIND]
    tags = "" if several else "".join(f'<span class="tag">{text(kind)}</span>' for kind in kinds if kind != NO_KIND)
    tags += '<span class="tag">held out</span>' if row.held_out else ""
    return (
        f'<article class="card" data-kinds="{text(json.dumps(kinds))}" data-scores="{text(json.dumps(row.scores))}"'
        f' data-split="{text(row.split)}">{_pictures(look)}'
        f'<p class="caption positive" dir="auto">{own}</p>{"".join(negatives)}'
        f'<p class="tags">{tags}</p>{_scores(row)}<p class="quiet where">{_where(row)}</p></article>'
    )


def _pictures(look: Look) -> str:
    names = {IMAGE: ("positive", "image"), NEG_IMAGE: ("negative", "hard negative image")}
    shown = [name for name in IMAGE_COLUMNS if name in look.thumbnails]
    if not shown:
        return ""
    pictures = "".join(
        f'<img class="{names[name][0]}" src="{look.thumbnails[name]}" alt="{names[name][1]}" loading="lazy">'
        for name in shown
    )
    return f'<div class="pictures">{pictures}</div>'


def _scores(row: Row) -> str:
    if not row.scores:
        return ""
    pairs = "".join(
        f'<div title="{name}"><dt>{_short(name)}</dt><dd>{value:.3f}</dd></div>' for name, value in row.scores.items()
    )
    return f'<dl class="scores">{pairs}</dl>'


def _short(name: str) -> str:
    return name.removesuffix("_score").replace("similarity", "sim.").replace("_", " ")


def _where(row: Row) -> str:
    key = row.key if len(row.key) <= 80 else row.key[:79] + "…"
    return " · ".join(text(part) for part in (row.split, key, row.generator) if part)

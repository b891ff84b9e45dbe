# SPDX-License-Identifier: Apache-2.0
"""The grid of pairs: pictures, captions with their differing words marked, kind, scores and generator."""

from __future__ import annotations

import difflib
import json
import re
from collections import deque
from collections.abc import Sequence
from html import escape

from hf_tripletclip.data.schema import IMAGE, IMAGE_COLUMNS, NEG_IMAGE
from hf_tripletclip.generation.inspect.measures import NO_KIND
from hf_tripletclip.generation.inspect.sample import Look, Row

MAX_WORDS = 60  # of a caption that is shown
MAX_CHARACTERS = 400
MAX_NEGATIVES = 8  # of a row
# What a browser does not show, or what would turn the text around it.
UNSHOWN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


def text(value: object) -> str:
    """Any text as HTML."""
    clean = str(value).encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be written
    return escape(UNSHOWN.sub("\ufffd", clean))


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


def differing_words(caption: str, negative: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """The words of both captions, each with whether the other lacks it there."""
    first, second = _words(caption), _words(negative)
    matcher = difflib.SequenceMatcher(a=_folded(first), b=_folded(second), autojunk=False)
    same_first = {block.a + step for block in matcher.get_matching_blocks() for step in range(block.size)}
    same_second = {block.b + step for block in matcher.get_matching_blocks() for step in range(block.size)}
    return (
        [(word, place not in same_first) for place, word in enumerate(first)],
        [(word, place not in same_second) for place, word in enumerate(second)],
    )


def _words(caption: str) -> list[str]:
    words = caption[:MAX_CHARACTERS].split()
    cut = len(caption) > MAX_CHARACTERS or len(words) > MAX_WORDS
    return [*words[:MAX_WORDS], "…"] if cut else words


def _folded(words: list[str]) -> list[str]:
    """As they are compared: a capital letter and a full stop make no other word."""
    return [word.lower().strip(".,;:!?") or word for word in words]


def _marked(words: Sequence[tuple[str, bool]]) -> str:
    """Words as HTML; neighbouring ones that differ share a mark."""
    parts: list[str] = []
    run: list[str] = []
    for word, differs in [*words, ("", False)]:
        if differs:
            run.append(text(word))
            continue
        if run:
            parts.append(f"<mark>{' '.join(run)}</mark>")
            run = []
        if word:
            parts.append(text(word))
    return " ".join(parts)


def card(look: Look) -> str:
    """A row as HTML."""
    row = look.row
    assert row is not None  # `choose` takes no others
    pairs = [differing_words(row.caption, negative) for negative in row.negatives]
    if pairs:  # a word of the caption that any negative changes
        flags = [
            any(places) for places in zip(*([differs for _, differs in words] for words, _ in pairs), strict=True)
        ]
        own = [(word, differs) for (word, _), differs in zip(pairs[0][0], flags, strict=True)]
    else:
        own = [(word, False) for word in _words(row.caption)]
    negatives = []
    several = len(row.negatives) > 1
    for (_, words), kind in list(zip(pairs, row.kinds, strict=True))[:MAX_NEGATIVES]:
        tag = f' <span class="tag">{text(kind)}</span>' if several and kind else ""
        negatives.append(f'<p class="caption negative" dir="auto">{_marked(words)}{tag}</p>')
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
        f'<p class="caption positive" dir="auto">{_marked(own)}</p>{"".join(negatives)}'
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

# SPDX-License-Identifier: Apache-2.0
"""The page of what was mined: how many rows got negatives, what the guards refused, similarities, and examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

from hf_tripletclip.data.decoding import BrokenValue
from hf_tripletclip.data.schema import CLIP_SCORE, CROSS_CLIP_SCORE, IMAGE, NEG_CROSS_CLIP_SCORE, NEG_IMAGE
from hf_tripletclip.generation.inspect.rows import Look, Row
from hf_tripletclip.generation.inspect.sections import Series, card, histogram
from hf_tripletclip.generation.publish import public_name
from hf_tripletclip.mining.candidates import OWN_TEXT, SAME_WORDS
from hf_tripletclip.mining.publish import MinedSplit
from hf_tripletclip.mining.settings import MiningSettings
from hf_tripletclip.utils.pages.markup import text
from hf_tripletclip.utils.pages.page import write_page
from hf_tripletclip.utils.pages.parts import controls, figure, grid, table
from hf_tripletclip.utils.pages.pictures import THUMBNAIL, thumbnail

NEAR = {
    "image": "images that are near the row's image",
    "text": "captions that are near the row's caption",
    "image_text": "captions that are near the row's image",
}
RANKED_BY = {
    "image": "cosine of the two images",
    "text": "cosine of the two captions",
    "image_text": "cosine of the image and the other caption",
}
GUARDS = {
    "range_min": "among the nearest, which are skipped",
    "max_score": "too near",
    "min_score": "too far",
    "absolute_margin": "almost as true as the row's own pair, or truer, as the model sees it",
    "relative_margin": "almost as true as the row's own pair, or truer, as the model sees it",
    OWN_TEXT: "the other pair has a caption of this one's image, or this caption is one of the other image's",
    SAME_WORDS: "the other caption says what a caption of this image says, or only a part of it (English)",
}
FOUND = "similarity"  # by which rows can be sorted
WAYS = (("down", "highest first"), ("up", "lowest first"))


def write_mining_page(
    path: Path,
    splits: Sequence[MinedSplit],
    report: object,
    settings: MiningSettings,
    *,
    title: str,
    model: str,
    samples: int,
) -> Path:
    """
    Write the page.

    Args:
        path (`Path`): The file.
        splits (`Sequence[MinedSplit]`): What was found.
        report ([`MiningReport`]): The counts.
        settings ([`MiningSettings`]): What was mined.
        title (`str`): Of the dataset.
        model (`str`): By which model.
        samples (`int`): Rows to show with their images.

    Raises:
        OSError: It cannot be written.
    """
    return write_page(
        path,
        title=f"{title}: mined negatives",
        heading=f"{title}: mined negatives",
        overview=_overview(splits, settings, public_name(model)),
        sections={
            "Examples": _examples(splits, settings, samples),
            "Guards": _guards(report, settings),
            "Similarity": _similarity(splits, settings),
            "Left out": _left_out(splits, settings),
        },
        command="tripletclip mine",
    )


def _overview(splits: Sequence[MinedSplit], settings: MiningSettings, model: str) -> str:
    what = "another pair, image and caption" if settings.with_images else "captions of other images"
    asked = settings.num_negatives or settings.wanted
    near = f"Candidates are {NEAR[settings.similarity]}, as {text(model)} sees them."
    made = (
        f"Each row gets {what}: the nearest that the guards let through."
        if settings.num_negatives
        else "Rows get no negatives here, only neighbours for batches."
    )
    head = ["split", "pairs", "images", "with a negative" if settings.num_negatives else "with a neighbour"]
    head += [f"with all {asked}"] if asked > 1 else []
    head += ["neighbours a pair, mean", "rows written"]
    lines = []
    for split in splits:
        counts = [len(few) for few in split.mined.negatives]
        full = [sum(count >= asked for count in counts)] if asked > 1 else []
        average = f"{mean(counts):.1f}" if counts else None
        lines.append(
            [split.pairs.split, len(counts), len(split.pairs.images), sum(map(bool, counts)), *full, average,
             len(split.rows(settings))]
        )  # fmt: skip
    return f"<p>{near} {made}</p>{table(head, lines)}"


def _examples(splits: Sequence[MinedSplit], settings: MiningSettings, samples: int) -> str:
    found = [(split, pair) for split in splits for pair, few in enumerate(split.mined.negatives) if few]
    number = min(samples, len(found))
    if not number:
        return "<p>No pair has a negative that can be shown.</p>"
    chosen = [found[place * len(found) // number] for place in range(number)]
    looks = [look for split, pair in chosen if (look := _look(split, pair, settings)) is not None]
    names = list(dict.fromkeys(look.row.split for look in looks if look.row is not None))
    scores = [FOUND, CLIP_SCORE, CROSS_CLIP_SCORE, *([NEG_CROSS_CLIP_SCORE] if settings.with_images else [])]
    boxes = controls(
        {"split": ("split", [("", "all splits"), *((name, name) for name in names)])},
        [("", "in order"), *((f"{name} {way}", f"{name}, {label}") for name in scores for way, label in WAYS)],
    )
    other = "the negative image" if settings.with_images else "for comparison, the image that the negative belongs to"
    note = (
        f"{number:,} of the {len(found):,} pairs that have one. Left: the row's image; right: {other}. "
        f"The first caption is the row's own. Candidates were ranked by {FOUND}, the "
        f"{RANKED_BY[settings.similarity]}. "
        "<b>Look for negatives that are true of the left image</b>: if there are many, raise "
        "<code>relative_margin</code>."
    )
    return f"<p class='note'>{note}</p>{boxes}{grid(map(card, looks))}"


def _look(split: MinedSplit, pair: int, settings: MiningSettings) -> Look | None:
    pairs, few = split.pairs, split.mined.negatives[pair]
    few = few[: 1 if settings.with_images else max(settings.num_negatives, 1)]
    scores = {
        FOUND: split.mined.scores[pair][0],
        CLIP_SCORE: split.cosine(pair, pair),
        CROSS_CLIP_SCORE: split.cosine(pair, few[0]),
    }
    if settings.with_images:
        scores[NEG_CROSS_CLIP_SCORE] = split.cosine(few[0], pair)
    look = Look(
        Row(
            split=pairs.split,
            key=pairs.keys[pair],
            caption=pairs.captions[pair],
            negatives=[pairs.captions[one] for one in few],
            kinds=[None] * len(few),
            scores=scores,
        )
    )
    for column, one in ((IMAGE, pair), (NEG_IMAGE, few[0])):
        try:
            picture = pairs.images[pairs.image_of[one]].load()
        except BrokenValue:  # it changed since it was encoded
            return None
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        look.thumbnails[column] = thumbnail(picture)
    return look


def _guards(report: object, settings: MiningSettings) -> str:
    looked_at, refused = report.looked_at, report.refused  # type: ignore[attr-defined]
    bounds = {
        "range_min": settings.range_min or None,
        "max_score": settings.max_score,
        "min_score": settings.min_score,
        "absolute_margin": settings.absolute_margin,
        "relative_margin": settings.relative_margin,
    }
    lines = []
    for guard, meaning in GUARDS.items():
        if guard in bounds and bounds[guard] is None:
            continue
        number = refused.get(guard, 0)
        share = f"{number / looked_at:.1%}" if looked_at else None
        lines.append([guard, bounds.get(guard), number, share, meaning])
    passed = looked_at - sum(refused.values())
    lines.append(["passed", None, passed, f"{passed / looked_at:.1%}" if looked_at else None, "taken as neighbours"])
    note = (
        f"Of each pair the {settings.range_max:,} nearest were looked at, in order, until {settings.wanted:,} had "
        f"passed: {looked_at:,} in all. Each counts for the first guard that refused it. Captions and copies of the "
        "same image never compete and are not counted."
    )
    head = ["guard", "bound", "candidates", "share", "what it means"]
    return f"<p class='note'>{note}</p>{table(head, lines, words=head[-1:])}"


def _similarity(splits: Sequence[MinedSplit], settings: MiningSettings) -> str:
    chosen = [
        (split, pair, few[0], split.mined.scores[pair][0])
        for split in splits
        for pair, few in enumerate(split.mined.negatives)
        if few
    ]
    if not chosen:
        return "<p>There is nothing to count.</p>"
    own = [split.cosine(pair, pair) for split, pair, _, _ in chosen]
    series = {
        RANKED_BY[settings.similarity]: [score for *_, score in chosen],
        "cosine of image and own caption": own,
        "cosine of image and negative caption": [split.cosine(pair, other) for split, pair, other, _ in chosen],
    }
    if settings.with_images:
        series["cosine of negative image and caption"] = [
            split.cosine(other, pair) for split, pair, other, _ in chosen
        ]
    ranked, *crossed = series.items()
    both = [
        Series("own caption", "positive", own),
        Series("negative caption", "negative", series["cosine of image and negative caption"]),
    ]
    charts = figure(histogram(both, "cosine of an image and a caption"), "the row's image with each caption")
    if settings.similarity != "image_text":
        charts += figure(
            histogram([Series(ranked[0], "single", ranked[1])], ranked[0]), "what candidates were ranked by"
        )
    if settings.with_images:
        pictures = [
            Series("own image", "positive", own),
            Series("negative image", "negative", series["cosine of negative image and caption"]),
        ]
        charts += figure(histogram(pictures, "cosine of a caption and an image"), "the row's caption with each image")
    lines = [
        [name, len(values), *(f"{measure(values):.3f}" for measure in (min, mean, median, max))]
        for name, values in (ranked, *crossed)
    ]
    return f"<p class='note'>Of each pair and its nearest negative.</p><div class=\"charts\">{charts}</div>" + table(
        ["cosine of", "pairs", "lowest", "mean", "median", "highest"], lines
    )


def _left_out(splits: Sequence[MinedSplit], settings: MiningSettings) -> str:
    reasons: dict[str, list[str]] = {}
    for split in splits:
        for _, key, reason in split.left_out(settings):
            reasons.setdefault(reason, []).append(key)
    if not reasons:
        return "<p>No pair was left out.</p>"
    lines = [
        [reason, len(keys), "; ".join(keys[:3])]
        for reason, keys in sorted(reasons.items(), key=lambda one: -len(one[1]))
    ]
    return table(["reason", "pairs", "the first"], lines, words=["the first"])

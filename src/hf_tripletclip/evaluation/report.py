# SPDX-License-Identifier: Apache-2.0
"""A page of example predictions, in one HTML file."""

from __future__ import annotations

import base64
import html
import io
import os
import random
from pathlib import Path
from typing import Any

from hf_tripletclip.data.collator import decode_caption, decode_image
from hf_tripletclip.data.schema import CAPTION, IMAGE, NEG_CAPTION, NEG_IMAGE, NEGATIVE_TYPE
from hf_tripletclip.evaluation.result import EvaluationResult

STYLE = """
:root { color-scheme: light dark; --line: #8886; --good: #18794e; --bad: #c62a2f }
@media (prefers-color-scheme: dark) { :root { --good: #4cc38a; --bad: #ff8589 } }
body { font: 16px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem }
article { border-top: 1px solid var(--line); padding: 1rem 0 }
h2 { font-size: 1rem; margin: 0 0 .5rem }
table { border-collapse: collapse; width: 100% }
th, td { padding: .35rem .5rem; text-align: left; font-weight: normal; vertical-align: middle }
td { font-variant-numeric: tabular-nums; white-space: nowrap }
img { width: 96px; height: 96px; object-fit: cover; border-radius: 4px; display: block }
.best { font-weight: bold }
.good { color: var(--good) } .bad { color: var(--bad) }
"""


def write_examples_page(
    path: str | os.PathLike[str], dataset: Any, result: EvaluationResult, *, examples: int = 28, seed: int = 0
) -> None:
    """
    Write a self-contained page of example triplets with their four scores, right and wrong ones of every kind.

    Args:
        path (`str` or `os.PathLike`): The HTML file to write.
        dataset (`datasets.Dataset`): What was evaluated.
        result ([`EvaluationResult`]): With predictions that have all four scores.
        examples (`int`, defaults to 28): Triplets to show.
        seed (`int`, defaults to 0): Of the choice.

    Raises:
        ValueError: The result has no predictions with all four scores.
    """
    predictions = result.predictions
    if "group_score" not in predictions:
        raise ValueError(
            "The page needs predictions with all four scores: evaluate a dataset that has neg_image and neg_caption "
            "with `evaluate_triplets`. A result read from JSON has no predictions."
        )
    order = list(range(len(predictions["row"])))
    random.Random(seed).shuffle(order)
    column = dataset[NEGATIVE_TYPE] if NEGATIVE_TYPE in dataset.column_names else None
    kinds = [None] * len(order) if column is None else column[predictions["row"]]
    groups: dict[tuple[str, bool], list[int]] = {}
    for index in order:
        groups.setdefault((kinds[index] or "", predictions["group_score"][index]), []).append(index)
    # Take turns over kinds, right and wrong.
    chosen: list[int] = []
    while len(chosen) < examples and any(groups.values()):
        for key in sorted(groups):
            if groups[key] and len(chosen) < examples:
                chosen.append(groups[key].pop())
    articles = [_article(dataset[predictions["row"][index]], predictions, index) for index in chosen]
    rows = result.counts.get("rows", len(order))
    Path(path).write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Example predictions</title><style>{STYLE}</style></head><body>
<h1>Example predictions</h1>
<p>{len(chosen)} of {rows} test triplets, right and wrong ones of each kind. Numbers are cosines of image and caption.
In each row and each column the true pair, on the diagonal, should be the higher one: bold numbers are the higher of
their column. Right in all four comparisons: {result.metrics["group_score"]:.1%} of all triplets, chance is 16.7%.</p>
{"".join(articles)}
</body></html>
""",
        encoding="utf-8",
    )


def _article(row: dict[str, Any], predictions: dict[str, list[Any]], index: int) -> str:
    right = predictions["group_score"][index]
    kind = html.escape(row.get(NEGATIVE_TYPE) or "triplet")
    scores = [
        [predictions[f"{image}_{text}"][index] for image in ("image", "negative_image")]
        for text in ("text", "negative_text")
    ]

    # A column is an image, which chooses its caption; a row is a caption, which chooses its image.
    failed = {
        "the caption of an image": any(scores[i][i] <= scores[1 - i][i] for i in (0, 1)),
        "the image of a caption": any(scores[i][i] <= scores[i][1 - i] for i in (0, 1)),
    }
    reason = " and ".join(choice for choice, wrong in failed.items() if wrong)
    verdict = '<span class="good">✓ right</span>' if right else f'<span class="bad">✗ wrong about {reason}</span>'

    def cell(text: int, image: int) -> str:
        best = scores[text][image] > scores[1 - text][image]
        colour = ("good" if text == image else "bad") if best else ""
        return f'<td class="{"best " if best else ""}{colour}">{scores[text][image]:.3f}</td>'

    captions = [html.escape(decode_caption(row[name])) for name in (CAPTION, NEG_CAPTION)]
    body = "".join(f"<tr><th>{captions[text]}</th>{cell(text, 0)}{cell(text, 1)}</tr>" for text in (0, 1))
    head = "".join(
        f'<td><img alt="{alt}" src="{_data_uri(row[name])}"></td>'
        for name, alt in ((IMAGE, "image"), (NEG_IMAGE, "hard negative image"))
    )
    return f"<article><h2>{kind}: {verdict}</h2><table><tr><th></th>{head}</tr>{body}</table></article>\n"


def _data_uri(value: Any) -> str:
    image = decode_image(value)
    image.thumbnail((192, 192))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

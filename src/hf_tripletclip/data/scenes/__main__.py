# SPDX-License-Identifier: Apache-2.0
"""Prints the blind scores of `scenes` as a Markdown table: `python -m hf_tripletclip.data.scenes`."""

from __future__ import annotations

from hf_tripletclip.data.scenes.blind import blind_score
from hf_tripletclip.data.scenes.build import SPLITS, make_row
from hf_tripletclip.data.scenes.captions import describe
from hf_tripletclip.data.scenes.vocabulary import choose_nouns
from hf_tripletclip.data.schema import NEGATIVE_TYPES

ROWS = 7_000  # of each split: enough that a leak of two points would show


def blind_table() -> str:
    """The blind score of each split, and of each kind within `test`; captions need no drawing."""
    nouns = choose_nouns(24)
    groups: dict[str, list[tuple[str, str]]] = {}
    for split in SPLITS:
        for index in range(ROWS):
            positive, negative, kind = make_row(split, index, 0, nouns)
            pair = (describe(positive), describe(negative))
            groups.setdefault(f"`{split}`", []).append(pair)
            if split == "test":
                groups.setdefault(f"`test`, `{kind}`", []).append(pair)
    kinds = [f"`test`, `{kind}`" for kind in NEGATIVE_TYPES]
    lines = ["| rows of | number | blind score | 0.5 ± two standard errors |", "| --- | --- | --- | --- |"]
    for name in [*(f"`{split}`" for split in SPLITS), *kinds]:
        pairs = groups[name]
        score = blind_score([positive for positive, _ in pairs], [negative for _, negative in pairs])
        error = 0.5 / (len(pairs) // 2) ** 0.5  # of the half that is tried
        lines.append(f"| {name} | {len(pairs):,} | {score:.3f} | {0.5 - 2 * error:.3f} to {0.5 + 2 * error:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(blind_table())

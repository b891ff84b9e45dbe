# SPDX-License-Identifier: Apache-2.0
"""Prints the blind scores of `scenes` as a Markdown table: `python -m hf_tripletclip.data.scenes`."""

from __future__ import annotations

from hf_tripletclip.data.scenes.blind import blind_score
from hf_tripletclip.data.scenes.build import SPLITS, make_row
from hf_tripletclip.data.scenes.captions import describe
from hf_tripletclip.data.scenes.vocabulary import choose_nouns

ROWS = 7_000  # enough that a leak of two points would show


def blind_table() -> str:
    """The blind score of each split; captions need no drawing."""
    nouns = choose_nouns(24)
    lines = ["| split | rows | blind score (chance 0.5) |", "| --- | --- | --- |"]
    for split in SPLITS:
        scenes = [make_row(split, index, 0, nouns)[:2] for index in range(ROWS)]
        score = blind_score([describe(first) for first, _ in scenes], [describe(second) for _, second in scenes])
        lines.append(f"| `{split}` | {ROWS:,} | {score:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(blind_table())

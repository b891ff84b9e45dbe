# SPDX-License-Identifier: Apache-2.0
"""Prints the blind scores of `scenes` as a Markdown table: `python -m hf_tripletclip.data.scenes`."""

from __future__ import annotations

from hf_tripletclip.data.blind import blind_table
from hf_tripletclip.data.scenes.build import SPLITS, make_row
from hf_tripletclip.data.scenes.captions import describe
from hf_tripletclip.data.scenes.vocabulary import choose_nouns
from hf_tripletclip.data.schema import NEGATIVE_TYPES

ROWS = 7_000  # of each split: enough to show a leak of two points


def scenes_table() -> str:
    """The blind score of each split, and of each kind of change in `test`. The scenes are not drawn."""
    nouns = choose_nouns(24)
    groups: dict[str, list[tuple[str, str]]] = {}
    for split in SPLITS:
        for index in range(ROWS):
            positive, negative, kind = make_row(split, index, 0, nouns)
            pair = (describe(positive), describe(negative))
            groups.setdefault(f"`{split}`", []).append(pair)
            if split == "test":
                groups.setdefault(f"`test`, `{kind}`", []).append(pair)
    ordered = [*(f"`{split}`" for split in SPLITS), *(f"`test`, `{kind}`" for kind in NEGATIVE_TYPES)]
    return blind_table({name: groups[name] for name in ordered})


if __name__ == "__main__":
    print(scenes_table())

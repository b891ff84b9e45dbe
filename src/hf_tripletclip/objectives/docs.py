# SPDX-License-Identifier: Apache-2.0
"""Writes the table of terms into the documentation: `python -m hf_tripletclip.objectives.docs docs/objectives.md`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from hf_tripletclip.objectives import OBJECTIVES

SYMBOLS = {"image": "v", "text": "t", "negative_image": "v'", "negative_text": "t'"}
BEGIN, END = "<!-- terms:begin -->", "<!-- terms:end -->"


def terms_table() -> str:
    """A Markdown table of the registered objectives: columns needed, and the weight of each term."""
    pairs = sorted(
        {(term.query, term.keys) for objective in OBJECTIVES.values() for term in objective.terms},
        key=lambda pair: (list(SYMBOLS).index(pair[0]), len(pair[1])),
    )
    heads = [f"{SYMBOLS[query]} → {' ∪ '.join(SYMBOLS[key].upper() for key in keys)}" for query, keys in pairs]
    lines = [
        "| objective | columns | " + " | ".join(heads) + " |",
        "| --- | --- |" + " --- |" * len(heads),
    ]
    for name, objective in OBJECTIVES.items():
        weights = {(term.query, term.keys): f"{term.weight:g}" for term in objective.terms}
        columns = ", ".join(f"`{column}`" for column in objective().columns)
        lines.append(f"| `{name}` | {columns} | " + " | ".join(weights.get(pair, "") for pair in pairs) + " |")
    return "\n".join(lines)


def with_table(page: str) -> str:
    """The page with a fresh table between its markers; raises `ValueError` where they are missing."""
    if BEGIN not in page or END not in page:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    return re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}\n{terms_table()}\n{END}", page, flags=re.DOTALL)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(with_table(target.read_text(encoding="utf-8")), encoding="utf-8")

# SPDX-License-Identifier: Apache-2.0
"""Writes the table of terms into the documentation: `python -m hf_tripletclip.objectives.table docs/objectives.md`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from hf_tripletclip.objectives import terms_table

BEGIN, END = "<!-- terms:begin -->", "<!-- terms:end -->"


def with_table(page: str) -> str:
    """The page with a fresh table between its markers; raises `ValueError` where they are missing."""
    if BEGIN not in page or END not in page:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    return re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}\n{terms_table()}\n{END}", page, flags=re.DOTALL)


def main(arguments: list[str]) -> None:
    """Rewrite the page named on the command line."""
    if len(arguments) != 1:
        raise SystemExit("usage: python -m hf_tripletclip.objectives.table PAGE.md")
    page = Path(arguments[0])
    page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

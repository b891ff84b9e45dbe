# SPDX-License-Identifier: Apache-2.0
"""Print a benchmark's page of Markdown, and write it to a file if one is given."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def write_page(lines: Iterable[str], output: Path | None) -> None:
    """Print the lines and, with `output`, write them to that file."""
    text = "\n".join(lines) + "\n"
    print(text)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")

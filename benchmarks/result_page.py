# SPDX-License-Identifier: Apache-2.0
"""How each benchmark ends: its page of Markdown on the screen, and in a file where one is named."""

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

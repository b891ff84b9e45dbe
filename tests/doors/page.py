# SPDX-License-Identifier: Apache-2.0
"""
The Python blocks of docs/interop.md, and of one section of README.md, run in their order.

`python -m tests.doors.page MODEL docs/interop.md` writes under each what it prints; so does
`python -m tests.doors.page MODEL README.md "Other libraries"` in that section.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = re.compile(
    r"(?:<!-- needs: (?P<needs>[\w ]+) -->\n)?```python\n(?P<code>.*?)```\n(?P<output>\n```text\n.*?```\n)?", re.DOTALL
)


def section_of(page: str, title: str) -> str:
    """A section of a page, to the next heading of its level."""
    begin = page.index(f"\n## {title}\n")
    end = page.find("\n## ", begin + 1)
    return page[begin:] if end < 0 else page[begin:end]


def run_blocks(page: str, model: Path, folder: Path) -> dict[str, str]:
    """
    Run the blocks in a folder where `outputs/scenes` is the model, each where what it needs is installed.

    Returns:
        `dict[str, str]`: The code of each block that was run, and what it printed.
    """
    shutil.copytree(model, folder / "outputs" / "scenes", ignore=shutil.ignore_patterns("checkpoint-*"))
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = {}
    with _inside(folder):
        for match in BLOCK.finditer(page):
            if all(importlib.util.find_spec(name) for name in (match["needs"] or "").split()):
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(compile(match["code"], "docs/interop.md", "exec"), names)
                printed[match["code"]] = out.getvalue()
    return printed


def with_outputs(page: str, printed: dict[str, str]) -> str:
    """The page with what was printed under each block that was run."""

    def replaced(match: re.Match[str]) -> str:
        block = match[0].removesuffix(match["output"] or "")
        if match["code"] not in printed:
            return match[0]
        return block + (f"\n```text\n{printed[match['code']].rstrip()}\n```\n" if printed[match["code"]] else "")

    return BLOCK.sub(replaced, page)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


if __name__ == "__main__":
    model, page = map(Path, sys.argv[1:3])
    content = page.read_text(encoding="utf-8")
    part = section_of(content, sys.argv[3]) if len(sys.argv) > 3 else content
    with tempfile.TemporaryDirectory() as temporary:
        outputs = run_blocks(part, model.resolve(), Path(temporary))
    page.write_text(content.replace(part, with_outputs(part, outputs)), encoding="utf-8")

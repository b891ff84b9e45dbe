# SPDX-License-Identifier: Apache-2.0
"""docs/troubleshooting.md quotes messages that the package has."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.blocks import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
QUOTES = [
    quote
    for row in re.findall(r"^\| (.*?) \| .* \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    for _, quote in re.findall(r"^(`+)(.*)\1(?: \([^`]*\))?$", row)
]


@pytest.fixture(scope="module")
def texts() -> str:
    """All texts of the source; three dots stand for what is put in."""
    parts = []
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts.append("".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts.append(node.value)
    return "\n".join(parts)


@pytest.mark.parametrize("quote", QUOTES)
def test_the_message_exists(quote, texts):
    pattern = r".*?".join(re.escape(part) for part in quote.split("..."))
    assert re.search(pattern, texts), f"no message says: {quote}"


def test_there_are_messages():
    assert len(QUOTES) > 25

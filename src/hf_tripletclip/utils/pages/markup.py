# SPDX-License-Identifier: Apache-2.0
"""Text as HTML and as Markdown."""

from __future__ import annotations

import re
from html import escape

# Characters that a browser does not show, or that would reverse the text around them.
UNSHOWN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")

MARKDOWN = re.compile(r"[\\`*_\[\]<>|#~$]|&(?=#?\w+;)")  # what has a meaning inside a line of Markdown
ADDRESS = re.compile(r"((?:https?|ftp)|www)(:|\.)", re.IGNORECASE)  # a link even without brackets


def cleaned(value: object) -> str:
    """Any text without characters that cannot be shown or written in UTF-8."""
    written = str(value).encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be written
    return UNSHOWN.sub("\ufffd", written)


def text(value: object) -> str:
    """HTML that shows any text as it is."""
    return escape(cleaned(value))


def escape_markdown(value: object) -> str:
    """Markdown that shows any text as it is, on one line: no HTML, link, picture, emphasis or table cell."""
    clean = MARKDOWN.sub(r"\\\g<0>", " ".join(cleaned(value).split()))
    return ADDRESS.sub(lambda found: f"{found[1]}\\{found[2]}", clean)

# SPDX-License-Identifier: Apache-2.0
"""jinja2 templates of pages and documents."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hf_tripletclip.utils.pages.markup import cleaned, escape_markdown

FOLDER = Path(__file__).parent


def render(path: Path, **values: Any) -> str:
    """
    The text that a template makes of values.

    Args:
        path (`Path`): The template. In `*.html` each value becomes HTML that shows it as it is, unless it passes the
            filter `safe`; in other files a value is inserted unchanged, and the filter `markdown` escapes it. A
            template can import `parts.html` and the templates in its own folder.
        values: What the template refers to.
    """
    return _environment(path.parent).get_template(path.name).render(**values)


def macro(name: str) -> Any:
    """A macro of `parts.html`, as a function that returns HTML."""
    return getattr(_environment(FOLDER).get_template("parts.html").module, name)


@functools.cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([folder, FOLDER]),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        finalize=lambda value: cleaned(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["markdown"] = escape_markdown
    return environment

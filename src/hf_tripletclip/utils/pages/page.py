# SPDX-License-Identifier: Apache-2.0
"""The page itself: one file that refers to no other and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from string import Template

from hf_tripletclip.utils.pages.markup import text
from hf_tripletclip.version import __version__

FOLDER = Path(__file__).parent


def write_page(
    path: str | os.PathLike[str],
    *,
    title: str,
    heading: str,
    overview: str,
    sections: Mapping[str, str],
    command: str,
    style: str = "",
) -> Path:
    """
    Write a page, whole or not at all.

    Args:
        path (`str` or `os.PathLike`): The file; its folder is made where it is missing.
        title (`str`): Of the browser's window.
        heading (`str`): At the head of the page.
        overview (`str`): HTML before the sections.
        sections (`Mapping[str, str]`): Heading -> HTML.
        command (`str`): What wrote it.
        style (`str`): CSS beyond that of all pages.

    Raises:
        OSError: It cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder: name a file for the page, such as {target / 'page.html'}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    script = (FOLDER / "grid.js").read_text(encoding="utf-8")
    # Only this script may run, and nothing is fetched, whatever a caption holds.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    anchors = {name: name.lower().replace(" ", "-") for name in sections}
    page = Template((FOLDER / "page.html").read_text(encoding="utf-8")).substitute(
        title=text(title),
        heading=text(heading),
        digest=digest,
        style=(FOLDER / "page.css").read_text(encoding="utf-8") + style,
        script=script,
        navigation="".join(f'<a href="#{text(anchors[name])}">{text(name)}</a>' for name in sections),
        overview=overview,
        sections="".join(
            f'<section id="{text(anchors[name])}"><h2>{text(name)}</h2>{part}</section>'
            for name, part in sections.items()
        ),
        command=text(command),
        version=__version__,
    )
    staged = target.with_name(f".{target.name}.tmp")
    try:
        staged.write_text(page, encoding="utf-8")
        os.replace(staged, target)
    finally:
        staged.unlink(missing_ok=True)
    return target

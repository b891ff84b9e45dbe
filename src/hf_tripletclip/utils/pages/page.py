# SPDX-License-Identifier: Apache-2.0
"""`write_page`: a page is one file that needs no other file and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from hf_tripletclip.utils.pages.template import FOLDER, render
from hf_tripletclip.version import __version__


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
    Write a page, completely or not at all.

    Args:
        path (`str` or `os.PathLike`): The file; its folder is made if it is missing.
        title (`str`): The title of the browser's window.
        heading (`str`): The heading at the top of the page.
        overview (`str`): HTML before the sections.
        sections (`Mapping[str, str]`): Heading -> HTML.
        command (`str`): The command that wrote it.
        style (`str`): More CSS, after the CSS of all pages.

    Raises:
        OSError: The file cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder: name a file for the page, such as {target / 'page.html'}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    script = (FOLDER / "grid.js").read_text(encoding="utf-8")
    # Only this script may run, and nothing is fetched, whatever a caption holds.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = render(
        FOLDER / "page.html",
        title=title,
        heading=heading,
        digest=digest,
        style=(FOLDER / "page.css").read_text(encoding="utf-8") + style,
        script=script,
        overview=overview,
        sections=sections,
        command=command,
        version=__version__,
    )
    staged = target.with_name(f".{target.name}.tmp")
    try:
        staged.write_text(page, encoding="utf-8")
        os.replace(staged, target)
    finally:
        staged.unlink(missing_ok=True)
    return target

# SPDX-License-Identifier: Apache-2.0
"""Skips of tests that need what a machine may lack."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_tripletclip.generation.wordnet import FOLDERS, HOW, NEEDED, load_wordnet

SYSTEM_WORDNET = next((folder for folder in FOLDERS if all((Path(folder) / name).is_file() for name in NEEDED)), None)


def _reason() -> str | None:
    try:
        load_wordnet()
    except (ImportError, FileNotFoundError) as error:
        return str(error)
    return None


REASON = _reason()
needs_wordnet = pytest.mark.skipif(REASON is not None, reason=REASON or "")
needs_system_wordnet = pytest.mark.skipif(
    SYSTEM_WORDNET is None or REASON is not None, reason=f"no WordNet in {', '.join(FOLDERS)}: {HOW}"
)

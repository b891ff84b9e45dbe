# SPDX-License-Identifier: Apache-2.0
"""The optional libraries: what each is for, and the command that installs it, told wherever one is missing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

# Top-level module -> what needs it, and what to install.
EXTRAS = {
    "datatrove": ("making datasets", "hf_tripletclip[generation]"),
    "loguru": ("making datasets", "hf_tripletclip[generation]"),  # datatrove's
    "diffusers": ("drawing images", "hf_tripletclip[generation]"),
    "nltk": ("WordNet", "hf_tripletclip[generation]"),
    "gradio": ("the demo", "hf_tripletclip[demo]"),
    "peft": ("LoRA and adapters", "hf_tripletclip[peft]"),
    "evaluate": ("the metrics of the evaluate library", "hf_tripletclip[evaluate]"),
    "imagehash": ("comparing images by their hashes", "hf_tripletclip[leakage]"),
    "qtawesome": ("drawing `scenes`", "hf_tripletclip[scenes]"),
    "matplotlib": ("plots", "hf_tripletclip[plots]"),
    "ray": ("`--executor ray`", "ray"),
}


def explained(error: ImportError) -> ImportError:
    """
    The same error, with the pip command if it is an optional library that cannot be imported.

    Args:
        error (`ImportError`): What an import raised.
    """
    library = (error.name or "").partition(".")[0]
    if library not in EXTRAS or "pip install" in str(error):
        return error
    purpose, package = EXTRAS[library]
    told = f'{library} is not installed, which is needed for {purpose}: pip install "{package}"'
    return ImportError(f"{told} ({error})", name=error.name)


@contextlib.contextmanager
def optional_imports() -> Iterator[None]:
    """Imports inside it that fail for want of an optional library say what to install."""
    try:
        yield
    except ImportError as error:
        if (told := explained(error)) is error:
            raise
        raise told from error

# SPDX-License-Identifier: Apache-2.0
"""The optional libraries: what each is for, and the error that names the command to install a missing one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

# Top-level module -> its purpose, and the package to install.
EXTRAS = {
    "datatrove": ("making datasets", "hf_tripletclip[generation]"),
    "loguru": ("making datasets", "hf_tripletclip[generation]"),  # datatrove's
    "diffusers": ("drawing images", "hf_tripletclip[generation]"),
    "nltk": ("WordNet", "hf_tripletclip[generation]"),
    "gradio": ("the demo", "hf_tripletclip[demo]"),
    "peft": ("LoRA and adapters", "hf_tripletclip[peft]"),
    "evaluate": ("the metrics of the evaluate library", "hf_tripletclip[evaluate]"),
    "sklearn": ("telling drawn images from real ones", "hf_tripletclip[probe]"),
    "imagehash": ("comparing images by their hashes", "hf_tripletclip[leakage]"),
    "qtawesome": ("drawing `scenes`", "hf_tripletclip[scenes]"),
    "matplotlib": ("plots", "hf_tripletclip[plots]"),
    "scipy": ("paired tests", "hf_tripletclip[comparison]"),
    "ray": ("`--executor ray`", "ray[default]"),
}


def explained(error: ImportError) -> ImportError:
    """
    Add the pip command to an import error of an optional library; other errors are returned unchanged.

    Args:
        error (`ImportError`): The error of an import.
    """
    library = (error.name or "").partition(".")[0]
    if library not in EXTRAS or "pip install" in str(error):
        return error
    purpose, package = EXTRAS[library]
    message = f'{library} is not installed, which is needed for {purpose}: pip install "{package}"'
    return ImportError(f"{message} ({error})", name=error.name)


@contextlib.contextmanager
def optional_imports() -> Iterator[None]:
    """Make imports that fail because an optional library is missing say what to install."""
    try:
        yield
    except ImportError as error:
        if (with_command := explained(error)) is error:
            raise
        raise with_command from error

# SPDX-License-Identifier: Apache-2.0
"""The small CLIP beside `scenes` that has learned to recognise what they show, for short runs to start from.

`examples/scenes_start.py` trains it; its card tells what it saw.
"""

from __future__ import annotations

from pathlib import Path

START = "scenes"  # instead of a model's name


def start_folder() -> Path:
    """The folder of the model and its processor, as `from_pretrained` takes it: float16, pictures of 64 px."""
    return Path(__file__).parents[1] / "scenes_start"

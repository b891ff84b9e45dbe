# SPDX-License-Identifier: Apache-2.0
"""The small CLIP that comes with `scenes` and recognises what they show: a starting point for short runs.

`examples/scenes_start.py` trains it; its card lists its training data.
"""

from __future__ import annotations

import os
from pathlib import Path

START = "scenes"  # stands for this model where a model's name is expected


def start_folder() -> Path:
    """The folder of the model and its processor, for `from_pretrained`: float16 weights, pictures of 64 px."""
    return Path(__file__).parents[1] / "scenes_start"


def model_place(name: str | os.PathLike[str]) -> str:
    """
    Where a model is: the folder of the small model for `scenes`, unless there is a folder of that name, and otherwise
    what `name` says.
    """
    place = os.fspath(name)
    return str(start_folder()) if place == START and not os.path.isdir(place) else place

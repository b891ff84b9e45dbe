# SPDX-License-Identifier: Apache-2.0
"""`scenes`: the built-in dataset of drawn compositional scenes with true hard negatives."""

from __future__ import annotations

from hf_tripletclip.data.blind import blind_score
from hf_tripletclip.data.scenes.build import load_scenes
from hf_tripletclip.data.scenes.start import start_folder

__all__ = ["blind_score", "load_scenes", "start_folder"]

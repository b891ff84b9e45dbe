# SPDX-License-Identifier: Apache-2.0
"""The configuration of a TripletCLIP model: CLIP's own, plus how it is trained."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import CLIPConfig


@strict
class TripletCLIPConfig(CLIPConfig):
    r"""
    Configuration of a [`TripletCLIPModel`].

    It keeps `model_type = "clip"`, so a saved model opens in plain `transformers` (`AutoModel`, `CLIPModel`,
    `pipeline("zero-shot-image-classification")`) with no custom code, and every CLIP checkpoint opens as a
    [`TripletCLIPModel`]. The fields below are additional and optional; plain `transformers` keeps and ignores them.

    Args:
        objective (`str`, defaults to `"tripletclip"`):
            Name of the training objective; [`~hf_tripletclip.objectives.available_objectives`] lists them. Only
            `forward(..., return_loss=True)` uses it.
        objective_kwargs (`dict`, *optional*):
            Keyword arguments of the objective, as [`~hf_tripletclip.objectives.get_objective`] takes them.
        logit_scale_max (`float`, *optional*, defaults to 100.0):
            Upper bound of `exp(logit_scale)`, which the trainer enforces after every optimizer step
            (Radford et al. 2021, section 2.5). `None` means no bound. `forward` itself never clamps.
        **kwargs:
            Everything [`~transformers.CLIPConfig`] takes.

    Example:

    ```python
    >>> from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel

    >>> config = TripletCLIPConfig(objective="negclip")
    >>> model = TripletCLIPModel(config)  # ViT-B/32 with random weights
    ```"""

    objective: str = "tripletclip"
    objective_kwargs: dict[str, Any] | None = None
    logit_scale_max: float | int | None = 100.0

# SPDX-License-Identifier: Apache-2.0
"""Interpolation of weights between a base model and one that was tuned from it (WiSE-FT)."""

from __future__ import annotations

from typing import Any

import torch
from transformers.trainer_utils import unwrap_peft_model

from hf_tripletclip.configuration import reason_of

LISTED = 3  # names in a message


@torch.no_grad()
def interpolate(base: Any, tuned: Any, alpha: float) -> dict[str, torch.Tensor]:
    """
    ``(1 - alpha) * base + alpha * tuned``, weight by weight (Wortsman et al. 2022, "Robust fine-tuning of zero-shot
    models", arXiv 2109.01903). At 0 and 1 the weights are the models' own, bit for bit.

    Args:
        base, tuned (`torch.nn.Module`): Two models of one architecture.
        alpha (`float`): 0 is the base and 1 the tuned model; beyond them is extrapolation, and allowed.

    Returns:
        `dict[str, torch.Tensor]`: A state dict, in the base's dtypes, on the CPU.

    Raises:
        ValueError: The two models have different tensors or shapes.
    """
    start, end = base.state_dict(), tuned.state_dict()
    check_same_architecture(start, end)
    if alpha in (0, 1):
        return {name: (end if alpha else start)[name].detach().cpu().clone() for name in start}
    found = {}
    for name, value in start.items():
        other = end[name].detach().cpu()
        value = value.detach().cpu()
        # In float32: half precision would round a small step away.
        mixed = torch.lerp(value.float(), other.float(), alpha) if value.is_floating_point() else value
        found[name] = mixed.to(value.dtype)
    return found


def check_same_architecture(base: dict[str, torch.Tensor], tuned: dict[str, torch.Tensor]) -> None:
    """
    Check that two state dicts can be interpolated.

    Raises:
        ValueError: They have different tensors or shapes; names some.
    """
    for these, those, where in ((base, tuned, "tuned model"), (tuned, base, "base")):
        if missing := [name for name in these if name not in those]:
            raise ValueError(
                f"The two models cannot be merged: the {where} lacks {len(missing)} tensors, such as "
                f"{', '.join(missing[:LISTED])}."
            )
    different = [name for name in base if base[name].shape != tuned[name].shape]
    if different:
        listed = "; ".join(
            f"{name} is {tuple(base[name].shape)} in the base and {tuple(tuned[name].shape)} in the tuned model"
            for name in different[:LISTED]
        )
        raise ValueError(f"The two models cannot be merged, their shapes differ: {listed}.")


def merged(model: Any) -> Any:
    """
    The plain model that a `PeftModel` computes, its adapters merged into the weights; other models as they are.

    Raises:
        ValueError: It is of a kind that cannot be merged.
    """
    if unwrap_peft_model(model) is model:
        return model
    try:
        return model.merge_and_unload()
    except (NotImplementedError, AttributeError, ValueError) as error:
        raise ValueError(f"the PEFT adapter cannot be merged into its model: {reason_of(error)}.") from error

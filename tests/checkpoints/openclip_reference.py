# SPDX-License-Identifier: Apache-2.0
"""OpenCLIP's forward pass from its state dict, written with torch's own attention, for comparison."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

State = dict[str, torch.Tensor]
Mask = torch.Tensor | None


def _block(
    state: State, name: str, x: torch.Tensor, heads: int, mask: torch.Tensor | None, quick: bool
) -> torch.Tensor:
    def norm(part: str, value: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(value, value.shape[-1:], state[f"{name}.{part}.weight"], state[f"{name}.{part}.bias"])

    width = x.shape[-1]
    attention = nn.MultiheadAttention(width, heads, batch_first=True)
    attention.load_state_dict(
        {key.removeprefix(f"{name}.attn."): value for key, value in state.items() if key.startswith(f"{name}.attn.")}
    )
    y = norm("ln_1", x)
    x = x + attention(y, y, y, need_weights=False, attn_mask=mask)[0]
    y = F.linear(norm("ln_2", x), state[f"{name}.mlp.c_fc.weight"], state[f"{name}.mlp.c_fc.bias"])
    y = y * torch.sigmoid(1.702 * y) if quick else F.gelu(y)
    return x + F.linear(y, state[f"{name}.mlp.c_proj.weight"], state[f"{name}.mlp.c_proj.bias"])


def _blocks(
    state: State, tower: str, x: torch.Tensor, heads: int, mask: torch.Tensor | None, quick: bool
) -> torch.Tensor:
    layer = 0
    while f"{tower}.resblocks.{layer}.ln_1.weight" in state:
        x = _block(state, f"{tower}.resblocks.{layer}", x, heads, mask, quick)
        layer += 1
    return x


@torch.no_grad()
def encode_image(state: State, pixels: torch.Tensor, heads: int, quick: bool) -> torch.Tensor:
    def norm(part: str, value: torch.Tensor) -> torch.Tensor:
        weight, bias = state[f"visual.{part}.weight"], state[f"visual.{part}.bias"]
        return F.layer_norm(value, value.shape[-1:], weight, bias)

    kernel = state["visual.conv1.weight"]
    patches = F.conv2d(pixels, kernel, stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    first = state["visual.class_embedding"].expand(len(pixels), 1, -1)
    x = torch.cat([first, patches], dim=1) + state["visual.positional_embedding"]
    x = _blocks(state, "visual.transformer", norm("ln_pre", x), heads, None, quick)
    return norm("ln_post", x[:, 0]) @ state["visual.proj"]


@torch.no_grad()
def encode_text(state: State, ids: torch.Tensor, heads: int, quick: bool) -> torch.Tensor:
    length = ids.shape[1]
    x = state["token_embedding.weight"][ids] + state["positional_embedding"][:length]
    mask = torch.full((length, length), float("-inf")).triu(1)
    x = _blocks(state, "transformer", x, heads, mask, quick)
    x = F.layer_norm(x, x.shape[-1:], state["ln_final.weight"], state["ln_final.bias"])
    return x[torch.arange(len(ids)), ids.argmax(dim=-1)] @ state["text_projection"]

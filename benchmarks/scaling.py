# SPDX-License-Identifier: Apache-2.0
"""Memory and communication of a step on 1 to 512 GPUs, with DDP and with FSDP2: formulas from measured sizes.

    python benchmarks/scaling.py --output benchmarks/results/scaling.md

No GPU is used. Measured are the parameters of each model, counted without memory on the device `meta`, and the bytes
that autograd keeps per row, counted by `torch.autograd.graph.saved_tensors_hooks` in bfloat16 on models of the real
width with one and with two layers per tower; the rest of the depth is the difference of the two. All else follows from
the formulas in `state_bytes`, `exchanged_bytes` and `key_bytes`. Sizes of the models are those of the published
configs that `MODELS` names.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from result_page import write_page
from torch import nn
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from hf_tripletclip.objectives import Objective, get_objective
from hf_tripletclip.objectives.exchange import GATHER_LIMIT, goes_round
from hf_tripletclip.training.sharding import layers_of

GIB = 2**30
FULL, HALF = 4, 2  # bytes of a number in float32 and in bfloat16
GPUS = (1, 8, 64, 512)


@dataclass(frozen=True)
class Size:
    """
    A model of a published size.

    Args:
        name (`str`): Its name in the table.
        source (`str`): The Hub repository whose `config.json` has these numbers.
        objective (`str`): What it is trained with.
        vision, text (`dict`): What differs from the defaults of transformers.
        dim (`int`): Width of an embedding.
        length (`int`): Tokens of a caption.
    """

    name: str
    source: str
    objective: str
    vision: dict[str, int]
    text: dict[str, int]
    dim: int
    length: int = 77

    def config(self, layers: int | None = None) -> Any:
        """The config, with another number of layers in both towers if one is given."""
        depth = {} if layers is None else {"num_hidden_layers": layers}
        vision, text = {**self.vision, **depth}, {**self.text, **depth}
        if self.objective == "siglip_triplet":
            return SiglipConfig(vision_config=vision, text_config={**text, "projection_size": self.dim})
        return CLIPConfig(vision_config=vision, text_config=text, projection_dim=self.dim)

    def model(self, layers: int | None = None) -> nn.Module:
        config = self.config(layers)
        return SiglipModel(config) if self.objective == "siglip_triplet" else CLIPModel(config)


def tower(width: int, inner: int, layers: int, heads: int, **further: int) -> dict[str, int]:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {**dict(zip(names, (width, inner, layers, heads), strict=True)), **further}


MODELS = (
    Size(
        "ViT-B/32", "openai/clip-vit-base-patch32", "tripletclip",
        tower(768, 3072, 12, 12, patch_size=32, image_size=224), tower(512, 2048, 12, 8), 512,
    ),
    Size(
        "ViT-L/14", "openai/clip-vit-large-patch14", "tripletclip",
        tower(1024, 4096, 24, 16, patch_size=14, image_size=224), tower(768, 3072, 12, 12), 768,
    ),
    Size(
        "SigLIP so400m/14, 384 px", "google/siglip-so400m-patch14-384", "siglip_triplet",
        tower(1152, 4304, 27, 16, patch_size=14, image_size=384),
        tower(1152, 4304, 27, 16, vocab_size=32000, max_position_embeddings=64), 1152, 64,
    ),
    Size(
        "ViT-bigG/14", "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", "tripletclip",
        tower(1664, 8192, 48, 16, patch_size=14, image_size=224), tower(1280, 5120, 32, 20), 1280,
    ),
)  # fmt: skip


# ---- Measured ----


def parameters_of(size: Size) -> tuple[int, int]:
    """The number of parameters of a model, and of the largest part that FSDP2 gathers at a time."""
    with torch.device("meta"):
        model = size.model()
    parts = [module for module in model.modules() if type(module).__name__ in layers_of(model)]
    return count(model), max(map(count, parts))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def kept_bytes(run: Callable[[], torch.Tensor], module: nn.Module) -> int:
    """The bytes that autograd keeps for the backward pass of a forward, without parameters; each storage once."""
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage  # which keeps it alive, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run()
    assert output.requires_grad
    return sum(storage.nbytes() for storage in storages.values())


def activation_bytes(size: Size, rows: int = 2) -> int:
    """Bytes per triplet, which is two images and two captions, in bfloat16 and at full depth."""
    found: dict[int, tuple[int, int]] = {}
    for layers in (1, 2):
        model: Any = size.model(layers).to(torch.bfloat16).train()
        side = size.vision["image_size"]
        pixels = torch.zeros(rows, 3, side, side, dtype=torch.bfloat16)
        ids = torch.zeros(rows, size.length, dtype=torch.int64)
        found[layers] = (
            kept_bytes(lambda m=model, p=pixels: m.vision_model(p).pooler_output, model.vision_model),
            kept_bytes(lambda m=model, i=ids: m.text_model(i).pooler_output, model.text_model),
        )
    total = 0
    for place, of_tower in enumerate((size.vision, size.text)):
        one, two = found[1][place], found[2][place]
        total += 2 * (one + (of_tower["num_hidden_layers"] - 1) * (two - one)) // rows
    return total


# ---- Formulas ----


def state_bytes(parameters: int, largest_layer: int, gpus: int, *, sharded: bool) -> int:
    """
    Weights, gradients and the two moments of AdamW in float32, `4 + 4 + 8` bytes per parameter. With DDP, and in one
    process, autocast keeps a copy of the weights in bfloat16. With FSDP2 a GPU has `1 / gpus` of the state, two layers
    at a time that are gathered in bfloat16, one of them ahead, and the whole gradient of one in float32.
    """
    if not sharded or gpus == 1:
        return (16 + HALF) * parameters
    return 16 * parameters // gpus + (2 * HALF + FULL) * largest_layer


def exchanged_bytes(parameters: int, gpus: int, *, sharded: bool) -> int:
    """
    What a GPU sends per step for weights and gradients. DDP: the ring's all-reduce of gradients in float32 sends
    `2 (N - 1) / N` of them. FSDP2: weights are gathered in bfloat16 for the forward and again for the backward pass,
    and gradients in float32 reduced and scattered, each `(N - 1) / N` of all. Both are `8 (N - 1) / N` bytes per
    parameter.
    """
    each = parameters * (gpus - 1) // gpus
    return (2 * HALF + FULL) * each if sharded else 2 * FULL * each


def key_bytes(objective: Objective, dim: int, rows: int, gpus: int) -> dict[str, int]:
    """
    The keys of the loss in float32, with `rows` triplets per GPU. Gathered, a GPU holds all and their gradients, and
    receives the others' once forward and sends their gradients once backward. In the ring it holds its own of one term
    and two others' (those it compares and those that arrive), with gradients, and each term sends its keys round once
    forward, and with their gradients once backward.
    """
    block = rows * dim * FULL
    shared = {role for term in objective.terms for role in (*term.key_roles, *term.gathered)}
    by_term = [len(term.key_roles) for term in objective.terms]
    return {
        "all": gpus * len(shared) * block,
        "gather holds": 2 * gpus * len(shared) * block,
        "gather sends": 2 * (gpus - 1) * len(shared) * block,
        "ring holds": 2 * 3 * max(by_term) * block,
        "ring sends": (gpus - 1) * sum(by_term) * 3 * block,
    }


def gpus_for_ring(objective: Objective, dim: int, rows: int) -> int:
    """From how many GPUs on `key_exchange="auto"` takes the ring."""
    gpus = 1
    while not goes_round("auto", [[key_bytes(objective, dim, rows, gpus)["all"]]], 1):
        gpus += 1
    return gpus


# ---- The page ----


def gib(value: float) -> str:
    return f"{value / GIB:,.2f}" if value < 10 * GIB else f"{value / GIB:,.0f}"


def rows_that_fit(free: float, per_row: int) -> str:
    rows = int(free // per_row)
    return f"{rows:,}" if rows > 0 else "none"


def page(memory: float, rows: int, sizes: Sequence[Size]) -> list[str]:
    lines = [
        "# Memory and communication of a step",
        "",
        f"`python benchmarks/scaling.py --memory {memory:g} --rows {rows}`, torch {torch.__version__}, "
        f"{platform.machine()}. **Measured:** parameters, and the bytes per triplet that autograd keeps (without "
        "gradient checkpointing). **All other numbers are formulas**, see the script; no GPU was used. They leave out "
        "what torch and NCCL hold for themselves, and fragmentation.",
        "",
        "| model | config of | parameters | kept per triplet, MiB |",
        "| --- | --- | --- | --- |",
    ]
    measured = {}
    for size in sizes:
        total, largest = parameters_of(size)
        measured[size.name] = (total, largest, activation_bytes(size))
        kept = measured[size.name][2] / 2**20
        lines.append(f"| {size.name} | `{size.source}` | {total / 1e6:,.1f} M | {kept:,.0f} |")
    lines += [
        "",
        "GiB per GPU of weights, gradients and AdamW, and the triplets of a pass (`--mini_batch_size`) for which "
        f"{memory:g} GiB then suffice in `bf16`. *Sent* is what a GPU sends per step for weights and gradients; it is "
        "the same with DDP and FSDP2.",
        "",
        "| model | GPUs | state, DDP | triplets | state, FSDP2 | triplets | sent, GiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for size in sizes:
        total, largest, per_row = measured[size.name]
        for gpus in GPUS:
            cells = []
            for sharded in (False, True):
                state = state_bytes(total, largest, gpus, sharded=sharded)
                cells += [gib(state), rows_that_fit(memory * GIB - state, per_row)]
            sent = gib(exchanged_bytes(total, gpus, sharded=True))
            assert exchanged_bytes(total, gpus, sharded=True) == exchanged_bytes(total, gpus, sharded=False)
            lines.append(f"| {size.name} | {gpus} | {' | '.join(cells)} | {sent} |")
    lines += [
        "",
        f"The keys of the loss with {rows} triplets per GPU, in GiB: what a GPU holds, gradients included, and what it"
        f" sends per step. `auto` gathers as long as all keys take no more than {GATHER_LIMIT // 2**20} MiB.",
        "",
        "| model | objective | GPUs | gathered: holds | sends | ring: holds | sends | `auto` takes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for size in sizes:
        objective = get_objective(size.objective)
        for gpus in GPUS[1:]:
            keys = key_bytes(objective, size.dim, rows, gpus)
            ring = goes_round("auto", [[keys["all"]]], 1)
            cells = [gib(keys[name]) for name in ("gather holds", "gather sends", "ring holds", "ring sends")]
            taken = "ring" if ring else "gather"
            lines.append(f"| {size.name} | `{size.objective}` | {gpus} | {' | '.join(cells)} | {taken} |")
    switches = ", ".join(
        f"{size.name} {gpus_for_ring(get_objective(size.objective), size.dim, rows)}" for size in sizes
    )
    lines += ["", f"GPUs from which on `auto` takes the ring, with {rows} triplets on each: {switches}."]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", type=float, default=80, help="memory of a GPU in GiB")
    parser.add_argument("--rows", type=int, default=256, help="triplets per GPU in a batch")
    parser.add_argument("--output", type=Path, help="file for the page")
    given = parser.parse_args()
    torch.manual_seed(0)
    write_page(page(given.memory, given.rows, MODELS), given.output)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Memory of a fine-tuning step for different sets of trained weights, as a ratio to training both towers in full.

    python benchmarks/finetune_memory.py --output benchmarks/results/finetune_memory.md

A ViT-B/32 with random weights makes two steps of `tripletclip` with AdamW, each case in its own process. The script
counts the bytes of the weights (with the copy that is the teacher of distillation, if there is one), of the tensors
that autograd keeps for the backward pass (each storage once, without parameters), of the gradients and of the
optimizer's state. It also shows the growth of the peak resident set since before the model was made.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from alternating import peak_kib
from result_page import write_page

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel
from hf_tripletclip.training.teacher import Teacher
from hf_tripletclip.training.towers import TowerArguments, prepare_towers

LENGTH = 77  # tokens of a caption
DISTILLATION = {"kind": "similarity", "weight": 1.0}
LORA = {"train_text": "lora", "train_vision": "lora", "lora_target_modules": ["all-linear"]}
FROZEN = {"train_text": "frozen", "train_vision": "frozen", "train_projections": True}

# Name of the case -> what is trained, and whether there is a teacher.
CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "both towers in full": ({}, False),
    "image tower frozen": ({"train_vision": "frozen"}, False),
    "text tower frozen": ({"train_text": "frozen"}, False),
    "both frozen, projections in full": (FROZEN, False),
    "LoRA on both": (LORA, False),
    "LoRA on text, image tower frozen": ({**LORA, "train_vision": "frozen"}, False),
    "both in full, distilled": ({}, True),
    "LoRA on both, distilled": (LORA, True),
}
COUNTED = ("weights", "activations", "gradients", "optimizer")


def make_batch(config: Any, rows: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    size = config.vision_config.image_size
    batch: dict[str, torch.Tensor] = {}
    for prefix in ("", "negative_"):
        ids = torch.randint(0, config.text_config.vocab_size - 2, (rows, LENGTH), generator=generator)
        ids[:, -1] = config.text_config.eos_token_id
        batch |= {f"{prefix}input_ids": ids, f"{prefix}attention_mask": torch.ones_like(ids)}
        batch[f"{prefix}pixel_values"] = torch.randn(rows, 3, size, size, generator=generator)
    return batch


def storages(tensors: Iterable[torch.Tensor]) -> dict[int, int]:
    """Address and bytes of each storage."""
    return {storage.data_ptr(): storage.nbytes() for storage in (tensor.untyped_storage() for tensor in tensors)}


def train(config: TripletCLIPConfig, rows: int, options: dict[str, Any], distilled: bool) -> dict[str, float]:
    torch.manual_seed(0)
    core = TripletCLIPModel(config)
    core.set_objective("tripletclip", **({"distillation": DISTILLATION} if distilled else {}))
    model = prepare_towers(core, TowerArguments(**options)).train()
    teacher = Teacher(model, torch.device("cpu")) if distilled else None
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW([value for value in parameters if value.requires_grad], lr=1e-5)
    batch = make_batch(config, rows)
    weights = storages(parameters)
    if teacher is not None and teacher.copy is not None:
        weights |= storages(teacher.copy.parameters())

    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.update(storages([tensor]))  # the graph holds it, so its address is not used again
        return tensor

    for _ in range(2):  # in the second step the optimizer's state exists together with the activations
        optimizer.zero_grad()
        kept.clear()
        targets = {} if teacher is None else {"teacher_embeds": teacher(model, batch)}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(**batch, **targets, return_loss=True, return_logits=False)["loss"]
        loss.backward()
        optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    memory = {
        "weights": weights,
        "activations": {address: size for address, size in kept.items() if address not in weights},
        "gradients": storages(value.grad for value in parameters if value.grad is not None),
        "optimizer": storages(value for value in states if isinstance(value, torch.Tensor)),
    }
    trained = sum(value.numel() for value in parameters if value.requires_grad)
    return {"trained": trained / 1e6, **{name: sum(sizes.values()) / 2**20 for name, sizes in memory.items()}}


def measure(case: str, rows: int) -> dict[str, float]:
    tower = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    train(TripletCLIPConfig(text_config=tower, vision_config=tower), 2, *CASES[case])  # libraries set up their buffers
    before = peak_kib()
    memory = train(TripletCLIPConfig(), rows, *CASES[case])
    return {**memory, "resident": (peak_kib() - before) / 2**10}


def in_a_process(case: str, rows: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", case, "--rows", str(rows)]
    # glibc then returns freed blocks of at least this size; by default it soon keeps them.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**16)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", choices=list(CASES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.rows)))
        return

    lines = [
        "Written by `python benchmarks/finetune_memory.py --output benchmarks/results/finetune_memory.md`.",
        "",
        f"`tripletclip` with AdamW on a ViT-B/32 of random weights, float32, {options.rows} rows (each two "
        f"images and two captions of {LENGTH} tokens), LoRA of rank {TowerArguments.lora_r} on all linear layers, "
        f"CPU, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}. MiB, counted: "
        "weights with the teacher's copy, what autograd keeps for the backward pass, gradients, optimizer. Reference, "
        "in the same run: both towers in full. Resident is the peak that the operating system saw over two steps.",
        "",
        "| what trains | million parameters | weights | activations | ratio | gradients | optimizer | sum | ratio "
        "| resident | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    reference: dict[str, float] = {}
    for case in CASES:
        memory = in_a_process(case, options.rows)
        memory["sum"] = sum(memory[name] for name in COUNTED)
        reference = reference or memory
        ratio = {name: memory[name] / reference[name] for name in ("activations", "sum", "resident")}
        lines.append(
            f"| {case} | {memory['trained']:.1f} | {memory['weights']:.0f} | {memory['activations']:.0f} | "
            f"{ratio['activations']:.2f} | {memory['gradients']:.0f} | {memory['optimizer']:.0f} | "
            f"{memory['sum']:.0f} | {ratio['sum']:.2f} | {memory['resident']:.0f} | {ratio['resident']:.2f} |"
        )
    write_page(lines, options.output)


if __name__ == "__main__":
    main()

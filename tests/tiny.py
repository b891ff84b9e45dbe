# SPDX-License-Identifier: Apache-2.0
"""A CLIP of a few thousand parameters and batches for it, for tests of everything that needs a model."""

from __future__ import annotations

import torch

from hf_tripletclip import TripletCLIPConfig

EOS = 98


def tiny_config(**kwargs) -> TripletCLIPConfig:
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return TripletCLIPConfig(
        text_config={
            **tower,
            "vocab_size": 99,
            "max_position_embeddings": 16,
            "bos_token_id": 97,
            "eos_token_id": EOS,
            "pad_token_id": EOS,
            "projection_dim": 24,
        },
        vision_config={**tower, "image_size": 16, "patch_size": 8, "projection_dim": 24},
        projection_dim=24,
        **kwargs,
    )


def captions(rows: int, length: int, seed: int, lengths: list[int] | None = None) -> dict[str, torch.Tensor]:
    """Token ids that end with the end-of-text token, padded with it, and their attention mask."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 97, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(rows):
        end = (lengths or [length - row % 3 for row in range(rows)])[row]
        ids[row, end - 1 :] = EOS
        mask[row, end:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def images(rows: int, seed: int, size: int = 16) -> torch.Tensor:
    return torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(seed))


def positives(rows: int = 5) -> dict[str, torch.Tensor]:
    return {**captions(rows, 10, 0), "pixel_values": images(rows, 1)}


def further_texts(rows: int = 5) -> dict[str, torch.Tensor]:
    """Paraphrases and dense captions, any number per row, and several hard negative captions of some rows."""
    inputs: dict[str, torch.Tensor] = {}
    numbers = {"paraphrase_": (1, 0, 2), "dense_": (2, 1, 3), "negative_": (2, 0, 1)}
    for seed, (prefix, of_rows) in enumerate(numbers.items(), start=5):
        counts = torch.tensor([of_rows[row % 3] for row in range(rows)])
        inputs[f"{prefix}mask"] = torch.arange(int(counts.max())) < counts[:, None]
        inputs |= {f"{prefix}{name}": value for name, value in captions(int(counts.sum()), 7 + seed, seed).items()}
    inputs["paraphrase_decoder_targets"] = decoder_labels(torch.arange(len(inputs["paraphrase_input_ids"])))
    return inputs


def decoder_labels(numbers: torch.Tensor, length: int = 4) -> torch.Tensor:
    """For texts of these numbers: token ids from 1 to 15, padded with -100."""
    labels = (numbers[:, None] + torch.arange(length) ** 2) % 15 + 1
    return labels.masked_fill(torch.arange(length) > (numbers % length)[:, None], -100)


def negatives(rows: int = 5, length: int = 12) -> dict[str, torch.Tensor]:
    inputs = {f"negative_{name}": value for name, value in captions(rows, length, 2).items()}
    return {**inputs, "negative_pixel_values": images(rows, 3)}

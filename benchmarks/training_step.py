# SPDX-License-Identifier: Apache-2.0
"""A training step of a ViT-B/32 on triplets, and the same step as published and in sentence-transformers.

A part of `run.py`. A step is: zero the gradients, forward, loss, backward, AdamW. All steps have the same random
weights, pictures and captions, and compute the same loss. Reading and preprocessing are no part of it.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import torch
from transformers import CLIPModel

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel
from hf_tripletclip.data import build_processor

SIZE, TOKENS = 224, 77
LEARNING_RATE = 1e-6  # small, so that the weights stay as they are in all ways
# A caption and a negative of it, as long as SugarCrepe's.
PAIRS = (
    ("A man in a blue shirt rides a brown horse along the beach", "A man in a brown shirt rides a blue horse"),
    ("Two dogs are sleeping on a sofa beside a sleeping cat", "Two cats are sleeping on a sofa beside a sleeping dog"),
    ("A white plate with a slice of pizza and a fork", "A white plate with a slice of cake and a fork"),
    ("A woman holds a red umbrella in front of an old church", "A woman holds a red umbrella behind an old church"),
    ("Several boats are moored in the harbour of a small town", "Several boats are leaving the harbour of a town"),
    ("A train that passes under a bridge with people on it", "A train that passes over a bridge with people under it"),
    ("A kitchen with wooden cupboards and a black oven", "A kitchen with black cupboards and a wooden oven"),
    ("A young girl eats an apple while her brother drinks milk", "A young girl drinks milk while her brother eats"),
    ("The clock on the tower shows half past three in the afternoon", "The clock on the tower shows half past nine"),
    ("A bicycle leans against a green wall near a closed door", "A bicycle leans against a closed door near a wall"),
    ("Three sheep stand in a field of tall yellow grass", "Three cows stand in a field of tall yellow grass"),
    ("A person with a helmet is skiing down a steep snowy slope", "A person without a helmet is skiing down a slope"),
)


def pairs(rows: int) -> list[tuple[str, str]]:
    return list(islice(cycle(PAIRS), rows))


class Steps:
    """
    The same step in several ways.

    Args:
        rows (`int`): Triplets of a batch.
        layers (`int`, defaults to 12): Layers of each tower; fewer only to try the code.
        device (`str`, defaults to `"cpu"`): Where it runs.
    """

    def __init__(self, rows: int, layers: int = 12, device: str = "cpu") -> None:
        captions, negatives = zip(*pairs(rows), strict=True)
        self.device, self.layers = device, layers
        self.processor = build_processor([*captions, *negatives], image_size=SIZE, model_max_length=TOKENS)
        generator = torch.Generator().manual_seed(0)
        images, others = (torch.randn(rows, 3, SIZE, SIZE, generator=generator).to(device) for _ in range(2))
        self.images = {"pixel_values": images}
        self.negative_images = {"pixel_values": others}
        self.short = [self.tokens(texts, padding="longest") for texts in (captions, negatives)]
        self.padded = [self.tokens(texts, padding="max_length") for texts in (captions, negatives)]

    def tokens(self, texts: Any, padding: str) -> dict[str, torch.Tensor]:
        encoded = self.processor.tokenizer(
            list(texts), padding=padding, max_length=TOKENS, truncation=True, return_tensors="pt"
        )
        return {name: encoded[name].to(self.device) for name in ("input_ids", "attention_mask")}

    def model(self, kind: type[CLIPModel]) -> Any:
        """A model with the towers and the number of words of openai/clip-vit-base-patch32, and random weights."""
        config = TripletCLIPConfig(
            text_config={"num_hidden_layers": self.layers, "eos_token_id": self.processor.tokenizer.eos_token_id},
            vision_config={"num_hidden_layers": self.layers},
        )
        torch.manual_seed(0)
        return kind(config).train().to(self.device)

    def published(self, autocast: bool) -> Callable[[], torch.Tensor]:
        """
        The step of the code released with TripletCLIP: a forward of the pairs and one of the negative pairs, captions
        of 77 tokens without a mask, as OpenCLIP has them, and `cross_entropy` on whole matrices.
        """
        model = self.model(CLIPModel)

        def embed(images: dict[str, torch.Tensor], ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            image, text = model.get_image_features(**images), model.get_text_features(input_ids=ids)
            normalize = torch.nn.functional.normalize
            return normalize(image.pooler_output, dim=-1), normalize(text.pooler_output, dim=-1)

        def ce(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
            logits = model.logit_scale.exp() * queries @ keys.T
            return torch.nn.functional.cross_entropy(logits, torch.arange(len(queries), device=logits.device))

        def loss() -> torch.Tensor:
            image, text = embed(self.images, self.padded[0]["input_ids"])
            other, negative = embed(self.negative_images, self.padded[1]["input_ids"])
            first = ce(image, torch.cat([text, negative])) + ce(text, image)
            return (first + ce(other, torch.cat([negative, text])) + ce(negative, other)) / 2

        return self.step(model, loss, autocast)

    def ours(self, autocast: bool, objective: str = "tripletclip") -> Callable[[], torch.Tensor]:
        """Our step: each tower runs once, captions are as long as the longest of the batch."""
        model = self.model(TripletCLIPModel)
        model.set_objective(objective)
        batch = {**self.images, **self.short[0]}
        batch |= {f"negative_{name}": value for name, value in self.short[1].items()}
        if objective == "tripletclip":
            batch["negative_pixel_values"] = self.negative_images["pixel_values"]
        return self.step(model, lambda: model(**batch, return_loss=True, return_logits=False).loss, autocast)

    def sentence_transformers(self, autocast: bool) -> Callable[[], torch.Tensor]:
        """
        The step of sentence-transformers with `negclip` on the same rows: MultipleNegativesRankingLoss in both
        directions, the columns `image`, `caption`, `neg_caption`, each padded to its longest.
        """
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        with tempfile.TemporaryDirectory() as folder:
            self.model(CLIPModel).save_pretrained(folder)
            self.processor.save_pretrained(folder)
            model = SentenceTransformer(folder, device=self.device).train()
        criterion = MultipleNegativesRankingLoss(
            model, scale=1 / 0.07, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
        )
        columns = [{**self.images, "modality": "image"}, *({**one, "modality": "text"} for one in self.short)]
        return self.step(
            model, lambda: criterion([dict(one) for one in columns], torch.empty(0, device=self.device)), autocast
        )

    def step(self, model: Any, loss: Callable[[], torch.Tensor], autocast: bool) -> Callable[[], torch.Tensor]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
        context = torch.autocast(self.device, torch.bfloat16) if autocast else contextlib.nullcontext()

        def run() -> torch.Tensor:
            optimizer.zero_grad()
            with context:
                value = loss()
            value.backward()
            optimizer.step()
            return value.detach()

        return run


def product_ceiling(device: str, dtype: torch.dtype, side: int = 4096, repeats: int = 5) -> Callable[[], None]:
    """A way to be timed: `repeats` products of square matrices, each `2 * side ** 3` operations."""
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def run() -> None:
        for _ in range(repeats):
            one @ other

    return run

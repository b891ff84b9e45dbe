# SPDX-License-Identifier: Apache-2.0
"""A trainer of locked towers with a cache, and which towers are locked."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel
from hf_tripletclip.data import TripletCollator
from hf_tripletclip.training.towers import TowerArguments, prepare_towers
from tests.tiny import tiny_config
from tests.training.test_evaluation import rows
from tests.training.test_trainer import make_trainer

VISION = {"train_vision": "frozen"}
TEXT = {"train_text": "frozen"}
BOTH = {**VISION, **TEXT, "train_projections": True}
LORA = {"train_text": "lora", "train_vision": "frozen", "lora_r": 4}
TOWERS = {"vision": VISION, "text": TEXT, "both": BOTH, "lora": LORA}


def config_for(processor, **text) -> TripletCLIPConfig:
    base = tiny_config().to_dict()
    base["text_config"] |= {"vocab_size": len(processor.tokenizer), "max_position_embeddings": 20}
    base["text_config"] |= {"eos_token_id": processor.tokenizer.eos_token_id, **text}
    return TripletCLIPConfig(**base)


@pytest.fixture(name="make")
def make_cached(tmp_path, processor):
    """A trainer of 18 raw rows, which hold five pictures and five captions."""

    def make(towers: dict, cached: bool = True, **kwargs):
        torch.manual_seed(0)
        model = prepare_towers(TripletCLIPModel(config_for(processor)), TowerArguments(**towers))
        if cached:
            kwargs = {"cache_locked_towers": str(tmp_path / "cache"), **kwargs}
        given = {"train_dataset": Dataset.from_list(rows(18)), "data_collator": TripletCollator(processor)}
        return make_trainer(tmp_path / "run", model=model, **{**given, **kwargs})

    return make

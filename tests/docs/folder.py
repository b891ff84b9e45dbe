# SPDX-License-Identifier: Apache-2.0
"""The folder in which the Python of the documentation runs: small stand-ins for what it reads, also of the Hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pictures

from tests.checkpoints import write_published
from tests.doors import save_model
from tests.families import CAPTIONS, dual_encoder, write_family

BASE = "openai/clip-vit-base-patch32"
MODELS = (BASE, "my-clip", "my-model", "user/name")
TRIPLETS = ("tripletdata", "path/to/triplets", "path/to/pairs", "my/triplets", "my-triplets")
KINDS = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att")
ANIMALS, COLORS = ("dog", "cat", "horse", "bird", "cow"), ("black", "white", "brown", "gray")


def make_folder(folder: Path, model: Path | None = None) -> Path:
    """
    Fill a folder.

    Args:
        folder (`Path`): Where to write.
        model (`Path`, *optional*): What `outputs/scenes` is; by default a small random model.

    Returns:
        `Path`: The folder.
    """
    small = save_model(folder / MODELS[0], length=77)
    for name in MODELS[1:]:
        shutil.copytree(small, folder / name)
    shutil.copytree(model or small, folder / "outputs" / "scenes", ignore=shutil.ignore_patterns("checkpoint-*"))
    _write_published(folder / "TripletCLIP" / "CC12M_TripletCLIP_ViTB12", small)
    write_family("siglip", folder / "google" / "siglip2-base-patch16-224")
    _write_towers(folder)
    _write_pictures(folder)
    _write_triplets(folder / TRIPLETS[0])
    for name in TRIPLETS[1:]:
        shutil.copytree(folder / TRIPLETS[0], folder / name)
    _write_benchmarks(folder)
    return folder


def _write_published(folder: Path, processor: Path) -> None:
    """A published checkpoint, whose processor is that of the base."""
    tokenizer = json.loads((processor / "config.json").read_text())["text_config"]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {name: tokenizer[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    write_published(
        folder,
        {**sizes, **text, "projection_dim": 24, "max_position_embeddings": 77},
        {**sizes, "projection_dim": 24, "image_size": 16, "patch_size": 8},
    )


def _write_towers(folder: Path) -> None:
    """A DINOv2 and a BERT, each in a directory of its own with what prepares its inputs."""
    model, processor = dual_encoder(CAPTIONS, folder)
    for name, tower, prepares in (
        ("facebook/dinov2-base", model.vision_model, processor.image_processor),
        ("google-bert/bert-base-uncased", model.text_model, processor.tokenizer),
    ):
        tower.save_pretrained(folder / name)
        prepares.save_pretrained(folder / name)


def _picture(number: int) -> Pictures.Image:
    image = Pictures.new("RGB", (40, 30), (number * 37 % 256, number * 91 % 256, 90))
    image.paste((250, 240, number % 256), (number % 20, 5, number % 20 + 12, 20))
    return image


def _write_pictures(folder: Path) -> None:
    """A photograph, and tables with paths of pictures."""
    _picture(1).save(folder / "photo.jpg")
    for name in ("my_data/images", "photos"):
        (folder / name).mkdir(parents=True)
        for number in range(1, 21):
            _picture(number).save(folder / name / f"{number:04}.jpg")
    (folder / "my_data" / "pairs.csv").write_text(
        "image,caption,neg_caption\n"
        "images/0001.jpg,a black dog chases a white cat,a white dog chases a black cat\n"
        "images/0002.jpg,null island on a map,an island on a map\n"
    )
    captions = [f"a {COLORS[number % 4]} {ANIMALS[number % 5]} in a room" for number in range(20)]
    rows = [{"image": f"{number + 1:04}.jpg", "captions": [caption]} for number, caption in enumerate(captions)]
    (folder / "photos" / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes = {"json": {"caption": "a dog in a room"}, "sop_data": {"negative-prompt": "a dog, not in a room"}}
    torch.save(
        {"image_paths": ["/workspace/datasets/cc3m/1.jpg"], "annotations": [notes]}, folder / "ccneg_preprocessed.pt"
    )


def _write_triplets(folder: Path) -> None:
    """A thousand triplets with scores, in the columns of `tripletclip generate`."""
    images = [{"bytes": _png(number), "path": None} for number in range(8)]
    rows = range(1000)
    captions = [
        f"a {COLORS[row % 4]} {ANIMALS[row % 5]} chasing a {COLORS[(row + 1) % 4]} {ANIMALS[(row + 2) % 5]}"
        for row in rows
    ]
    table = {
        "image": [images[row % 4] for row in rows],
        "caption": captions,
        "neg_image": [images[4 + row % 4] for row in rows],
        "neg_caption": [
            f"a {COLORS[(row + 1) % 4]} {ANIMALS[row % 5]} chasing a {COLORS[row % 4]} {ANIMALS[(row + 2) % 5]}"
            for row in rows
        ],
        "clip_score": [row / 1000 for row in rows],
        "neg_clip_score": [row / 2000 for row in rows],
    }
    features = {"image": Image(), "caption": Value("string"), "neg_image": Image(), "neg_caption": Value("string")}
    features |= {"clip_score": Value("float64"), "neg_clip_score": Value("float64")}
    (folder / "data").mkdir(parents=True)
    dataset = Dataset.from_dict(table, features=Features(features))
    dataset.to_parquet(folder / "data" / "train-00000-of-00001.parquet")


def _png(number: int) -> bytes:
    import io

    buffer = io.BytesIO()
    _picture(number).save(buffer, "PNG")
    return buffer.getvalue()


def _write_benchmarks(folder: Path) -> None:
    """Two rows of each part of SugarCrepe, and Karpathy's file of COCO, with their photographs."""
    for name in ("sugar-crepe/data", "val2017", "val2014"):
        (folder / name).mkdir(parents=True)
    for part, kind in enumerate(KINDS):
        rows = {}
        for row in range(2):
            name = f"{2 * part + row:012}.jpg"
            _picture(2 * part + row).save(folder / "val2017" / name)
            rows[row] = {
                "filename": name,
                "caption": f"a black {ANIMALS[row]}",
                "negative_caption": f"a white {ANIMALS[row]}",
            }
        (folder / "sugar-crepe" / "data" / f"{kind}.json").write_text(json.dumps(rows))
    images = []
    for number in range(6):
        name = f"COCO_val2014_{number:012}.jpg"
        _picture(number).save(folder / "val2014" / name)
        sentences = [
            {"raw": f"a {COLORS[number % 4]} {ANIMALS[number % 5]}, {word}"} for word in ("sitting", "standing")
        ]
        images.append(
            {"filename": name, "filepath": "val2014", "split": "test", "sentences": sentences, "cocoid": number}
        )
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images}))

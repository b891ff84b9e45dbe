# SPDX-License-Identifier: Apache-2.0
"""SugarCrepe rows per second, as a ratio to the official script, which takes one row at a time.

    python benchmarks/evaluate.py --output benchmarks/results/evaluate.md

Both evaluate the same random ViT-B/32 on the same files in the same run, in turns. The files resemble SugarCrepe's
(7,511 rows, 1,560 images, 4,345 different captions that are right, 11.4 words a caption), with JPEG of COCO's size.
The reference does the same as the `main_eval.py` released with SugarCrepe: for each row it opens the image,
preprocesses and encodes it, and encodes each of the two captions alone, padded to 77 tokens. (The official script
uses an OpenCLIP model; here both use the same model of transformers, so that only the procedure differs.) Times are
medians over `--repeats` turns, of the wall clock and of the CPU seconds of the process, which other work on the
machine disturbs least. The evaluation's time includes its extras: the fingerprint of the weights, bootstrap intervals
and blind baselines.

The page also says how many times fewer operations the matrix products of ours take, which no ratio exceeds by much.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from alternating import Times, alternate, operations
from PIL import Image
from result_page import write_page
from transformers import CLIPConfig, CLIPModel
from transformers.utils import logging

from hf_tripletclip.data import build_processor
from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.evaluation.benchmarks.sugarcrepe import SugarCrepe
from hf_tripletclip.evaluation.encoder import Encoder

SIZE, TOKENS = 224, 77
ROWS_PER_IMAGE = 7_511 / 1_560
CAPTIONS_PER_IMAGE = 4_345 / 1_560  # that are right
# fmt: off
WORDS = (
    "a", "the", "red", "blue", "small", "large", "white", "wooden", "young", "old", "man", "woman",
    "cat", "dog", "horse", "train", "table", "kitchen", "street", "beach", "ball", "on", "under", "beside",
    "near", "with", "and", "holding", "riding", "sitting", "standing", "looking", "parked", "eating", "playing",
    "sign", "bench", "window",
)
# fmt: on


def picture(seed: int) -> Image.Image:
    """Colour fields with grain, 640 x 480 like most COCO images, which are as hard to decode as a photograph."""
    generator = np.random.default_rng(seed)
    fields = Image.fromarray(generator.integers(0, 255, (40, 53, 3), dtype=np.uint8)).resize((640, 480), 3)
    grain = generator.normal(0, 6, (480, 640, 3))
    return Image.fromarray(np.clip(np.asarray(fields) + grain, 0, 255).astype(np.uint8))


def write_files(folder: Path, images: int) -> tuple[int, list[str]]:
    """Write files like SugarCrepe's; returns the number of rows, and all captions."""
    generator = np.random.default_rng(0)
    for number in range(images):
        picture(number).save(folder / f"{number:012}.jpg", quality=90)
    rows: dict[str, dict[str, dict[str, str]]] = {kind: {} for kind in NEGATIVE_TYPES}
    captions: list[str] = []
    total, different = round(images * ROWS_PER_IMAGE), round(images * CAPTIONS_PER_IMAGE)
    lengths = np.clip(generator.normal(11.4, 2.8, different), 5, 38).astype(int)
    right = [list(generator.choice(WORDS, length)) for length in lengths]
    for number in range(total):
        kind = NEGATIVE_TYPES[number % len(NEGATIVE_TYPES)]
        words = right[number * different // total]
        negative = list(words)
        place = int(generator.integers(len(words)))
        negative[place] = str(generator.choice([word for word in WORDS if word != words[place]]))
        pair = [" ".join(words), " ".join(negative)]
        captions += pair
        image = f"{number * images // total:012}.jpg"
        rows[kind][str(2 * number)] = {"filename": image, "caption": pair[0], "negative_caption": pair[1]}
    for kind, of_kind in rows.items():
        (folder / f"{kind}.json").write_text(json.dumps(of_kind), encoding="utf-8")
    return total, captions


def vit_b_32(tokenizer: Any) -> CLIPModel:
    """A random model with the towers of openai/clip-vit-base-patch32 and the tokenizer's vocabulary."""
    config = CLIPConfig()
    config.text_config.vocab_size = len(tokenizer)
    for name in ("bos", "eos", "pad"):
        setattr(config.text_config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    torch.manual_seed(0)
    return CLIPModel(config).eval()


@torch.no_grad()
def reference(model: CLIPModel, processor: Any, folder: Path) -> dict[str, float]:
    """The official procedure; returns the accuracy of each category."""

    def text(caption: str) -> torch.Tensor:
        inputs = processor.tokenizer(
            [caption], padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
        )
        return torch.nn.functional.normalize(model.get_text_features(**inputs).pooler_output, dim=-1)

    accuracy = {}
    for kind in NEGATIVE_TYPES:
        right = 0
        rows = json.loads((folder / f"{kind}.json").read_text(encoding="utf-8"))
        for row in rows.values():
            image = Image.open(folder / row["filename"]).convert("RGB")
            pixels = processor.image_processor(images=image, return_tensors="pt")["pixel_values"]
            positive, negative = text(row["caption"]), text(row["negative_caption"])
            features = model.get_image_features(pixel_values=pixels).pooler_output
            embedding = torch.nn.functional.normalize(features, dim=-1)
            right += int((positive @ embedding.t()).item() > (negative @ embedding.t()).item())
        accuracy[kind] = right / len(rows)
    return accuracy


@dataclass
class Comparison:
    """
    Args:
        rows (`int`): Rows of the benchmark.
        fewer (`float`): The operations of the reference's matrix products divided by those of ours.
        times, accuracies (`dict`): Of `reference` and `ours`: the times, and the accuracy of each category.
    """

    rows: int
    fewer: float
    times: dict[str, Times]
    accuracies: dict[str, dict[str, float]]


def compare(folder: Path, images: int, repeats: int, batch_size: int) -> Comparison:
    """Evaluate files that are written for it in both ways, in turns."""
    rows, captions = write_files(folder, images)
    processor = build_processor(captions, image_size=SIZE, model_max_length=TOKENS)
    model = vit_b_32(processor.tokenizer)
    accuracies: dict[str, dict[str, float]] = {}

    def official() -> None:
        accuracies["reference"] = reference(model, processor, folder)

    def ours() -> None:
        encoder = Encoder(model, processor, batch_size=batch_size, progress=False)
        result = SugarCrepe(annotations=str(folder))(encoder)
        accuracies["ours"] = {kind: result.metrics[kind] for kind in NEGATIVE_TYPES}

    ways = {"reference": official, "ours": ours}
    counts = {name: operations(way) for name, way in ways.items()}  # runs each once, so both are warm
    times = alternate(ways, repeats, warm=False)
    return Comparison(rows, counts["reference"] / counts["ours"], times, accuracies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="threads of torch; all cores by default")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    logging.set_verbosity_error()
    if options.threads:
        torch.set_num_threads(options.threads)

    with tempfile.TemporaryDirectory() as name:
        found = compare(Path(name), options.images, options.repeats, options.batch_size)
    ours, base = found.accuracies["ours"], found.times["reference"]
    differing = max(abs(ours[kind] - found.accuracies["reference"][kind]) for kind in NEGATIVE_TYPES)
    lines = [
        "Written by `python benchmarks/evaluate.py --output benchmarks/results/evaluate.md`.",
        "",
        f"A random ViT-B/32, {found.rows} rows of SugarCrepe's shape over {options.images} JPEG images of 640 x 480, "
        f"medians of {options.repeats} turns; {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}. "
        "Reference, in the same run and in turns: one row at a time, an image and two captions padded to 77 tokens, "
        f"as in the script released with SugarCrepe. Ours: batches of {options.batch_size}, with intervals and blind "
        "baselines.",
        "",
        "| way | rows/s | ratio | rows per CPU s | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for way, one in found.times.items():
        wall, cpu = (found.rows / one.median(clock) for clock in ("wall", "cpu"))
        lines.append(f"| {way} | {wall:.1f} | {base.ratio(one, 'wall'):.2f} | {cpu:.1f} | {base.ratio(one):.2f} |")
    lines += [
        "",
        f"The matrix products of ours take {found.fewer:.2f} times fewer operations. The accuracies of the seven "
        f"categories differ by {differing:.4f} at most.",
    ]
    write_page(lines, options.output)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Load the nine published checkpoints from the Hub and rank captions for an image: a check for who has the network.

python examples/check_published.py IMAGE "a black dog chasing a white cat" "a white dog chasing a black cat"
"""

from __future__ import annotations

import sys

import torch
from PIL import Image

from hf_tripletclip import TripletCLIPModel, load_processor
from hf_tripletclip.checkpoints import PUBLISHED_CHECKPOINTS
from hf_tripletclip.cli import run_reporting_errors


def main(path: str, captions: list[str]) -> None:
    image = Image.open(path).convert("RGB")
    for name in PUBLISHED_CHECKPOINTS:
        model, processor = TripletCLIPModel.from_pretrained(name), load_processor(name)
        inputs = processor(text=captions, images=image, return_tensors="pt", padding=True)
        with torch.no_grad():
            cosines = (model(**inputs).logits_per_image / model.logit_scale.exp())[0]
        ranked = sorted(zip(cosines.tolist(), captions, strict=True), reverse=True)
        print(f"{name} ({model.num_parameters() / 1e6:.0f} M parameters)")
        for cosine, caption in ranked:
            print(f"  {cosine:6.3f}  {caption}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(run_reporting_errors(lambda: main(sys.argv[1], sys.argv[2:])))

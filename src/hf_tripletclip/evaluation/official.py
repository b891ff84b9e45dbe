# SPDX-License-Identifier: Apache-2.0
"""Inputs as the benchmarks' own scripts prepare them, by the transforms and the tokenizer of OpenCLIP.

Where they differ from this package's (`protocol="official"`):

- a file's pixels are taken as they are stored: no turning by EXIF, and transparency is dropped;
- the crop begins at half of what is left over, rounded half to even, where transformers rounds down;
- captions are cleaned before they are tokenized (`open_clip.tokenizer.basic_clean`): curly quotes become straight,
  ligatures and wide letters ordinary ones, HTML entities their characters. Mis-decoded text, which the package `ftfy`
  also guesses to mend there, stays as it is.
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Any

import torch
from PIL import Image

QUOTES = {**dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'"), **dict.fromkeys("\u201c\u201d\u201e\u201f", '"')}
LIGATURES = "\u0132\u0133\u0149\u01f1\u01f2\u01f3\u01c4\u01c5\u01c6\u01c7\u01c8\u01c9\u01ca\u01cb\u01cc" + "".join(
    map(chr, range(0xFB00, 0xFB07))
)
PLAIN = str.maketrans(
    {**QUOTES, **{sign: unicodedata.normalize("NFKC", sign) for sign in LIGATURES}, "\ufb05": "\u017ft"}
)
WIDE = re.compile("[\u3000\uff01-\uffef]")
# Terminal escapes, and control characters that are no white space.
CONTROL = re.compile("\x1b\\[(?:\\d|;)*[a-zA-Z]|[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]")


def clean_caption(caption: str) -> str:
    """A caption as OpenCLIP's tokenizer cleans it, but for its case, which the model's own tokenizer decides."""
    text = html.unescape(html.unescape(caption))
    text = WIDE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text.translate(PLAIN))
    return " ".join(unicodedata.normalize("NFC", CONTROL.sub("", text)).split())


class OfficialPixels:
    """
    The `pixel_values` of RGB images by an image processor's settings, cropped as torchvision's `CenterCrop` does.

    Args:
        processor: The image processor.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, images: list[Image.Image]) -> torch.Tensor:
        """`(images, 3, H, W)`, float32."""
        return torch.stack([self._one(image) for image in images])

    def _one(self, image: Image.Image) -> torch.Tensor:
        processor = self.processor
        size, crop = getattr(processor, "size", None) or {}, getattr(processor, "crop_size", None) or {}
        edge, steps = size.get("shortest_edge"), {}
        resizes = getattr(processor, "do_resize", False)
        if resizes and edge:
            other = int(edge * max(image.size) / min(image.size))
            target = (edge, other) if image.width <= image.height else (other, edge)
            image = image if image.size == target else image.resize(target, resample=processor.resample)
            steps["do_resize"] = resizes = False
        if getattr(processor, "do_center_crop", False) and crop.get("height") and not resizes:
            left, top = round((image.width - crop["width"]) / 2), round((image.height - crop["height"]) / 2)
            if left >= 0 and top >= 0:
                image = image.crop((left, top, left + crop["width"], top + crop["height"]))
                steps["do_center_crop"] = False
        return processor(images=image, return_tensors="pt", **steps)["pixel_values"][0]

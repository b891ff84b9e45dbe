# SPDX-License-Identifier: Apache-2.0
"""
The demo as a Space of the Hub. The variable `TRIPLETCLIP_MODELS` of the Space names one or two models, with a space
between them, each a Hub id or `ID@REVISION`.
"""

from __future__ import annotations

import os

from hf_tripletclip.demo import DemoModels, build_app, launch

DEFAULT_MODELS = (
    "openai/clip-vit-base-patch32@3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268 TripletCLIP/CC12M_TripletCLIP_ViTB12"
)


def main() -> None:
    sources = os.environ.get("TRIPLETCLIP_MODELS", DEFAULT_MODELS).split()
    app = build_app(DemoModels.from_pretrained(sources))
    launch(app, host=None)  # the Space says where to listen


if __name__ == "__main__":
    main()

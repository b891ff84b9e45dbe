# SPDX-License-Identifier: Apache-2.0
"""The demo: one or two models in a browser, as a Gradio app. `tripletclip demo MODEL [MODEL]` starts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tripletclip.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from hf_tripletclip.demo.app import build_app, launch
    from hf_tripletclip.demo.scoring import DemoError, DemoModels

__all__ = ["DemoError", "DemoModels", "build_app", "launch"]

__getattr__, __dir__ = lazy_exports(
    __name__, {"DemoError": "scoring", "DemoModels": "scoring", "build_app": "app", "launch": "app"}
)

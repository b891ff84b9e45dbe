# SPDX-License-Identifier: Apache-2.0
"""Pictures inside a page."""

from __future__ import annotations

import base64
import io

from PIL import Image

THUMBNAIL = 176  # pixels of the longer side


def thumbnail(image: Image.Image) -> str:
    """A small JPEG as a `data:` URI."""
    if max(image.size) > THUMBNAIL:
        image = image.copy()
        image.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=82, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()

# SPDX-License-Identifier: Apache-2.0
"""Images and captions from whatever a row of a dataset holds, and what to call the row."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from hf_tripletclip.data.schema import CAPTION_COLUMNS, COLUMNS, ERROR, FILE, KEY_COLUMNS

MAX_ASPECT_RATIO = 100  # a longer strip is no photograph, and scaling its short side to 224 fills the memory


class BrokenValue(ValueError):
    """A value of a row that cannot be used; its message is the reason, with details after a colon."""


def decode_image(value: Any, decode_size: int | None = None) -> Image.Image:
    """
    An RGB image from whatever a dataset holds: PIL, bytes, `{"bytes", "path"}`, a path or URL, a numpy array or a
    tensor of shape `(H, W)`, `(H, W, 3)` or `(3, H, W)`, uint8.

    Files are turned as their EXIF orientation says, as `datasets.Image` does. Truncated files are refused whatever
    `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` says, and so are files of more than `PIL.Image.MAX_IMAGE_PIXELS` pixels.

    Args:
        value: What the dataset holds.
        decode_size (`int`, *optional*): Decode JPEG files at a half, a quarter or an eighth of their size where that
            leaves both sides at least this long.

    Raises:
        BrokenValue: It is missing, truncated, no image or too large to be opened safely.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if value is None:
        raise BrokenValue("missing image")
    try:
        with _strict_pillow():
            image = _as_image(value, decode_size)
            if 0 in image.size:
                raise BrokenValue("unreadable image: it has no pixels")
            if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
                raise BrokenValue(f"image too large: a strip of {image.width} x {image.height}")
            if image.mode == "RGB":
                image.load()  # decodes, so that a truncated file shows here
                return image
            return image.convert("RGB")
    except BrokenValue:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenValue(f"image too large: {error}") from error
    except UnidentifiedImageError as error:  # its message holds a memory address
        raise BrokenValue("unreadable image: not a format that Pillow knows") from error
    except Exception as error:  # Pillow's decoders raise all kinds on corrupt files: RuntimeError, struct.error...
        raise BrokenValue(f"unreadable image: {error or type(error).__name__}") from error


def _as_image(value: Any, decode_size: int | None) -> Image.Image:
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, np.ndarray) or _is_tensor(value):
        array = np.asarray(value)
        if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
            array = array.transpose(1, 2, 0)
        return Image.fromarray(array.squeeze(-1) if array.ndim == 3 and array.shape[2] == 1 else array)
    if isinstance(value, str) and "://" in value:  # a stream of an image folder on the Hub
        from datasets import Image as ImageFeature

        return ImageFeature().decode_example({"bytes": None, "path": value})
    if isinstance(value, (str, os.PathLike)):
        value = Path(value).read_bytes()
    if not isinstance(value, (bytes, bytearray)):
        raise BrokenValue(f"unreadable image: a {type(value).__name__} is no image")
    image: Image.Image = Image.open(io.BytesIO(value))
    if decode_size:
        image.draft(None, (decode_size, decode_size))  # other formats than JPEG ignore it
    return ImageOps.exif_transpose(image) if ExifTags.Base.Orientation in image.getexif() else image


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # who has a tensor has imported it; workers that decode files need not
    return torch is not None and isinstance(value, torch.Tensor)


@contextlib.contextmanager
def _strict_pillow() -> Iterator[None]:
    """Pillow's settings as they must be here, whatever the program around has set."""
    tolerant, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant


def decode_caption(value: Any) -> str:
    """
    A caption from `str` or UTF-8 `bytes`.

    Raises:
        BrokenValue: It is missing, empty, no text or not UTF-8.
    """
    if value is None:
        raise BrokenValue("missing caption")
    try:
        if isinstance(value, (bytes, bytearray)):
            value = value.decode("utf-8")
        elif isinstance(value, str):
            value.encode("utf-8")  # lone surrogates, such as JSON can hold, stop tokenizers
    except UnicodeError as error:
        raise BrokenValue("caption is not UTF-8") from error
    if not isinstance(value, str):
        raise BrokenValue(f"caption is no text: it is a {type(value).__name__}")
    if not value.strip():
        raise BrokenValue("empty caption")
    return value


def is_several(value: Any) -> bool:
    """Whether a row's value is a list of captions."""
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim == 1)


def known_reason(row: Mapping[str, Any], column: str) -> tuple[str, str | None] | None:
    """What the loader has found wrong with a column of a row, and the column, or `None` for the whole file's."""
    for line in (row.get(ERROR) or "").split("\n"):
        name, _, reason = line.partition(": ")
        if name in (column, FILE):
            return reason, column if name == column else None
    return None


def row_name(row: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """
    What a report calls a row: its key; or else the beginning of a caption, to find it by, and a digest of its
    contents, to tell it from others. A row without contents has no name.
    """
    for name in KEY_COLUMNS:
        if (key := row.get(name)) is not None:
            return str(key), None
    contents = {name: content for name in COLUMNS if (content := _content(row.get(name)))}
    if not contents:
        return None, None
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}:{len(content)}:".encode() + content)
    captions = [contents[name] for name in CAPTION_COLUMNS if contents.get(name, b"").strip()]
    start = repr(captions[0].decode("utf-8", "replace")[:60]) if captions else "without a key or a caption"
    return start, digest.hexdigest()[:12]


def _content(value: Any) -> bytes | None:
    """What tells a value from others, without decoding it; `None` of what this is not known of."""
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, (list, tuple)):
        return b"\0".join(_content(item) or b"" for item in value)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, Image.Image):
        with contextlib.suppress(OSError):  # truncated, which is reported by whoever asks for its name
            return value.tobytes()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return bytes(value) if isinstance(value, (bytes, bytearray)) else None

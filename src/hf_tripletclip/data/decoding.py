# SPDX-License-Identifier: Apache-2.0
"""Decode images and captions from the values of a dataset's row, and name the row for reports."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import itertools
import json
import os
import re
import sys
import tokenize
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from hf_tripletclip.data.reading import FORMATS, BrokenValue, check_size, decode_bytes, read_image_file
from hf_tripletclip.data.rgb import to_levels, to_rgb
from hf_tripletclip.data.schema import CAPTION_COLUMNS, COLUMNS, ERROR, FILE, KEY_COLUMNS

__all__ = [
    "BrokenValue",
    "captions_in",
    "decode_caption",
    "decode_image",
    "first_caption",
    "is_several",
    "known_reason",
    "row_name",
]

UNNAMED = "without a key or a caption"
QUOTES = ("'", '"')
ADJACENT = re.compile(r"""['"]\s*['"]""")  # possibly two texts without a comma between them


def decode_image(value: Any, decode_size: int | None = None, *, as_stored: bool = False) -> Image.Image:
    """
    An RGB image from a value of a dataset: PIL, bytes, `{"bytes", "path"}`, a path, a numpy array or a tensor of shape
    `(H, W)` of any numbers, or `(H, W, 3)`, `(H, W, 4)` or `(3, H, W)` uint8. Transparent pixels become white, and
    more than 8 bits are scaled, see [`~hf_tripletclip.data.rgb.to_rgb`].

    Files are rotated by their EXIF orientation, as in `datasets.Image`. Truncated files are refused, whatever the
    value of `PIL.ImageFile.LOAD_TRUNCATED_IMAGES`. So are files of more than `PIL.Image.MAX_IMAGE_PIXELS` pixels, of
    more than 256 MiB, or of other formats than [`~hf_tripletclip.data.reading.FORMATS`].

    A path may lead to any regular file. URLs are not fetched, except files of Hub datasets (`hf://`). The paths of a
    dataset are checked when it is loaded: [`load_tripletdata`] allows only those inside the dataset's own folder.

    Args:
        value: The value that the dataset holds.
        decode_size (`int`, *optional*): Decode JPEG files at a half, a quarter or an eighth of their size if both
            sides stay at least this long.
        as_stored (`bool`, defaults to `False`): Take a file's pixels as they are stored, as `Image.open` and
            `convert("RGB")` do: not rotated by EXIF, transparency dropped, more than 8 bits not scaled.

    Raises:
        BrokenValue: The image is missing, truncated or too large to be opened safely, or the value is no image or a
            path that may not be read.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if value is None:
        raise BrokenValue("missing image")
    try:
        with _strict_pillow():
            image = _as_image(value, decode_size, turn=not as_stored)
            image = image.convert("RGB") if as_stored else to_rgb(image)
            image.load()  # a PIL image may be a file that is not decoded yet
            return image
    except BrokenValue:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenValue(f"image too large: {error}") from error
    except Exception as error:  # Pillow's decoders raise all kinds of errors on corrupt files
        raise BrokenValue(f"unreadable image: {str(error) or type(error).__name__}") from error


def _as_image(value: Any, decode_size: int | None, *, turn: bool = True) -> Image.Image:
    if isinstance(value, (str, os.PathLike)):
        value = read_image_file(value)
    if isinstance(value, (bytes, bytearray)):
        return decode_bytes(value, decode_size, turn=turn)
    if isinstance(value, np.ndarray) or _is_tensor(value):
        value = _from_array(np.asarray(value))
    if not isinstance(value, Image.Image):
        raise BrokenValue(f"unreadable image: a {type(value).__name__} is not an image")
    if value.format not in (None, *FORMATS) and getattr(value, "tile", None):  # not decoded yet
        raise BrokenValue(f"unreadable image: {value.format} files are not read, only {', '.join(FORMATS)}")
    check_size(value)
    return value


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array.squeeze(-1)
    if array.ndim == 2 and array.size:
        array = to_levels(array)
    return Image.fromarray(array)


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # not imported here: there are no tensors unless torch has been imported
    return torch is not None and isinstance(value, torch.Tensor)


@contextlib.contextmanager
def _strict_pillow() -> Iterator[None]:
    """Pillow with strict settings, whatever the settings of the surrounding program."""
    tolerant, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # problems that matter are raised
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant


def decode_caption(value: Any) -> str:
    """
    A caption from `str` or UTF-8 `bytes`.

    Raises:
        BrokenValue: The caption is missing, empty, not text or not UTF-8.
    """
    if value is None:
        raise BrokenValue("missing caption")
    try:
        if isinstance(value, (bytes, bytearray)):
            value = value.decode("utf-8")
        elif isinstance(value, str):
            value.encode("utf-8")  # JSON can hold lone surrogates, on which tokenizers fail
    except UnicodeError as error:
        raise BrokenValue("caption is not UTF-8") from error
    if not isinstance(value, str):
        raise BrokenValue(f"caption is no text: it is a {type(value).__name__}")
    if not value.strip():
        raise BrokenValue("empty caption")
    return value


def is_several(value: Any) -> bool:
    """Whether a row's value is a list of captions or images."""
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim == 1)


def captions_in(text: str) -> list[str | None] | None:
    """
    The captions in a text that is a JSON or Python list, such as `['a cat', "a dog's bone"]`, or an array as NumPy and
    pandas print it, `['a cat' 'a dog']`; `None` if it is neither.
    """
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for read in (json.loads, _python_list):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
            captions = read(text)
            if isinstance(captions, list) and all(one is None or isinstance(one, str) for one in captions):
                return captions
    return None


def _python_list(text: str) -> Any:
    """
    Read a Python literal. Texts without a comma between them are separate elements of a printed array, though Python
    itself would join them.
    """
    if not ADJACENT.search(text):
        return ast.literal_eval(text)
    words = [token.string for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.string.strip()]
    if any(word[0] in QUOTES and after[0] in QUOTES for word, after in itertools.pairwise(words)):
        if not all(word[0] in QUOTES for word in words[1:-1]):
            raise ValueError("only some of its texts have a comma between them")
        return [ast.literal_eval(word) for word in words[1:-1]]
    return ast.literal_eval(text)


def first_caption(value: Any) -> str:
    """
    A caption; if the value is a list, its first usable caption.

    Raises:
        BrokenValue: There is no usable caption.
    """
    if not is_several(value):
        return decode_caption(value)
    for one in value:
        with contextlib.suppress(BrokenValue):  # a list may be padded with nulls
            return decode_caption(one)
    raise BrokenValue("missing caption")


def known_reason(row: Mapping[str, Any], column: str) -> tuple[str, str | None] | None:
    """The loader's error on a row's column, and the column, which is `None` if the error is about the whole file."""
    for line in (row.get(ERROR) or "").split("\n"):
        name, _, reason = line.partition(": ")
        if name in (column, FILE):
            return reason, column if name == column else None
    return None


def row_name(row: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """
    The name of a row in reports: its key if it has one. If not, the beginning of a caption, by which to find the row,
    and a digest of its contents, which tells it from other rows. A row without contents has no name.
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
    # The first caption that is not empty.
    captions = [one for name in CAPTION_COLUMNS for one in contents.get(name, b"").split(b"\0") if one.strip()]
    start = repr(captions[0].decode("utf-8", "replace")[:60]) if captions else UNNAMED
    return start, digest.hexdigest()[:12]


def _content(value: Any) -> bytes | None:
    """Bytes that tell a value from others, without decoding it; `None` for values of other types."""
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, (list, tuple)):
        return b"\0".join(_content(item) or b"" for item in value)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, Image.Image):
        with contextlib.suppress(OSError):  # truncated, which the caller reports
            return value.tobytes()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return bytes(value) if isinstance(value, (bytes, bytearray)) else None

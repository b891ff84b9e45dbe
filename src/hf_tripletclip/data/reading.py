# SPDX-License-Identifier: Apache-2.0
"""Opens image files, for the whole package: only regular files, of formats and sizes that are known to be safe."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import stat
from collections.abc import Iterator
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError

# Pillow reads more formats. Some start other programs (EPS, WMF); some have no magic number, so that any file may be
# taken for one (TGA, PCX).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "QOI", "MPO")
MAX_BYTES = 2**28 + 2**16  # of a file: the most pixels that Pillow allows, uncompressed, and a header
REFUSED = "[refused] "  # prefix of the reason that replaces a path which must not be followed
NO_FILE = "no such file"
ARCHIVES = ("zip",)  # in the chains of `datasets`: "zip://1.png::hf://datasets/name/images.zip"

MAX_ASPECT_RATIO = 100  # a longer strip is not a photograph, and scaling its short side to 224 fills the memory

APPLICATION = [bytes([marker]) for marker in (*range(0xE0, 0xF0), 0xFE)]  # markers of metadata in JPEG files
ADOBE = b"\xee"  # the marker among these that says how colours are stored

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BrokenValue(ValueError):
    """A value of a row cannot be used. The message is the reason, with details after a colon."""


def is_url(path: str) -> bool:
    """Whether a path names a file elsewhere, or inside an archive, not a local file."""
    return _SCHEME.match(path) is not None


def read_image_file(path: str | os.PathLike[str]) -> bytes:
    """
    The contents of an image file.

    Args:
        path (`str` or `os.PathLike`): A local file, a file on the Hub (`hf://`), or a file in a local or Hub zip
            archive (`zip://1.png::images.zip`), as `datasets` names them.

    Raises:
        BrokenValue: The file does not exist, is not a regular file (a folder, a device, a pipe), is larger than 256
            MiB, has a URL of another kind, or was refused by the loader.
    """
    name = os.fspath(path)
    if name.startswith(REFUSED):
        raise BrokenValue(name.removeprefix(REFUSED))
    if "\0" in name:
        raise BrokenValue(f"{NO_FILE}: {name!r}")
    if is_url(name):
        return _read_url(name)
    try:
        _check_regular(os.stat(name), name)  # before opening, which may block, or start a device
        with open(os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            _check_regular(os.fstat(file.fileno()), name)
            return _at_most(file, name)
    except (FileNotFoundError, NotADirectoryError):
        raise BrokenValue(f"{NO_FILE}: {name}") from None
    except OSError as error:
        raise BrokenValue(f"file cannot be read: {name}, {error.strerror or error}") from error


def _check_regular(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or a pipe"
        raise BrokenValue(f"no regular file: {name} is {kind}")
    if status.st_size > MAX_BYTES:
        raise BrokenValue(f"image too large: {name} has {status.st_size:,} bytes, the limit is {MAX_BYTES:,}")


def _at_most(file: Any, name: str) -> bytes:
    content: bytes = file.read(MAX_BYTES + 1)  # a file in an archive or in /proc may be larger than its stated size
    if len(content) > MAX_BYTES:
        raise BrokenValue(f"image too large: {name} has more than {MAX_BYTES:,} bytes")
    return content


def _read_url(name: str) -> bytes:
    *archives, last = name.split("::")
    schemes = [link.partition("://")[0] for link in archives]
    if not set(schemes) <= set(ARCHIVES) or (is_url(last) and not last.startswith("hf://")):
        raise BrokenValue(f"image at a URL: {name} is not fetched; download it, and give the file")
    if not is_url(last):
        try:
            if not stat.S_ISREG(os.stat(last).st_mode):
                raise BrokenValue(f"no regular file: {last} is no archive")
        except OSError:
            raise BrokenValue(f"{NO_FILE}: {last}") from None
    from datasets.utils.file_utils import xopen  # `datasets` opens its chains with it

    try:
        with xopen(name, "rb") as file:
            return _at_most(file, name)
    except (FileNotFoundError, KeyError):
        raise BrokenValue(f"{NO_FILE}: {name}") from None


def decode_bytes(content: bytes | bytearray, decode_size: int | None = None, *, turn: bool = True) -> Image.Image:
    """
    The image in a file's contents, decoded in its own mode and rotated by its EXIF orientation.

    Metadata on which Pillow fails, such as a broken EXIF chunk or a colour profile of more than 1 MB, are ignored,
    because the pixels are intact.

    Args:
        content (`bytes`): The contents of the file.
        decode_size (`int`, *optional*): Decode JPEG files at a half, a quarter or an eighth of their size if both
            sides stay at least this long.
        turn (`bool`, defaults to `True`): Whether to rotate the image by its EXIF orientation.

    Raises:
        BrokenValue: The image is too large, a strip, or of a format that is not read.
        Exception: Pillow's own errors, of all kinds, for corrupt files.
    """
    if len(content) > MAX_BYTES:
        raise BrokenValue(f"image too large: {len(content):,} bytes, the limit is {MAX_BYTES:,}")
    try:
        return _decode(content, decode_size, turn)
    except (BrokenValue, Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise
    except Exception as error:
        for bare in _without_metadata(content):
            with contextlib.suppress(Exception):
                return _decode(bare, decode_size, turn)
        if isinstance(error, UnidentifiedImageError):  # its message holds a memory address
            raise BrokenValue(f"unreadable image: {_what_format(content)}") from error
        raise


def _decode(content: bytes | bytearray, decode_size: int | None, turn: bool) -> Image.Image:
    image: Image.Image = Image.open(io.BytesIO(content), formats=_readers())
    check_size(image)
    if decode_size:
        image.draft(None, (decode_size, decode_size))  # other formats than JPEG ignore it
    image.load()  # raises for a truncated file, and rotates a TIFF file
    step = None
    with contextlib.suppress(Exception):  # broken EXIF is ignored
        step = _TURNS.get(int(image.getexif().get(ExifTags.Base.Orientation, 1)))
    if step is None or not turn:
        return image
    turned = image.transpose(step)
    turned.info = image.info  # transparency
    return turned


@functools.cache
def _readers() -> tuple[str, ...]:
    """The formats that this build of Pillow reads. Some lack AVIF or WEBP; the reader of JPEG reads MPO too."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def check_size(image: Image.Image) -> None:
    """Raise `BrokenValue` if an image has no pixels or is a strip. Only its header is read."""
    if 0 in image.size:
        raise BrokenValue("unreadable image: it has no pixels")
    if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
        raise BrokenValue(f"image too large: a strip of {image.width} x {image.height}")


def _what_format(content: bytes | bytearray) -> str:
    """Why no reader accepts the file."""
    if not content:
        return "the file is empty"
    prefix = bytes(content[:16]).ljust(16, b"\0")  # the readers expect 16 bytes
    for name, (_, accepts) in Image.OPEN.items():
        # These tests see only the first bytes; a format without a test accepts anything.
        if name not in FORMATS and accepts and accepts(prefix):
            return f"{name} files are not read, only {', '.join(FORMATS)}"
    return "not a format that Pillow knows"


def _without_metadata(content: bytes | bytearray) -> Iterator[bytes]:
    """The file without its metadata: first with the EXIF chunk, which may hold the orientation, then without it."""
    content = bytes(content)
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        parts, exif = list(_png_chunks(content)), b"eXIf"
        needed = [not name[:1].islower() or name == b"tRNS" for name, _ in parts]
    elif content.startswith(b"\xff\xd8\xff"):
        parts, exif = list(_jpeg_segments(content)), b"\xe1"
        needed = [name not in APPLICATION or (name == ADOBE and len(part) >= 16) for name, part in parts]
    else:
        return
    for keeps_exif in (True, False):
        kept = zip(parts, needed, strict=True)
        yield b"".join(part for (name, part), need in kept if need or (keeps_exif and name == exif))


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and contents of each chunk. The names of chunks that a reader may skip begin with a small letter."""
    yield b"", content[:8]
    start = 8
    while start + 12 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        yield content[start + 4 : start + 8], content[start:end]
        start = end
    yield b"", content[start:]


def _jpeg_segments(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Marker and contents of each segment. The pixels and everything after them are the last one."""
    yield b"", content[:2]
    start = 2
    while content[start : start + 1] == b"\xff" and content[start + 1 : start + 2] not in (b"\xda", b""):
        end = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        yield content[start + 1 : start + 2], content[start:end]
        start = end
    yield b"", content[start:]

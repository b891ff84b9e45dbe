# SPDX-License-Identifier: Apache-2.0
"""The pixels of an image processor, computed in a fraction of its time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
import torch.utils.data
from PIL import Image

LEVELS = 256
MODES = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}  # torch's names


class FastPixels:
    """
    Processes RGB images like a CLIP image processor of transformers' PIL backend, but faster.

    Torch shrinks the images, with Pillow's filters and three times as fast, as in transformers' torchvision backend.
    Some pixels, 1 in 300 in photographs, differ from the PIL backend's by one of 255 levels. Rescaling and normalising
    turn each level of a channel into one float: the processor computes these floats once, and pixels are looked up.
    Images of the right size give exactly the processor's pixels.

    Args:
        processor: The image processor. Other kinds of processors are called directly.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.table = self._table() if self._is_known() else None
        self.shrinks = self.table is not None and self._gives_one_size()

    def _is_known(self) -> bool:
        processor = self.processor
        size, crop = getattr(processor, "size", None) or {}, getattr(processor, "crop_size", None) or {}
        resizes = getattr(processor, "do_resize", None)
        return bool(
            type(processor).__name__.startswith("CLIPImageProcessor")
            and getattr(processor, "backend", None) == "pil"
            and (not resizes or ((size.get("shortest_edge") or size.get("height")) and processor.resample in MODES))
            and not (size.get("longest_edge") or size.get("max_height"))
            and not getattr(processor, "do_pad", None)
            and (not processor.do_center_crop or (crop.get("height") and crop.get("width")))
        )

    def _gives_one_size(self) -> bool:
        """Whether images of any size become one size without padding."""
        size, crop = self.processor.size or {}, self._crop()
        edge = size.get("shortest_edge")
        if not self.processor.do_resize or crop is None:
            return bool(self.processor.do_resize and not edge)
        return crop[0] <= (edge or size["height"]) and crop[1] <= (edge or size["width"])

    def _table(self) -> np.ndarray | None:
        """The value of each level in each channel, `(3, 256)`."""
        levels = np.repeat(np.arange(LEVELS, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
        values = self.processor(
            images=Image.fromarray(levels), do_resize=False, do_center_crop=False, return_tensors="np"
        )["pixel_values"][0]
        return values.reshape(3, LEVELS) if values.dtype == np.float32 else None

    def shrink(self, image: Image.Image) -> Image.Image | np.ndarray:
        """
        What a call takes instead of an RGB image: its pixels resized and cropped, `(H, W, 3)` uint8, or the image
        itself if the processor does not give all images one size. Shrink each image as soon as it is decoded: the next
        one then uses its memory, and the system need not clear new memory.
        """
        return self._box(image) if self.shrinks else image

    def __call__(self, images: Sequence[Image.Image | np.ndarray]) -> torch.Tensor:
        """
        Args:
            images (`Sequence[PIL.Image.Image]`): RGB images, or what `shrink` gives for them.

        Returns:
            `torch.Tensor` of shape `(images, 3, H, W)`: The processor's `pixel_values`.
        """
        boxes = None if self.table is None else self._boxes(images)
        if boxes is None:
            whole = cast(list[Image.Image], images)  # what `shrink` has shrunk is of one size
            return self.processor(images=whole, return_tensors="pt", **needless_steps(self.processor, whole))[
                "pixel_values"
            ]
        assert self.table is not None
        height, width = boxes[0].shape[:2]
        tensor = _empty((len(boxes), 3, height, width))
        pixels = tensor.numpy()
        for index, box in enumerate(boxes):
            for channel in range(3):
                # `clip` because otherwise `take` writes to a copy first; no level is out of range
                np.take(self.table[channel], box[:, :, channel], out=pixels[index, channel], mode="clip")
        return tensor

    def _boxes(self, images: Sequence[Image.Image | np.ndarray]) -> list[np.ndarray] | None:
        """The images resized and cropped, `(H, W, 3)` uint8; `None` if one needs padding, or their sizes differ."""
        boxes = [self._box(image) if isinstance(image, Image.Image) else image for image in images]
        wanted = self._crop() or boxes[0].shape[:2]
        return boxes if all(box.shape[:2] == wanted for box in boxes) else None

    def _crop(self) -> tuple[int, int] | None:
        crop = self.processor.crop_size if self.processor.do_center_crop else None
        return crop and (crop["height"], crop["width"])

    def _box(self, image: Image.Image) -> np.ndarray:
        """An image resized and cropped, `(H, W, 3)` uint8; smaller than the crop if it needs padding."""
        box = self._resized(image) if self.processor.do_resize else np.asarray(image)
        height, width = self._crop() or box.shape[:2]
        top, left = max(0, (box.shape[0] - height) // 2), max(0, (box.shape[1] - width) // 2)
        return box[top : top + height, left : left + width]

    def _resized(self, image: Image.Image) -> np.ndarray:
        size = self.processor.size
        if edge := size.get("shortest_edge"):
            other = int(edge * max(image.size) / min(image.size))
            width, height = (edge, other) if image.width <= image.height else (other, edge)
        else:
            width, height = size["width"], size["height"]
        if image.size == (width, height):
            return np.asarray(image)
        if image.width < width or image.height < height:
            return np.asarray(image.resize((width, height), resample=self.processor.resample))
        pixels = _as_stored(image).permute(2, 0, 1)[None]
        mode = MODES[self.processor.resample]
        resized = torch.nn.functional.interpolate(pixels, size=(height, width), mode=mode, antialias=True)
        return resized[0, :3].permute(1, 2, 0).numpy()


def _as_stored(image: Image.Image) -> torch.Tensor:
    """
    The levels of an RGB image, uint8 `(H, W, 3)`, or `(H, W, 4)` with a channel of no meaning, as Pillow stores them:
    then they are not copied.
    """
    if hasattr(image, "__arrow_c_array__"):
        try:
            stored = pa.array(image).values
        except ValueError:  # a picture of more than four million pixels lies in several pieces
            pass
        else:
            return torch.from_dlpack(stored).view(image.height, image.width, 4)
    return torch.from_numpy(np.array(image))


def _empty(shape: tuple[int, ...]) -> torch.Tensor:
    """An empty float32 tensor; in a DataLoader worker it lies in shared memory, which saves a copy."""
    if torch.utils.data.get_worker_info() is None:
        return torch.empty(shape)
    numbers = int(np.prod(shape))
    storage = torch.UntypedStorage._new_shared(4 * numbers, device="cpu")
    return torch.empty(0).set_(storage).view(shape)


def needless_steps(processor: Any, images: list[Image.Image]) -> dict[str, bool]:
    """
    Arguments that switch off the steps of an image processor that would not change these RGB images. If all images
    have the model's size already, this saves half of the processor's time. The pixels stay exactly the same.
    """
    steps = {}
    if getattr(processor, "do_convert_rgb", None):
        steps["do_convert_rgb"] = False
    size = getattr(processor, "size", None)
    if getattr(processor, "do_resize", None) and size:
        edge, target = size.get("shortest_edge"), (size.get("width"), size.get("height"))
        if all(min(image.size) == edge if edge else image.size == target for image in images):
            steps["do_resize"] = False
    return steps

# SPDX-License-Identifier: Apache-2.0
"""Negative images from any text-to-image pipeline of diffusers."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from datasets import Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from transformers import CLIPTokenizer

from hf_tripletclip.configuration import without_implementations
from hf_tripletclip.data.decoding import BrokenValue, decode_caption
from hf_tripletclip.data.schema import ID, NEG_CAPTION, NEG_IMAGE, SEED
from hf_tripletclip.generation.images.encoding import check_encoding, encode_image, image_problem
from hf_tripletclip.generation.stage import ERROR, Batch, Stage, row_seed
from hf_tripletclip.layouts.configs import read_config
from hf_tripletclip.layouts.files import find_file
from hf_tripletclip.utils.devices import check_dtype, loading, no_progress_bars, pick_device, pick_dtype
from hf_tripletclip.utils.extras import optional_imports
from hf_tripletclip.utils.files import read_json_object

# What the stage itself gives to a pipeline, so `pipeline_kwargs` must not.
GIVEN = frozenset(
    {
        "prompt",
        "generator",
        "num_images_per_prompt",
        "output_type",
        "return_dict",
        "num_inference_steps",
        "guidance_scale",
        "height",
        "width",
        "negative_prompt",
    }
)


@dataclasses.dataclass
class DiffusersImages(Stage):
    r"""
    Draws the negative captions with a text-to-image pipeline.

    The noise of each row comes from its own generator on the CPU, seeded by the row's id, so it is the same in
    any batch and on any device. The same batch drawn again on the same kind of device is the same to the last bit.
    In a batch of another size, or on other hardware, pixels differ by what floating-point sums in another order
    differ by: mostly nothing, seldom more than one of 255 in float32.

    A picture that is black or of one colour, as a safety checker returns, is drawn again from another seed.

    Args:
        model (`str`, defaults to `"stabilityai/sdxl-turbo"`): A directory or the id of a Hub repository that
            `diffusers.AutoPipelineForText2Image` opens. Only safetensors are read, and no code from it is run.
        revision (`str`, *optional*): Branch, tag or commit of the repository.
        variant (`str`, *optional*): Which files of weights, such as `"fp16"`.
        dtype (`str`, defaults to `"auto"`): `float32`, `float16` or `bfloat16`; `auto` is `float16` on an accelerator.
        num_inference_steps (`int`, *optional*, defaults to 1): Of this, the guidance and the size, `None` leaves the
            pipeline's own default. The defaults are those for SDXL-Turbo.
        guidance_scale (`float`, *optional*, defaults to 0.0): Weight of the caption.
        height (`int`, *optional*, defaults to 512): Of the picture as it is drawn, a multiple of 8.
        width (`int`, *optional*, defaults to 512): Likewise.
        negative_prompt (`str`, *optional*): What pictures should not show. Without guidance it has no effect.
        pipeline_kwargs (`dict`, *optional*): More for the call of the pipeline.
        seed (`int`, defaults to 0): Another seed draws other pictures.
        image_size (`int`, *optional*): Shorter side of the stored picture. It is stored as drawn by default.
        format (`str`, defaults to `"jpeg"`): `jpeg`, `webp` or `png`.
        quality (`int`, defaults to 95): Of JPEG and WebP.
        max_attempts (`int`, defaults to 3): How often a row is drawn until it is not blank.
        batch_size (`int`, defaults to 16): Rows that are drawn at once.
        device (`str`, *optional*): The accelerator by default.

    Adds `neg_image` and `seed`, the one that the picture was drawn from.

    Raises:
        ValueError: A setting is out of range, or the pipeline does not take it.
        OSError: The model is not there, cannot be reached or has no safetensors. Both when it is loaded.
        ImportError: diffusers is not installed.
    """

    name: ClassVar[str] = "diffusers"
    requires: ClassVar[tuple[str, ...]] = (NEG_CAPTION,)

    model: str = "stabilityai/sdxl-turbo"
    revision: str | None = None
    variant: str | None = None
    dtype: str = "auto"
    num_inference_steps: int | None = 1
    guidance_scale: float | None = 0.0
    height: int | None = 512
    width: int | None = 512
    negative_prompt: str | None = None
    pipeline_kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0
    image_size: int | None = None
    format: str = "jpeg"
    quality: int = 95
    max_attempts: int = 3
    batch_size: int = 16

    _pipeline: Any = dataclasses.field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        check_encoding(self.image_size, self.format, self.quality)
        for name in ("num_inference_steps", "max_attempts", "batch_size"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise ValueError(f"`{name}` is {number}; give at least 1.")
        for name in ("height", "width"):
            if (side := getattr(self, name)) is not None and (side < 8 or side % 8):
                raise ValueError(f"`{name}` is {side}; give a multiple of 8.")
        if given := sorted(GIVEN.intersection(self.pipeline_kwargs)):
            raise ValueError(
                f"`pipeline_kwargs` has {', '.join(given)}, which the stage gives to the pipeline itself."
            )

    @property
    def produces(self) -> Features:
        return Features({NEG_IMAGE: ImageFeature(), SEED: Value("int64")})

    @property
    def _arguments(self) -> dict[str, Any]:
        """What every call of the pipeline is given, besides captions and generators."""
        names = ("num_inference_steps", "guidance_scale", "height", "width")
        chosen = {name: value for name in names if (value := getattr(self, name)) is not None}
        return {**chosen, **self.pipeline_kwargs}

    def setup(self) -> None:
        if self._pipeline is not None:
            return
        device = pick_device(self.device)
        with no_progress_bars(), optional_imports():
            from diffusers import AutoPipelineForText2Image
        with loading(self.model, "a text-to-image pipeline"), _quiet(warn=True):
            try:
                pipeline = AutoPipelineForText2Image.from_pretrained(
                    self.model,
                    revision=self.revision,
                    variant=self.variant,
                    dtype=pick_dtype(self.dtype, device),
                    use_safetensors=True,
                    trust_remote_code=False,
                    **self._cleaned_components(pick_dtype(self.dtype, device)),
                )
            except ValueError as error:
                raise ValueError(f"{self.model} cannot be loaded as a text-to-image pipeline: {error}") from error
            accepted = inspect.signature(pipeline.__call__).parameters
            wanted = [
                "generator",
                *self._arguments,
                *(["negative_prompt"] if self.negative_prompt is not None else []),
            ]
            if unknown := [name for name in wanted if name not in accepted]:
                raise ValueError(
                    f"{type(pipeline).__name__} of {self.model} takes no {', '.join(unknown)}; "
                    f"it takes {', '.join(accepted)}. `None` leaves a setting out."
                )
            pipeline.set_progress_bar_config(disable=True)
            for component in pipeline.components.values():
                if isinstance(component, CLIPTokenizer):  # others may put their prompts into a template with marks
                    component.split_special_tokens = True  # what is written in a caption like a special token is text
            self._pipeline = pipeline.to(device)

    def _cleaned_components(self, dtype: torch.dtype) -> dict[str, Any]:
        """Those whose configs name an implementation of attention, loaded without it."""
        import transformers

        hub = {} if self.revision is None else {"revision": self.revision}
        index = find_file(self.model, "model_index.json", hub)
        found = {}
        for name, kind in (read_json_object(index) if index else {}).items():
            if not isinstance(kind, list) or kind[:1] != ["transformers"]:
                continue
            path = find_file(self.model, f"{name}/config.json", hub)
            if path is None or without_implementations(fields := read_json_object(path)) == fields:
                continue
            found[name] = getattr(transformers, str(kind[1])).from_pretrained(
                self.model,
                subfolder=name,
                config=read_config(self.model, subfolder=name, **hub),
                dtype=dtype,
                variant=self.variant,
                use_safetensors=True,
                **hub,
            )
        return found

    def __call__(self, batch: Batch) -> Batch:
        self.setup()
        captions: dict[int, str] = {}
        pictures: list[dict[str, Any] | None] = [None] * len(batch[NEG_CAPTION])
        seeds: list[int | None] = [None] * len(pictures)
        errors: list[str | None] = [None] * len(pictures)
        for row, caption in enumerate(batch[NEG_CAPTION]):
            try:
                captions[row] = decode_caption(caption)
            except BrokenValue as error:
                errors[row] = f"{error} in {NEG_CAPTION}"
        for attempt in range(self.max_attempts):
            if not captions:
                break
            purpose = "image" if attempt == 0 else f"image, attempt {attempt + 1}"
            drawn_from = {row: row_seed(self.seed, str(batch[ID][row]), purpose) for row in captions}
            for row, image in zip(list(captions), self._draw(captions.values(), drawn_from.values()), strict=True):
                if problem := image_problem(image):
                    errors[row] = f"{problem} in each of {attempt + 1} attempts" if attempt else problem
                    continue
                content = encode_image(image, self.image_size, self.format, self.quality)
                pictures[row], seeds[row], errors[row] = {"bytes": content, "path": None}, drawn_from[row], None
                del captions[row]
        return {NEG_IMAGE: pictures, SEED: seeds, ERROR: errors}

    def _draw(self, captions: Any, seeds: Any) -> Sequence[Image.Image]:
        prompts = list(captions)
        negative = {} if self.negative_prompt is None else {"negative_prompt": [self.negative_prompt] * len(prompts)}
        with _quiet():
            return self._pipeline(
                prompt=prompts,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type="pil",
                **negative,
                **self._arguments,
            ).images


@contextlib.contextmanager
def _quiet(warn: bool = False) -> Iterator[None]:
    """
    Without diffusers' bars and, unless `warn`, its remarks on every batch: a caption cut to the text encoder's length,
    a picture that the safety checker blackened or a decoder that overflowed, which shows as a blank picture.
    """
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    libraries = (logging, transformers_logging)
    levels, shown = [library.get_verbosity() for library in libraries], logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            if not warn:
                for library in libraries:
                    library.set_verbosity_error()
                warnings.filterwarnings("ignore", "invalid value encountered in cast", RuntimeWarning)
            yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()

# SPDX-License-Identifier: Apache-2.0
"""Negative images from a text-to-image model on an inference server or at an Inference Provider."""

from __future__ import annotations

import base64
import dataclasses
from typing import Any, ClassVar

from datasets import Features, Value
from datasets import Image as ImageFeature

from hf_tripletclip.data.schema import ID, NEG_CAPTION, NEG_IMAGE, SEED
from hf_tripletclip.generation.client import Request
from hf_tripletclip.generation.images.encoding import check_encoding, encode_image, image_problem
from hf_tripletclip.generation.served import INT32, ServedModel
from hf_tripletclip.generation.stage import ERROR, Batch, row_seed


@dataclasses.dataclass
class InferenceImages(ServedModel):
    r"""
    Draws the negative captions with `huggingface_hub.InferenceClient.text_to_image`.

    Pictures are kept in `cache_dir` as they come, so a run that is killed pays for none twice. What is retried, and
    how a row's own errors are distinguished from those of the server, says
    [`~hf_tripletclip.generation.client.Requests`].

    A picture that is black or of one colour, as a safety checker returns, is drawn again from another seed.

    Args:
        model (`str`, defaults to `"stabilityai/sdxl-turbo"`): What the provider calls the model. A server of one's own
            has one model, of which this is only the name.
        base_url (`str`, *optional*): A server that takes `{"inputs", "parameters"}` and answers with a picture's
            bytes, such as an Inference Endpoint.
        provider (`str`, *optional*): An Inference Provider. Hugging Face chooses one by default.
        api_key_env (`str`, *optional*): The environment variable that holds the API key. Defaults to `HF_TOKEN` for
            providers and Inference Endpoints; other servers get no key by default.
        bill_to (`str`, *optional*): The organisation on the Hub that pays.
        num_inference_steps (`int`, *optional*): Of this, the guidance and the size, `None` leaves the server's.
        guidance_scale (`float`, *optional*): Weight of the caption.
        height (`int`, *optional*): Of the picture as it is drawn.
        width (`int`, *optional*): Likewise.
        negative_prompt (`str`, *optional*): What pictures should not show.
        extra_body (`dict`, *optional*): Further parameters of the server.
        seed (`int`, defaults to 0): Another seed draws other pictures.
        image_size (`int`, *optional*): Shorter side of the stored picture. It is stored as drawn by default.
        format (`str`, defaults to `"jpeg"`): `jpeg`, `webp` or `png`.
        quality (`int`, defaults to 95): Of JPEG and WebP.
        max_attempts (`int`, defaults to 3): How often a row is drawn until it is not blank.
        concurrency (`int`, defaults to 16): Requests at once, of each worker.
        timeout (`float`, defaults to 120): Seconds to wait for a picture; 10 to connect. After both together a request
            is given up, however its bytes come.
        max_retries (`int`, defaults to 5): Times that a request that fails for a while is sent again.
        backoff (`float`, defaults to 1): Seconds before the first of them.
        cache_dir (`str`, *optional*): Folder for pictures, one file of JSON lines for each batch. It may be deleted
            when the run is over.
        batch_size (`int`, defaults to 64): Rows that are sent together.

    Adds `neg_image` and `seed`, the one that the picture was drawn from.

    Raises:
        ValueError: A setting is out of range, or the variable of the API key is not set.
        ServerError: The server cannot be reached, refuses the key or does not know the model.
    """

    name: ClassVar[str] = "inference"
    requires: ClassVar[tuple[str, ...]] = (NEG_CAPTION,)

    model: str = "stabilityai/sdxl-turbo"
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None
    negative_prompt: str | None = None
    seed: int = 0
    image_size: int | None = None
    format: str = "jpeg"
    quality: int = 95
    max_attempts: int = 3

    def __post_init__(self) -> None:
        self._check_server_settings()
        check_encoding(self.image_size, self.format, self.quality)
        for name in ("num_inference_steps", "height", "width", "max_attempts", "batch_size"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise ValueError(f"`{name}` is {number}; give at least 1.")

    @property
    def produces(self) -> Features:
        return Features({NEG_IMAGE: ImageFeature(), SEED: Value("int64")})

    def setup(self) -> None:
        self._connect(self._draw, self._content("A red cup on a wooden table", 0))

    def _content(self, caption: str, seed: int) -> dict[str, Any]:
        names = ("num_inference_steps", "guidance_scale", "height", "width", "negative_prompt", "extra_body")
        chosen = {name: value for name in names if (value := getattr(self, name)) is not None}
        # A server of one's own is known by its address; `model` would be read as another one.
        model = {"model": self.model} if self.base_url is None else {}
        return {"prompt": caption, "seed": seed, **model, **chosen}

    def _draw(self, client: Any, content: dict[str, Any]) -> dict[str, str]:
        """The picture as it is stored, or what is wrong with it."""
        from hf_tripletclip.data.decoding import BrokenValue, decode_image  # imports torch

        try:
            image = decode_image(client.text_to_image(**content))
        except BrokenValue as error:
            raise RuntimeError(str(error)) from error  # not a `ValueError`, which is the client's word for settings
        if problem := image_problem(image):
            return {"problem": problem}
        return {"image": base64.b64encode(encode_image(image, self.image_size, self.format, self.quality)).decode()}

    def __call__(self, batch: Batch) -> Batch:
        from hf_tripletclip.data.decoding import BrokenValue, decode_caption

        self.setup()
        ids = [str(row_id) for row_id in batch[ID]]
        captions: dict[int, str] = {}  # of the rows that still lack a picture
        pictures: list[dict[str, Any] | None] = [None] * len(ids)
        seeds: list[int | None] = [None] * len(ids)
        errors: list[str | None] = [None] * len(ids)
        for row, caption in enumerate(batch[NEG_CAPTION]):
            try:
                captions[row] = decode_caption(caption)
            except BrokenValue as error:
                errors[row] = f"{error} in {NEG_CAPTION}"
        for attempt in range(self.max_attempts):
            rows = list(captions)
            if not rows:
                break
            purpose = "image" if attempt == 0 else f"image, attempt {attempt + 1}"
            drawn_from = {row: row_seed(self.seed, ids[row], purpose) & INT32 for row in rows}
            requests = [Request(ids[row], self._content(captions[row], drawn_from[row])) for row in rows]
            for row, outcome in zip(rows, self._send(requests, ids), strict=True):
                if outcome.error is None and "problem" in outcome.value:
                    problem = outcome.value["problem"]
                    errors[row] = f"{problem} in each of {attempt + 1} attempts" if attempt else problem
                    continue
                errors[row] = outcome.error
                if outcome.error is None:
                    content = base64.b64decode(outcome.value["image"])
                    pictures[row], seeds[row] = {"bytes": content, "path": None}, drawn_from[row]
                del captions[row]
        return {NEG_IMAGE: pictures, SEED: seeds, ERROR: errors}

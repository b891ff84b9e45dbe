# SPDX-License-Identifier: Apache-2.0
"""`Encoder`: computes each embedding of images and captions once, in one process or several."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers.utils import logging

from hf_tripletclip.checkpoints.load import (
    check_two_towers,
    image_features,
    load_clip_like,
    max_text_length,
    text_features,
    tokenize,
)
from hf_tripletclip.data.decoding import BrokenValue
from hf_tripletclip.data.pixels import FastPixels, needless_steps
from hf_tripletclip.data.scenes.start import model_place
from hf_tripletclip.data.tokenizer import tokenize_captions
from hf_tripletclip.evaluation.images import ImageRef
from hf_tripletclip.evaluation.official import OfficialPixels, clean_caption
from hf_tripletclip.layouts.processor import check_processor
from hf_tripletclip.utils.devices import loading, pick_device
from hf_tripletclip.utils.processes import from_first_process, in_all_processes, start_processes

logger = logging.get_logger(__name__)

PRECISIONS = ("float32", "bfloat16", "float16")
# Entries of a configuration that do not change embeddings.
IRRELEVANT = ("_name_or_path", "transformers_version", "dtype", "architectures", "objective", "objective_kwargs")
EMBEDDINGS, DIGEST = "embeddings", "digest"  # the tensor in a cached file, and its metadata


@contextlib.contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients. Afterwards each module is in the mode that it was in before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:  # not `model.train(...)`: a frozen tower stays in evaluation mode
            module.training = training


class Encoder:
    r"""
    A CLIP-like model to evaluate. Embeddings are L2-normalised float32 tensors on the CPU.

    In a job of several processes (`accelerate launch`) all processes must make the same calls. They share the batches,
    and each gets all embeddings. The batches do not depend on the number of processes, so the embeddings are those of
    one process: to the last bit if the libraries below torch are reproducible (on a CPU, MKL with
    `MKL_CBWR=AUTO,STRICT`).

    Args:
        model ([`TripletCLIPModel`], [`~transformers.CLIPModel`], `PeftModel`, ...): Has `get_image_features` and
            `get_text_features`. It is used in evaluation mode; afterwards it is in the mode that it was in before.
        processor ([`~transformers.ProcessorMixin`]): Its processor.
        name (`str`, *optional*): The model's name in results. Defaults to the place that it was loaded from, or its
            class.
        batch_size (`int`, defaults to 64): Images or captions at a time.
        device (`torch.device` or `str`, *optional*): Defaults to the model's device.
        autocast (`str`, *optional*): Encode in `bfloat16` or `float16` by autocast. Defaults to the precision of the
            weights. Scores are always float32.
        num_workers (`int`, defaults to 0): Processes that read and preprocess images.
        progress (`bool`, defaults to `True`): Whether to show progress bars.
        cache_dir (`str` or `os.PathLike`, *optional*): A folder that keeps embeddings. They are used again for the
            same weights, preprocessing, precision and inputs.

    Raises:
        ValueError: The model lacks a tower, the processor belongs to another model, or a setting is out of range.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str | None = None,
        batch_size: int = 64,
        device: torch.device | str | None = None,
        autocast: str | None = None,
        num_workers: int = 0,
        progress: bool = True,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"`batch_size` is {batch_size}; give at least 1.")
        if autocast is not None and autocast not in PRECISIONS:
            raise ValueError(f"`autocast` is {autocast!r}; give {', '.join(PRECISIONS)}.")
        check_two_towers(model, name or getattr(model.config, "name_or_path", "") or "the model")
        check_processor(model, processor)
        self.model = model if device is None else model.to(pick_device(str(device)))
        self.processor = processor
        self.name = name or getattr(model.config, "name_or_path", "") or type(model).__name__
        self.batch_size = batch_size
        self.autocast = None if autocast in (None, "float32") else autocast
        self.num_workers = num_workers
        self.progress = progress
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.state = start_processes()
        self.official = False  # set by `as_official`
        self._fingerprint: tuple[Any, str] | None = None  # the state of the model, and its fingerprint

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], *, revision: str | None = None, device: str | None = None, **options: Any
    ) -> Encoder:
        """
        Load a model and its processor, see [`~hf_tripletclip.checkpoints.load.load_clip_like`].

        Args:
            source (`str` or `os.PathLike`): A directory or the id of a Hub repository, or `scenes`, the small model
                beside the built-in data.
            revision (`str`, *optional*): Branch, tag or commit.
            device (`str`, *optional*): Defaults to this process's accelerator, or the CPU if there is none.
            options: Other arguments of the class.

        Raises:
            OSError: The model does not exist or cannot be reached.
            ValueError: The model does not embed images and captions, or weights are missing.
        """
        with loading(os.fspath(source), "a CLIP-like model"):
            model, processor = load_clip_like(model_place(source), revision=revision)
        options.setdefault("name", os.fspath(source))
        return cls(model, processor, device=device or str(start_processes().device), **options)

    @classmethod
    def of(cls, model: Any, processor: Any = None, **options: Any) -> Encoder:
        """
        The encoder of a model that is given in any form.

        Args:
            model: An encoder, a model, or the directory or Hub id to load one from.
            processor ([`~transformers.ProcessorMixin`], *optional*): The processor of a model that is given as an
                object.
            options: Arguments of the class.

        Raises:
            OSError: The model cannot be loaded.
            ValueError: `processor` is missing for a model that is given as an object, or given for anything else.
        """
        if isinstance(model, Encoder):
            if processor is not None or options:
                raise ValueError("an Encoder has its processor and settings: give them when you make it.")
            return model
        if isinstance(model, (str, os.PathLike)):
            if processor is not None:
                raise ValueError("a model that is loaded by name brings its processor: leave `processor` out.")
            return cls.from_pretrained(model, **options)
        if processor is None:
            raise ValueError("the model is given as an object: also give its processor (`processor`).")
        return cls(model, processor, **options)

    def as_official(self) -> Encoder:
        """
        The same encoder, except that it prepares images and captions as the benchmarks' own scripts do, see
        [`~hf_tripletclip.evaluation.official`]. The fingerprint is the same.
        """
        other = copy.copy(self)
        other.official = True
        return other

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def fingerprint(self) -> str:
        """
        A digest of what decides embeddings, up to rounding: the weights, their precision, the architecture and the
        preprocessing. Between two calls it misses changes of weights in place through `.data`.
        """
        weights = sorted(self.model.state_dict().items())
        around = self._around()
        state = [around, [(tensor.data_ptr(), tensor._version) for _, tensor in weights if not tensor.is_inference()]]
        if self._fingerprint is None or self._fingerprint[0] != state:  # training changes the model
            digest = hashlib.sha256(around.encode())
            for name, tensor in weights:
                digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            self._fingerprint = state, digest.hexdigest()
        return self._fingerprint[1]

    def _around(self) -> str:
        """What decides embeddings besides the weights: models with equal weights may differ in activations."""
        config = {name: value for name, value in self.model.config.to_dict().items() if name not in IRRELEVANT}
        adapters = [  # LoRA's scale is in no weight
            (name, scaling, getattr(module, "disable_adapters", False), getattr(module, "active_adapters", None))
            for name, module in self.model.named_modules()
            if (scaling := getattr(module, "scaling", None))
        ]
        parts = (
            config,
            adapters,
            self.processor.image_processor.to_dict(),
            _tokenizer_state(self.processor.tokenizer),
            max_text_length(self.model, self.processor),
            self.autocast,
        )
        return json.dumps(parts, sort_keys=True, default=str)

    def description(self) -> dict[str, Any]:
        """The facts about the model that a result holds."""
        parameters = list(self.model.parameters())
        return {
            "name": self.name,
            "class": type(self.model).__name__,
            "fingerprint": self.fingerprint[:16],
            "dtype": str(parameters[0].dtype).removeprefix("torch."),
            "parameters": sum(parameter.numel() for parameter in parameters),
        }

    # ---- Images ----

    def images(self, images: Sequence[ImageRef]) -> tuple[torch.Tensor, dict[int, str]]:
        """
        Embeddings of images.

        Args:
            images (`Sequence[ImageRef]`): The images, without repetitions.

        Returns:
            `tuple`: A float32 tensor of shape `(N, dim)`, and for each image that cannot be read (by its index) the
            reason. The rows of these images are NaN.
        """
        kind = "images-official" if self.official else "images"
        return self._cached(kind, [image.version() for image in images], lambda: self._encode_images(images))

    def _encode_images(self, images: Sequence[ImageRef]) -> tuple[torch.Tensor, dict[int, str]]:
        batches = self._batches(range(len(images)))
        loader: DataLoader[Any] = DataLoader(
            [[images[index] for index in batch] for batch in self._share(batches)],  # type: ignore[arg-type]
            batch_size=None,
            collate_fn=_Preprocess(self.processor.image_processor, self.official),
            num_workers=self.num_workers,
        )

        def encode() -> list[tuple[int, Any]]:
            rows: list[tuple[int, Any]] = []
            with evaluation_mode(self.model), self._bar(len(images), "images") as bar:
                for batch, (pixels, reasons) in zip(self._share(batches), loader, strict=True):
                    found = list(zip(batch, reasons, strict=True))
                    if whole := [index for index, reason in found if reason is None]:
                        rows += zip(whole, self._features(image_features, {"pixel_values": pixels}), strict=True)
                    rows += [(index, reason) for index, reason in found if reason is not None]
                    bar.update(len(batch) * self.state.num_processes)
            return rows

        return self._together(in_all_processes(encode), len(images))

    # ---- Captions ----

    def texts(self, captions: Sequence[str]) -> torch.Tensor:
        """
        Embeddings of captions.

        Args:
            captions (`Sequence[str]`): The captions, without repetitions. Batches hold captions of similar length.

        Returns:
            `torch.Tensor` of shape `(N, dim)`, float32.
        """
        captions = [clean_caption(caption) for caption in captions] if self.official else list(captions)
        return self._cached("texts", captions, lambda: self._encode_texts(captions))[0]

    def _encode_texts(self, captions: Sequence[str]) -> tuple[torch.Tensor, dict[int, str]]:
        limit = max_text_length(self.model, self.processor)
        tokens = tokenize_captions(self.processor.tokenizer, captions, truncation=True, max_length=limit)["input_ids"]
        # Captions with the same tokens, such as "a CAT" and "a cat", are encoded once: in two batches they could
        # differ in the last bit, and a tie would become a win.
        places: dict[tuple[int, ...], int] = {}
        of_caption = [places.setdefault(tuple(ids), len(places)) for ids in tokens]
        firsts = {place: index for index, place in reversed(list(enumerate(of_caption)))}
        order = sorted(firsts, key=lambda place: (len(tokens[firsts[place]]), place))

        def encode() -> list[tuple[int, Any]]:
            rows: list[tuple[int, Any]] = []
            with evaluation_mode(self.model), self._bar(len(order), "captions") as bar:
                for batch in self._share(self._batches(order)):
                    inputs = tokenize(self.model, self.processor, [captions[firsts[place]] for place in batch])
                    rows += zip(batch, self._features(text_features, dict(inputs)), strict=True)
                    bar.update(len(batch) * self.state.num_processes)
            return rows

        embeddings, reasons = self._together(in_all_processes(encode), len(order))
        return embeddings[of_caption], reasons

    # ---- Both ----

    def _features(self, features: Callable[..., torch.Tensor], inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        weights = next(self.model.parameters())
        inputs = {
            name: value.to(weights.device, weights.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        precision = contextlib.nullcontext()
        if self.autocast is not None:
            precision = torch.autocast(weights.device.type, dtype=getattr(torch, self.autocast))  # type: ignore[assignment]
        with precision:
            embeddings = features(self.model, **inputs)
        return torch.nn.functional.normalize(embeddings.float(), dim=-1).cpu()

    def _batches(self, order: Sequence[int]) -> list[list[int]]:
        return [list(order[start : start + self.batch_size]) for start in range(0, len(order), self.batch_size)]

    def _share(self, batches: list[list[int]]) -> list[list[int]]:
        """The batches of this process."""
        return batches[self.state.process_index :: self.state.num_processes]

    def _bar(self, total: int, unit: str) -> Any:
        shown = self.progress and self.state.is_main_process
        return tqdm(total=total, desc=f"Encoding {unit}", unit=unit[:-1], disable=not shown, leave=False)

    def _together(self, rows: list[tuple[int, Any]], number: int) -> tuple[torch.Tensor, dict[int, str]]:
        """The embeddings of all processes, in order."""
        mine = [(index, value) for index, value in rows if isinstance(value, torch.Tensor)]
        broken = {index: value for index, value in rows if not isinstance(value, torch.Tensor)}
        stacked = torch.stack([value for _, value in mine]) if mine else None
        shares = gather_object([([index for index, _ in mine], stacked, broken)])
        width = next((values.shape[1] for _, values, _ in shares if values is not None), 0)
        embeddings = torch.full((number, width), torch.nan)
        reasons: dict[int, str] = {}
        for indices, values, unreadable in shares:
            if values is not None:
                embeddings[indices] = values
            reasons |= unreadable
        diverged = (~embeddings.isfinite().all(dim=1)).nonzero().flatten().tolist() if width else []
        if bad := [index for index in diverged if index not in reasons]:
            raise ValueError(f"{self.name}: embeddings are not finite in rows {bad[:5]}: the model has diverged.")
        return embeddings, reasons

    def _cached(
        self, kind: str, keys: list[str], encode: Callable[[], tuple[torch.Tensor, dict[int, str]]]
    ) -> tuple[torch.Tensor, dict[int, str]]:
        if not keys:
            return torch.empty(0, 0), {}
        if self.cache_dir is None:
            return encode()
        digest = hashlib.sha256(json.dumps(keys).encode("utf-8", "surrogatepass")).hexdigest()
        path = self.cache_dir / self.fingerprint[:16] / f"{kind}-{digest[:32]}.safetensors"
        of = f"{self.fingerprint} {digest}"
        if (found := from_first_process(lambda: _read(path, of, len(keys)))) is not None:
            return found, {}
        embeddings, reasons = encode()
        if self.state.is_main_process and not reasons:  # someone may repair the broken images
            _write(path, embeddings, of)
        return embeddings, reasons


def _digest(embeddings: torch.Tensor, of: str) -> str:
    """A digest of cached embeddings and of the weights and inputs that they come from."""
    head = f"{of} {embeddings.dtype} {tuple(embeddings.shape)}".encode()
    return hashlib.sha256(head + embeddings.contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def _write(path: Path, embeddings: torch.Tensor, of: str) -> None:
    """Write embeddings to the cache. If that fails there is a warning, since they are in memory anyway."""
    staged = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({EMBEDDINGS: embeddings.contiguous()}, staged, {DIGEST: _digest(embeddings, of)})
        os.replace(staged, path)
    except (OSError, SafetensorError) as error:
        logger.warning(f"The embeddings could not be kept in {path}: {error}")
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)


def _read(path: Path, of: str, rows: int) -> torch.Tensor | None:
    """Cached embeddings; `None` if there are none, or if their file is damaged or changed."""
    try:
        if not path.exists():
            return None
        with safe_open(path, "pt") as file:
            embeddings, digest = file.get_tensor(EMBEDDINGS), (file.metadata() or {}).get(DIGEST)
        if digest == _digest(embeddings, of) and embeddings.ndim == 2 and len(embeddings) == rows:
            return embeddings
        problem = "they are not what was written"
    except (SafetensorError, OSError, ValueError) as error:
        problem = str(error)
    logger.warning(f"The embeddings in {path} are damaged and are computed again: {problem}")
    return None


def _tokenizer_state(tokenizer: Any) -> Any:
    """What decides the tokens of a caption, except truncation and padding, which are arguments of each call."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer.get_vocab()
    state = json.loads(backend.to_str())
    state["special_tokens"] = "text"  # as in `tokenize_captions`: older embeddings do not count
    return {name: value for name, value in state.items() if name not in ("truncation", "padding")}


class _Preprocess:
    """The pixels of a batch's readable images, as the processor makes them, and why the others cannot be read."""

    def __init__(self, image_processor: Any, official: bool = False) -> None:
        self.image_processor = image_processor
        self.official = OfficialPixels(image_processor) if official else None
        self.fast = FastPixels(image_processor)

    def __call__(self, images: list[ImageRef]) -> tuple[torch.Tensor | None, list[str | None]]:
        loaded: list[Image.Image] = []
        reasons: list[str | None] = []
        for image in images:
            try:
                loaded.append(image.load(as_stored=self.official is not None))
                reasons.append(None)
            except BrokenValue as error:
                reasons.append(str(error))
        return (self._pixels(loaded) if loaded else None), reasons

    def _pixels(self, images: list[Image.Image]) -> torch.Tensor:
        if self.official is not None:
            return self.official(images)
        resizes = getattr(self.image_processor, "do_resize", False)
        if not resizes or needless_steps(self.image_processor, images).get("do_resize") is False:
            return self.fast(images)  # the same to the last bit if nothing is resized
        return torch.stack(
            [self.image_processor(images=image, return_tensors="pt")["pixel_values"][0] for image in images]
        )

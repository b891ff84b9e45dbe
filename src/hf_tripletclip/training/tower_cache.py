# SPDX-License-Identifier: Apache-2.0
"""Locked towers run once for each input: their outputs are kept in a folder.

A tower that does not train gives the same output for the same input at every step, in every epoch and in every run.
Its pooled output, before the projection, is kept, so that runs with a trained and with a locked projection share it,
and the teacher of distillation too. In a batch the rows of pooled output, float `(rows, hidden_size)`, take the place
of `pixel_values` or `input_ids`, and [`TripletCLIPModel`] applies only the projection to them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hf_tripletclip.data.decoding import decode_image
from hf_tripletclip.data.reading import is_url, read_image_file
from hf_tripletclip.evaluation.encoder import IRRELEVANT, evaluation_mode
from hf_tripletclip.training.feature_store import KEY_BYTES, FeatureStore
from hf_tripletclip.training.towers import TOWERS

VERSION = "1"  # of keys and folders: another version does not find them
TAG_BYTES = 4  # of a key: they name the tower that it is for
NAMES = {"vision": "image", "text": "text"}  # tower -> its name in messages and folders
INPUTS = {"vision": "pixel_values", "text": "input_ids"}  # tower -> how the names of its inputs end
BESIDE = ("attention_mask", "position_ids")  # other inputs of captions
# What a collator with a cache adds to a batch: known outputs, pixels of the other images, and the keys of both.
FOUND, FOUND_KEYS, NEW, NEW_KEYS = "found_images", "found_image_keys", "new_images", "new_image_keys"


# ---- Keys ----


def fingerprint(core: Any, tower: str, precision: str) -> str:
    """
    16 hexadecimal digits that depend on a tower's weights and architecture, without adapters, and on its precision.

    Args:
        core ([`TripletCLIPModel`]): The model.
        tower (`str`): `text` or `vision`.
        precision (`str`): Precision of autocast: `no`, `bf16` or `fp16`.
    """
    config = getattr(core.config, f"{tower}_config").to_dict()
    config = {name: value for name, value in config.items() if name not in IRRELEVANT}
    found = hashlib.sha256(json.dumps([VERSION, tower, precision, config], sort_keys=True, default=str).encode())
    for name, value in sorted(tower_weights(core, tower).items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def tower_weights(core: Any, tower: str) -> dict[str, torch.Tensor]:
    """A tower's weights, by their names without PEFT."""
    found = {}
    for name, value in getattr(core, TOWERS[tower][0]).state_dict(keep_vars=True).items():
        if "lora_" not in name and "modules_to_save." not in name:
            found[name.replace("base_layer.", "").replace("original_module.", "")] = value
    return found


def _key(tag: bytes, *parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=KEY_BYTES - TAG_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return tag + digest.digest()


def _as_tensor(keys: Sequence[bytes]) -> torch.Tensor:
    return torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, KEY_BYTES).clone()


def _as_keys(values: torch.Tensor) -> list[bytes]:
    content = values.cpu().contiguous().numpy().tobytes()
    return [content[start : start + KEY_BYTES] for start in range(0, len(content), KEY_BYTES)]


# ---- Images that need not be decoded ----


@dataclass
class _Opened:
    key: bytes
    features: torch.Tensor | None = None  # the output of the tower, if it is known
    image: Image.Image | None = None  # if it is not known


class KnownImages:
    """
    Tells a [`~hf_tripletclip.data.TripletCollator`], also in workers, which images it need not decode.

    Args:
        store ([`FeatureStore`]): The store of the image tower.
        tag (`bytes`): The first bytes of its keys.
        processor: The image processor, on which the tower's input depends.
    """

    def __init__(self, store: FeatureStore, tag: bytes, processor: Any) -> None:
        self.store, self.tag = store, tag
        self.prepared = json.dumps(processor.to_dict(), sort_keys=True, default=str).encode()

    def open(self, value: Any, decode_size: int | None) -> _Opened:
        """
        The output of the tower for an image of a row, or else the image itself.

        Raises:
            BrokenValue: It cannot be read.
        """
        content, image = _content(value), None
        if content is None:  # pixels already, or a remote file: the key is made of the pixels
            image = decode_image(value, decode_size)
            of = [b"pixels", str(image.size).encode(), image.tobytes()]
        else:
            of = [b"file", str(decode_size).encode(), content]
        key = _key(self.tag, self.prepared, *of)
        features = self.store.get(key)
        if features is None and image is None:
            image = decode_image(content, decode_size)
        return _Opened(key, features, image if features is None else None)

    def inputs(
        self, images: Sequence[_Opened], pixels: Callable[[list[Image.Image]], torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """
        Args:
            images: Images from `open`.
            pixels (`Callable`): Makes pixels of images.

        Returns:
            The images' keys, uint8 `(images, 16)`, and the other entries of the batch.
        """
        found = {one.key: one.features for one in images if one.features is not None}
        new = {one.key: one.image for one in images if one.image is not None and one.key not in found}
        beside: dict[str, torch.Tensor] = {}
        if found:
            beside |= {FOUND: torch.stack(list(found.values())), FOUND_KEYS: _as_tensor(list(found))}
        if new:
            beside |= {NEW: pixels(list(new.values())), NEW_KEYS: _as_tensor(list(new))}
        return _as_tensor([one.key for one in images]), beside


def _content(value: Any) -> bytes | None:
    """The contents of a file; `None` if the value is no file, or a remote one."""
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, (str, os.PathLike)) and not is_url(os.fspath(value)):
        return read_image_file(value)
    return bytes(value) if isinstance(value, (bytes, bytearray)) else None


# ---- The cache ----


class TowerCache:
    """
    The pooled outputs of towers that do not change, by their inputs.

    Args:
        core ([`TripletCLIPModel`]): The model with the towers.
        towers (`Sequence[str]`): Which of them: `text`, `vision`.
        folder (`str` or `os.PathLike`): The folder, with subfolders `image-<fingerprint>/` and `text-<fingerprint>/`.
        limit (`int`): Bytes that the folder may take, whoever wrote them.
        precision (`str`): Precision of autocast: `no`, `bf16` or `fp16`.
        autocast (`Callable`): Gives the context in which the towers run.
        batch_size (`int`): Images or captions that go through a tower at a time.

    Attributes:
        computed (`dict[str, int]`): How many inputs went through each tower.
    """

    def __init__(
        self,
        core: Any,
        towers: Sequence[str],
        folder: str | os.PathLike[str],
        limit: int,
        *,
        precision: str,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]],
        batch_size: int,
    ) -> None:
        self.core, self.towers = core, list(towers)
        self.folder, self.limit = Path(folder), limit
        self.precision, self.autocast, self.batch_size = precision, autocast, batch_size
        self.computed = dict.fromkeys(self.towers, 0)
        self._stores: dict[str, FeatureStore] = {}
        self._states: dict[str, Any] = {}

    def store(self, tower: str) -> FeatureStore:
        """The store for a tower's present weights. Changes in place through `.data` go unnoticed."""
        weights = list(tower_weights(self.core, tower).values())  # they may have been replaced
        versions = _versions(weights)
        if tower not in self._states or self._states[tower][1] != versions:
            if tower in self._stores:
                self._stores[tower].flush()
            # Held, so that no other weights get their place in memory.
            self._states[tower] = (weights, versions)
            name = f"{NAMES[tower]}-{fingerprint(self.core, tower, self.precision)}"
            self._stores[tower] = FeatureStore(self.folder, name, self.limit)
        return self._stores[tower]

    def _tag(self, tower: str) -> bytes:
        return bytes.fromhex(self._stores[tower].name.rpartition("-")[2])[:TAG_BYTES]

    def known_images(self, processor: Any) -> KnownImages | None:
        """What tells a collator which images it need not decode; `None` if the image tower is not cached."""
        if "vision" not in self.towers:
            return None
        return KnownImages(self.store("vision"), self._tag("vision"), processor.image_processor)

    def flush(self) -> None:
        """Write the outputs that are not written yet."""
        for store in self._stores.values():
            store.flush()

    def inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """
        A batch with the towers' outputs, float `(rows, hidden_size)`, in place of their inputs. Inputs without a known
        output go through the tower, in evaluation mode and without gradients.

        Args:
            batch (`Mapping[str, Any]`): A batch of a collator. Entries that are outputs already stay.

        Raises:
            ValueError: A tower's weights have changed since the collator was made.
        """
        found = {name: value for name, value in batch.items() if name not in (FOUND, FOUND_KEYS, NEW, NEW_KEYS)}
        for tower in self.towers:
            names = [name for name, value in found.items() if _is_input(name, value, tower)]
            if not names:
                continue
            self.store(tower)  # for the present weights
            table = self._from_collator(batch) if tower == "vision" else {}
            outputs = {name: self._outputs(tower, name, found, table) for name in names}
            for name in names:
                for other in _beside(name, found):
                    del found[other]
            found |= outputs
        return found

    def _from_collator(self, batch: Mapping[str, Any]) -> dict[bytes, torch.Tensor]:
        """The outputs for the images of a batch, by key, if its collator knows this cache."""
        tag = self._tag("vision")
        table: dict[bytes, torch.Tensor] = {}
        for values, keys in ((FOUND, FOUND_KEYS), (NEW, NEW_KEYS)):
            if keys not in batch or not len(batch[keys]):
                continue
            named = _as_keys(batch[keys])
            if any(key[:TAG_BYTES] != tag for key in named):
                raise ValueError("The weights of the locked image tower have changed while its images were read.")
            if values == FOUND:
                table |= dict(zip(named, batch[values].cpu(), strict=True))
            else:
                table |= self._get("vision", named, {"pixel_values": batch[values]})
        return table

    def _outputs(
        self, tower: str, name: str, batch: Mapping[str, Any], table: dict[bytes, torch.Tensor]
    ) -> torch.Tensor:
        values = batch[name]
        if not len(values):
            weights = next(getattr(self.core, TOWERS[tower][0]).parameters())
            return torch.zeros((0, self.core.pooled_width(tower)), dtype=weights.dtype, device=values.device)
        if tower == "vision" and values.dtype == torch.uint8 and values.ndim == 2:
            keys = _as_keys(values)
        else:
            inputs = {INPUTS[tower]: values} | {_plain(other): batch[other] for other in _beside(name, batch)}
            keys = self._keys(tower, inputs)
            table |= self._get(tower, keys, inputs, table)
        return torch.stack([table[key] for key in keys]).to(values.device)

    def _keys(self, tower: str, inputs: Mapping[str, torch.Tensor]) -> list[bytes]:
        tag, on_cpu = self._tag(tower), {name: value.cpu().contiguous() for name, value in inputs.items()}
        mask = on_cpu.get("attention_mask")
        keys = []
        for row in range(len(on_cpu[INPUTS[tower]])):
            if tower == "vision":
                pixels = on_cpu["pixel_values"][row]
                parts = [b"tensor", f"{pixels.dtype} {tuple(pixels.shape)}".encode()]
                parts.append(pixels.flatten().view(torch.uint8).numpy().tobytes())
            else:  # without the padding, which differs from batch to batch
                end = None if mask is None else int(mask[row].nonzero().max()) + 1 if mask[row].any() else 0
                parts = [b"tokens"]
                for name, value in sorted(on_cpu.items()):
                    parts += [name.encode(), value[row][:end].long().numpy().tobytes()]
            keys.append(_key(tag, *parts))
        return keys

    def _get(
        self,
        tower: str,
        keys: Sequence[bytes],
        inputs: Mapping[str, torch.Tensor],
        known: Mapping[bytes, torch.Tensor] | None = None,
    ) -> dict[bytes, torch.Tensor]:
        """The outputs for the rows of `inputs` by key; those that are not known are computed."""
        store, found = self._stores[tower], {}
        missing: dict[bytes, int] = {}
        for row, key in enumerate(keys):
            if key in found or key in missing:
                continue
            features = (known or {}).get(key)
            if features is None:
                features = store.get(key)
            if features is None:
                missing[key] = row
            else:
                found[key] = features
        rows = list(missing.values())
        for start in range(0, len(rows), self.batch_size):
            part = torch.tensor(rows[start : start + self.batch_size])
            computed = self._run(tower, {name: value[part.to(value.device)] for name, value in inputs.items()})
            for key, features in zip(list(missing)[start : start + self.batch_size], computed, strict=True):
                found[key] = features
                if features.isfinite().all():
                    store.add(key, features.clone())  # a copy: a view would hold its whole batch
        self.computed[tower] += len(rows)
        return found

    def _run(self, tower: str, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        module = getattr(self.core, TOWERS[tower][0])
        device = next(module.parameters()).device
        with evaluation_mode(module), self.autocast():
            output = module(**{name: value.to(device) for name, value in inputs.items()})
            pooled: torch.Tensor = self.core.pooled(tower, output)
        return pooled.detach().cpu()


def _versions(weights: Sequence[torch.Tensor]) -> list[tuple[int, int]]:
    return [(value.data_ptr(), value._version) for value in weights]


def _is_input(name: str, value: Any, tower: str) -> bool:
    """Whether an entry of a batch is an input of a tower, and not its output already."""
    if not isinstance(value, torch.Tensor) or not name.endswith(INPUTS[tower]):
        return False
    return not (value.is_floating_point() and value.ndim == 2)


def _plain(name: str) -> str:
    """An input's name without the role before it, such as `negative_`."""
    return next(plain for plain in (*INPUTS.values(), *BESIDE) if name.endswith(plain))


def _beside(name: str, batch: Mapping[str, Any]) -> list[str]:
    """The names of the mask and positions of a caption's tokens, as far as a batch has them."""
    if not name.endswith(INPUTS["text"]):
        return []
    front = name.removesuffix(INPUTS["text"])
    return [f"{front}{other}" for other in BESIDE if batch.get(f"{front}{other}") is not None]

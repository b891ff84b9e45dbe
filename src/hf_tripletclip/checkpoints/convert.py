# SPDX-License-Identifier: Apache-2.0
"""Any checkpoint that opens as a `TripletCLIPModel`, written as a standard CLIP directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from transformers import CLIPProcessor

from hf_tripletclip.checkpoints.processor import load_processor
from hf_tripletclip.checkpoints.published import is_split_encoder_layout
from hf_tripletclip.modeling import TripletCLIPModel


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    processor: str | os.PathLike[str] | None = None,
    with_processor: bool = True,
    logit_scale: float | None = None,
    overwrite: bool = False,
    **hub_kwargs: Any,
) -> Path:
    """
    Write a checkpoint as a standard CLIP directory, which plain `transformers` opens.

    The target appears whole or not at all.

    Args:
        source (`str` or `os.PathLike`): A directory or Hub id that [`TripletCLIPModel.from_pretrained`] opens.
        target (`str` or `os.PathLike`): The directory to write.
        processor (`str` or `os.PathLike`, *optional*): Where the processor is; defaults to the source's.
        with_processor (`bool`, defaults to `True`): Whether to write a processor too; pipelines need one.
        logit_scale (`float`, *optional*): For the published layout, which holds none; defaults to ln(100).
        overwrite (`bool`, defaults to `False`): Whether to replace a target that exists.
        hub_kwargs: `revision`, `token`, `cache_dir`, ... as in `from_pretrained`.

    Returns:
        `Path`: The target.

    Raises:
        FileExistsError: The target exists and is not empty.
        OSError: The source or the processor cannot be loaded, or the target cannot be written.
        ValueError: The source has tensors that do not fit, or a `logit_scale` of its own beside the one given, or lies
            inside the target.
    """
    target = Path(target).resolve()
    if target.exists() and not overwrite and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists and is not an empty directory: name another, or overwrite it.")
    if os.path.isdir(source) and target in Path(source).resolve().parents:
        raise ValueError(f"{source} lies in {target}, and would be deleted with it: name another target.")
    if logit_scale is not None and not is_split_encoder_layout(source, **hub_kwargs):
        raise ValueError(f"{source} does not have the published layout and holds its own `logit_scale`: give none.")

    # Made before anything is downloaded, so that a target that cannot be written is known at once.
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    new, old = staging / "new", staging / "old"
    try:
        new.mkdir()  # not `staging` itself, which only its owner may read
        loading = dict(hub_kwargs) if logit_scale is None else {**hub_kwargs, "logit_scale": logit_scale}
        TripletCLIPModel.from_pretrained(source, **loading).save_pretrained(new)
        if with_processor:
            _load_processor(source, processor, hub_kwargs).save_pretrained(new)
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(new, target)
        except BaseException:
            if old.exists():
                os.replace(old, target)
            raise
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        with contextlib.suppress(OSError):  # it stays where it still holds the old target
            staging.rmdir()
        raise
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)
    staging.rmdir()
    return target


def _load_processor(
    source: str | os.PathLike[str], processor: str | os.PathLike[str] | None, hub_kwargs: dict[str, Any]
) -> CLIPProcessor:
    try:
        return load_processor(processor) if processor is not None else load_processor(source, **hub_kwargs)
    except OSError as error:
        raise OSError(
            f"{error}\nName another with `processor` (`--processor`), or write the model alone with "
            "`with_processor=False` (`--no-processor`)."
        ) from error

# SPDX-License-Identifier: Apache-2.0
"""Any checkpoint that opens as a `TripletCLIPModel`, written as a standard CLIP directory."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

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
        ValueError: The source has tensors that do not fit, or a `logit_scale` of its own beside the one given.
    """
    target = Path(target)
    if target.exists() and not overwrite and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists and is not an empty directory: name another, or overwrite it.")
    if logit_scale is not None and not is_split_encoder_layout(source, **hub_kwargs):
        raise ValueError(f"{source} does not have the published layout and holds its own `logit_scale`: give none.")
    loading = dict(hub_kwargs) if logit_scale is None else {**hub_kwargs, "logit_scale": logit_scale}
    model = TripletCLIPModel.from_pretrained(source, **loading)
    loaded = None
    if with_processor:
        loaded = load_processor(processor) if processor is not None else load_processor(source, **hub_kwargs)

    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        model.save_pretrained(staging)
        if loaded is not None:
            loaded.save_pretrained(staging)
        if target.is_dir():
            shutil.rmtree(target)
        elif target.exists():
            target.unlink()
        staging.chmod(0o777 & ~_umask())
        os.replace(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # gone already unless something failed
    return target


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

# SPDX-License-Identifier: Apache-2.0
"""Any CLIP checkpoint, written as a standard CLIP directory or as an OpenCLIP one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_tripletclip.checkpoints.load import load_clip_like
from hf_tripletclip.checkpoints.merging import merged
from hf_tripletclip.checkpoints.openclip import load_openclip, save_openclip
from hf_tripletclip.layouts.adapters import ADAPTER_CONFIG
from hf_tripletclip.layouts.loading import no_report_of_what_is_refused
from hf_tripletclip.layouts.openclip import find_checkpoint, openclip_processor
from hf_tripletclip.layouts.processor import check_processor, load_processor
from hf_tripletclip.layouts.published import find_file, is_split_encoder_layout
from hf_tripletclip.modeling import TripletCLIPModel
from hf_tripletclip.utils.writing import check_target, whole_directory

LAYOUTS = ("transformers", "openclip")


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    to: str = "transformers",
    hidden_act: str | None = None,
    processor: str | os.PathLike[str] | None = None,
    with_processor: bool = True,
    logit_scale: float | None = None,
    overwrite: bool = False,
    **hub_kwargs: Any,
) -> Path:
    """
    Write a checkpoint as a standard CLIP directory, which plain `transformers` opens, or as an OpenCLIP directory.

    The target appears whole or not at all.

    Args:
        source (`str` or `os.PathLike`): A directory or Hub id that [`TripletCLIPModel.from_pretrained`] opens, that
            has an `open_clip_config.json` or that is a PEFT adapter, which is merged into the model it adapts; or a
            weights file of OpenCLIP's shape (`.safetensors`; `.pt`, `.pth`, `.bin` and `.ckpt` that hold tensors
            only), such as those of NegCLIP, CE-CLIP, FSC-CLIP, DeGLA and of the fine-tuned TripletCLIP.
        target (`str` or `os.PathLike`): The directory to write.
        to (`str`, defaults to `"transformers"`): The layout to write, or `"openclip"`.
        hidden_act (`str`, *optional*): `gelu` or `quick_gelu`, of an OpenCLIP source that does not say it.
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
        ValueError: The source has tensors that do not fit, or a `logit_scale` of its own beside the one given; it is
            the target or lies inside it; it is a pickle with more than tensors, or does not say its activation; or
            the processor is that of another model.
    """
    if to not in LAYOUTS:
        raise ValueError(f"`to` is {to!r}; give {' or '.join(LAYOUTS)}.")
    target = Path(target).resolve()
    check_target(target, overwrite, [source] if processor is None else [source, processor])
    openclip = find_checkpoint(source, **hub_kwargs)
    if openclip is None and hidden_act is not None:
        raise ValueError(f"{source} is no OpenCLIP checkpoint and says its activation itself: leave out `hidden_act`.")
    if logit_scale is not None and (openclip or not is_split_encoder_layout(source, **hub_kwargs)):
        raise ValueError(f"{source} does not have the published layout and holds its own `logit_scale`: give none.")

    # Made before anything is downloaded, so that a target that cannot be written is known at once.
    with whole_directory(target) as new:
        adapter = openclip is None and find_file(source, ADAPTER_CONFIG, hub_kwargs)
        if openclip is not None:
            model = load_openclip(openclip, hidden_act)
        elif adapter:
            adapted, adapters_processor = load_clip_like(source, revision=hub_kwargs.get("revision"))
            model = merged(adapted)
        else:
            loading = dict(hub_kwargs) if logit_scale is None else {**hub_kwargs, "logit_scale": logit_scale}
            with no_report_of_what_is_refused():
                loaded: Any = TripletCLIPModel.from_pretrained(source, output_loading_info=True, **loading)
                model, info = loaded
                if missing := sorted(info["missing_keys"]):
                    raise ValueError(
                        f"{source} lacks weights, which would be written as random: {', '.join(missing[:5])}."
                    )
        its_processor = None
        if with_processor:
            with _naming_the_option():
                if processor is not None:
                    its_processor = load_processor(processor)
                elif adapter:
                    its_processor = adapters_processor
                elif openclip is not None:
                    its_processor = openclip_processor(openclip, model)
                else:
                    its_processor = load_processor(source, **hub_kwargs)
        if its_processor is not None:
            check_processor(model, its_processor)
        if to == "openclip":
            save_openclip(model, its_processor, new)
        else:
            model.save_pretrained(new)
            if its_processor is not None:
                its_processor.save_pretrained(new)
    return target


@contextlib.contextmanager
def _naming_the_option() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{error}\nName another with `processor` (`--processor`), or write the model alone with "
            "`with_processor=False` (`--no-processor`)."
        ) from error

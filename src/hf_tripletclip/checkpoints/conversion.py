# SPDX-License-Identifier: Apache-2.0
"""Any CLIP checkpoint, written as a standard CLIP directory or as an OpenCLIP one."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import save_file

from hf_tripletclip.checkpoints.load import load_clip_like, load_trainable
from hf_tripletclip.checkpoints.merging import merged
from hf_tripletclip.configuration import reason_of
from hf_tripletclip.layouts.files import OPENCLIP_CONFIG, OPENCLIP_WEIGHTS, Layout, detect
from hf_tripletclip.layouts.openclip import (
    BLOCK_NAMES,
    TEXT_NAMES,
    TOWERS,
    TRANSPOSED,
    VISION_NAMES,
    OpenClipCheckpoint,
    find_checkpoint,
    is_clips_tokenizer,
    openclip_processor,
    read_openclip,
)
from hf_tripletclip.layouts.openclip_config import ACTIVATIONS, EPS, LEGACY_EOS, preprocess_cfg_of
from hf_tripletclip.layouts.processor import check_processor, load_processor
from hf_tripletclip.modeling import TripletCLIPModel
from hf_tripletclip.modeling.positions import stretch_positions
from hf_tripletclip.utils.files import check_target, whole_directory

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
    max_text_length: int | None = None,
    overwrite: bool = False,
    **hub_kwargs: Any,
) -> Path:
    """
    Write a checkpoint as a standard directory, which plain `transformers` opens, or, a CLIP, as an OpenCLIP directory.

    The target appears whole or not at all.

    Args:
        source (`str` or `os.PathLike`): A directory or Hub id that [`AutoTripletModel.from_pretrained`] opens, that
            has an `open_clip_config.json` or that is a PEFT adapter, which is merged into the model it adapts; or a
            weights file of OpenCLIP's shape (`.safetensors`; `.pt`, `.pth`, `.bin` and `.ckpt` that hold tensors
            only), such as those of NegCLIP, CE-CLIP, FSC-CLIP, DeGLA and of the fine-tuned TripletCLIP.
        target (`str` or `os.PathLike`): The directory to write.
        to (`str`, defaults to `"transformers"`): The layout to write, or `"openclip"`.
        hidden_act (`str`, *optional*): `gelu` or `quick_gelu`, of an OpenCLIP source that does not say it.
        processor (`str` or `os.PathLike`, *optional*): Where the processor is; defaults to the source's.
        with_processor (`bool`, defaults to `True`): Whether to write a processor too; pipelines need one.
        logit_scale (`float`, *optional*): For the published layout, which holds none; defaults to ln(100).
        max_text_length (`int`, *optional*): Let the text tower take longer captions, of up to this many tokens, see
            [`~hf_tripletclip.modeling.positions.stretch_positions`].
        overwrite (`bool`, defaults to `False`): Whether to replace a target that exists.
        hub_kwargs: `revision`, `token`, `cache_dir`, ... as in `from_pretrained`.

    Returns:
        `Path`: The target.

    Raises:
        FileExistsError: The target exists and is not empty.
        OSError: The source or the processor cannot be loaded, or the target cannot be written.
        ValueError: The source has tensors that do not fit, or a `logit_scale` of its own beside the one given; it is
            the target or lies inside it; it is a pickle with more than tensors, or does not say its activation; the
            processor is that of another model; the positions cannot be stretched; or it is no CLIP and should become
            OpenCLIP's.
    """
    if to not in LAYOUTS:
        raise ValueError(f"`to` is {to!r}; give {' or '.join(LAYOUTS)}.")
    target = Path(target).resolve()
    check_target(target, overwrite, [source] if processor is None else [source, processor])
    openclip = find_checkpoint(source, **hub_kwargs)
    if openclip is None and hidden_act is not None:
        raise ValueError(f"{source} is no OpenCLIP checkpoint and says its activation itself: leave out `hidden_act`.")
    layout = Layout.OPENCLIP if openclip is not None else detect(source, **hub_kwargs)
    if logit_scale is not None and layout is not Layout.PUBLISHED:
        raise ValueError(f"{source} does not have the published layout and holds its own `logit_scale`: give none.")

    # Made before anything is downloaded, so that a target that cannot be written is known at once.
    with whole_directory(target) as new:
        if openclip is not None:
            model = load_openclip(openclip, hidden_act)
        elif layout is Layout.PEFT:
            adapted, adapters_processor = load_clip_like(source, revision=hub_kwargs.get("revision"))
            model = merged(adapted)
        else:
            loading = dict(hub_kwargs) if logit_scale is None else {**hub_kwargs, "logit_scale": logit_scale}
            model = load_trainable(source, "random ones would be written", **loading)
        if to == "openclip" and model.config.model_type != "clip":
            raise ValueError(
                f"{source} is of a model of the type {model.config.model_type!r}: OpenCLIP's is a CLIP's."
            )
        if max_text_length is not None:
            stretch_positions(model, max_text_length)
        its_processor = None
        if with_processor:
            with _naming_the_option():
                if processor is not None:
                    its_processor = load_processor(processor)
                elif layout is Layout.PEFT:
                    its_processor = adapters_processor
                elif openclip is not None:
                    its_processor = openclip_processor(openclip, model)
                else:
                    its_processor = load_processor(source, **hub_kwargs)
        if its_processor is not None:
            check_processor(model, its_processor)
            if max_text_length is not None:
                its_processor.tokenizer.model_max_length = max_text_length
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


def load_openclip(checkpoint: OpenClipCheckpoint, hidden_act: str | None = None) -> TripletCLIPModel:
    """
    Read an OpenCLIP checkpoint. Its sizes are those of its tensors; weights become float32, LoRA matrices among them
    (as FSC-CLIP saves) are folded in.

    Args:
        checkpoint ([`OpenClipCheckpoint`]): From `find_checkpoint`.
        hidden_act (`str`, *optional*): `gelu` (OpenCLIP's `ViT-B-32`) or `quick_gelu` (OpenAI's weights and what was
            tuned from them). The weights do not tell. Defaults to what the config says.

    Raises:
        ValueError: The activation is neither given nor in a config, or is not what the config says; the file holds
            no ViT CLIP, or misses, adds or misshapes a tensor, or one that is not finite.
    """
    config, tensors = read_openclip(checkpoint, hidden_act)
    try:
        model = TripletCLIPModel(config)
    except (StrictDataclassError, ValueError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"{checkpoint.weights} has sizes that make no CLIP: {reason_of(error)}.") from error
    expected = model.state_dict()
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or extra:
        raise ValueError(
            f"{checkpoint.weights} is no CLIP of two transformers: "
            + "; ".join(
                f"{len(names)} tensors {what}, such as {', '.join(names[:3])}"
                for what, names in (("are missing", missing), ("are unknown", extra))
                if names
            )
        )
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            raise ValueError(
                f"{checkpoint.weights}: {name} is {tuple(value.shape)}, {tuple(expected[name].shape)} is expected."
            )
        if not value.isfinite().all():
            raise ValueError(f"{checkpoint.weights}: {name} is not finite.")
    model.load_state_dict(tensors)
    return model.eval()


def save_openclip(model: TripletCLIPModel, processor: Any, folder: str | os.PathLike[str]) -> None:
    """
    Write `open_clip_config.json`, `open_clip_model.safetensors` and the tokenizer: a directory that
    `open_clip.create_model("local-dir:FOLDER")` opens, or, pushed to the Hub, `hf-hub:REPO`.

    Args:
        model ([`TripletCLIPModel`] or [`~transformers.CLIPModel`]): The model.
        processor ([`~transformers.CLIPProcessor`], *optional*): Its processor.
        folder (`str` or `os.PathLike`): The directory, which exists.

    Raises:
        ValueError: The towers have activations that OpenCLIP does not have, or not together; the image tower takes
            other than three channels; the processor prepares images in a way that OpenCLIP has no settings for.
    """
    folder = Path(folder)
    vision: Any = model.config.vision_config
    config = {
        "model_cfg": _model_cfg(model, processor),
        "preprocess_cfg": preprocess_cfg_of(getattr(processor, "image_processor", None), vision.image_size),
    }
    (folder / OPENCLIP_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(_to_openclip(model.state_dict()), folder / OPENCLIP_WEIGHTS[0], metadata={"format": "pt"})
    if processor is not None:
        processor.tokenizer.save_pretrained(folder)


def _model_cfg(model: Any, processor: Any) -> dict[str, Any]:
    text, vision = model.config.text_config, model.config.vision_config
    activations = {text.hidden_act, vision.hidden_act}
    if activations != {"quick_gelu"} and not activations <= ACTIVATIONS.keys():
        raise ValueError(
            f"OpenCLIP has quick_gelu in both towers, or {' or '.join(ACTIVATIONS)} in each; here are "
            f"{text.hidden_act} (text) and {vision.hidden_act} (image)."
        )
    if vision.num_channels != 3:
        raise ValueError(f"OpenCLIP's images have 3 channels, those of this model {vision.num_channels}.")
    text_cfg: dict[str, Any] = {
        "context_length": text.max_position_embeddings,
        "vocab_size": text.vocab_size,
        "width": text.hidden_size,
        "heads": text.num_attention_heads,
        "layers": text.num_hidden_layers,
        "mlp_ratio": text.intermediate_size / text.hidden_size,
    }
    # OpenCLIP brings CLIP's tokenizer along and takes the state at the highest id, CLIP's end of text.
    if processor is not None and not is_clips_tokenizer(processor.tokenizer):
        text_cfg["hf_tokenizer_name"] = "."  # any name: of a directory, OpenCLIP takes its own tokenizer
    if text.eos_token_id not in (LEGACY_EOS, text.vocab_size - 1):
        text_cfg |= {"pool_type": "eos", "eos_id": text.eos_token_id}
    cfg: dict[str, Any] = {
        "embed_dim": model.config.projection_dim,
        "vision_cfg": {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "width": vision.hidden_size,
            "layers": vision.num_hidden_layers,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": vision.intermediate_size / vision.hidden_size,
        },
        "text_cfg": text_cfg,
    }
    for name, tower in (("vision_cfg", vision), ("text_cfg", text)):
        if act_kwargs := ACTIVATIONS.get(tower.hidden_act):
            cfg[name]["act_kwargs"] = act_kwargs
        if tower.layer_norm_eps != EPS:
            cfg[name]["norm_kwargs"] = {"eps": tower.layer_norm_eps}
    return {**cfg, "quick_gelu": True} if activations == {"quick_gelu"} else cfg


def _to_openclip(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {"logit_scale": state["logit_scale"].clone()}
    for names in (TEXT_NAMES, VISION_NAMES):
        found |= {theirs: state[ours].clone() for theirs, ours in names.items()}
    found |= {theirs: state[ours].T.contiguous() for theirs, ours in TRANSPOSED.items()}
    ours_to_theirs = {ours: theirs for theirs, ours in BLOCK_NAMES.items()}
    for theirs, tower in TOWERS.items():
        layer = 0
        while (block := f"{tower}.encoder.layers.{layer}") + ".mlp.fc1.weight" in state:
            target = f"{theirs}.resblocks.{layer}"
            for kind in ("weight", "bias"):
                for part, their_part in ours_to_theirs.items():
                    found[f"{target}.{their_part}.{kind}"] = state[f"{block}.{part}.{kind}"].clone()
                pieces = [state[f"{block}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                found[f"{target}.attn.in_proj_{kind}"] = torch.cat(pieces)
            layer += 1
    return found

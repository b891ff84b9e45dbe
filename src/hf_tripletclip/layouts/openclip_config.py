# SPDX-License-Identifier: Apache-2.0
"""OpenCLIP's settings: each one of its `CLIPTextCfg`, `CLIPVisionCfg` and `PreprocessCfg` is used or refused by name.

After mlfoundations/open_clip, `src/open_clip/model.py`, `transformer.py` and `transform.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's
EPS = 1e-5  # of its LayerNorm, unless `norm_kwargs` says another
LEGACY_EOS = 2  # with this `eos_token_id`, transformers pools at the highest id
ACTIVATIONS = {"gelu": None, "gelu_pytorch_tanh": {"approximate": "tanh"}}  # -> `act_kwargs`

# Field -> values that change nothing, or that are computed. Other values make another model than a CLIP of
# transformers, and are refused. `ANY`: has no effect in evaluation, or is read elsewhere.
ANY: tuple[Any, ...] = ()
BLOCK: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("width", "layers", "mlp_ratio", "act_kwargs", "norm_kwargs", "output_tokens"), ANY),
    **dict.fromkeys(("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn"), (False,)),
    "scale_fc": (False,),
    "ls_init_value": (None,),
    "block_type": (None, "default"),
    "final_ln_after_pool": (False, True),  # one position is pooled, and LayerNorm is of each position
}
TEXT = BLOCK | {
    **dict.fromkeys(("context_length", "vocab_size", "heads", "eos_id", "bos_id", "pad_id", "variable_text"), ANY),
    **dict.fromkeys(("hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs", "tokenizer_type"), ANY),
    **dict.fromkeys(("tiktoken_name", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type"), ANY),
    "text_arch": ("clip",),
    "embed_cls": (False,),
    "no_causal_mask": (False,),
    "pool_type": ("argmax", "eos"),
    "proj_bias": (False,),
    "proj_type": ("linear",),
    "hf_model_name": (None, ""),
    "hf_model_config": (None,),
}
VISION = BLOCK | {
    **dict.fromkeys(("head_width", "patch_size", "image_size", "image_seq_len", "patch_dropout"), ANY),
    **dict.fromkeys(("attn_pooler_queries", "attn_pooler_heads", "n_queries"), ANY),
    **dict.fromkeys(("timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop"), ANY),
    **dict.fromkeys(("timm_drop_path", "timm_model_kwargs"), ANY),
    "timm_model_name": (None, ""),
    "attentional_pool": (False, None),
    "no_ln_pre": (False,),
    "pos_embed_type": ("learnable", "sin_cos_2d"),  # both are in the weights
    "pool_type": ("tok",),
    "global_average_pool": (False,),
    "input_patchnorm": (False,),
}
MODEL = {
    **dict.fromkeys(("embed_dim", "vision_cfg", "text_cfg", "custom_text", "init_logit_scale", "cast_dtype"), ANY),
    **dict.fromkeys(("output_dict", "nonscalar_logit_scale"), ANY),
    "quick_gelu": (False, True),
    "init_logit_bias": (None,),
}
PREPROCESS = {
    **dict.fromkeys(("mean", "std", "size", "fill_color"), ANY),
    "mode": ("RGB", None),
    # For evaluation OpenCLIP takes `random` as bicubic.
    "interpolation": ("bicubic", "bilinear", "random", None),
    "resize_mode": ("shortest", "squash", None),
}
FILTERS = {"bilinear": Image.Resampling.BILINEAR}  # all others are bicubic


@dataclass(frozen=True)
class Tower:
    """
    What a tower's settings say beyond its sizes.

    Args:
        hidden_act (`str`): By transformers' name.
        layer_norm_eps (`float`): Of all its norms.
    """

    hidden_act: str
    layer_norm_eps: float


def check_settings(model_cfg: Mapping[str, Any], source: object) -> None:
    """
    Check that a CLIP of transformers computes what OpenCLIP's settings say.

    Args:
        model_cfg (`Mapping[str, Any]`): `model_cfg` of `open_clip_config.json`.
        source: What an error calls it.

    Raises:
        ValueError: It does not; names the first setting for which that is so.
    """
    _check_fields(model_cfg, MODEL, "", source)
    for name, known in (("vision_cfg", VISION), ("text_cfg", TEXT)):
        part = model_cfg.get(name)
        if part is not None and not isinstance(part, Mapping):
            raise ValueError(f"{source}: `{name}` is {part!r:.60}, an object is needed.")
        _check_fields(part or {}, known, f"{name}.", source)


def _check_fields(given: Mapping[str, Any], known: Mapping[str, tuple[Any, ...]], where: str, source: object) -> None:
    for name, value in given.items():
        if name not in known:
            if value is None or value is False:
                continue  # a setting that is off
            raise ValueError(
                f"{source} has `{where}{name}: {value!r:.60}`, a setting that a CLIP of transformers does not have."
            )
        if (allowed := known[name]) and not any(
            value is one or (type(value) is type(one) and value == one) for one in allowed
        ):
            raise ValueError(
                f"{source} has `{where}{name}: {value!r:.60}`, which a CLIP of transformers does not compute: "
                f"{' or '.join(map(repr, allowed))} would do."
            )


def check_size(name: str, said: Any, found: int, source: object) -> None:
    """
    Check a size that the settings name against that of the tensors.

    Raises:
        ValueError: They differ: OpenCLIP would refuse the weights, or resize them.
    """
    if isinstance(said, (list, tuple)) and said and all(one == said[0] for one in said):
        said = said[0]
    if said is not None and (isinstance(said, bool) or said != found):
        raise ValueError(f"{source} has `{name}: {said!r:.60}`, and its tensors are of {found}.")


def tower(cfg: Mapping[str, Any], activation: str, where: str, source: object) -> Tower:
    """
    Activation and norms of a tower.

    Args:
        cfg (`Mapping[str, Any]`): `vision_cfg` or `text_cfg`.
        activation (`str`): `gelu` or `quick_gelu`, of both towers.
        where (`str`): Its name, for messages.
        source: What an error calls it.

    Raises:
        ValueError: It has settings that transformers' towers do not.
    """
    act, norm = cfg.get("act_kwargs") or {}, cfg.get("norm_kwargs") or {}
    if act == {"approximate": "none"}:
        act = {}
    if act and activation == "gelu":
        activation = next((name for name, kwargs in ACTIVATIONS.items() if kwargs == act), "")
        act = {} if activation else act
    if act:
        raise ValueError(f"{source} has `{where}.act_kwargs: {act!r:.60}`, of which transformers has no activation.")
    eps: Any = norm.get("eps", EPS) if isinstance(norm, Mapping) else None
    whole = isinstance(norm, Mapping) and norm.keys() <= {"eps", "elementwise_affine", "bias"}
    if (
        not whole
        or not _is_number(eps)
        or eps < 0
        or not all(norm.get(one, True) is True for one in norm if one != "eps")
    ):
        raise ValueError(f"{source} has `{where}.norm_kwargs: {norm!r:.60}`: only a number `eps` is computed.")
    return Tower(activation, float(eps))


def end_of_text(text_cfg: Mapping[str, Any], vocabulary: int, source: object) -> int:
    """
    The id at whose first place captions are pooled.

    Raises:
        ValueError: The settings name none, or one at which transformers pools otherwise.
    """
    if text_cfg.get("pool_type", "argmax") == "argmax":
        return vocabulary - 1  # CLIP's end of text, which OpenCLIP finds as the highest id
    end = text_cfg.get("eos_id")
    if not isinstance(end, int) or isinstance(end, bool) or not 0 <= end < vocabulary or end == LEGACY_EOS:
        raise ValueError(
            f"{source} pools at `text_cfg.eos_id: {end!r:.60}`: it must be one of the {vocabulary} ids, and "
            f"not {LEGACY_EOS}, with which transformers pools at the highest id."
        )
    return end


def image_settings(preprocess_cfg: Mapping[str, Any], size: int, source: object) -> dict[str, Any]:
    """
    Arguments of transformers' image processor that prepare images as OpenCLIP does for evaluation.

    Args:
        preprocess_cfg (`Mapping[str, Any]`): Of `open_clip_config.json`.
        size (`int`): Of the model's images, which goes before that of the settings, as in OpenCLIP.
        source: What an error calls it.

    Raises:
        ValueError: A setting is none of OpenCLIP's, or one that transformers does not compute.
    """
    _check_fields(preprocess_cfg, PREPROCESS, "preprocess_cfg.", source)
    values = {}
    for name, default in (("mean", MEAN), ("std", STD)):
        value = preprocess_cfg.get(name) or default  # as OpenCLIP, which takes 0 as not said
        value = list(value) if isinstance(value, (list, tuple)) else [value] * 3
        if len(value) != 3 or not all(map(_is_number, value)) or (name == "std" and min(value) <= 0):
            raise ValueError(
                f"{source} has `preprocess_cfg.{name}: {preprocess_cfg[name]!r:.60}`: a number is needed, or one for "
                "each of red, green and blue."
            )
        values[f"image_{name}"] = [float(one) for one in value]
    square = {"height": size, "width": size}
    squashed = preprocess_cfg.get("resize_mode") == "squash"
    return {
        **values,
        "size": square if squashed else {"shortest_edge": size},
        "crop_size": square,
        "do_center_crop": not squashed,
        "resample": FILTERS.get(preprocess_cfg.get("interpolation") or "", Image.Resampling.BICUBIC),
    }


def preprocess_cfg_of(image_processor: Any, size: int) -> dict[str, Any]:
    """
    OpenCLIP's settings for an image processor of transformers; OpenAI's if there is none.

    Args:
        image_processor ([`~transformers.CLIPImageProcessor`], *optional*): What prepares images.
        size (`int`): Of the model's images.

    Raises:
        ValueError: It does what OpenCLIP has no setting for.
    """
    if image_processor is None:
        return {
            "size": size,
            "mean": list(MEAN),
            "std": list(STD),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        }
    settings = image_processor.to_dict()
    edges = {name: value for name, value in dict(settings.get("size") or {}).items() if value}
    crop = {name: value for name, value in dict(settings.get("crop_size") or {}).items() if value}
    square, cropped = {"height": size, "width": size}, settings.get("do_center_crop", False)
    filters = {Image.Resampling.BICUBIC: "bicubic", Image.Resampling.BILINEAR: "bilinear"}
    interpolation = filters.get(settings.get("resample", -1))
    mode = None
    if edges == {"shortest_edge": size} and cropped and crop == square:
        mode = "shortest"
    elif edges == square and (not cropped or crop == square):
        mode = "squash"
    problems = {
        "it does not resize images": settings.get("do_resize", True) is not True,
        f"it resizes to {edges} and crops to {crop if cropped else 'nothing'}, the images have {size}": not mode,
        f"its filter is {settings.get('resample')}, only bicubic (3) and bilinear (2) can be said": not interpolation,
        "it does not scale pixels to 0 to 1": not (
            settings.get("do_rescale", True) is True and math.isclose(settings.get("rescale_factor", 1 / 255), 1 / 255)
        ),
    }
    if problem := next((text for text, found in problems.items() if found), None):
        raise ValueError(f"OpenCLIP cannot prepare images as the processor does: {problem}.")
    normalizes = settings.get("do_normalize", True)
    return {
        "size": size,
        "mean": list(settings["image_mean"]) if normalizes else [0.0] * 3,
        "std": list(settings["image_std"]) if normalizes else [1.0] * 3,
        "interpolation": interpolation,
        "resize_mode": mode,
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

# SPDX-License-Identifier: Apache-2.0
"""What of a model's folder is uploaded, and whether the model is all there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from huggingface_hub.constants import EVAL_RESULTS_FOLDER
from safetensors import SafetensorError, safe_open

from hf_tripletclip.hub.card_folder import EVALUATION_PLOT, LOSS_PLOT
from hf_tripletclip.hub.card_use import OPENCLIP, PEFT, TRANSFORMERS, kind_of_folder
from hf_tripletclip.layouts.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    LOGIT_SCALE_FILE,
    OPENCLIP_CONFIG,
    OPENCLIP_WEIGHTS,
    TEXT_FOLDER,
)
from hf_tripletclip.results.curve import CURVE_FILE, PLOT_FILE
from hf_tripletclip.utils.files import CARD_FILE, load_json, read_json, read_text, without_paths, without_tokens

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
# The first and the last file that a training run of ours writes beside the model and its loss curve.
FIRST_RECORD, METRICS_FILE = "evaluation_before.json", "metrics.json"
PROCESSOR = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
# What tells of the model: made by this package, and read by it again.
EVALUATIONS = "evaluation_*.json"
MEASURED = (EVALUATIONS, METRICS_FILE, CURVE_FILE, PLOT_FILE, "finetuning.json", "finetuning.md", "examples.html")
PLOTS = (LOSS_PLOT, EVALUATION_PLOT)
RECORDS = (*MEASURED, f"{EVAL_RESULTS_FOLDER}/*.yaml", "LICENSE*")
# Where loaders look for the weights of each kind: what an upload does not write there is of an older model, which some
# of them would open instead, such as a pickle beside safetensors, or the scale of another adapter.
WEIGHTS_OF = {
    TRANSFORMERS: (
        WEIGHTS,
        INDEX,
        "model-?????-of-?????.safetensors",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "pytorch_model-?????-of-?????.bin",
    ),
    OPENCLIP: OPENCLIP_WEIGHTS,
    PEFT: (*ADAPTER_WEIGHTS, LOGIT_SCALE_FILE),
}
PICKLES = ("*model*.bin", "*model*.pt", "*.pth", "*.ckpt")  # that hold weights
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")
TEXTS = (".md", ".html", ".json", ".yaml")
SHOWN = re.compile(r"!\[[^\]]*\]\(\s*(?:<([^>\n]+)>|([^)\s]+))|<img[^>]*\bsrc=(?:\"([^\"]+)|'([^']+))", re.IGNORECASE)


def check_model(folder: Path) -> str:
    """
    Check that a folder holds a whole CLIP model, or an adapter of one.

    Returns:
        `str`: Its kind, the Hub's `library_name`: `transformers`, `peft` or `open_clip`.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no model, or one that is not finished, damaged or no CLIP.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    kind = kind_of_folder(folder)
    config = {PEFT: ADAPTER_CONFIG, OPENCLIP: OPENCLIP_CONFIG}.get(kind, CONFIG)
    weights = weights_files(folder, kind)
    if not (folder / config).is_file() or not weights:
        raise ValueError(_what_is_wrong(folder, kind, config))
    if (folder / FIRST_RECORD).is_file() and not (folder / METRICS_FILE).is_file():
        raise ValueError(
            f"The training that writes to {folder} is not finished, it has no {METRICS_FILE}: continue it with "
            "`--resume_from_checkpoint`."
        )
    content = read_json(folder / config)
    if kind not in (PEFT, OPENCLIP) and content.get("model_type") != "clip":
        raise ValueError(f"{folder} is no CLIP: `model_type` in its {CONFIG} is {content.get('model_type')!r}.")
    for name in weights:
        try:
            with safe_open(folder / name, "pt"):
                pass
        except FileNotFoundError as error:
            raise ValueError(f"{folder} has no {name}, which its {INDEX} names.") from error
        except SafetensorError as error:
            raise ValueError(f"{folder / name} is damaged, it cannot be read: {error}") from error
    return kind


def weights_files(folder: Path, kind: str) -> list[str]:
    """
    The names of the model's weights; none where it has none that are safetensors.

    Raises:
        ValueError: The index of the weights names none, or names such that lie elsewhere.
    """
    if kind == PEFT:
        if not (folder / ADAPTER_WEIGHTS[0]).is_file():
            return []
        return [name for name in (ADAPTER_WEIGHTS[0], LOGIT_SCALE_FILE) if (folder / name).is_file()]
    if kind == OPENCLIP:
        names = [name for name in OPENCLIP_WEIGHTS if name.endswith(".safetensors") and (folder / name).is_file()]
        return names[:1]
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    return _shards(folder / INDEX) if (folder / INDEX).is_file() else []


def _shards(index: Path) -> list[str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no `weight_map`: save the model again.")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{index} names {name!r}, which is no file beside it: save the model again.")
    return sorted(set(weight_map.values()))


def kinds_in(folder: Path, kind: str) -> list[str]:
    """The layouts in a folder of this kind: OpenCLIP's may lie beside that of transformers."""
    beside = kind == TRANSFORMERS and (folder / OPENCLIP_CONFIG).is_file() and weights_files(folder, OPENCLIP)
    return [kind, OPENCLIP] if beside else [kind]


def _what_is_wrong(folder: Path, kind: str, config: str) -> str:
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if (folder / TEXT_FOLDER / CONFIG).is_file():
        return (
            f"{folder} has the layout of the published checkpoints: `tripletclip convert {folder} TARGET`, push that."
        )
    if (folder / config).is_file() and pickles:
        return (
            f"{folder} has its weights in {pickles[0]}, a pickle, which can hold code: save them as safetensors, with "
            "`save_pretrained` or `tripletclip convert`."
        )
    checkpoints = sorted(folder.glob("checkpoint-*"))
    if checkpoints:
        return (
            f"{folder} has no model, only checkpoints of a training that is not finished: continue it with "
            f"`--resume_from_checkpoint`, or push one of them, such as {checkpoints[-1]}."
        )
    if (folder / config).is_file():
        return f"{folder} has {config} but no weights ({ADAPTER_WEIGHTS[0] if kind == PEFT else WEIGHTS})."
    return f"{folder} holds no CLIP model and no adapter: it has no {CONFIG}, {OPENCLIP_CONFIG} or {ADAPTER_CONFIG}."


def stage_model(folder: Path, kind: str, staged: Path, card: str | None, adapter: Mapping[str, Any]) -> None:
    """
    Put what is uploaded of a model into a folder of its own: links to its files, and without paths of this machine
    and tokens what this package writes.

    Args:
        folder (`Path`): The model's folder, which `check_model` has seen.
        kind (`str`): Its kind.
        staged (`Path`): An empty folder.
        card (`str`, *optional*): Its card; `None` leaves the one that the repository has.
        adapter (`Mapping`): What `adapter_config.json` is to say, of an adapter.

    Raises:
        ValueError: A file cannot be read.
    """
    kinds, sharded = kinds_in(folder, kind), not (folder / WEIGHTS).is_file()
    names = [*PROCESSOR, *(name for one in kinds for name in weights_files(folder, one))]
    names += [CONFIG, *([INDEX] if sharded else [])] if TRANSFORMERS in kinds else []
    names += [OPENCLIP_CONFIG] if OPENCLIP in kinds else []
    for name in dict.fromkeys(names):
        if (folder / name).is_file():
            (staged / name).symlink_to((folder / name).resolve())
    records = [path for pattern in RECORDS for path in sorted(folder.glob(pattern)) if path.is_file()]
    shown = [] if card is None else [folder / name for name in pictures_of(card) if (folder / name).is_file()]
    for path in dict.fromkeys([*records, *shown]):
        target = staged / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in TEXTS:
            target.write_text(_public_text(path), encoding="utf-8")
        else:
            target.symlink_to(path.resolve())
    if kind == PEFT:
        (staged / ADAPTER_CONFIG).write_text(_dump(adapter), encoding="utf-8")
    if card is not None:
        (staged / CARD_FILE).write_bytes(card.encode("utf-8"))


def stale_records(there: Iterable[str], staged: Path) -> list[str]:
    """What a repository holds under the names of our records and plots, and an upload does not write anew."""
    patterns = (*MEASURED, *PLOTS)
    return sorted(
        name
        for name in there
        if any(fnmatch(name, pattern) for pattern in patterns) and "/" not in name and not (staged / name).exists()
    )


def pictures_of(text: str) -> list[str]:
    """The pictures beside a card that it shows, in order."""
    names = [os.path.normpath(unquote("".join(found))) for found in SHOWN.findall(text)]
    return [
        name
        for name in dict.fromkeys(names)
        if name.lower().endswith(PICTURES)
        and ":" not in name
        and not os.path.isabs(name)
        and ".." not in Path(name).parts
    ]


def _public_text(path: Path) -> str:
    return without_tokens(_dump(load_json(path)) if path.suffix == ".json" else read_text(path))


def _dump(content: Any) -> str:
    return json.dumps(without_paths(content), indent=1, ensure_ascii=False) + "\n"

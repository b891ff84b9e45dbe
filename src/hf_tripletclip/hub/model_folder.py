# SPDX-License-Identifier: Apache-2.0
"""A model's folder: whether the model is all there, what it tells for a card, and what of it is uploaded."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml
from huggingface_hub import EvalResultEntry, parse_eval_result_entries
from huggingface_hub.constants import EVAL_RESULTS_FOLDER
from safetensors import SafetensorError, safe_open

from hf_tripletclip.hub.card import Card
from hf_tripletclip.hub.model_card import EVALUATION_PLOT, LOSS_PLOT, Retention
from hf_tripletclip.layouts.architectures import ARCHITECTURES, supported
from hf_tripletclip.layouts.configs import read_config
from hf_tripletclip.layouts.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG_FILE,
    LOGIT_SCALE_FILE,
    OPENCLIP_CONFIG,
    OPENCLIP_WEIGHTS,
    PROCESSOR_FILES,
    VOCABULARY_FILES,
    WEIGHTS_FILE,
    WEIGHTS_INDEX,
    Layout,
    folder_layout,
)
from hf_tripletclip.layouts.processor import check_processor_beside
from hf_tripletclip.objectives import OBJECTIVES, Objective, get_objective
from hf_tripletclip.results.curve import CURVE_FILE, PLOT_FILE, Curve, Point
from hf_tripletclip.results.result import EvaluationResult
from hf_tripletclip.utils.files import CARD_FILE, read_json, read_json_object, read_text, without_paths, without_tokens

# The first and the last file that a training run writes beside the model and its loss curve.
FIRST_RECORD, METRICS_FILE = "evaluation_before.json", "metrics.json"
TRAINER_STATE = "trainer_state.json"
CONFIGS = {
    Layout.TRANSFORMERS: CONFIG_FILE,
    Layout.PEFT: ADAPTER_CONFIG,
    Layout.OPENCLIP: OPENCLIP_CONFIG,
}
PROCESSOR = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
# What this package measures and reads again.
EVALUATIONS, ENTRIES = "evaluation_*.json", f"{EVAL_RESULTS_FOLDER}/*.yaml"
MEASURED = (EVALUATIONS, METRICS_FILE, CURVE_FILE, PLOT_FILE, "finetuning.json", "finetuning.md", "examples.html")
PLOTS = (LOSS_PLOT, EVALUATION_PLOT)
RECORDS = (*MEASURED, ENTRIES, "LICENSE*")
# Where loaders look for the weights of each layout. What an upload does not write there is of an older model, which
# some of them would open instead, such as a pickle beside safetensors, or the scale of another adapter.
WEIGHTS_OF = {
    Layout.TRANSFORMERS: (
        WEIGHTS_FILE,
        WEIGHTS_INDEX,
        "model-?????-of-?????.safetensors",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "pytorch_model-?????-of-?????.bin",
    ),
    Layout.OPENCLIP: OPENCLIP_WEIGHTS,
    Layout.PEFT: (*ADAPTER_WEIGHTS, LOGIT_SCALE_FILE),
}
PICKLES = ("*model*.bin", "*model*.pt", "*.pth", "*.ckpt")  # that hold weights
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")
TEXTS = (".md", ".html", ".json", ".yaml")
SHOWN = re.compile(r"!\[[^\]]*\]\(\s*(?:<([^>\n]+)>|([^)\s]+))|<img[^>]*\bsrc=(?:\"([^\"]+)|'([^']+))", re.IGNORECASE)


@dataclass(frozen=True)
class ModelFolder:
    """
    A folder with a whole CLIP or another dual encoder, or with an adapter of one.

    Args:
        path (`Path`): The folder.
        layout ([`~hf_tripletclip.layouts.files.Layout`]): `transformers`, `peft` or `open_clip`.
        weights (`dict[Layout, list[str]]`): The weights files of this layout, and of OpenCLIP's if that lies beside
            transformers'.
        config (`dict[str, Any]`): What the config file of the layout holds.
    """

    path: Path
    layout: Layout
    weights: dict[Layout, list[str]]
    config: dict[str, Any]

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> ModelFolder:
        """
        Read a folder and check that the model in it is all there.

        Raises:
            FileNotFoundError: There is no such folder.
            ValueError: It holds no model, or one that is not finished, damaged or no dual encoder.
        """
        path = Path(folder)
        if not path.is_dir():
            raise FileNotFoundError(f"There is no folder {path}.")
        found = folder_layout(path)
        layout = found if found in (Layout.PEFT, Layout.OPENCLIP) else Layout.TRANSFORMERS
        weights: dict[Layout, list[str]] = {layout: _weights(path, layout)}
        if not (path / CONFIGS[layout]).is_file() or not weights[layout]:
            raise ValueError(_what_is_wrong(path, layout))
        beside = _weights(path, Layout.OPENCLIP) if layout is Layout.TRANSFORMERS else []
        if beside and (path / OPENCLIP_CONFIG).is_file():
            weights[Layout.OPENCLIP] = beside
        if (path / FIRST_RECORD).is_file() and not (path / METRICS_FILE).is_file():
            raise ValueError(
                f"The training that writes to {path} is not finished, it has no {METRICS_FILE}: continue it with "
                "`--resume_from_checkpoint`."
            )
        config = read_json_object(path / CONFIGS[layout])
        if layout is Layout.TRANSFORMERS and (kind := config.get("model_type")) not in ARCHITECTURES:
            raise ValueError(
                f"{path} is no CLIP: `model_type` in its {CONFIG_FILE} is {kind!r}, and the types that can be pushed "
                f"are {supported()}."
            )
        for name in weights[layout]:
            try:
                with safe_open(path / name, "pt"):
                    pass
            except FileNotFoundError as error:
                raise ValueError(f"{path} has no {name}, which its {WEIGHTS_INDEX} names.") from error
            except SafetensorError as error:
                raise ValueError(f"{path / name} is damaged, it cannot be read: {error}") from error
        return cls(path, layout, weights, config)

    def has(self, name: str) -> bool:
        """Whether the folder has a file."""
        return (self.path / name).is_file()

    @property
    def has_processor(self) -> bool:
        return any(map(self.has, PROCESSOR_FILES))

    def check_processor(self) -> None:
        """
        Check that the processor of a transformers model fits it, if it has an image processor and a tokenizer.

        Raises:
            OSError: It cannot be read.
            ValueError: It does not fit.
        """
        if self.layout is Layout.TRANSFORMERS and self.has_processor and any(map(self.has, VOCABULARY_FILES)):
            check_processor_beside(self.path)

    @cached_property
    def model_config(self) -> Any:
        """
        The config of the model: what its file holds if it is a CLIP, and else as transformers reads it; `None` for an
        adapter, which has none.

        Raises:
            ValueError: It describes no model.
        """
        if self.config.get("model_type") in (None, "clip"):
            return self._json(CONFIG_FILE) or None
        return read_config(self.path)

    @cached_property
    def card(self) -> Card | None:
        """
        The card in the folder.

        Raises:
            ValueError: It is not UTF-8, or its metadata cannot be read.
        """
        path = self.path / CARD_FILE
        return Card.read(read_text(path), path) if path.is_file() else None

    @property
    def tells_of_a_run(self) -> bool:
        """Whether anything in the folder tells of training or of results."""
        return any(any(self.path.glob(pattern)) for pattern in (TRAINER_STATE, CURVE_FILE, EVALUATIONS, ENTRIES))

    def facts(self) -> dict[str, Any]:
        """
        What the folder tells, as arguments of [`~hf_tripletclip.hub.create_model_card`].

        Raises:
            ValueError: A file cannot be read.
        """
        found = {path.stem: EvaluationResult.load_json(path) for path in sorted(self.path.glob(EVALUATIONS))}
        config = self._json(CONFIG_FILE)
        was_trained = self.has(TRAINER_STATE)
        retention = self._retention(tuned=was_trained or self.layout is Layout.PEFT)
        return {
            # Every `TripletCLIPConfig` names an objective; only a training run leaves its state.
            "objective": _objective(config) if was_trained else None,
            "towers": _describe_adapter(self.config) if self.layout is Layout.PEFT else None,
            "before": found.pop("evaluation_before", None),
            "after": found.pop("evaluation_after", None),
            "further": list(found.values()),
            "entries": self._entries(),
            "retention": retention,
            "merged": retention is not None and retention.alpha != 1,
            "config": self.model_config,
            "plots": [name for name in PLOTS if self.has(name)],
        }

    def _json(self, name: str) -> dict[str, Any]:
        return read_json_object(self.path / name) if self.has(name) else {}

    def _retention(self, *, tuned: bool) -> Retention | None:
        content = self._json(CURVE_FILE)
        if not content:
            return None
        try:
            points = [Point(**point) for point in content["points"]]
            curve = Curve(content["composition"], content["retention"], points)
            chosen = next((point for point in points if point.alpha == content.get("chosen")), None)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self.path / CURVE_FILE} is no curve of `tripletclip merge`: {error}") from error
        alpha = 1.0 if tuned or chosen is None else chosen.alpha
        return Retention(curve, alpha, chosen, plot=PLOT_FILE if self.has(PLOT_FILE) else None)

    def _entries(self) -> list[EvalResultEntry]:
        found: list[EvalResultEntry] = []
        for path in sorted(self.path.glob(ENTRIES)):
            try:
                found += parse_eval_result_entries(yaml.safe_load(read_text(path)))
            except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
                raise ValueError(f"{path} holds no results that can be read: {error}") from error
        return found

    def stage(self, target: Path, card: str | None, adapter_config: Mapping[str, Any]) -> None:
        """
        Put what is uploaded into a folder of its own: links to the files of the model, and the files that this package
        writes without paths of this machine and without tokens.

        Args:
            target (`Path`): An empty folder.
            card (`str`, *optional*): The card; `None` leaves the one that the repository has.
            adapter_config (`Mapping`): The content of an adapter's `adapter_config.json`.

        Raises:
            ValueError: A file cannot be read.
        """
        configs = [CONFIGS[layout] for layout in self.weights if layout is not Layout.PEFT]
        index = [WEIGHTS_INDEX] if WEIGHTS_FILE not in self.weights.get(Layout.TRANSFORMERS, [WEIGHTS_FILE]) else []
        names = [*PROCESSOR, *configs, *index, *(name for files in self.weights.values() for name in files)]
        for name in filter(self.has, names):
            (target / name).symlink_to((self.path / name).resolve())
        records = [path for pattern in RECORDS for path in sorted(self.path.glob(pattern)) if path.is_file()]
        pictures = [self.path / name for name in filter(self.has, pictures_of(card or ""))]
        for path in dict.fromkeys([*records, *pictures]):
            copy = target / path.relative_to(self.path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix in TEXTS:
                text = _dump(read_json(path)) if path.suffix == ".json" else read_text(path)
                copy.write_text(without_tokens(text), encoding="utf-8")
            else:
                copy.symlink_to(path.resolve())
        if self.layout is Layout.PEFT:
            (target / ADAPTER_CONFIG).write_text(_dump(adapter_config), encoding="utf-8")
        if card is not None:
            (target / CARD_FILE).write_bytes(card.encode("utf-8"))


def is_record(name: str) -> bool:
    """Whether a file of a repository has a name of our records and plots."""
    return "/" not in name and any(fnmatch(name, pattern) for pattern in (*MEASURED, *PLOTS))


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


def _weights(folder: Path, layout: Layout) -> list[str]:
    """
    The names of the model's weights; none if it has none that are safetensors.

    Raises:
        ValueError: The index of the weights names no files, or files of another folder.
    """
    if layout is Layout.PEFT:
        names = [name for name in (ADAPTER_WEIGHTS[0], LOGIT_SCALE_FILE) if (folder / name).is_file()]
        return names if ADAPTER_WEIGHTS[0] in names else []
    if layout is Layout.OPENCLIP:
        safe = [name for name in OPENCLIP_WEIGHTS if name.endswith(".safetensors")]
        return [name for name in safe if (folder / name).is_file()][:1]
    if (folder / WEIGHTS_FILE).is_file():
        return [WEIGHTS_FILE]
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        return []
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no `weight_map`: save the model again.")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{index} names {name!r}, which is no file beside it: save the model again.")
    return sorted(set(weight_map.values()))


def _what_is_wrong(folder: Path, layout: Layout) -> str:
    """What to say of a folder without a config or without weights."""
    config = CONFIGS[layout]
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    found = folder_layout(folder)
    if found is not None and found not in CONFIGS:
        return f"{folder} has the layout `{found}`: push what `tripletclip convert {folder} TARGET` writes."
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
        weights = ADAPTER_WEIGHTS[0] if layout is Layout.PEFT else WEIGHTS_FILE
        return f"{folder} has {config} but no weights ({weights})."
    configs = f"{CONFIG_FILE}, {OPENCLIP_CONFIG} or {ADAPTER_CONFIG}"
    return f"{folder} holds no CLIP model and no adapter: it has no {configs}."


def _objective(config: Mapping[str, Any]) -> Objective | None:
    name = config.get("objective")
    return get_objective(name, **(config.get("objective_kwargs") or {})) if name in OBJECTIVES else None


def _describe_adapter(config: Mapping[str, Any]) -> str | None:
    targets = config.get("target_modules")
    shown = ", ".join(f"`{one}`" for one in ([targets] if isinstance(targets, str) else sorted(targets or [])))
    return f"LoRA of rank {config['r']}, alpha {config.get('lora_alpha')}, on {shown}." if config.get("r") else None


def _dump(content: Any) -> str:
    return json.dumps(without_paths(content), indent=1, ensure_ascii=False) + "\n"

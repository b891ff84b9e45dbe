# SPDX-License-Identifier: Apache-2.0
"""How a model is loaded: the section "Use" of a model card, which is written anew for the repository it goes to."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from hf_tripletclip.hub.card_words import code, in_python, words
from hf_tripletclip.hub.names import HubId, is_repo_id, public_name
from hf_tripletclip.layouts.files import (
    ADAPTER_CONFIG,
    CONFIG_FILE,
    LOGIT_SCALE_FILE,
    OPENCLIP_CONFIG,
    TEXT_FOLDER,
)
from hf_tripletclip.layouts.published import PUBLISHED_CHECKPOINTS

TRANSFORMERS, PEFT, OPENCLIP = "transformers", "peft", "open_clip"  # kinds of models, by the Hub's `library_name`
# How the text of a card begins.
WHAT = {
    PEFT: "A PEFT adapter of a CLIP model",
    TRANSFORMERS: "A CLIP model",
    OPENCLIP: "A CLIP model for OpenCLIP",
}
OURS = {"TripletCLIPModel", "load_processor"}
BEGIN, END = "<!-- use:begin -->", "<!-- use:end -->"
BASE_BEGIN, BASE_END = "<!-- base:begin -->", "<!-- base:end -->"

INPUTS = """captions = ["a black dog chasing a white cat", "a white dog chasing a black cat"]
inputs = processor(text=captions, images=Image.open("photo.jpg"), return_tensors="pt", padding=True)
with torch.no_grad():
    print(model(**inputs).logits_per_image.softmax(dim=1))"""

PIPELINE = """from transformers import pipeline

classifier = pipeline("zero-shot-image-classification", model="{name}")
captions = ["a black dog chasing a white cat", "a white dog chasing a black cat"]
print(classifier("photo.jpg", candidate_labels=captions, hypothesis_template="{{}}"))"""

TRIPLETCLIP = """import torch
from PIL import Image
from hf_tripletclip import TripletCLIPModel, load_processor

model = TripletCLIPModel.from_pretrained("{name}")
processor = load_processor("{name}")
{inputs}"""

MERGED = """from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.checkpoints import convert

convert("{name}", "merged")
model = TripletCLIPModel.from_pretrained("merged")"""

OPENED = """import open_clip
import torch
from PIL import Image

model, preprocess = open_clip.create_model_from_pretrained("{schema}:{name}")
tokenizer = open_clip.get_tokenizer("{schema}:{name}")
captions = ["a black dog chasing a white cat", "a white dog chasing a black cat"]
with torch.no_grad():
    image = model.encode_image(preprocess(Image.open("photo.jpg")).unsqueeze(0), normalize=True)
    text = model.encode_text(tokenizer(captions), normalize=True)
print(image @ text.T)"""


def kind_of_folder(folder: Path) -> str:
    """What a model's folder holds, by the Hub's `library_name`."""
    if (folder / ADAPTER_CONFIG).is_file():
        return PEFT
    # With both it is transformers' model, as for `tripletclip convert`.
    return (
        OPENCLIP if (folder / OPENCLIP_CONFIG).is_file() and not (folder / "config.json").is_file() else TRANSFORMERS
    )


@dataclass(frozen=True)
class Use:
    """
    What a model is opened by.

    Args:
        kind (`str`): `transformers`, `peft` or `open_clip`.
        name (`str`): The repository's id, or the name of the folder.
        base (`str`, *optional*): What it was made from, which an adapter is opened with.
        revision (`str`, *optional*): Of an adapter's base.
        split (`bool`, defaults to `False`): Whether an adapter's base has the layout of the published TripletCLIP
            checkpoints, which this package alone opens.
        scale (`bool`, defaults to `False`): Whether a `logit_scale` lies beside an adapter.
        processor (`bool`, defaults to `True`): Whether a processor lies beside an adapter.
        openclip (`bool`, defaults to `False`): Whether OpenCLIP's layout lies beside that of transformers.
    """

    kind: str
    name: str
    base: str | None = None
    revision: str | None = None
    split: bool = False
    scale: bool = False
    processor: bool = True
    openclip: bool = False


def is_split(base_model: str | None) -> bool:
    """Whether a base has the published layout, as far as that is known without the Hub."""
    if base_model is None or base_model in PUBLISHED_CHECKPOINTS:
        return base_model is not None
    folder = Path(base_model)
    return (folder / TEXT_FOLDER / CONFIG_FILE).is_file() and not (folder / CONFIG_FILE).is_file()


def use_section(use: Use) -> str:
    """The section, between its markers."""
    schema = "hf-hub" if is_repo_id(use.name) else "local-dir"
    use = replace(use, name=HubId(use.name) if is_repo_id(use.name) else in_python(use.name))
    opened = ["It has OpenCLIP's layout:", _code(OPENED.format(name=use.name, schema=schema))]
    if use.kind == PEFT:
        parts = _adapter(use)
    elif use.kind == OPENCLIP:
        parts = [
            *opened,
            "`hf_tripletclip` turns it into a `CLIPModel` of transformers:",
            _code(MERGED.format(name=use.name)),
        ]
    else:
        parts = [
            "It is a standard `CLIPModel`, and opens without `hf_tripletclip`:",
            _code(PIPELINE.format(name=use.name)),
            "With `hf_tripletclip`, also to train it further on hard negatives:",
            _code(TRIPLETCLIP.format(name=use.name, inputs=INPUTS)),
            *(opened if use.openclip else []),
        ]
    return "\n\n".join([BEGIN, "## Use", *parts, END])


def _adapter(use: Use) -> list[str]:
    base = in_python(public_name(use.base or "BASE_MODEL"))
    small = "It is a PEFT adapter, a small file beside its base model"
    split = "which has the layout of the published TripletCLIP checkpoints; `hf_tripletclip` opens that:"
    unknown = f"Its base model, {code(base)}, has no place on the Hub that this card knows: name your own copy."
    return [
        f"{small}, {split}" if use.split else f"{small}, and opens without `hf_tripletclip`:",
        _code(_adapted(use, base)),
        *([] if is_repo_id(use.base or "") else [unknown]),
        "`hf_tripletclip` merges the two into a plain `CLIPModel`, on the command line as `tripletclip convert`:",
        _code(MERGED.format(name=use.name)),
    ]


def _adapted(use: Use, base: str) -> str:
    revision = f', revision="{in_python(use.revision)}"' if use.revision else ""
    model_class = "TripletCLIPModel" if use.split else "CLIPModel"
    load = "load_processor" if use.split and not use.processor else "CLIPProcessor.from_pretrained"
    names = {model_class, load.partition(".")[0]}
    imports = {"peft": {"PeftModel"}, "PIL": {"Image"}, "hf_tripletclip": names & OURS, "transformers": names - OURS}
    scale = []
    if use.scale:
        imports["safetensors.torch"] = {"load_file"}
        path = f'"{use.name}/{LOGIT_SCALE_FILE}"'
        if is_repo_id(use.name):
            imports["huggingface_hub"] = {"hf_hub_download"}
            path = f'hf_hub_download("{use.name}", "{LOGIT_SCALE_FILE}")'
        scale = [
            "# It was trained with the adapter, and is no module, which is what peft loads.",
            f'base.logit_scale.data = load_file({path})["logit_scale"]',
        ]
    lines = [
        "import torch",
        *(
            f"from {name} import {', '.join(sorted(imports[name]))}"
            for name in sorted(imports, key=str.lower)
            if imports[name]
        ),
        "",
        f'base = {model_class}.from_pretrained("{base}"{revision})',
        *scale,
        f'model = PeftModel.from_pretrained(base, "{use.name}")',
        f'processor = {load}("{use.name}")' if use.processor else f'processor = {load}("{base}"{revision})',
        INPUTS,
    ]
    return "\n".join(lines)


def shown_base(base_model: str) -> str:
    """A base model in running text, such that it can be named anew."""
    shown = public_name(base_model)
    link = f"[`{shown}`](https://huggingface.co/{shown})" if is_repo_id(base_model) else code(shown)
    return f"{BASE_BEGIN}{link}{BASE_END}"


def has_markers(text: str) -> bool:
    """Whether the card is one of ours."""
    return BEGIN in text and END in text


def renamed(text: str, use: Use) -> str:
    """
    A card of ours with its heading, its section "Use" and the name of its base model written anew.

    Args:
        text (`str`): The card without its metadata.
        use ([`Use`]): What it is opened by now; without a base model its name in the text stays.
    """
    section = use_section(use)
    text = re.sub(f"{BEGIN}.*?{END}", lambda _: section, text, flags=re.DOTALL)
    text = re.sub(r"\A(\s*)# [^\r\n]*", lambda found: f"{found[1]}# {words(use.name.rpartition('/')[2])}", text)
    if use.base is not None:
        shown = shown_base(use.base)
        if BASE_BEGIN not in text:
            what = "|".join(WHAT.values())
            text = re.sub(
                rf"^({what})\.", lambda found: f"{found[1]}, from {shown}.", text, count=1, flags=re.MULTILINE
            )
        text = re.sub(f"{BASE_BEGIN}.*?{BASE_END}", lambda _: shown, text, flags=re.DOTALL)
    return text


def _code(code: str) -> str:
    return f"```python\n{code}\n```"

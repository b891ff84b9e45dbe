# SPDX-License-Identifier: Apache-2.0
"""How a model is loaded: the section "Use" of a model card, which is written anew for the repository it goes to."""

from __future__ import annotations

import re
from pathlib import Path

from hf_tripletclip.checkpoints.clip_like import ADAPTER_CONFIG
from hf_tripletclip.checkpoints.openclip import CONFIG_FILE as OPENCLIP_CONFIG
from hf_tripletclip.hub.eval_results import is_repo_id, public_name

TRANSFORMERS, PEFT, OPENCLIP = "transformers", "peft", "open_clip"  # kinds of models, by the Hub's `library_name`
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

ADAPTED = """import torch
from peft import PeftModel
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

base = CLIPModel.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "{name}")
processor = CLIPProcessor.from_pretrained("{name}")
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


def use_section(kind: str, name: str, base_model: str | None = None) -> str:
    """
    The section, between its markers.

    Args:
        kind (`str`): `transformers`, `peft` or `open_clip`.
        name (`str`): The repository's id, or the name of the folder.
        base_model (`str`, *optional*): What an adapter adapts.
    """
    if kind == PEFT:
        parts = _adapter(name, base_model)
    elif kind == OPENCLIP:
        schema = "hf-hub" if is_repo_id(name) else "local-dir"
        parts = [
            "It has OpenCLIP's layout:",
            _code(OPENED.format(name=name, schema=schema)),
            "`hf_tripletclip` turns it into a `CLIPModel` of transformers:",
            _code(MERGED.format(name=name)),
        ]
    else:
        parts = [
            "It is a standard `CLIPModel`, and opens without `hf_tripletclip`:",
            _code(PIPELINE.format(name=name)),
            "With `hf_tripletclip`, also to train it further on hard negatives:",
            _code(TRIPLETCLIP.format(name=name, inputs=INPUTS)),
        ]
    return "\n\n".join([BEGIN, "## Use", *parts, END])


def _adapter(name: str, base_model: str | None) -> list[str]:
    base = public_name(base_model or "BASE_MODEL")
    unknown = [f"Its base model, `{base}`, has no place on the Hub that this card knows: name your own copy."]
    return [
        "It is a PEFT adapter, a small file beside its base model, and opens without `hf_tripletclip`:",
        _code(ADAPTED.format(name=name, base=base, inputs=INPUTS)),
        *([] if is_repo_id(base) else unknown),
        "`hf_tripletclip` merges the two into a plain `CLIPModel`, on the command line as `tripletclip convert`:",
        _code(MERGED.format(name=name)),
    ]


def shown_base(base_model: str) -> str:
    """A base model in running text, such that it can be named anew."""
    shown = public_name(base_model)
    link = f"[`{shown}`](https://huggingface.co/{shown})" if is_repo_id(base_model) else f"`{shown}`"
    return f"{BASE_BEGIN}{link}{BASE_END}"


def has_markers(text: str) -> bool:
    """Whether the card is one of ours."""
    return BEGIN in text and END in text


def renamed(text: str, kind: str, repo_id: str, base_model: str | None) -> str:
    """
    A card of ours with its heading, its section "Use" and the name of its base model written anew.

    Args:
        text (`str`): The card without its metadata.
        kind, base_model: As in `use_section`; without a base model its name in the text stays.
        repo_id (`str`): Where it goes.
    """
    section = use_section(kind, repo_id, base_model)
    text = re.sub(f"{BEGIN}.*?{END}", lambda _: section, text, flags=re.DOTALL)
    text = re.sub(r"^# .*$", lambda _: f"# {repo_id.rpartition('/')[2]}", text, count=1, flags=re.MULTILINE)
    if base_model is not None:
        shown = shown_base(base_model)
        text = re.sub(f"{BASE_BEGIN}.*?{BASE_END}", lambda _: shown, text, flags=re.DOTALL)
    return text


def _code(code: str) -> str:
    return f"```python\n{code}\n```"

# SPDX-License-Identifier: Apache-2.0
"""The processor of a checkpoint, also of one that was published without, and whether it fits a model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from PIL import Image
from tokenizers import Tokenizer
from transformers import AutoProcessor, CLIPProcessor
from transformers.utils import logging

from hf_tripletclip.configuration import reason_of
from hf_tripletclip.data.tokenizer import end_token_id
from hf_tripletclip.layouts.architectures import architecture_of
from hf_tripletclip.layouts.configs import read_config, without_weights
from hf_tripletclip.layouts.files import (
    CONFIG_FILE,
    PROCESSOR_FILES,
    VOCABULARY_FILES,
    Layout,
    detect,
    find_file,
)
from hf_tripletclip.layouts.published import text_encoder_config
from hf_tripletclip.utils.files import read_json_object

logger = logging.get_logger(__name__)

# Model types of transformers that take 2 as `eos_token_id` for a mark of old checkpoints, and then pool at the highest
# id of a caption, which CLIP's end-of-text token was.
WITH_LEGACY = ("clip", "clipseg", "groupvit", "xclip")
LEGACY = 2
SENTENCEPIECE = ("sentencepiece", "protobuf")  # libraries of SigLIP's tokenizer


def load_processor(source: str | os.PathLike[str], **kwargs: Any) -> Any:
    """
    Load the processor (image processor and tokenizer) that belongs to a checkpoint.

    The published TripletCLIP checkpoints have no processor. If none was put beside one, its processor is that of the
    model that `text-encoder/config.json` names, `openai/clip-vit-base-patch32`. Code in a repository is never run,
    with `trust_remote_code=True` neither.

    Args:
        source (`str` or `os.PathLike`): A directory or the id of a Hub repository.
        kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, ... as in `from_pretrained`. For the processor of
            another repository, `revision` and `subfolder` do not apply and are left out.

    Raises:
        OSError: There is no processor, or it cannot be reached.
        ValueError: A published checkpoint does not name the model that it is based on, or its processor is custom code
            only, or its files are damaged.

    Example:

    ```python
    >>> from hf_tripletclip import load_processor

    >>> processor = load_processor("TripletCLIP/CC12M_TripletCLIP_ViTB12")
    >>> inputs = processor(text=["a black dog chasing a white cat"], return_tensors="pt", padding=True)
    ```

    Returns:
        [`~transformers.CLIPProcessor`], or for another architecture its own, such as
        [`~transformers.SiglipProcessor`].
    """
    kwargs["trust_remote_code"] = False  # an explicit no: without it, transformers asks at a terminal
    if detect(source, **kwargs) is not Layout.PUBLISHED or any(
        find_file(source, name, kwargs) for name in PROCESSOR_FILES
    ):
        return read_processor(CLIPProcessor if _is_of_clip(source, kwargs) else AutoProcessor, source, **kwargs)
    base = text_encoder_config(source, **kwargs).get("model_name")
    if not base:
        raise ValueError(
            f"{source} has no processor and its text-encoder/config.json has no `model_name` that would say whose it "
            'uses: load one by name, such as `load_processor("openai/clip-vit-base-patch32")`.'
        )
    elsewhere = {name: value for name, value in kwargs.items() if name not in ("revision", "subfolder")}
    try:
        return read_processor(CLIPProcessor, base, **elsewhere)
    except OSError as error:
        raise OSError(
            f"{source} uses the processor of {base}, which cannot be loaded: {error}\nDownload it once with "
            f"`hf download {base}`, or load another with `load_processor(DIRECTORY)`."
        ) from error


def _is_of_clip(source: str | os.PathLike[str], kwargs: dict[str, Any]) -> bool:
    """Whether a processor is to be read as that of a CLIP: no config beside it says otherwise."""
    for name, field in ((CONFIG_FILE, "model_type"), (PROCESSOR_FILES[0], "processor_class")):
        path = find_file(source, name, kwargs)
        value = None if path is None else read_json_object(path).get(field)
        if value is not None:
            return value in ("clip", "CLIPProcessor")
    return True


def read_processor(kind: Any, source: str | os.PathLike[str], **kwargs: Any) -> Any:
    """
    A processor, by the `from_pretrained` of its class.

    Raises:
        OSError, ImportError: As there.
        ValueError: No processor can be made from its files.
    """
    try:
        processor = kind.from_pretrained(source, **kwargs)
        limit = getattr(getattr(processor, "tokenizer", None), "model_max_length", 0)
        if not isinstance(limit, (int, float)):
            raise ValueError(f"`model_max_length` is {limit!r:.60}, a number is needed")
    except ImportError as error:
        if missing := [name for name in SENTENCEPIECE if name in str(error).lower()]:
            raise ImportError(
                f"the tokenizer of {source} needs {missing[0]}, which is not installed: "
                'pip install "hf_tripletclip[siglip]"'
            ) from error
        raise
    except (OSError, MemoryError):
        raise
    except Exception as error:  # of whatever reads its settings
        raise ValueError(f"the processor of {source} cannot be read: {reason_of(error)}.") from error
    return processor


def check_processor(model: Any, processor: Any) -> int | None:
    """
    Check that the towers take captions and images as the processor makes them. To be called whenever a model is
    used with a processor.

    A CLIP takes the embedding of a caption at its end-of-text token. If the tokenizer certainly has another one than
    the config names, as in old checkpoints with added tokens, the tower and its config are set to it, with a warning.

    Args:
        model ([`~transformers.CLIPModel`], `PeftModel`, ...): With a text tower.
        processor ([`~transformers.ProcessorMixin`]): With a tokenizer.

    Returns:
        `int` or `None`: Id of the token at which the tower pools; `None` for a tower that does not pool at a token.

    Raises:
        ValueError: The tokenizer is that of another model (another vocabulary, padding or first token), has more
            tokens than the tower, appends no end-of-text token, or one at which the tower cannot pool; or the image
            processor makes images of another size.
    """
    end, told = _end_and_whether_told(model, processor)
    if not told:
        return end
    tower, config = model.text_model, model.config
    logger.warning(
        f"{_name_of(model)} has `eos_token_id` {tower.eos_token_id}, and its tokenizer ends captions with {end}: the "
        f"text tower takes their embeddings at {end} from now on, and is saved so."
    )
    tower.eos_token_id = tower.config.eos_token_id = getattr(config, "text_config", config).eos_token_id = end
    return end


def check_processor_beside(folder: str | os.PathLike[str]) -> None:
    """
    Check that the processor in a model's directory fits the model, of which only the config is read.

    Raises:
        OSError: One of them cannot be read.
        ValueError: It does not, see [`check_processor`], or would only if the config named another end-of-text token.
    """
    folder = os.fspath(folder)
    model = without_weights(read_config(folder))
    model.name_or_path = folder
    end, told = _end_and_whether_told(model, load_processor(folder))
    if told:
        raise ValueError(
            f"The config.json of {folder} has `eos_token_id` {model.text_model.eos_token_id}, and the tokenizer "
            f"beside it ends captions with {end}: write both anew with `tripletclip convert {folder} TARGET`."
        )


def _name_of(model: Any) -> str:
    return getattr(model, "name_or_path", "") or "the model"


def _end_and_whether_told(model: Any, processor: Any) -> tuple[int | None, bool]:
    """What [`check_processor`] returns, and whether the tower has to be told of it."""
    tokenizer, config = processor.tokenizer, model.config
    tower: Any = getattr(model, "text_model", None)
    text_config = getattr(config, "text_config", config)
    named = _name_of(model)
    vocabulary = tokenizer.get_vocab()
    highest, size = max(vocabulary.values(), default=-1), getattr(text_config, "vocab_size", None)
    own_processor = f"Use the processor that belongs to {named} (`--processor_name_or_path` in training)."
    if size is not None and highest >= size:
        raise ValueError(
            f"The tokenizer has ids up to {highest} and {named} embeds {size} tokens. {own_processor} For added "
            "tokens, `model.resize_token_embeddings` makes room."
        )
    _check_same_vocabulary(named, tokenizer, vocabulary)
    if problem := _other_form(model, tokenizer):
        raise ValueError(f"The tokenizer is not that of {named}: {problem}. {own_processor}")
    if problem := _other_pixels(model, getattr(processor, "image_processor", None)):
        raise ValueError(f"The image processor is not that of {named}: {problem}. {own_processor}")
    if not hasattr(tower, "eos_token_id"):
        return None, False
    end, at = end_token_id(tokenizer), tower.eos_token_id
    if end is None:
        raise ValueError(
            f"The tokenizer does not end captions with a token of its own, and {named} takes their embeddings at the "
            f"end-of-text token: all captions would be alike. {own_processor}"
        )
    legacy = config.model_type in WITH_LEGACY
    if legacy and end == LEGACY:
        if at == LEGACY and highest == end:
            return end, False
        raise ValueError(
            f"The tokenizer ends captions with the token of id {LEGACY}, at which transformers' CLIP cannot pool: it "
            "takes that id for a mark of old checkpoints, and the token of the highest id instead. Give the "
            "end-of-text token another id."
        )
    if at == end or (legacy and at == LEGACY and highest == end):
        return end, False
    if legacy and at == LEGACY:
        added = set(tokenizer.get_added_vocab().values())
        fits = all(number <= end for number in vocabulary.values() if number not in added)
    else:  # a value that no token has says nothing of the tokenizer
        fits = not isinstance(at, int) or (size is not None and not 0 <= at < size)
    if not fits:
        where = "the highest id of a caption" if legacy and at == LEGACY else f"the token of id {at}"
        raise ValueError(
            f"The tokenizer ends captions with the token of id {end} ({tokenizer.convert_ids_to_tokens(end)!r}), and "
            f"{named} pools at {where}: the tokenizer is that of another model. {own_processor} A model that has "
            f"learned nothing yet takes any, with `eos_token_id` {end} in its text config."
        )
    return end, True


def _other_form(model: Any, tokenizer: Any) -> str | None:
    """In which way a tokenizer writes captions that the text tower cannot have learned; `None` if in none."""
    known = architecture_of(model.config)
    if known is None:
        return None
    first = next(iter(tokenizer("a")["input_ids"]), None)
    begins = first is not None and first in (tokenizer.bos_token_id, tokenizer.cls_token_id)
    if known.fixed_length and begins:
        token = tokenizer.convert_ids_to_tokens(first)
        return f"it begins captions with {token!r}, and {known.described} has learned them without such a token"
    # Towers of BERT's kind know padding by its id, and captions begin with a token that stands for all.
    padding = (getattr(part, "padding_idx", None) for part in model.text_model.modules())
    own, given = next((index for index in padding if index is not None), None), tokenizer.pad_token_id
    if own is None:
        return None
    if not begins:
        return "it begins captions with their first word, and the text tower has learned a token before it"
    return None if given in (own, None) else f"it pads with the id {given}, and the text tower with {own}"


def _other_pixels(model: Any, image_processor: Any) -> str | None:
    """What an image processor makes that the image tower does not take; `None` if it does, or as far as is known."""
    known = architecture_of(model.config)
    side = getattr(getattr(model.config, "vision_config", None), "image_size", None)
    if known is None or known.any_image_size or image_processor is None or not isinstance(side, int):
        return None
    # Pictures may have its size already; a square keeps its shape in all that is usual.
    picture = Image.new("RGB", (2 * side, 2 * side) if getattr(image_processor, "do_resize", True) else (side, side))
    try:
        *_, height, width = image_processor(images=picture, return_tensors="pt")["pixel_values"].shape
    except Exception as error:  # of any kind of image processor
        return f"it fails on a picture, {reason_of(error)}"
    if (height, width) == (side, side):
        return None
    return f"it makes pictures of {width} x {height} pixels, and the image tower takes {side} x {side}"


def _check_same_vocabulary(named: str, tokenizer: Any, vocabulary: dict[str, int]) -> None:
    """Compare with the tokenizer that lies beside the model, if there is one."""
    if getattr(tokenizer, "name_or_path", None) == named or (own := _vocabulary_beside(named)) is None:
        return
    given = {number: token for token, number in vocabulary.items()}
    for token, number in own.items():
        if given.get(number, token) != token:
            raise ValueError(
                f"The tokenizer is not that of {named}: the token of id {number} is {given[number]!r}, and "
                f"{token!r} in that model's own. Use the processor that belongs to it."
            )


def _vocabulary_beside(source: str) -> dict[str, int] | None:
    for name in VOCABULARY_FILES:
        path: Any = Path(source, name)
        if not os.path.isdir(source):
            try:
                path = try_to_load_from_cache(source, name)
            except ValueError:  # no id of a repository
                return None
        if not isinstance(path, (str, Path)) or not os.path.isfile(path):
            continue
        try:
            return _read_vocabulary(Path(path))
        except Exception:  # the readers raise nothing narrower; whoever loads it says what is wrong with it
            return None
    return None


def _read_vocabulary(path: Path) -> dict[str, int]:
    if path.suffix == ".txt":
        return {token: number for number, token in enumerate(path.read_text("utf-8").splitlines())}
    if path.suffix == ".model":
        from sentencepiece import SentencePieceProcessor

        pieces = SentencePieceProcessor(model_file=str(path))
        return {pieces.id_to_piece(number): number for number in range(len(pieces))}
    if path.name == "vocab.json":
        return {str(token): int(number) for token, number in json.loads(path.read_text("utf-8")).items()}
    return Tokenizer.from_file(str(path)).get_vocab()

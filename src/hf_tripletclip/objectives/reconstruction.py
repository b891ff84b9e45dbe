# SPDX-License-Identifier: Apache-2.0
"""The term whose frozen decoder writes a text from the embedding of another text."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoTokenizer, T5Config, T5ForConditionalGeneration

from hf_tripletclip.objectives.rows import Rows
from hf_tripletclip.objectives.terms import LossTerm, symbol
from hf_tripletclip.roles import IGNORED

TEXTS_AT_A_TIME = 64  # that the decoder writes: their logits have the size texts x length x vocabulary
PROBE = "a photo of the cat on one dog"  # every tokenizer knows some of these words
LOADING = (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError)


def decoder_width(name: str) -> int:
    """
    How many numbers a decoder reads per text.

    Args:
        name (`str`): A directory or the id of a Hub repository.

    Raises:
        ValueError: `name` is not a T5, or cannot be loaded.
    """
    config = _loaded(AutoConfig, name)
    if not isinstance(config, T5Config):
        raise ValueError(f"`decoder` {name!r} is a {config.model_type}; give a T5, such as 'google/t5-v1_1-large'.")
    return config.d_model


@functools.lru_cache(maxsize=1)
def load_decoder(name: str) -> T5ForConditionalGeneration:
    """
    Load a T5, frozen, without dropout and without its encoder. It is part of no model: all models of a process share
    the last one that was loaded.

    Args:
        name (`str`): A directory or the id of a Hub repository.

    Raises:
        ValueError: `name` is not a T5, or cannot be loaded.
    """
    decoder_width(name)
    decoder = _loaded(T5ForConditionalGeneration, name, dtype=torch.float32)
    decoder.encoder = None
    return decoder.eval().requires_grad_(False)


@functools.lru_cache(maxsize=1)
def load_tokenizer(name: str) -> Any:
    """The tokenizer of a decoder; raises `ValueError` if it is missing, or belongs to another model."""
    tokenizer, config = _loaded(AutoTokenizer, name), _loaded(AutoConfig, name)
    # If its files are missing, transformers makes a tokenizer that knows no words.
    known = set(tokenizer(PROBE)["input_ids"]) - {*tokenizer.all_special_ids}
    if len(known) < 2 or len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"`decoder` is {name!r}, whose tokenizer {'knows no words' if len(known) < 2 else 'has too many tokens'}: "
            "put the tokenizer with which the T5 was trained into the folder of its weights."
        )
    return tokenizer


def _loaded(kind: Any, name: str, **kwargs: Any) -> Any:
    try:
        return kind.from_pretrained(name, **kwargs)
    except LOADING as error:
        what = {AutoConfig: "config", AutoTokenizer: "tokenizer"}.get(kind, "weights")
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"`decoder` is {name!r}, whose {what} cannot be loaded: {reason} Give the directory of a T5 or its name "
            "on the Hub, such as 'google/t5-v1_1-large'; without `tokenizer.json` its tokenizer needs `sentencepiece`."
        ) from error


@dataclass(frozen=True)
class ReconstructionTerm(LossTerm):
    """
    ``- mean log P(y_l | y_1 ... y_(l-1), W h_i)`` over all tokens of all texts y of row i: a frozen decoder must write
    these texts from the embedding of another text of the row (Kwon et al. 2025, arXiv 2510.16540, with the settings of
    the released code). `h` is the text tower's pooled output before its projection, the only state that the decoder
    attends to; `W` is a matrix that is trained together with the model.

    Args:
        source (`str`): Role of the texts that the decoder reads.
        target (`str`): Role of the texts that it must write, any number per row.
        weight (`float`): Factor in the loss.
        decoder (`str`): The T5: a directory or the id of a Hub repository.
    """

    definition: ClassVar[str] = (
        r"\mathrm{R}(t \to y) = -\frac{1}{N} \sum_{i,m,l} \log P_\mathrm{decoder}(y_{iml} \mid y_{im1} \ldots "
        r"y_{im(l-1)}, W h_i), \quad h_i \text{ the pooled output of } t_i \text{ before its projection, } N \text{ "
        r"tokens in all}"
    )

    source: str
    target: str
    weight: float
    decoder: str

    @property
    def name(self) -> str:
        return f"{self.source}_writes_{self.target}"

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.source, self.target)

    @property
    def needs_states(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def needs_labels(self) -> tuple[str, ...]:
        return (self.target,)

    @property
    def one_per_row(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def formula(self) -> str:
        return f"R({symbol(self.source)} → {symbol(self.target)})"

    @property
    def latex(self) -> str:
        return rf"\mathrm{{R}}({symbol(self.source)} \to {symbol(self.target)})"

    def value(self, rows: Rows, scale: torch.Tensor) -> torch.Tensor:
        states, labels = rows.states[self.source][rows.owners(self.target)], rows.labels[self.target]
        decoder: Any = load_decoder(self.decoder)
        decoder = decoder.to(device=states.device, dtype=states.dtype)
        total = 0 * states.sum()
        for start in range(0, len(labels), TEXTS_AT_A_TIME):
            texts = slice(start, start + TEXTS_AT_A_TIME)
            # The backward pass computes each part again, to save memory.
            total = total + checkpoint(_cost, decoder, states[texts], labels[texts], use_reentrant=False)
        (number,) = rows.sum_of_all((labels != IGNORED).sum())
        return total * (rows.processes / number.clamp(min=1))


def _cost(decoder: T5ForConditionalGeneration, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The sum of `-log P` over all labels. Each text is written from one state."""
    read, device = decoder.prepare_decoder_input_ids_from_labels(labels), states.device.type
    # float16 overflows inside a T5; bfloat16 does not.
    overflows = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    with torch.autocast(device, enabled=False) if overflows else contextlib.nullcontext():
        logits = decoder(encoder_outputs=(states[:, None],), decoder_input_ids=read, use_cache=False).logits
    logits = logits.to(states.dtype).flatten(0, 1)
    return torch.nn.functional.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="sum")

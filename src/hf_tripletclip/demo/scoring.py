# SPDX-License-Identifier: Apache-2.0
"""The demo's computations: scores of captions for a picture, and which hard negatives a model confuses."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hf_tripletclip.checkpoints.load import max_text_length
from hf_tripletclip.data.tokenizer import tokenize_captions
from hf_tripletclip.demo.inputs import DemoError
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.images import ImageFile
from hf_tripletclip.results.scoring import cosines

DEFAULT_SCALE = 100.0  # for models without a scale: the value at the end of CLIP's training
MAX_MODELS = 2
WORD = re.compile(r"[^\W\d_]+")
FIRST_IDEOGRAPH = "\u2e80"
SPELT = 2  # single letters of a word that is spelt out; one alone is an ending, such as the "s" of a known word


@dataclass(frozen=True)
class CaptionScore:
    """
    A caption's score.

    Args:
        caption (`str`): The caption.
        cosine (`float`): Cosine of the picture's and the caption's embeddings.
        probability (`float`): Softmax of cosine times scale over all captions that were given.
    """

    caption: str
    cosine: float
    probability: float


@dataclass(frozen=True)
class Comparison:
    """
    A model's scores of captions for a picture.

    Args:
        model (`str`): The model's name.
        scale (`float`): The model's factor on cosines.
        scores (`Sequence[CaptionScore]`): The scores, in the order of the captions.
        notes (`Sequence[str]`): Remarks for the reader, such as that a caption was cut.
    """

    model: str
    scale: float
    scores: Sequence[CaptionScore]
    notes: Sequence[str] = ()

    @property
    def best(self) -> int | None:
        """The index of the caption that strictly beats all others; `None` if several tie or there is only one."""
        values = [score.cosine for score in self.scores]
        if len(values) < 2 or values.count(max(values)) > 1:
            return None
        return values.index(max(values))


@dataclass(frozen=True)
class Trial:
    """
    The caption against one hard negative.

    Args:
        negative (`str`): The hard negative.
        kind (`str`, *optional*): What was changed, one of `NEGATIVE_TYPES`, if that is known.
        caption_cosine, negative_cosine (`float`): Cosines of the picture with the caption and with the negative.
        unknown (`Sequence[str]`): Words of the two that the model does not know, see [`unknown_words`]. If there are
            any, the scores mean nothing, and the model is neither right nor wrong.
    """

    negative: str
    kind: str | None
    caption_cosine: float
    negative_cosine: float
    unknown: Sequence[str] = ()

    @property
    def right(self) -> bool:
        """Whether the caption scores strictly higher: a tie is wrong."""
        return not self.unknown and self.caption_cosine > self.negative_cosine

    @property
    def tie(self) -> bool:
        return not self.unknown and self.caption_cosine == self.negative_cosine

    @property
    def difference(self) -> float:
        return self.caption_cosine - self.negative_cosine


@dataclass(frozen=True)
class Composition:
    """
    A model's scores of a caption and its hard negatives.

    Args:
        model (`str`): The model's name.
        caption (`str`): The caption that is true of the picture.
        trials (`Sequence[Trial]`): One trial for each negative.
        notes (`Sequence[str]`): Remarks for the reader, such as that a caption was cut.
    """

    model: str
    caption: str
    trials: Sequence[Trial]
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def right(self) -> int:
        return sum(trial.right for trial in self.trials)

    @property
    def tested(self) -> int:
        """Number of trials whose words the model knows: only these are right or wrong."""
        return sum(not trial.unknown for trial in self.trials)


class DemoModels:
    r"""
    One or two models to ask. They answer one question at a time, however many visitors ask.

    Args:
        encoders (`Sequence[Encoder]`): The models, with the names that the page shows.

    Raises:
        ValueError: There are no models, or more than two.
    """

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        if not 1 <= len(encoders) <= MAX_MODELS:
            raise ValueError(f"there are {len(encoders)} models: give one, or two to compare.")
        self.encoders = list(encoders)
        self._lock = threading.Lock()  # a tokenizer keeps the settings of a call: two threads must not share it

    @classmethod
    def from_pretrained(cls, sources: Sequence[str | os.PathLike[str]], *, device: str | None = None) -> DemoModels:
        """
        Load models, see [`~hf_tripletclip.checkpoints.load.load_clip_like`].

        Args:
            sources (`Sequence[str or os.PathLike]`): Directories or ids of Hub repositories; `ID@REVISION` names a
                branch, tag or commit.
            device (`str`, *optional*): Defaults to the machine's accelerator if it has one, else the CPU.

        Raises:
            OSError: A model does not exist or cannot be reached.
            ValueError: There are more than two models, or one does not embed images and captions or lacks weights.
        """
        if not 1 <= len(sources) <= MAX_MODELS:
            raise ValueError(f"there are {len(sources)} models: give one, or two to compare.")
        encoders = []
        for source, name in zip(sources, display_names(sources), strict=True):
            where, revision = _split_revision(os.fspath(source))
            encoder = Encoder.from_pretrained(where, revision=revision, device=device, name=name, progress=False)
            encoder.model.eval()
            encoders.append(encoder)
        return cls(encoders)

    @property
    def names(self) -> list[str]:
        return [encoder.name for encoder in self.encoders]

    def compare(self, path: str, captions: Sequence[str]) -> list[Comparison]:
        """
        Each model's scores of captions for a picture.

        Args:
            path (`str`): File of the picture, see [`~hf_tripletclip.demo.inputs.check_image`].
            captions (`Sequence[str]`): The captions, all different.

        Raises:
            DemoError: There are no captions.
            ValueError: A model's embeddings are not finite.
        """
        if not captions:
            raise DemoError("There are no captions: type some, one per line.")
        comparisons = []
        for encoder in self.encoders:
            values = self._cosines(encoder, path, captions)
            scale = scale_of(encoder.model)
            probabilities = torch.softmax(values.double() * scale, dim=0)
            rows = zip(captions, values.tolist(), probabilities.tolist(), strict=True)
            scores = tuple(CaptionScore(*row) for row in rows)
            notes = (*self._notes_on_unknown_words(encoder, captions), *self._notes_on_cuts(encoder, captions))
            comparisons.append(Comparison(encoder.name, scale, scores, notes))
        return comparisons

    def compose(self, path: str, caption: str, negatives: Mapping[str, str | None]) -> list[Composition]:
        """
        Whether each model prefers a caption to its hard negatives.

        Args:
            path (`str`): File of the picture.
            caption (`str`): The caption that is true of the picture.
            negatives (`Mapping[str, str]`): Hard negative -> its kind, or `None`. The caption itself is skipped.

        Raises:
            DemoError: There are no negatives that differ from the caption.
            ValueError: A model's embeddings are not finite.
        """
        texts = [negative for negative in negatives if negative != caption]
        if not texts:
            raise DemoError("There are no hard negatives that differ from the caption: type some, one per line.")
        compositions = []
        for encoder in self.encoders:
            own, *others = self._cosines(encoder, path, [caption, *texts]).tolist()
            tokenizer = encoder.processor.tokenizer
            with self._lock:
                unknown = [unknown_words(tokenizer, f"{caption} {negative}") for negative in texts]
            trials = tuple(
                Trial(negative, negatives[negative], own, other, words)
                for negative, other, words in zip(texts, others, unknown, strict=True)
            )
            notes = self._notes_on_cuts(encoder, [caption, *texts])
            compositions.append(Composition(encoder.name, caption, trials, notes))
        return compositions

    def _cosines(self, encoder: Encoder, path: str, captions: Sequence[str]) -> torch.Tensor:
        with self._lock, torch.inference_mode():
            image, broken = encoder.images([ImageFile(path)])
            if broken:
                raise DemoError(f"The file cannot be read as a picture: {broken[0]}.")
            # Captions with the same tokens, such as "Cat" and "cat", are embedded once: rounding must not break a tie.
            limit = max_text_length(encoder.model, encoder.processor)
            tokens = tokenize_captions(encoder.processor.tokenizer, captions, truncation=True, max_length=limit)[
                "input_ids"
            ]
            first: dict[tuple[int, ...], int] = {}
            places = [first.setdefault(tuple(ids), len(first)) for ids in tokens]
            texts = encoder.texts([captions[places.index(place)] for place in range(len(first))])
            return cosines(texts, image)[places]

    def _notes_on_unknown_words(self, encoder: Encoder, captions: Sequence[str]) -> tuple[str, ...]:
        """A note for each caption with words that the model does not know."""
        with self._lock:
            unknown = [(caption, unknown_words(encoder.processor.tokenizer, caption)) for caption in captions]
        return tuple(
            f"{encoder.name} does not know {listed(words)}: the score of “{_shortened(caption)}” means nothing."
            for caption, words in unknown
            if words
        )

    def _notes_on_cuts(self, encoder: Encoder, captions: Sequence[str]) -> tuple[str, ...]:
        """A note for each caption that is too long for the text tower, with the part that the model does not see."""
        limit = max_text_length(encoder.model, encoder.processor)
        tokenizer = encoder.processor.tokenizer
        notes = []
        with self._lock:
            for caption in captions:
                if len(tokenize_captions(tokenizer, [caption])["input_ids"][0]) <= limit:
                    continue
                unseen = ""
                if tokenizer.is_fast:
                    options = {"truncation": True, "max_length": limit, "return_offsets_mapping": True}
                    offsets = tokenize_captions(tokenizer, [caption], **options)["offset_mapping"][0]
                    unseen = caption[max(end for _, end in offsets) :].strip()
                lost = f"; {encoder.name} does not see “{_shortened(unseen)}”" if unseen else ""
                notes.append(f"“{_shortened(caption)}” is cut after {limit} tokens{lost}.")
        return tuple(notes)


def unknown_words(tokenizer: Any, caption: str) -> tuple[str, ...]:
    """
    Words of a caption that a model cannot know: its tokenizer has no token for them, or spells them letter by letter.
    A tokenizer that was trained on few words spells all others, and a model learns nothing from single letters.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The model's tokenizer.
        caption (`str`): The caption.

    Returns:
        `tuple[str, ...]`: Each word once, in their order.
    """
    unknown: dict[str, None] = {}
    for word in WORD.findall(caption):
        pieces = tokenizer.tokenize(word)
        letters = sum(_is_letter(piece) for piece in pieces)
        if tokenizer.unk_token in pieces or letters >= SPELT:
            unknown[word] = None
    return tuple(unknown)


def _is_letter(piece: str) -> bool:
    """Whether a token is a single letter or byte. Letters of scripts in which a letter is a word do not count."""
    core = piece.removesuffix("</w>").removeprefix("##").strip("▁Ġ")
    return (len(core) == 1 and core < FIRST_IDEOGRAPH) or core.startswith("<0x")


def listed(words: Sequence[str]) -> str:
    """Words in quotation marks, as a list in a sentence."""
    quoted = [f"“{_shortened(word)}”" for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _shortened(caption: str, length: int = 60) -> str:
    return caption if len(caption) <= length else caption[: length - 1] + "…"


def scale_of(model: Any) -> float:
    """A model's factor on cosines, `exp(logit_scale)`."""
    scale = getattr(model, "logit_scale", None)
    return float(scale.detach().float().exp()) if isinstance(scale, torch.Tensor) else DEFAULT_SCALE


def _split_revision(source: str) -> tuple[str, str | None]:
    """Split `ID@REVISION` of the Hub into both. A folder is not split: its name may hold an @."""
    if os.path.exists(source) or "@" not in source:
        return source, None
    where, _, revision = source.rpartition("@")
    return where, revision or None


def display_names(sources: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The models' names on the page: a folder's name or a repository's id, made different if they are equal."""
    given = [os.fspath(source) for source in sources]
    short = [Path(source).resolve().name if os.path.isdir(source) else source for source in given]
    names = short if len(set(short)) == len(short) else given
    if len(set(names)) == len(names):
        return names
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]

# SPDX-License-Identifier: Apache-2.0
"""
Paraphrases by rules, without a model or a network: captions that say the same in another order, form or word, for
methods that read several captions of an image (LaCLIP, Fan et al. 2023, arXiv 2305.20088).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Features, List, Value

from hf_tripletclip.data.schema import CAPTION, ID, PARAPHRASE
from hf_tripletclip.generation.captions.english.grammar import Parsed, Site
from hf_tripletclip.generation.captions.english.restating import STRUCTURAL
from hf_tripletclip.generation.captions.english.synonyms import LEXICAL
from hf_tripletclip.generation.captions.language import is_english
from hf_tripletclip.generation.stage import ERROR, Batch, Stage, in_random_order, row_seed
from hf_tripletclip.generation.wordnet import load_wordnet

Rules = Sequence[Callable[[Parsed], Iterator[Site]]]


@dataclass
class RuleParaphrases(Stage):
    """
    Says each caption in other words: two things around "and" change places, with their attributes; a fragment becomes
    a sentence or the other way round; a noun, an attribute or a relation is said by a synonym. Of these up to one
    change of form and one of a word are made together.

    It knows the words of everyday English captions, and needs WordNet. If it is not sure it changes nothing: a row
    may have no paraphrase, and is kept. It never returns the caption itself.

    Args:
        seed (`int`, defaults to 0): Another seed makes other paraphrases.
        num_paraphrases (`int`, defaults to 1): How many a row gets at most. With more than one, `paraphrase` is a
            list, which may be empty; with one it is a string, or null.
        batch_size (`int`, defaults to 256): Rows per call.

    Raises:
        ValueError: A number is less than 1.
    """

    name: ClassVar[str] = "rules"
    requires: ClassVar[tuple[str, ...]] = (CAPTION,)
    uses_device: ClassVar[bool] = False
    not_settings: ClassVar[frozenset[str]] = frozenset({"device", "batch_size"})

    seed: int = 0
    num_paraphrases: int = 1
    batch_size: int = 256

    def __post_init__(self) -> None:
        for name in ("num_paraphrases", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give at least 1")

    @property
    def produces(self) -> Features:
        return Features({PARAPHRASE: Value("string") if self.num_paraphrases == 1 else List(Value("string"))})

    def check(self) -> None:
        """Check that WordNet is installed."""
        load_wordnet()

    def setup(self) -> None:
        """Open WordNet."""
        load_wordnet()

    def __call__(self, batch: Batch) -> Batch:
        out: dict[str, list[Any]] = {PARAPHRASE: [], ERROR: []}
        for row_id, caption in zip(batch[ID], batch[CAPTION], strict=True):
            usable = isinstance(caption, str) and bool(caption.strip())
            made = self.paraphrases(caption, str(row_id)) if usable else []
            one = self.num_paraphrases == 1
            out[PARAPHRASE].append((made[0] if made else None) if one else made if usable else None)
            out[ERROR].append(None if usable else "empty caption" if isinstance(caption, str) else "no caption")
        return out

    def paraphrases(self, caption: str, row_id: str) -> list[str]:
        """Up to `num_paraphrases` paraphrases of a caption, all different from it and from each other."""
        if not is_english(caption):
            return []
        rng = random.Random(row_seed(self.seed, row_id, f"paraphrases {self.name}"))
        forms = _changed(caption, STRUCTURAL, rng)
        said = _changed(caption, LEXICAL, rng)
        both = [text for form in forms for text in _changed(form, LEXICAL, rng)[:1]]
        made: list[str] = []
        seen = {_plain(caption)}
        for text in [*_in_turn(both, said), *forms]:
            if len(made) < self.num_paraphrases and _plain(text) not in seen:
                seen.add(_plain(text))
                made.append(text)
        return made


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _in_turn(first: list[str], second: list[str]) -> list[str]:
    """The entries of both lists, alternating until one ends."""
    pairs = [text for pair in zip(first, second, strict=False) for text in pair]
    return [*pairs, *first[len(second) :], *second[len(first) :]]


def _changed(caption: str, rules: Rules, rng: random.Random) -> list[str]:
    """The captions that differ by one change, in random order, those of each rule by turns."""
    parsed = Parsed(caption)
    of_rule = []
    for rule in rules:
        texts = [parsed.render(option) for site in rule(parsed) for option in site.options]
        of_rule.append(in_random_order(texts, rng))
    order = in_random_order(of_rule, rng)
    return [texts[turn] for turn in range(max(map(len, order), default=0)) for texts in order if turn < len(texts)]

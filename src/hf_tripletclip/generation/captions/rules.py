# SPDX-License-Identifier: Apache-2.0
"""
Negative captions by rules, without a model or a network: the replacements of TSVLC and CE-CLIP (Doveh et al. 2023,
Zhang et al. 2024) and the swaps of NegCLIP (Yuksekgonul et al. 2023), by WordNet and word lists.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Features, List, Value

from hf_tripletclip.data.schema import CAPTION, ID, NEG_CAPTION, NEGATIVE_TYPE
from hf_tripletclip.generation.captions.english.changes import (
    replace_action,
    replace_attribute,
    replace_object,
    replace_relation,
)
from hf_tripletclip.generation.captions.english.grammar import Parsed, Site
from hf_tripletclip.generation.captions.english.swaps import swap_attributes, swap_objects
from hf_tripletclip.generation.captions.language import is_english
from hf_tripletclip.generation.stage import ERROR, Batch, Stage, row_seed
from hf_tripletclip.generation.wordnet import load_wordnet

# rule -> what lists the places where it applies, and the kind that SugarCrepe calls it
RULES: dict[str, tuple[Callable[[Parsed], Iterator[Site]], str]] = {
    "attribute": (replace_attribute, "replace_att"),
    "relation": (replace_relation, "replace_rel"),
    "object": (replace_object, "replace_obj"),
    "action": (replace_action, "replace_rel"),
    "swap_objects": (swap_objects, "swap_obj"),
    "swap_attributes": (swap_attributes, "swap_att"),
}
KINDS = tuple(dict.fromkeys(kind for _, kind in RULES.values()))
# How often a rule is taken if several apply. Rules that fit fewer captions weigh more, so that kinds come out even.
WEIGHTS = {
    "attribute": 1.5,
    "relation": 1.0,
    "object": 0.3,
    "action": 1.0,
    "swap_objects": 12.0,
    "swap_attributes": 30.0,
}


@dataclass
class RuleCaptions(Stage):
    """
    Changes one thing in each caption: an object, attribute, relation or action is replaced, or two objects or
    attributes change places. The rest of the caption stays as it is, to the letter but for "a" and "an".

    It knows the words of everyday English captions, and needs WordNet. If it is not sure what a caption says, it
    leaves the caption alone, and the row's error is "no rule applies". For other languages it is "English only".
    A replaced action is a `replace_rel`, as in SugarCrepe. It does not add objects or attributes: what is added may be
    true of the image.

    Args:
        seed (`int`, defaults to 0): Another seed makes other changes.
        kinds (sequence of `str`, *optional*): The kinds to make, of `replace_att`, `replace_rel`, `replace_obj`,
            `swap_obj` and `swap_att`. All of them by default.
        num_negatives (`int`, defaults to 1): How many captions a row gets. With more than one, `neg_caption` and
            `negative_type` are lists of at most so many entries; NegCLIP has 4. The kinds take turns.
        batch_size (`int`, defaults to 256): Rows per call.

    Raises:
        ValueError: A kind is unknown or cannot be made, or a number is less than 1.
    """

    name: ClassVar[str] = "rules"
    requires: ClassVar[tuple[str, ...]] = (CAPTION,)
    uses_device: ClassVar[bool] = False
    not_settings: ClassVar[frozenset[str]] = frozenset({"device", "batch_size"})

    seed: int = 0
    kinds: Sequence[str] | None = None
    num_negatives: int = 1
    batch_size: int = 256

    def __post_init__(self) -> None:
        if isinstance(self.kinds, str):
            self.kinds = (self.kinds,)
        if self.kinds is not None:
            if bad := [kind for kind in self.kinds if kind not in KINDS]:
                raise ValueError(f"captions 'rules' cannot make {bad[0]!r}; it makes {', '.join(KINDS)}")
            if not self.kinds:
                raise ValueError(f"`kinds` is empty; give some of {', '.join(KINDS)}")
        for name in ("num_negatives", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give at least 1")

    @property
    def produces(self) -> Features:
        column = Value("string") if self.num_negatives == 1 else List(Value("string"))
        return Features({NEG_CAPTION: column, NEGATIVE_TYPE: column})

    def check(self) -> None:
        """Check that WordNet is installed."""
        load_wordnet()

    def setup(self) -> None:
        """Open WordNet."""
        load_wordnet()

    def __call__(self, batch: Batch) -> Batch:
        out: dict[str, list[Any]] = {NEG_CAPTION: [], NEGATIVE_TYPE: [], ERROR: []}
        for row_id, caption in zip(batch[ID], batch[CAPTION], strict=True):
            negatives: list[tuple[str, str]] = []
            error = None
            if not isinstance(caption, str) or not caption.strip():
                error = "empty caption" if isinstance(caption, str) else "no caption"
            elif not is_english(caption):
                error = "English only: this caption is in another language"
            else:
                negatives = self.negatives(caption, str(row_id))
                error = None if negatives else "no rule applies"
            texts, kinds = [text for text, _ in negatives], [kind for _, kind in negatives]
            many = self.num_negatives > 1
            out[NEG_CAPTION].append(None if error else texts if many else texts[0])
            out[NEGATIVE_TYPE].append(None if error else kinds if many else kinds[0])
            out[ERROR].append(error)
        return out

    def negatives(self, caption: str, row_id: str) -> list[tuple[str, str]]:
        """Up to `num_negatives` negative captions of a caption and their kinds, all different."""
        rng = random.Random(row_seed(self.seed, row_id, self.name))
        parsed = Parsed(caption)
        made: list[tuple[str, str]] = []
        seen = {caption}
        wanted = {
            rule: (kind, _texts(parsed, list(change(parsed)), rng))
            for rule, (change, kind) in RULES.items()
            if self.kinds is None or kind in self.kinds
        }
        turn = _shuffled(list(wanted), rng)
        while turn and len(made) < self.num_negatives:
            rule = turn.pop(0)
            kind, texts = wanted[rule]
            text = next((text for text in texts if text not in seen), None)
            if text is not None:
                seen.add(text)
                made.append((text, kind))
                turn.append(rule)
        return made


def _shuffled(rules: list[str], rng: random.Random) -> list[str]:
    """The rules in a random order in which those of more weight tend to come first."""
    order = []
    while rules:
        place = rng.random() * sum(WEIGHTS[rule] for rule in rules)
        for rule in rules:
            place -= WEIGHTS[rule]
            if place < 0:
                break
        rules.remove(rule)
        order.append(rule)
    return order


def _texts(parsed: Parsed, sites: list[Site], rng: random.Random) -> Iterator[str]:
    """The changed captions of some sites, in random order; each site once before any is changed in another way."""
    left = [list(site.options) for site in sites if site.options]
    # Random numbers are drawn here and not in the generator, which runs as far as it is asked.
    for number in range(len(left) - 1, 0, -1):
        other = int(rng.random() * (number + 1))
        left[number], left[other] = left[other], left[number]
    for options in left:
        for number in range(len(options) - 1, 0, -1):
            other = int(rng.random() * (number + 1))
            options[number], options[other] = options[other], options[number]
    return (
        parsed.render(options[turn])
        for turn in range(max(map(len, left), default=0))
        for options in left
        if turn < len(options)
    )

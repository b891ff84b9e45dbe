# SPDX-License-Identifier: Apache-2.0
"""Hard negatives of a visitor's caption, written by rules."""

from __future__ import annotations

from hf_tripletclip.demo.inputs import DemoError
from hf_tripletclip.generation.captions.english.language import is_english
from hf_tripletclip.generation.captions.rules import RuleCaptions
from hf_tripletclip.generation.wordnet import load_wordnet

NUMBER = 8  # negatives of a caption


class NegativeWriter:
    """
    Writes hard negatives by [`~hf_tripletclip.generation.captions.rules.RuleCaptions`], where WordNet is installed.

    Args:
        number (`int`, defaults to 8): How many to write of a caption, at most.

    Attributes:
        problem (`str`, *optional*): Why it cannot write, and what to install.
    """

    def __init__(self, number: int = NUMBER) -> None:
        self.number = number
        self.problem: str | None = None
        try:
            load_wordnet()
        except (ImportError, OSError) as error:
            self.problem = str(error)

    def write(self, caption: str, seed: int = 0) -> dict[str, str]:
        """
        Hard negatives of a caption.

        Args:
            caption (`str`): The caption.
            seed (`int`, defaults to 0): Another seed makes other changes.

        Returns:
            `dict[str, str]`: Negative -> its kind, one of `NEGATIVE_TYPES`.

        Raises:
            DemoError: WordNet is missing, the caption is not English, or no rule applies.
        """
        if self.problem is not None:
            raise DemoError(f"The rules cannot write hard negatives here, so type some yourself. {self.problem}.")
        if not is_english(caption):
            raise DemoError("The rules know English only, so type hard negatives yourself, one per line.")
        made = dict(RuleCaptions(seed=seed, num_negatives=self.number).negatives(caption, caption))
        if not made:
            raise DemoError(
                "No rule applies to this caption: the rules know everyday English nouns, attributes and relations. "
                "Type hard negatives yourself, one per line."
            )
        return made

# SPDX-License-Identifier: Apache-2.0
"""What the page's buttons do: plain functions of what was given, without Gradio."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hf_tripletclip.demo import rendering
from hf_tripletclip.demo.inputs import DemoError, check_image, read_captions
from hf_tripletclip.demo.negatives import NegativeWriter
from hf_tripletclip.demo.scoring import DemoModels


class Handlers:
    """
    What the page's buttons do.

    Args:
        models ([`DemoModels`]): The models to ask.
        writer (`NegativeWriter`): Writes hard negatives by rules.
        folders (`Sequence[str or os.PathLike]`): Where pictures may lie, see
            [`~hf_tripletclip.demo.inputs.check_image`]: that of uploads and that of the examples. Without any, every
            picture is refused.
    """

    def __init__(
        self, models: DemoModels, writer: NegativeWriter, folders: Sequence[str | os.PathLike[str]] = ()
    ) -> None:
        self.models = models
        self.writer = writer
        self.folders = list(folders)

    def check(self, upload: Any) -> str:
        """What to say of a picture that was dropped; empty where it can be used."""
        try:
            self._picture(upload)
        except DemoError as error:
            return rendering.problem(str(error))
        return ""

    def compare(self, upload: Any, typed: str) -> str:
        """The tab of captions."""
        return _told(lambda: rendering.comparisons(self.models.compare(self._picture(upload), read_captions(typed))))

    def write(self, typed: str, seed: int) -> tuple[str | None, dict[str, str], int, str]:
        """Hard negatives by rules: for the text field, their kinds, the next seed, and what to say."""
        try:
            made = self.writer.write(_one_caption(typed), seed)
        except DemoError as error:
            return None, {}, seed, rendering.problem(str(error))
        told = "The rules do not see the picture: take out what is true of it, then test."
        return "\n".join(made), made, seed + 1, rendering.hint(told)

    def compose(
        self, upload: Any, typed: str, negatives: str, kinds: Mapping[str, str], seed: int
    ) -> tuple[str | None, dict[str, str], int, str]:
        """The tab of composition: negatives are written where none are typed."""
        try:
            path, caption = self._picture(upload), _one_caption(typed)
            texts = read_captions(negatives, "hard negative")
            if not texts:
                kinds = self.writer.write(caption, seed)
                texts, seed = list(kinds), seed + 1
            answers = self.models.compose(path, caption, {text: kinds.get(text) for text in texts})
        except ValueError as error:
            return None, dict(kinds), seed, rendering.problem(str(error))
        return "\n".join(texts), dict(kinds), seed, rendering.compositions(answers)

    def _picture(self, upload: Any) -> str:
        return check_image(upload, self.folders)


def _told(answer: Callable[[], str]) -> str:
    """The answer, or the message of what was wrong."""
    try:
        return answer()
    except ValueError as error:  # also of a model whose embeddings are not finite
        return rendering.problem(str(error))


def _one_caption(typed: str) -> str:
    captions = read_captions(typed)
    if not captions:
        raise DemoError("There is no caption: type what the picture shows.")
    if len(captions) > 1:
        raise DemoError("There are several captions: type one, and its hard negatives in their own field.")
    return captions[0]

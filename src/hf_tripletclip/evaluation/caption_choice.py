# SPDX-License-Identifier: Apache-2.0
"""Base classes of benchmarks with one image and several captions: `PartsBenchmark` and `ChoiceBenchmark`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from transformers.utils import logging

from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.images import ImageRef, is_left_behind
from hf_tripletclip.evaluation.items import CATEGORY, Item, choice
from hf_tripletclip.evaluation.questions import ItemBenchmark
from hf_tripletclip.evaluation.readers.tables import image_folders
from hf_tripletclip.results.result import EvaluationResult, Mean
from hf_tripletclip.results.scoring import tally

logger = logging.get_logger(__name__)

TABLES = ("*.parquet", "*.jsonl", "data/*.parquet")  # a folder with one of these is a table
PAIRWISE = choice(2)
ANSWER = "answer"  # the column of predictions: the place of the true caption in the benchmark's own order
OPTIONS = "options"  # the column of predictions: the number of captions


@dataclasses.dataclass(kw_only=True)
class PartsBenchmark(ItemBenchmark):
    """
    A benchmark in parts, with a file for each part. The parts are the categories of its items.

    A subclass sets `FILES`, part -> name of its file, and `WHERE`, a sentence that says where to get the files.

    Args:
        annotations (`str`): The folder of the files.
        images (`str`, *optional*): The folder of the images. Defaults to the annotations' folder, or one in it.
        parts (`tuple[str, ...]`, *optional*): Only these parts. Defaults to all parts whose files exist.
        protocol, allow_missing, max_rows: As in [`Benchmark`].
    """

    FILES: ClassVar[Mapping[str, str]]
    WHERE: ClassVar[str]

    annotations: str
    images: str | None = None
    parts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.parts is None:
            return
        self.parts = (self.parts,) if isinstance(self.parts, str) else tuple(self.parts)
        if not self.parts or (unknown := [part for part in self.parts if part not in self.FILES]):
            what = f"no {', '.join(unknown)}" if self.parts else "nothing to evaluate in `parts` = ()"
            raise ValueError(f"{self.name}: there is {what}; the parts are {', '.join(self.FILES)}.")

    @property
    def folder(self) -> Path:
        return Path(self.annotations).expanduser()

    def run(self, encoder: Encoder) -> EvaluationResult:
        result = super().run(encoder)
        present = set(result.predictions[CATEGORY])
        result.data["parts"] = [part for part in self.FILES if part in present]
        absent = [part for part in self.FILES if part not in present]
        if (
            absent
            and self.parts is None
            and present & self.FILES.keys()
            and not self.folder.is_file()
            and encoder.state.is_main_process
        ):
            logger.warning(
                f"{self.title}: {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not there: means are over "
                f"{len(present)} of {len(self.FILES)} parts, and no published ones."
            )
        return result

    def wants(self, part: str | None) -> bool:
        """Whether to evaluate a part."""
        return self.parts is None or part in self.parts

    def files(self) -> dict[str, Path]:
        """
        The files of the parts that exist and are wanted. Empty if the annotations are not a folder of such files but a
        table: a file, a folder of parquet or JSON lines, or a Hub id.

        Raises:
            FileNotFoundError: There is no file, or a part that was asked for has none.
        """
        self.check_path()
        found = {part: path for part, name in self.FILES.items() if (path := self.folder / name).is_file()}
        if not found and (not self.folder.is_dir() or any(any(self.folder.glob(table)) for table in TABLES)):
            return {}
        absent = [self.FILES[part] for part in self.parts or () if part not in found]
        if absent or not found:
            lacks = f"no {', '.join(absent)}" if absent else f"none of {', '.join(self.FILES.values())}"
            raise FileNotFoundError(f"{self.title}: {self.folder} has {lacks}: {self.WHERE}")
        return {part: path for part, path in found.items() if self.wants(part)}

    def check_path(self) -> None:
        """
        Check that the annotations exist, unless they may be on the Hub.

        Raises:
            FileNotFoundError: They do not exist.
        """
        name = str(self.annotations)
        on_hub = not self.folder.is_absolute() and not name.startswith(".") and name.count("/") < 2
        if not on_hub and not self.folder.exists():
            raise FileNotFoundError(f"{self.title}: {self.folder} does not exist: {self.WHERE}")

    def image_folders(self) -> list[Path]:
        """
        The folders that may hold the images: the user's folder or else the annotations' folder, and the folders in it.

        Raises:
            FileNotFoundError: The user's folder does not exist.
            ValueError: The user gave no folder, and the annotations are on the Hub.
        """
        if self.images is None and not self.folder.exists():
            raise ValueError(f"{self.title}: {self.annotations} has no images: say where they are (`images`)")
        base = image_folders(self.annotations, self.images)[0]
        return [base, *sorted(path for path in base.iterdir() if path.is_dir() and not is_left_behind(path.name))]


@dataclasses.dataclass(kw_only=True)
class ChoiceBenchmark(PartsBenchmark):
    """
    A benchmark that asks which of several captions is true of an image; its items come from [`question`].

    `protocol="official"` is `argmax` over the scores in the benchmark's own order: the first of equal scores wins.
    """

    def official_outcomes(self, item: Item, scores: Mapping[str, float]) -> dict[str, bool]:
        answer = item.columns[ANSWER]
        best = scores["i0c0"]
        others = [scores[f"i0c{place}"] for place in range(1, len(item.captions))]  # in the benchmark's order
        return {"accuracy": all(best > score for score in others[:answer]) and best >= max(others)}

    def make_result(
        self,
        encoder: Encoder,
        *,
        predictions: dict[str, list[Any]],
        means: Mapping[str, Mean],
        chance: Mapping[str, float],
        **values: Any,
    ) -> EvaluationResult:
        # Questions have different numbers of captions, so chance is the same means over a column of 1 / options.
        guesses = {**predictions, "accuracy": [1 / options for options in predictions[OPTIONS]]}
        of_choices = {name: tally(guesses, mean) for name, mean in means.items() if mean.outcome == "accuracy"}
        return super().make_result(
            encoder, predictions=predictions, means=means, chance={**of_choices, **chance}, **values
        )


def question(
    key: str,
    image: ImageRef,
    captions: Sequence[str],
    answer: int,
    *,
    category: str,
    columns: Mapping[str, Any] | None = None,
) -> Item:
    """
    An item of a [`ChoiceBenchmark`].

    Args:
        key, image, category, columns: As in [`Item`].
        captions (`Sequence[str]`): In the benchmark's own order.
        answer (`int`): The place of the true one. The item has it first, then the others in order.
    """
    others = (*captions[:answer], *captions[answer + 1 :])
    return Item(
        key=key,
        images=(image,),
        captions=(captions[answer], *others),
        comparisons=choice(len(captions)),
        category=category,
        columns={**(columns or {}), ANSWER: answer, OPTIONS: len(captions)},
    )


def pair(key: str, image: ImageRef, captions: Sequence[str], category: str) -> Item:
    """An item with the outcome `accuracy` and two captions, the true one first."""
    return Item(key=key, images=(image,), captions=tuple(captions), comparisons=PAIRWISE, category=category)

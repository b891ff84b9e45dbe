# SPDX-License-Identifier: Apache-2.0
"""What `mine` and `join` have in common: how their settings are given, their plan, and the dataset that they write."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from datasets import Features
from tqdm.auto import tqdm

from hf_tripletclip.generation.dataset_card import write_dataset_card
from hf_tripletclip.generation.holding import absolute
from hf_tripletclip.generation.plan import DATA_FOLDER, LEFT_OUT_FILE, PLAN_FILE, WORK_FOLDER, Plan, encode
from hf_tripletclip.generation.publish import STAGED_FOLDER, GenerationReport, SplitFiles, clear_work
from hf_tripletclip.generation.replacing import put_in_place
from hf_tripletclip.generation.source import Source
from hf_tripletclip.mining.pairs import Pairs

WRITTEN = 64  # rows at a time: they hold images

LeftOut = tuple[int, str, str]  # row, key and reason of a pair that is not in the dataset
Settings = TypeVar("Settings")


def choose_settings(
    kind: type[Settings], settings: Settings | None, given: Mapping[str, Any], command: str
) -> Settings:
    """
    The settings of a call, which are given as a whole or one by one.

    Args:
        kind (`type`): Their dataclass.
        settings (*optional*): The settings as a whole.
        given (`Mapping`): Fields of the dataclass.
        command (`str`): The function's name, for errors.

    Raises:
        TypeError: A field is unknown.
        ValueError: Both are given, or a setting is out of range.
    """
    if settings is not None and given:
        raise ValueError(f"give `settings` or {', '.join(given)}, not both.")
    known: Iterable[str] = kind.__dataclass_fields__  # type: ignore[attr-defined]
    if unknown := [name for name in given if name not in known]:
        raise TypeError(f"{command}() got unexpected arguments {', '.join(unknown)}; settings are {', '.join(known)}")
    return settings or kind(**given)


def open_output(dataset: str | os.PathLike[str], output: str | os.PathLike[str]) -> tuple[str, Path]:
    """
    The name of a dataset as it is read, and the folder to write.

    Raises:
        ValueError: The output is, holds or lies in the data.
    """
    name, target = os.path.expanduser(os.fspath(dataset)), absolute(output)
    if Source(name=name).located().overlaps(target):
        raise ValueError(f"The output {output} is, holds or lies in the data {dataset}: name another output.")
    return name, target


def plan_of(name: str, parts: Sequence[Pairs], step: str, settings: Mapping[str, Any], **output: Any) -> Plan:
    """
    The plan of a command that has one step.

    Args:
        name (`str`): The dataset.
        parts (`Sequence[Pairs]`): Its splits.
        step (`str`): The command's name.
        settings (`Mapping`): The command's settings.
        output: `rows_per_file` and `license`.
    """
    return Plan(
        source={
            "name": name,
            "splits": [part.split for part in parts],
            "rows": {part.split: len(part) + len(part.problems) for part in parts},
            "digest": {part.split: part.digest() for part in parts},
        },
        unit_rows=max(1, max(len(part) for part in parts)),
        stages={step: dict(settings)},
        output={"filters": {}, **output},
    )


def counted(left_out: Iterable[LeftOut]) -> dict[str, int]:
    """Reason -> pairs that were left out for it, the most frequent first. All unreadable images are one reason."""
    reasons = Counter(reason.split(":")[0] if reason.startswith("image") else reason for _, _, reason in left_out)
    return dict(sorted(reasons.items(), key=lambda one: (-one[1], one[0])))


@contextlib.contextmanager
def new_dataset(
    target: Path, plan: Plan, report: GenerationReport, features: Features, left_out: Mapping[str, Sequence[LeftOut]]
) -> Iterator[Path]:
    """
    A folder to write the data of a dataset to. When the block ends, the card, the plan, the report and the list of
    the pairs that were left out are written beside the data, and the folder takes the place of the output.

    Args:
        target (`Path`): The output.
        plan ([`~hf_tripletclip.generation.plan.Plan`]): The plan, which has one step.
        report ([`~hf_tripletclip.generation.GenerationReport`]): The counts.
        features (`datasets.Features`): The columns of the dataset.
        left_out (`Mapping[str, Sequence[LeftOut]]`): The pairs that are not in the dataset, by split.

    Raises:
        OSError: It cannot be written.
    """
    work = target / WORK_FOLDER
    shutil.rmtree(work / STAGED_FOLDER, ignore_errors=True)
    staged = work / STAGED_FOLDER / target.resolve().name  # the card says this name
    yield staged
    with open(staged / LEFT_OUT_FILE, "w", encoding="utf-8") as file:
        for split, pairs in left_out.items():
            for row, key, reason in pairs:
                line = {"split": split, "row": row, "id": key, "reason": reason}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    (command,) = plan.stages
    write_dataset_card(staged, plan=plan.to_dict(), report=report, features=features, command=command)
    plan.save(staged / PLAN_FILE)
    report.save(staged)
    put_in_place(staged, target)
    clear_work(work)


def write_rows(
    folder: Path,
    split: str,
    rows: Iterator[Mapping[str, Any]],
    total: int,
    features: Features,
    *,
    rows_per_file: int,
    progress: bool,
) -> None:
    """
    Write the parquet files of a split.

    Args:
        folder (`Path`): The dataset's.
        split (`str`): The split.
        rows (`Iterator[Mapping]`): Its rows. Values of other columns than those of `features` are not written.
        total (`int`): How many they are.
        features (`datasets.Features`): The columns.
        rows_per_file (`int`): Rows of a parquet file.
        progress (`bool`): Whether to show a progress bar.

    Raises:
        OSError: It cannot be written.
    """
    files = SplitFiles(folder / DATA_FOLDER, split, total, rows_per_file, features)
    (folder / DATA_FOLDER).mkdir(parents=True, exist_ok=True)
    with (
        contextlib.closing(files),
        tqdm(total=total, unit="rows", desc=f"writing {split}", disable=not progress) as bar,
    ):
        while made := list(islice(rows, WRITTEN)):
            encoded = encode({name: [row[name] for row in made] for name in features}, features)
            for number in range(len(made)):
                files.add({name: encoded[name][number] for name in features})
                bar.update()

# SPDX-License-Identifier: Apache-2.0
"""Read a whole dataset, decode everything in it and report what is broken."""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from hf_tripletclip.data.broken_rows import BrokenRows
from hf_tripletclip.data.decoding import (
    UNNAMED,
    BrokenValue,
    decode_caption,
    decode_image,
    is_several,
    known_reason,
    row_name,
)
from hf_tripletclip.data.folders import unlisted_pictures
from hf_tripletclip.data.loading import UNREADABLE, load_tripletdata, undecoded
from hf_tripletclip.data.places import OUTSIDE
from hf_tripletclip.data.raw import column_names, damaged_files
from hf_tripletclip.data.reading import REFUSED
from hf_tripletclip.data.schema import (
    CAPTION,
    DENSE_CAPTION,
    ERROR,
    IMAGE,
    IMAGE_COLUMNS,
    KEY_COLUMNS,
    NEG_CAPTION,
    NEG_IMAGE,
    PARAPHRASE,
)
from hf_tripletclip.roles import BY_COLUMN
from hf_tripletclip.utils.worker_pool import worker_pool

ROWS_AT_ONCE = 32  # rows per task of a worker; a row of the published data holds about 0.1 MB
LEFT_OUT = " (left out of rows that are used)"
USELESS = " (used, but nothing can be learned from it)"
ABOUT_FILES = "a tar is read up to the damage, but training stops at other files: make them again or remove them."
NUMBERED = re.compile(r"row \d+( \(|$)")


@dataclass
class SplitReport:
    """
    The content of a split.

    Args:
        columns (`dict[str, str]`): Column -> type; the checked columns come first.
        rows (`int`): Rows that were read.
        broken (`int`): Those of the rows that training would skip.
        files (`int`): Files that are cut short, damaged or unreadable.
        counts (`dict[str, int]`): Reason and column -> number of rows or files, the most frequent first.
        changed (`dict[str, int]`): The same for values that are only left out of a row, such as one of its negative
            captions.
        useless (`dict[str, int]`): The same for rows whose negative equals the positive: they can be used, but nothing
            can be learned from them.
        promised (`int`, *optional*): Number of rows of the split according to the dataset's card.
        keys (`dict[str, list[str]]`): Reason and column -> the first keys; for images with path and detail in
            brackets. A row without key and captions is called "row 3", counted from 0 in its split.
    """

    columns: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    broken: int = 0
    files: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    useless: dict[str, int] = field(default_factory=dict)
    promised: int | None = None
    keys: dict[str, list[str]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there are rows of pairs, all of them can be used, and their number is as promised."""
        return self.rows > 0 and not self.broken and not self.files and not self.lacks_rows and not self.lacks

    @property
    def lacks(self) -> list[str]:
        """Which of the columns of a pair, `image` and `caption`, are missing."""
        return [name for name in (IMAGE, CAPTION) if self.columns and name not in self.columns]

    @property
    def lacks_rows(self) -> bool:
        """Whether the card promises another number of rows."""
        return self.promised is not None and self.promised != self.rows


@dataclass
class ValidationReport:
    """
    The result of [`validate`].

    Args:
        name (`str`): The dataset.
        splits (`dict[str, SplitReport]`): The reports by split.
        left_out (`list[str]`): Pictures of an image folder that its metadata do not name, so that they are in no row.
    """

    name: str
    splits: dict[str, SplitReport] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows of all splits."""
        return sum(split.rows for split in self.splits.values())

    @property
    def broken(self) -> int:
        """Broken rows of all splits."""
        return sum(split.broken for split in self.splits.values())

    @property
    def counts(self) -> dict[str, int]:
        """Reason and column -> rows or files of all splits, the most frequent first."""
        total: Counter[str] = Counter()
        for split in self.splits.values():
            total.update(split.counts)
        return dict(total.most_common())

    @property
    def ok(self) -> bool:
        """Whether every row of every split can be used."""
        return bool(self.splits) and all(split.ok for split in self.splits.values())

    def exit_status(self) -> int:
        """The exit status of the command: 0 if all rows can be used, else 1."""
        return 0 if self.ok else 1


def validate(
    name_or_path: str | os.PathLike[str],
    *,
    split: str | None = None,
    columns: Mapping[str, str] | str | None = None,
    images: str | os.PathLike[str] | None = None,
    num_workers: int | None = None,
    broken_rows: BrokenRows | None = None,
    max_keys: int = 5,
    progress: bool = True,
    **kwargs: Any,
) -> ValidationReport:
    """
    Read all rows, decode their images and captions, and count what is broken. The dataset is streamed: nothing is
    written to it, and no copy is made.

    Args:
        name_or_path, split, columns, images, kwargs: As in [`load_tripletdata`]; all splits by default.
        num_workers (`int`, *optional*): Processes that decode; with 0 this process does. Defaults to the number of
            CPUs.
        broken_rows ([`BrokenRows`], *optional*): Receives every broken row. By default only the first keys are kept.
        max_keys (`int`, defaults to 5): Keys that are kept for each reason.
        progress (`bool`, defaults to `True`): Whether to show a progress bar.

    Returns:
        [`ValidationReport`]

    Raises:
        FileNotFoundError: There is no such dataset.
        ValueError: The dataset has none of the columns `image`, `caption`, `neg_image`, `neg_caption`, or `columns` is
            wrong.
    """
    if num_workers is None:
        num_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    loaded: Any = load_tripletdata(name_or_path, split=split, streaming=True, columns=columns, images=images, **kwargs)
    datasets = loaded if isinstance(loaded, dict) else {str(split): loaded}
    folder = Path(name_or_path).expanduser()
    unlisted = unlisted_pictures(folder) if folder.is_dir() else []
    report = ValidationReport(os.fspath(name_or_path), left_out=unlisted)
    pool = worker_pool(num_workers)
    try:
        for name, dataset in datasets.items():
            report.splits[name] = of_split = SplitReport()
            of_split.promised = _number_of_rows(dataset)
            with tqdm(total=of_split.promised, desc=f"checking {name}", unit=" rows", disable=not progress) as bar:
                _check_split(report.name, dataset, of_split, pool, num_workers, broken_rows, max_keys, bar)
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
    return report


def format_report(report: ValidationReport) -> str:
    """The report for a terminal: splits, columns, counts by reason with the first keys, and a verdict."""
    lines = [report.name]
    for name, split in report.splits.items():
        lines.append(f"  {name}: {split.rows} rows, {split.broken} of them broken")
        lines += [f"    column {column}: {kind}" for column, kind in split.columns.items()]
        if split.lacks_rows:
            lines.append(f"    the card promises {split.promised} rows: a file is missing, or was changed")
        kinds = ((split.counts, ""), (split.changed, LEFT_OUT), (split.useless, USELESS))
        for counts, what in kinds:
            for label, number in counts.items():
                first = split.keys.get(label, [])
                listed = ", ".join(first) + (", ..." if number > len(first) else "")
                lines.append(f"    {number} × {label}{what}: {listed}")
    called = [key for split in report.splits.values() for keys in split.keys.values() for key in keys]
    if any(NUMBERED.match(key) for key in called):
        lines.append("Rows without key and caption are named by their number: the first is row 0.")
    if report.left_out:
        listed = ", ".join(report.left_out[:5]) + (", ..." if len(report.left_out) > 5 else "")
        lines.append(f"{len(report.left_out)} pictures are in no row: {listed}")
    if report.ok:
        lines.append(f"All {report.rows} rows can be used.")
    else:
        if not report.rows:
            lines.append("There are no rows.")
        if report.broken:
            lines.append(f"{report.broken} of {report.rows} rows are broken; training skips and reports them.")
        if files := sum(split.files for split in report.splits.values()):
            lines.append(f"{files} {'file is' if files == 1 else 'files are'} damaged: {ABOUT_FILES}")
        for name, split in report.splits.items():
            if split.lacks:
                lines.append(
                    f"Split {name!r} has no column {' and no '.join(map(repr, split.lacks))}, which training needs. "
                    f'If it has another name there: `--columns`, such as {{"{split.lacks[0]}": "NAME"}}.'
                )
        if lacking := [name for name, split in report.splits.items() if split.lacks_rows]:
            lines.append(
                f"The number of rows differs from the card's in {', '.join(lacking)}. Training refuses such a dataset."
            )
    return "\n".join(lines)


def _number_of_rows(dataset: Any) -> int | None:
    known = (dataset.info.splits or {}).get(str(dataset.split))
    return getattr(known, "num_examples", None) or None


def _check_split(
    source: str,
    dataset: Any,
    report: SplitReport,
    pool: ProcessPoolExecutor | None,
    num_workers: int,
    broken_rows: BrokenRows | None,
    max_keys: int,
    bar: Any,
) -> None:
    names = column_names(dataset)
    columns = [name for name in BY_COLUMN if name in names]
    others = [name for name in names if name not in columns and not name.startswith("__")]
    if not columns:
        raise ValueError(
            f"{source} has none of the columns {', '.join(BY_COLUMN)}; it has {', '.join(others) or 'none'}. If they "
            'have other names there, say so with `--columns`, such as {"caption": "text"}.'
        )
    features = dataset.features or {}
    report.columns = {name: _kind(features.get(name)) for name in [*columns, *others]}
    counts: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    useless: Counter[str] = Counter()

    def count(key: str | None, reason: str, column: str | None, digest: str | None, skipped: bool) -> None:
        head, _, detail = reason.partition(": ")
        label = f"{head} in {column}" if column else head
        if head == SAME:
            useless[label] += 1
        else:
            (counts if skipped else changed)[label] += 1
        first = report.keys.setdefault(label, [])
        if len(first) < max_keys:
            first.append(f"{key} ({detail})" if detail and column in IMAGE_COLUMNS and head != OUTSIDE else str(key))
        if broken_rows is not None and head != SAME:
            broken_rows.add(key, reason, column, digest=digest, skipped=skipped)

    def take(results: list[RowProblems]) -> None:
        for problems in results:
            whole_file = any(column is None for _, _, column, _, _ in problems)
            number = f"row {report.rows}"  # counted from 0 in its split, as in `dataset[number]`
            report.files += whole_file
            report.rows += not whole_file
            report.broken += not whole_file and any(skipped for *_, skipped in problems)
            for key, reason, column, digest, skipped in problems:
                unnamed = column is not None and key in (None, UNNAMED)
                count(number if unnamed else key, reason, column, digest, skipped)
        bar.update(len(results))

    wanted = {*columns, *KEY_COLUMNS, ERROR}
    waiting: deque[Future[list[RowProblems]]] = deque()
    for part in _parts(undecoded(dataset)):  # an unreadable file must not hide the files after it
        rows = ({name: value for name, value in row.items() if name in wanted} for row in part)
        try:
            for chunk in _chunks(rows):
                if pool is None:
                    take(_check_rows(chunk, columns))
                    continue
                waiting.append(pool.submit(_check_rows, chunk, columns))
                if len(waiting) > 2 * num_workers:  # so that waiting rows fit into memory
                    take(waiting.popleft().result())
        except UNREADABLE as error:
            report.files += 1
            cause = error.__cause__ or error
            detail = f"{type(cause).__name__} {cause}".splitlines()[0]
            count(None, f"a file or the rest of it cannot be read: {detail}", None, None, True)
            label = next(reversed(report.keys))
            report.keys[label] = damaged_files(source) or [detail]
    while waiting:
        take(waiting.popleft().result())
    report.counts, report.changed = dict(counts.most_common()), dict(changed.most_common())
    report.useless = dict(useless.most_common())


def _parts(dataset: Any) -> Iterator[Any]:
    """The files of a stream, one after the other."""
    shards = dataset.num_shards
    if shards <= 1:
        return iter([dataset])
    return (dataset.shard(num_shards=shards, index=index, contiguous=True) for index in range(shards))


def _kind(feature: Any) -> str:
    inner = getattr(feature, "feature", None)
    if inner is not None:
        return f"list of {_kind(inner)}"
    return str(getattr(feature, "dtype", None) if type(feature).__name__ == "Value" else type(feature).__name__)


def _chunks(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while chunk := list(islice(rows, ROWS_AT_ONCE)):
        yield chunk


SAME = "the same as the positive"

# For each problem of a row: key, reason, column, digest, and whether it makes the row unusable.
RowProblems = list[tuple["str | None", str, "str | None", "str | None", bool]]


def _check_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[RowProblems]:
    return [_check_row(row, columns) for row in rows]


def _check_row(row: Mapping[str, Any], columns: Sequence[str]) -> RowProblems:
    problems: RowProblems = []
    name: tuple[str | None, str | None] | None = None
    for column in columns:
        value = row.get(column)
        optional = column in (PARAPHRASE, DENSE_CAPTION)
        if optional and value is None:
            continue
        several = is_several(value) and (BY_COLUMN[column].mask is not None or column == CAPTION)
        usable = 0
        for one in value if several else [value]:  # type: ignore[union-attr]
            if several and one is None:
                continue  # a list may be padded with nulls
            try:
                (decode_image if column in IMAGE_COLUMNS else decode_caption)(one)
            except BrokenValue as error:
                name = name or row_name(row)
                reason, where = known_reason(row, column) or (str(error), column)
                if where is None:  # the row stands for a file: one problem, not one for each column
                    return [(name[0], reason, None, None, True)]
                problems.append((name[0], _with_path(reason, one), where, name[1], not several))
            else:
                usable += 1
        if several and column == CAPTION and not usable:  # training draws one of them
            name = name or row_name(row)
            reason, where = known_reason(row, column) or ("missing caption", column)
            problems.append((name[0], reason, where, name[1], True))
    for positive, negative in ((CAPTION, NEG_CAPTION), (IMAGE, NEG_IMAGE)):
        if positive in columns and negative in columns and _is_same(row.get(positive), row.get(negative)):
            key, digest = name or row_name(row)
            problems.append((key, SAME, negative, digest, False))
    return problems


def _with_path(reason: str, value: Any) -> str:
    """The reason with the path of an image file, if the reason has a detail that does not name the path already."""
    path = value.get("path") if isinstance(value, Mapping) and value.get("bytes") is None else None
    head, _, detail = reason.partition(": ")
    named = not path or path.startswith(REFUSED) or repr(path)[1:-1] in detail or path in detail
    return reason if named or not detail else f"{head}: {path}: {detail}"


def _is_same(positive: Any, negative: Any) -> bool:
    """Whether a negative, or one of several, equals a positive: the same text, or the same bytes of an image."""
    if is_several(positive):
        return any(_is_same(one, negative) for one in positive)
    if is_several(negative):
        return any(_is_same(positive, one) for one in negative)
    if isinstance(positive, Mapping) and isinstance(negative, Mapping):
        positive, negative = positive.get("bytes"), negative.get("bytes")
    return isinstance(positive, (str, bytes)) and positive == negative and bool(positive)

# SPDX-License-Identifier: Apache-2.0
"""`write_report`: results as one HTML page, Markdown and PNG files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hf_tripletclip.evaluation.registry import BENCHMARKS
from hf_tripletclip.evaluation.report import tables
from hf_tripletclip.evaluation.report.figures import category_bars, similarity_histograms, tradeoffs
from hf_tripletclip.evaluation.report.reading import Entry, by_data, read_entries, title_of
from hf_tripletclip.evaluation.report.tables import Heading, Note, Picture, Section, Table
from hf_tripletclip.utils.pages.page import write_page
from hf_tripletclip.utils.pages.template import render
from hf_tripletclip.utils.plots import require_plots
from hf_tripletclip.version import __version__

HOW_TO_READ = (
    "Scores are per cent. Small numbers are 95 % bootstrap intervals. Bold is the best of this report's models on "
    "the same data, if they differ. A tie is wrong: strictly greater wins, and the column ties is the share of "
    "rows with one. Baselines say what is reached without looking at the image."
)


def write_report(paths: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str] = "report") -> list[Path]:
    """
    Write a report of evaluation results: `report.html`, a page that needs no other file; `report.md`; and a PNG file
    of each chart.

    For each benchmark it shows the models side by side, with intervals, chance, baselines, ties, counts, the
    differences of each two models on the same rows, and published figures with their source.

    Args:
        paths (`Sequence[str or os.PathLike]`): Files that [`EvaluationResult.save`] or `tripletclip evaluate` wrote,
            or folders of them.
        output (`str` or `os.PathLike`, defaults to `"report"`): The folder to write into.

    Returns:
        `list[Path]`: The files, the page first.

    Raises:
        FileNotFoundError: There is no such file, or no result in a folder.
        ImportError: matplotlib is not installed.
        OSError: The files cannot be written.
        ValueError: A file is not a result that can be read.
    """
    require_plots()
    entries = read_entries(paths)
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: name a folder for the report.")
    folder.mkdir(parents=True, exist_ok=True)
    benchmarks = by_benchmark(entries)
    sections = [benchmark_section(found, folder) for found in benchmarks.values()]
    pictures = tradeoffs(benchmarks, folder)
    if pictures:
        sections.append(Section("Composition and retention", list(pictures)))
    overview = Section("Overview", [Note(HOW_TO_READ), tables.summary(benchmarks)])
    models = list(dict.fromkeys(entry.model for entry in entries))
    heading = models[0] if len(models) == 1 else f"{len(models)} models"
    page = write_page(
        folder / "report.html",
        title=f"Evaluation of {heading}",
        heading=f"Evaluation of {heading}",
        overview=overview.html(),
        sections={section.title: section.html() for section in sections},
        command="tripletclip report",
        style=Path(__file__).with_name("report.css").read_text(encoding="utf-8"),
    )
    written = folder / "report.md"
    written.write_text(as_markdown(heading, [overview, *sections]), encoding="utf-8")
    drawn = [block.name for section in sections for block in section.blocks if isinstance(block, Picture)]
    return [page, written, *(folder / f"{name}.png" for name in drawn)]


def by_benchmark(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The entries of each benchmark, in the order of the registry."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.result.benchmark, []).append(entry)
    order = [*BENCHMARKS, *found]
    return {name: found[name] for name in sorted(found, key=order.index)}


def benchmark_section(entries: Sequence[Entry], folder: str | os.PathLike[str]) -> Section:
    """The section of a benchmark. Results on several data sets have tables of their own."""
    section = Section(title_of(entries))
    groups = by_data(entries)
    several = len(groups) > 1
    for data, group in groups.items():
        section.blocks += [Heading(f"On {data}")] if several else []
        section.blocks += tables.scores(group)
    section.blocks += tables.comparison(entries)
    for number, (data, group) in enumerate(groups.items(), 1):
        section.blocks += tables.categories(group, f"on {data}" if several else "")
        section.blocks += category_bars(group, folder, f"on {data}" if several else "", number)
    section.blocks += similarity_histograms(entries, folder)
    section.blocks += tables.about(entries)
    section.blocks += tables.published(entries)
    return section


def as_markdown(heading: str, sections: Sequence[Section]) -> str:
    """The report as Markdown; `heading` says which models it compares."""
    return render(
        Path(__file__).with_name("report.md"),
        heading=heading,
        sections=sections,
        table=Table.markdown,
        version=__version__,
    )

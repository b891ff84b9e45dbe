# SPDX-License-Identifier: Apache-2.0
"""What a report consists of, and how it is written as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hf_tripletclip.utils.pages.markup import Html, escape_markdown, figure, table, text


@dataclass(frozen=True)
class Value:
    """
    A number in a table.

    Args:
        shown (`str`): As it is printed.
        detail (`str`): Beside it in small print, such as its interval.
        best (`bool`): Whether it is the best of its kind.
    """

    shown: str
    detail: str = ""
    best: bool = False

    def html(self) -> Html:
        shown = f"<b>{text(self.shown)}</b>" if self.best else text(self.shown)
        return Html(shown + (f"<small>{text(self.detail)}</small>" if self.detail else ""))

    def markdown(self) -> str:
        shown = f"**{self.shown}**" if self.best else self.shown
        return shown + (f" ({self.detail})" if self.detail else "")


CellValue = Value | str | int | None


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    words: str

    def html(self) -> str:
        return f"<h3>{text(self.words)}</h3>"

    def markdown(self) -> str:
        return f"### {escape_markdown(self.words)}"


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    words: str

    def html(self) -> str:
        return f"<p class='note'>{text(self.words)}</p>"

    def markdown(self) -> str:
        return escape_markdown(self.words)


@dataclass(frozen=True)
class Table:
    """
    A table, whose first column and `words` hold words and whose other columns hold numbers.

    Args:
        head (`Sequence[str]`): Names of the columns.
        rows (`Sequence[Sequence]`): The cells.
        quiet (`Sequence[bool]`): Rows that are there to compare with.
        words (`Sequence[str]`): Columns of words.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[CellValue]]
    quiet: Sequence[bool] = ()
    words: Sequence[str] = ()

    def html(self) -> str:
        cells = ([value.html() if isinstance(value, Value) else value for value in row] for row in self.rows)
        return table(self.head, cells, ["quiet" if flag else "" for flag in self.quiet], self.words)

    def markdown(self) -> str:
        lines = [_line(map(escape_markdown, self.head))]
        numbers = [place > 0 and name not in self.words for place, name in enumerate(self.head)]
        lines.append(_line("---:" if number else "---" for number in numbers))
        for row in self.rows:
            lines.append(_line(_shown(value) for value in row))
        return "\n".join(lines)


def _shown(value: CellValue) -> str:
    if isinstance(value, Value):
        return value.markdown()
    return "" if value is None else f"{value:,}" if isinstance(value, int) else escape_markdown(value)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class Picture:
    """
    A drawing.

    Args:
        name (`str`): Of its PNG file, without the ending.
        svg (`str`): The same as inline SVG.
        caption (`str`): What it shows.
    """

    name: str
    svg: str
    caption: str

    def html(self) -> str:
        return figure(self.svg, text(self.caption))

    def markdown(self) -> str:
        return f"![{escape_markdown(self.caption)}]({self.name}.png)"


@dataclass(frozen=True)
class Folded:
    """
    What is there for whoever asks for it: closed on the page until it is clicked, under a heading in Markdown.

    Args:
        words (`str`): What it is.
        blocks (`Sequence[Note | Table]`): What is in it.
    """

    words: str
    blocks: Sequence[Note | Table]

    def html(self) -> str:
        inside = "".join(block.html() for block in self.blocks)
        return f"<details><summary>{text(self.words)}</summary>{inside}</details>"

    def markdown(self) -> str:
        return "\n\n".join([f"### {escape_markdown(self.words)}", *(block.markdown() for block in self.blocks)])


Block = Heading | Note | Table | Picture | Folded


@dataclass
class Section:
    """A part of the report under a heading."""

    title: str
    blocks: list[Block] = field(default_factory=list)

    def html(self) -> str:
        parts: list[str] = []
        pictures: list[str] = []
        for block in [*self.blocks, None]:
            if isinstance(block, Picture):
                pictures.append(block.html())
                continue
            if pictures:  # side by side where there is room
                parts.append(f'<div class="charts">{"".join(pictures)}</div>')
                pictures = []
            if block is not None:
                parts.append(block.html())
        return "".join(parts)

    def markdown(self) -> str:
        return "\n\n".join([f"## {escape_markdown(self.title)}", *(block.markdown() for block in self.blocks)])

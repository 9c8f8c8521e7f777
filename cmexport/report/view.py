"""What a page is made of; both templates, HTML and Markdown, show these and know nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Tone = Literal["", "good", "bad", "none"]


@dataclass(frozen=True)
class Cell:
    """One cell; `tone` colours a verdict, "none" is for what was not measured."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        caption: what it shows.
        head: the columns.
        rows: cells, as many as columns.
        heat: whether cells are coloured as a whole.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    heat: bool = False

    @property
    def words(self) -> frozenset[int]:
        """Columns of words, which are read from the left; figures are compared from the right."""
        return frozenset(
            column
            for column in range(len(self.head))
            if any(row[column].tone != "none" and row[column].text[:1].isalpha() for row in self.rows)
        )


@dataclass(frozen=True)
class Chart:
    """A drawing with its twin in words.

    Attributes:
        name: a word for ids.
        title: what it shows.
        description: how to read it, and what it says.
        draw: SVG for a width in pixels.
    """

    name: str
    title: str
    description: str
    draw: Callable[[int], str]


@dataclass(frozen=True)
class Sheet:
    """A contact sheet.

    Attributes:
        label: the artefact.
        verdict: its parity.
        data: the picture as a `data:` address; "" if there is none.
        width: pixels.
        height: pixels.
        path: the file, for Markdown.
        note: why there is no picture.
    """

    label: str
    verdict: Cell
    data: str
    width: int
    height: int
    path: str
    note: str


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        name: a word for its address.
        title: heading.
        lead: what it says and how it was measured.
        charts: drawings.
        tables: the numbers.
        sheets: pictures.
        notes: reasons for what is missing, and warnings.
    """

    name: str
    title: str
    lead: str = ""
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing of it was measured."""
        return not (self.charts or self.tables or self.sheets)


@dataclass(frozen=True)
class Page:
    """The whole report, ready for its templates.

    Attributes:
        title: heading.
        facts: what it is about, one line each.
        sections: in order.
        notes: files that were skipped, and the like.
        version: of cmexport.
    """

    title: str
    facts: tuple[str, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...]
    version: str


def measured(text: str, tone: Tone = "") -> Cell:
    """Return a cell that greys itself when there was nothing to show."""
    return Cell(text, "none" if text == "not measured" else tone)

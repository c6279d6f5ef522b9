"""Tables. Long words in them are folded, never cut."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from ingest.telemetry.printable import printable

ENDLESS = 100_000  # columns


class Name:
    """A handler's name in a table. Where it has to be broken, that is behind a dot, or else behind a `_`."""

    def __init__(self, name: str) -> None:
        self._name = printable(name)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("\n".join(_lines(self._name, options.max_width)), overflow="fold")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, len(self._name)).clamp(max_width=options.max_width)


def _lines(name: str, width: int, ends: str = "._") -> list[str]:
    """The name in lines of that width, as far as it can be broken behind one of these characters: the first, if that
    will do.
    """
    lines: list[str] = [""]
    for part in re.split(f"(?<={re.escape(ends[0])})", name):
        if len(lines[-1]) + len(part) <= width:
            lines[-1] += part
        elif len(part) > width and ends[1:]:
            lines += _lines(part, width, ends[1:])
        else:
            lines.append(part)
    return [line for line in lines if line]


class PlainTable(Table):
    """A table that shows words as they are: nothing in them is markup, and nothing steers the terminal."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row. A `Text` is shown with its style."""
        super().add_row(*(Text(printable(cell)) if isinstance(cell, str) else cell for cell in cells), **options)


def simple(*columns: Column) -> Table:
    """A table with one line, below its headings."""
    return PlainTable(*columns, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))


def console() -> Console:
    """Standard output. In a pipe or a file a row is as long as it has to be, unless COLUMNS says how long it may be."""
    return Console(width=None if sys.stdout.isatty() or os.environ.get("COLUMNS") else ENDLESS)


def of(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table of short values, such as a sender's API answers, and of what `stacked` gives."""
    table = simple(*(Column(heading, overflow="fold") for heading in headings))
    for row in rows:
        table.add_row(*map(_word, row))
    return table


def show(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print it."""
    console().print(of(headings, rows))


def stacked(*parts: str | Text) -> Text:
    """A cell with a line for each part that says something. Where there is little room it breaks few words."""
    lines = (Text(printable(part)) if isinstance(part, str) else part for part in parts)
    return Text("\n").join(filter(None, lines))


def fits(table: Table, console: Console) -> bool:
    """True when no cell of it has to be wrapped."""
    return console.measure(table, options=console.options.update_width(ENDLESS)).maximum <= console.width


def _word(value: Any) -> str | Text:
    """A value as a person reads it: nothing is `-`, text is bare, the rest is JSON."""
    if value is None:
        return "-"
    return value if isinstance(value, str | Text) else orjson.dumps(value).decode()

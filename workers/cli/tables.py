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


def ruled(*headings: str) -> Table:
    """A table with lines around each cell, for longer texts."""
    return PlainTable(*(Column(heading, overflow="fold") for heading in headings))


def simple(*columns: Column) -> Table:
    """A table with one line, below its headings."""
    return PlainTable(*columns, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))


def console() -> Console:
    """Standard output. In a pipe or a file a row is as long as it has to be, unless COLUMNS says how long it may be."""
    return Console(width=None if sys.stdout.isatty() or os.environ.get("COLUMNS") else ENDLESS)


def show(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table of short values, such as a sender's API answers."""
    table = simple(*(Column(heading, overflow="fold") for heading in headings))
    for row in rows:
        table.add_row(*map(_word, row))
    console().print(table)


def _word(value: Any) -> str:
    """A value as a person reads it: nothing is `-`, text is bare, the rest is JSON."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else orjson.dumps(value).decode()

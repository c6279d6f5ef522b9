"""Tables. Long words in them are folded, never cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ingest.telemetry.printable import printable


def ruled(*headings: str) -> Table:
    """A table with lines around each cell, for longer texts."""
    return Table(*(Column(heading, overflow="fold") for heading in headings))


def show(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table of short values, such as a sender's API answers."""
    table = Table(
        *(Column(heading, overflow="fold") for heading in headings),
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for row in rows:
        table.add_row(*(Text(printable(_word(value))) for value in row))
    Console().print(table)


def _word(value: Any) -> str:
    """A value as a person reads it: nothing is `-`, text is bare, the rest is JSON."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else orjson.dumps(value).decode()

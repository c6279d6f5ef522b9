"""Tables of what a sender's API has answered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ingest.telemetry.printable import printable


def show(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table. Long words are folded, never cut."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(_word(value))) for value in row))
    Console().print(table)


def _word(value: Any) -> str:
    """A value as a person reads it: nothing is `-`, text is bare, the rest is JSON."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else orjson.dumps(value).decode()

"""Dead letters and their causes, for people."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ingest.state.dead_letters import DeadLetter
from ingest.telemetry.printable import printable
from workers.cli import tables
from workers.cli.dead_causes import Counted
from workers.cli.terminal import span

_INDENT = "    "
_HEAD = 80
"""Columns that the line below the headings has at most where a row, in a pipe, may have any number."""


def show(letters: Sequence[DeadLetter], now_ms: int) -> None:
    """A line for each. Details that do not fit beside them stand below, once for equal ones that follow each other."""
    console = tables.console()
    beside = _table(letters, now_ms, with_details=True)
    if tables.fits(beside, console):
        with console.capture() as drawn:
            console.print(beside)
        headings, line, *lines = drawn.get().rstrip("\n").split("\n")
        _write(console, [headings, line if console.is_terminal else line[:_HEAD], *lines])
        return
    with console.capture() as drawn:
        console.print(_table(letters, now_ms, with_details=False))
    *head, rows = drawn.get().rstrip("\n").split("\n", 2)
    details = [printable(_detail(letter)) for letter in letters]
    _write(console, head)
    for row, detail, following in zip(rows.split("\n"), details, [*details[1:], ""], strict=True):
        _write(console, [row])
        if detail != following:
            width = max(20, console.width)
            _write(console, textwrap.wrap(detail, width, initial_indent=_INDENT, subsequent_indent=_INDENT))


def causes(found: Sequence[Counted], now_ms: int) -> None:
    """How many letters died of what."""
    table = tables.simple()
    for heading in ("count", "newest"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("reason", no_wrap=True)
    for heading in ("handler", "cause"):
        table.add_column(heading, overflow="fold")
    for one in found:
        reason, handler, cause = one.cause
        table.add_row(f"{one.letters:,}", span(max(0, now_ms - one.newest_ms) / 1000), reason, handler, cause)
    tables.console().print(table)


def _table(letters: Sequence[DeadLetter], now_ms: int, with_details: bool) -> Table:
    table = tables.simple()
    table.add_column("age", justify="right", no_wrap=True)
    for heading in ("lane/id", "kind", "reason"):
        table.add_column(heading, no_wrap=True)
    table.add_column("try", justify="right", no_wrap=True)
    if with_details:
        table.add_column("detail", no_wrap=True)
    for letter in letters:
        age = span(max(0, now_ms - letter.id.ms) / 1000)
        cells = (age, letter.name, letter.kind, letter.reason, str(letter.attempt), _detail(letter))
        table.add_row(*cells[: len(table.columns)])
    return table


def _detail(letter: DeadLetter) -> str:
    return f"{letter.handler}: {letter.detail}" if letter.handler else letter.detail


def _write(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.out(line.rstrip(), highlight=False)

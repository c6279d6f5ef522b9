"""Dead letters and their causes, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ingest.state.dead_letters import DeadLetter
from ingest.telemetry.printable import printable_line, printable_lines
from ingest.terminal import shortened
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
    endless = Console(width=tables.ENDLESS)  # a LANE/ID that was cut would be of no use
    with endless.capture() as drawn:
        endless.print(_table(letters, now_ms, with_details=False))
    *head, rows = drawn.get().rstrip("\n").split("\n", 2)
    details = [_detail(letter) for letter in letters]
    _write(console, head)
    for row, detail, following in zip(rows.split("\n"), details, [*details[1:], ""], strict=True):
        _write(console, [row])
        if detail != following:
            wrapped = Text(detail).wrap(console, max(20, console.width - len(_INDENT)))
            _write(console, [_INDENT + line.plain for line in wrapped])


def fields(letter: Mapping[str, Any]) -> None:
    """What is known of one letter."""
    table = tables.PlainTable.grid("", Column(overflow="fold"), padding=(0, 1))
    for name, value in letter.items():
        table.add_row(name, Text(printable_lines(shortened(str(value)))))
    tables.console().print(table)


def causes(found: Sequence[Counted], now_ms: int) -> None:
    """How many letters died of what. A cause that does not fit beside its handler stands below it."""
    console = tables.console()
    table = _causes(found, now_ms, ("handler", "cause"))
    console.print(table if tables.fits(table, console) else _causes(found, now_ms, ("handler, and cause",)))


def _causes(found: Sequence[Counted], now_ms: int, last: tuple[str, ...]) -> Table:
    """With a column each for handler and cause, or one for both."""
    table = tables.simple()
    for heading in ("count", "newest"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("reason", *last):
        table.add_column(heading, overflow="fold")
    for one in found:
        reason, handler, cause = one.cause
        said = (handler, printable_line(shortened(cause)))
        cells = said if len(last) == len(said) else (tables.stacked(*said),)
        table.add_row(f"{one.letters:,}", span(max(0, now_ms - one.newest_ms) / 1000), reason, *cells)
    return table


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
    detail = shortened(letter.detail)
    return printable_line(f"{letter.handler}: {detail}" if letter.handler else detail)


def _write(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.out(line.rstrip(), highlight=False)

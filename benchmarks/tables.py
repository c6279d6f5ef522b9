"""A run's figures on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import figures, ratios
from benchmarks.figures import Figures, number
from benchmarks.names import OURS, TITLES
from benchmarks.ratios import Change
from benchmarks.waiting import figures as waiting

_STYLES = {"yes": "green", "no": "red", "not measured": "dim"}


def show(console: Console, result: dict[str, Any]) -> None:
    """Print every measure that was taken, and the targets."""
    measures = result["measures"]
    found = [*figures.tables(measures), *(waiting.tables(measures["waiting"]) if "waiting" in measures else ())]
    for one in [*found, figures.of_targets(ratios.targets(measures, int(result["machine"]["cores"])))]:
        console.print(_table_of(one))


def changes(found: list[Change]) -> Table:
    """Each ratio beside its baseline."""
    table = _table("Ratios beside benchmarks/baseline.json", "", "baseline", "now", "change", "")
    for one in found:
        change = f"{one.now / one.before - 1:+.0%}" if one.now is not None and one.before else ""
        verdict = Text("fell", style="red") if one.fell else Text("not measured" if one.now is None else "")
        table.add_row(one.name, number(one.before), number(one.now), change, verdict)
    return table


def _table_of(found: Figures) -> Table:
    table = _table(found.title, "", *found.columns)
    for row in found.rows:
        cells = [Text(cell, style=_STYLES.get(cell, "") if cell in _STYLES and n else "") for n, cell in enumerate(row)]
        table.add_row(*cells, style="bold" if row[0].startswith(TITLES[OURS]) else "")
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", min_width=len(title))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table

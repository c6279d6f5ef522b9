"""`wa-ingest check`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Column
from rich.text import Text

from ingest.settings import load, redis_url
from ingest.telemetry.printable import printable
from ingest.terminal import counted, shortened
from workers.cli import beside, checks, tables
from workers.cli.terminal import as_json, cli_errors, print_json

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red"}
_ORDER = tuple(_COLOURS)
_NOUNS = {"failed": "error", "warning": "warning"}


@click.command()
@as_json
def check(as_json: bool) -> None:
    """Is everything fit for production? Exits 1 when something is an error.

    What is in order comes first, then warnings, then errors, and a last line counts them. Warnings alone exit 0.

    Checks who may post, certificates and the names of settings; the folders of spool and archive; whether Redis is
    reachable, new enough, runs our scripts, keeps an append-only file, evicts nothing and has its replicas; dead
    letters of the last hour, by cause, and those that will soon be removed; whether workers are alive and agree with
    the receivers; and the handlers, those that fail, too. Each warning or failure says what to do, and which topic
    says more: `wa-ingest help TOPIC` shows it.

    With --json: a list of objects of name, result (ok, warning or failed), finding, advice, topic, in the order in
    which a notification passes what they look at.
    """
    with cli_errors():
        beside.take()
        current = load()
        redis_url(current)
        found = checks.run(current)
        if as_json:
            print_json([one._asdict() for one in found])
        else:
            # Without lines around the cells, the name of each topic fits into 80 columns beside them.
            table = tables.simple(*(Column(name, overflow="fold") for name in ("", "check", "finding, and what to do")))
            for one in sorted(found, key=lambda one: _ORDER.index(one.result)):  # the end stays on the screen
                finding = Text(printable(shortened(one.finding)))
                if one.advice:
                    finding.append(f"\n→ {printable(one.advice)}")
                if one.topic:
                    finding.append(f"\nwa-ingest help {one.topic}", style="dim")
                table.add_row(Text(one.result, style=_COLOURS[one.result]), one.name, finding)
            Console().print(table, _summary(found), sep="\n")
        if any(one.result == "failed" for one in found):
            sys.exit(1)


def _summary(found: Sequence[checks.Check]) -> Text:
    """How many errors and warnings there are, in the colour of the worst."""
    counts = {noun: sum(one.result == result for one in found) for result, noun in _NOUNS.items()}
    parts = [counted(count, noun) for noun, count in reversed(counts.items()) if count]
    worst = next((result for result, noun in _NOUNS.items() if counts[noun]), "ok")
    return Text(f"\n{', '.join(parts) or 'All is in order'}", style=_COLOURS[worst])

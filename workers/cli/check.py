"""`wa-ingest check`."""

from __future__ import annotations

import sys

import click
from rich.console import Console
from rich.table import Column
from rich.text import Text

from ingest.settings import load, redis_url
from ingest.telemetry.printable import printable
from ingest.terminal import shortened
from workers.cli import beside, checks, tables
from workers.cli.terminal import as_json, cli_errors, print_json


@click.command()
@as_json
def check(as_json: bool) -> None:
    """Is everything fit for production? Exits 1 when something is not.

    Checks who may post, certificates and the names of settings; the folders of spool and archive; whether Redis is
    reachable, new enough, runs our scripts, keeps an append-only file, evicts nothing and has its replicas; dead
    letters of the last hour, by cause, and those that will soon be removed; whether workers are alive and agree with
    the receivers; and the handlers, those that fail, too. Each warning or failure says what to do, and which topic
    says more: `wa-ingest help TOPIC` shows it.

    With --json: a list of objects of name, result (ok, warning or failed), finding, advice, topic.
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
            colours = {"ok": "green", "warning": "yellow", "failed": "bold red"}
            for one in found:
                finding = Text(printable(shortened(one.finding)))
                if one.advice:
                    finding.append(f"\n→ {printable(one.advice)}")
                if one.topic:
                    finding.append(f"\nwa-ingest help {one.topic}", style="dim")
                table.add_row(Text(one.result, style=colours[one.result]), one.name, finding)
            Console().print(table)
        if any(one.result == "failed" for one in found):
            sys.exit(1)

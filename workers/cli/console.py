"""Prints what workers handle while `up` runs on a terminal: `python -m workers.cli.console [--personal]`."""

from __future__ import annotations

import asyncio
import sys

import click

from ingest import child
from ingest.settings import load, redis_url
from ingest.state.listeners import Wanted
from ingest.store import urls
from ingest.telemetry.printable import printable
from workers.cli import hearing
from workers.cli.event_lines import EventLines, Told


def main() -> None:
    """Until it is told to stop, or left alone."""
    child.watch_parent()
    personal = "--personal" in sys.argv
    asyncio.run(_print(Wanted(body=personal, personal=personal)))


async def _print(wanted: Wanted) -> None:
    lines, away = EventLines(), ""

    def put(told: Told) -> None:
        nonlocal away
        if (now := told.get("away", "")) not in ("", away):  # each few seconds
            click.echo(printable(now), err=True)
        away = now
        for event in told.get("events", ()):
            lines.show(event)
        if dropped := told.get("dropped"):
            lines.more(dropped)

    await asyncio.gather(*(hearing.from_redis(url, wanted, put) for url in urls.split(redis_url(load()))))


if __name__ == "__main__":
    main()

"""Prints what workers handle while `up` runs on a terminal: `python -m workers.cli.console [--personal]`."""

from __future__ import annotations

import asyncio
import os
import sys

import orjson

from ingest import child
from ingest.settings import Settings, load, redis_url
from ingest.state import listeners
from ingest.state.following import follow
from ingest.state.listeners import Wanted
from ingest.store.urls import split
from ingest.telemetry.printable import printable
from ingest.terminal import aside
from workers.cli.event_lines import Told
from workers.cli.folding import FoldedLines


def main() -> None:
    """Until it is told to stop, or left alone."""
    child.watch_parent()
    personal = "--personal" in sys.argv
    asyncio.run(_print(Wanted(body=personal, personal=personal), load()))


async def _print(wanted: Wanted, settings: Settings) -> None:
    lines, away = FoldedLines(settings.log_errors == "full"), ""

    def put(told: Told) -> None:
        nonlocal away
        if (now := told.get("away", "")) not in ("", away):  # each few seconds
            aside(printable(now))
        away = now
        for event in told.get("events", ()):
            lines.show(event)
        if dropped := told.get("dropped"):
            lines.more(dropped)

    name = listeners.named(os.getpid())
    urls = split(redis_url(settings))
    await asyncio.gather(*(follow(url, name, wanted, lambda line: put(orjson.loads(line))) for url in urls))


if __name__ == "__main__":
    main()

"""Prints what workers handle while `up` runs on a terminal: `python -m workers.cli.console [--personal]`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress

import orjson
from redis import Redis
from redis.exceptions import RedisError

from ingest import child
from ingest.settings import Settings, load, redis_url
from ingest.state import backlog, listeners
from ingest.state.following import follow
from ingest.state.listeners import Wanted
from ingest.store import connection
from ingest.store.urls import split
from ingest.telemetry.printable import printable
from ingest.terminal import aside, counted, has_own_server
from workers.cli.event_lines import Told
from workers.cli.folding import FoldedLines


def main() -> None:
    """Until it is told to stop, or left alone."""
    child.watch_parent()
    personal = "--personal" in sys.argv
    settings = load()
    with suppress(asyncio.CancelledError):
        asyncio.run(_print(Wanted(body=personal, personal=personal), settings))
    with suppress(RedisError, OSError):  # the workers have ended, and the server, if it is ours, has not
        _tell_waiting(connection.all_for_tools(redis_url(settings), connection.COMMAND_SECONDS).values())


def _tell_waiting(each: Iterable[Redis]) -> None:
    """Say what waits in these until workers run again, if anything does."""
    lanes = [lane for redis in each for lane in backlog.read(redis).lanes.values()]
    waiting, retrying = sum(lane.waiting for lane in lanes), sum(lane.retrying + lane.behind for lane in lanes)
    if waiting or retrying:
        parts = [
            f"{counted(count, noun)} {where}"
            for count, noun, where in (
                (waiting, "notification", "in their queues"),
                (retrying, "event", "for the next try"),
            )
            if count
        ]
        aside(f"\rstill waiting: {', '.join(parts)}")


async def _print(wanted: Wanted, settings: Settings) -> None:
    lines, away = FoldedLines(settings.log_errors == "full"), ""

    def put(told: Told) -> None:
        nonlocal away
        if (now := told.get("away", "")) not in ("", away) and not has_own_server():  # each few seconds
            aside(printable(now))
        away = now
        if (again := told.get("again")) and not has_own_server():
            aside(f"{printable(again)}: listening again")
        for event in told.get("events", ()):
            lines.show(event)
        if dropped := told.get("dropped"):
            lines.more(dropped)

    name = listeners.named(os.getpid())
    urls = split(redis_url(settings))
    following = asyncio.gather(*(follow(url, name, wanted, lambda line: put(orjson.loads(line))) for url in urls))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, following.cancel)
    await following


if __name__ == "__main__":
    main()

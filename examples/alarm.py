"""Raises an alarm when errors or failed messages pile up.

    WA_HANDLERS=examples.alarm:handlers wa-ingest up

When one code came THRESHOLD times within WINDOW, one line goes to the address that ALARM_WEBHOOK names (or
ALARM_WEBHOOK_FILE, the path of a file that holds it) as JSON, `{"text": …}`, or else to standard error; then none of
that code for PERIOD. Counts lie in Redis, so several workers raise one alarm. The line holds the code and the count,
nothing personal.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from redis import Redis

from ingest.settings import load, redis_url
from ingest.store import connection, keys
from workers import Error, Handlers, Status

handlers = Handlers()

THRESHOLD = 10
WINDOW = 300
"""Seconds. It moves on by a slot at a time."""

PERIOD = 3600
"""Seconds."""

_SLOT = 10
_KEY = keys.example_key("alarm:")
_first = threading.Lock()


@handlers.error()
def on_error(error: Error) -> None:
    count(error.code)


@handlers.status("failed")
def on_failed(status: Status) -> None:
    for code in {error.code for error in status.errors} or {None}:
        count(code)


def count(code: int | None) -> None:
    """Count one more of `code`, and raise the alarm when there are too many."""
    slot = int(time.time()) // _SLOT
    slots = [f"{_KEY}{code}:{slot - back}" for back in range(WINDOW // _SLOT)]
    with redis().pipeline() as pipe:
        pipe.incr(slots[0])
        pipe.expire(slots[0], WINDOW)
        pipe.mget(slots)
        counted: list[Any] = pipe.execute()[2]
    total = sum(int(one or 0) for one in counted)
    if total >= THRESHOLD and redis().set(f"{_KEY}{code}:said", 1, nx=True, ex=PERIOD):
        say(f"wa-ingest: code {code} came {total} times within {WINDOW // 60} minutes")


def say(line: str) -> None:
    """Send one line. It is not tried again: an alarm that fails must not hold up the events."""
    address = _secret("ALARM_WEBHOOK")
    if address is None:
        print(line, file=sys.stderr, flush=True)
        return
    try:
        content = {"Content-Type": "application/json"}
        request = urllib.request.Request(address, orjson.dumps({"text": line}), content)  # noqa: S310 - our own setting
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310
    except (OSError, ValueError) as error:  # the address may hold a secret, and so may the error's text
        status = f" {error.code}" if isinstance(error, urllib.error.HTTPError) else ""
        print(f"{line} (ALARM_WEBHOOK fails: {type(error).__name__}{status})", file=sys.stderr, flush=True)


def redis() -> Redis:
    with _first:  # threads that ask at the same time would have a client each, and one forgotten closes its connection
        return _client()


@cache
def _client() -> Redis:
    return connection.for_tools(redis_url(load()))


def _secret(name: str) -> str | None:
    path = os.environ.get(f"{name}_FILE")
    return Path(path).read_text().strip() if path else os.environ.get(name)

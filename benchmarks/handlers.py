"""Handlers that do nothing but let the benchmark know when they were called. Named by WA_HANDLERS.

Into a file `PID.json` in the folder BENCH_HANDLED they write, at the worker's end: the number of calls, the time of
every thousandth call, and with BENCH_KEEP=N the ids and times of the first N messages. Times are CLOCK_MONOTONIC.
"""

from __future__ import annotations

import atexit
import json
import os
from pathlib import Path
from time import monotonic

from workers import Handlers, Message
from workers.events import Event

EVERY = 1000
"""Calls between two stamps."""

handlers = Handlers()

_keep = int(os.environ.get("BENCH_KEEP", "0"))
_ids: list[str | None] = [None] * _keep  # all memory is there before the first call
_times = [0.0] * _keep
_kept = 0
_calls = 0
_stamps: list[float] = []


def count(event: Event) -> None:
    global _calls
    if _calls % EVERY == 0:
        _stamps.append(monotonic())
    _calls += 1


def keep(message: Message) -> None:
    global _kept
    if _kept < _keep:
        _times[_kept] = monotonic()
        _ids[_kept] = message.id
        _kept += 1


handlers.message()(keep if _keep else count)
for register in (handlers.status, handlers.error, handlers.change):
    register()(count)


def _write() -> None:
    handled = {"calls": _calls, "stamps": _stamps, "messages": list(zip(_ids, _times, strict=True))[:_kept]}
    Path(os.environ["BENCH_HANDLED"], f"{os.getpid()}.json").write_text(json.dumps(handled))


if "BENCH_HANDLED" in os.environ:
    atexit.register(_write)

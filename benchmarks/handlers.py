"""Handlers that do nothing but let the benchmark know when they were called. Named by WA_HANDLERS.

Into files in the folder BENCH_HANDLED they write: the time of the first call (`PID.first`); at the worker's end
(`PID.json`) the number of calls, the time of every thousandth call, and with BENCH_KEEP=N and
BENCH_KEEP_KINDS=message,status the ids and times of the first N events of these kinds. Times are CLOCK_MONOTONIC.
"""

from __future__ import annotations

import atexit
import json
import os
from pathlib import Path
from time import monotonic

from workers import Event, Handlers, Message, Status

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
        if _calls == 0 and "BENCH_HANDLED" in os.environ:
            Path(os.environ["BENCH_HANDLED"], f"{os.getpid()}.first").write_text(repr(_stamps[0]))
    _calls += 1


def keep(event: Message | Status) -> None:
    global _kept
    if _kept < _keep:
        _times[_kept] = monotonic()
        _ids[_kept] = event.id
        _kept += 1


_kinds = os.environ.get("BENCH_KEEP_KINDS", "").split(",")
handlers.message()(keep if "message" in _kinds else count)
handlers.status()(keep if "status" in _kinds else count)
handlers.error()(count)
handlers.change()(count)


def _write() -> None:
    kept = list(zip(_ids, _times, strict=True))[:_kept]
    written = json.dumps({"calls": _calls, "stamps": _stamps, "kept": kept})
    Path(os.environ["BENCH_HANDLED"], f"{os.getpid()}.json").write_text(written)


if "BENCH_HANDLED" in os.environ:
    atexit.register(_write)

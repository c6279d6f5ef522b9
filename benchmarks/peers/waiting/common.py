"""What these peers share: what their handlers do, and how a schedule is enqueued.

Environment: BENCH_REDIS (port), BENCH_MARKS (the file of times). `python -m benchmarks.peers.waiting.NAME FILE`
enqueues the schedule in a file and writes a line of JSON: when each call began.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import orjson

from benchmarks.waiting import schedule
from benchmarks.waiting.marks import Marks

REDIS_URL = f"redis://127.0.0.1:{os.environ['BENCH_REDIS']}/0"
CALLS = 100
"""Calls of an async enqueuer that may be under way at a time."""

_marks = Marks(Path(os.environ["BENCH_MARKS"]))


async def wait(body: str | bytes) -> None:
    number, seconds = _told(body)
    _marks.began(number)
    await asyncio.sleep(seconds)
    _marks.ended(number)


def block(body: str | bytes) -> None:
    number, seconds = _told(body)
    _marks.began(number)
    time.sleep(seconds)
    _marks.ended(number)


def _told(body: str | bytes) -> tuple[int, float]:
    return schedule.told(orjson.loads(body)["entry"][0]["changes"][0]["value"]["messages"][0])


def post(enqueue: Callable[[str], object]) -> None:
    """Call `enqueue` for each event when it is due, one call after the other."""
    events = schedule.read(Path(sys.argv[1]))
    posted = []
    start = time.monotonic()
    for after, body in events:
        if (early := start + after - time.monotonic()) > 0:
            time.sleep(early)
        posted.append(time.monotonic())
        enqueue(body.decode())
    _report(posted)


async def post_async(enqueue: Callable[[str], Awaitable[object]]) -> None:
    """The same with up to CALLS calls at a time."""
    events = schedule.read(Path(sys.argv[1]))
    posted = [0.0] * len(events)
    free = asyncio.Semaphore(CALLS)

    async def one(number: int, body: bytes) -> None:
        posted[number] = time.monotonic()
        await enqueue(body.decode())
        free.release()

    start = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number, (after, body) in enumerate(events):
            if (early := start + after - time.monotonic()) > 0:
                await asyncio.sleep(early)
            await free.acquire()
            group.create_task(one(number, body))
    _report(posted)


def _report(posted: list[float]) -> None:
    print(json.dumps({"posted": posted}))

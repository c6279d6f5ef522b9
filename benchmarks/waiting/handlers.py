"""Our handlers that wait as long as the message says. Named by WA_HANDLERS.

Environment: BENCH_MARKS (the file of times), BENCH_FORM (`async` or `plain`), BENCH_FAILING (any value: a second
handler beside it fails every time).
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from benchmarks.waiting import schedule
from benchmarks.waiting.marks import Marks
from workers import Handlers, Message

handlers = Handlers()

_marks = Marks(Path(os.environ["BENCH_MARKS"]))


async def wait(event: Message) -> None:
    number, seconds = schedule.told(event.raw)
    _marks.began(number)
    await asyncio.sleep(seconds)
    _marks.ended(number)


def block(event: Message) -> None:
    number, seconds = schedule.told(event.raw)
    _marks.began(number)
    time.sleep(seconds)
    _marks.ended(number)


def fail(event: Message) -> None:
    raise RuntimeError("as it always does")


if os.environ["BENCH_FORM"] == "async":
    handlers.message()(wait)
else:
    handlers.message()(block)
if "BENCH_FAILING" in os.environ:
    handlers.message()(fail)

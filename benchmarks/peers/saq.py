"""SAQ, with orjson, no timeout and no results.

FIGURES
Its sweeper runs when the worker starts and may complain on standard error of a job that was just taken.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import uvloop
from saq import Queue, Worker

from benchmarks.peers import common

queue = Queue.from_url(common.REDIS_URL, dump=orjson.dumps, load=orjson.loads)


async def notification(context: dict[str, Any], *, body: str) -> None:
    common.counted(body)


async def load() -> None:
    await queue.connect()
    for chunk in common.chunks(100):
        await asyncio.gather(*(queue.enqueue("notification", body=body.decode(), timeout=0, ttl=-1) for body in chunk))
    await queue.disconnect()


async def work() -> None:
    await queue.connect()
    worker = Worker(queue, [notification], concurrency=5, burst=True, max_burst_jobs=common.COUNT, dequeue_timeout=1)
    await worker.start()
    await queue.disconnect()


if __name__ == "__main__":
    common.run(load=lambda: uvloop.run(load()), work=lambda: uvloop.run(work()))

"""SAQ, with orjson, no timeout and no results.

Measured: drains 1,150 to 1,650/s with a concurrency of 20, 1,050 to 1,550/s of 1 or 5, 1,200/s of 10, 1,050 to 1,350/s
of 50: the noise is nearly as large as the difference.
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
    worker = Worker(queue, [notification], concurrency=20, burst=True, max_burst_jobs=common.COUNT, dequeue_timeout=1)
    await worker.start()
    await queue.disconnect()


if __name__ == "__main__":
    common.run(load=lambda: uvloop.run(load()), work=lambda: uvloop.run(work()))

"""streaQ with what it comes with, but 100 at a time instead of 16.

Measured: a prefetch of 400, uvloop and no results gained nothing outside the noise.
"""

from __future__ import annotations

import asyncio

from streaq import Worker

from benchmarks.peers.waiting import common

worker = Worker(redis_url=common.REDIS_URL, concurrency=100)


@worker.task(name="notification", silent=True)
async def notification(body: str) -> None:
    await common.wait(body)


async def enqueue(body: str) -> None:
    await notification.enqueue(body)


async def main() -> None:
    async with worker:
        await common.post_async(enqueue)


if __name__ == "__main__":
    asyncio.run(main())

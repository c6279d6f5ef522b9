"""SAQ with what it comes with, but 100 at a time instead of 10."""

from __future__ import annotations

import asyncio
from typing import Any

from saq import Queue

from benchmarks.peers.waiting import common

queue = Queue.from_url(common.REDIS_URL)


async def notification(context: dict[str, Any], *, body: str) -> None:
    await common.wait(body)


settings = {"queue": queue, "functions": [notification], "concurrency": 100}


async def main() -> None:
    await queue.connect()
    await common.post_async(lambda body: queue.enqueue("notification", body=body))
    await queue.disconnect()


if __name__ == "__main__":
    asyncio.run(main())

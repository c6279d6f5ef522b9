"""Taskiq with RedisStreamBroker, the broker of its guide, which acknowledges what was done."""

from __future__ import annotations

import asyncio

from taskiq_redis import RedisStreamBroker

from benchmarks.peers.waiting import common

broker = RedisStreamBroker(common.REDIS_URL)


@broker.task("notification")
async def notification(body: str) -> None:
    await common.wait(body)


async def main() -> None:
    await broker.startup()
    await common.post_async(notification.kiq)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())

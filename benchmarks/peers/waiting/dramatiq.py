"""Dramatiq as its guide starts it: the middleware and prefetch that it comes with, threads in one process."""

from __future__ import annotations

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.peers.waiting import common

broker = RedisBroker(url=common.REDIS_URL)
dramatiq.set_broker(broker)


@dramatiq.actor
def notification(body: str) -> None:
    common.block(body)


if __name__ == "__main__":
    common.post(notification.send)

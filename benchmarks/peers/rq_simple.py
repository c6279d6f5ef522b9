"""RQ with its SimpleWorker, which runs the jobs in its own process, and a plain `enqueue` for each request.

Measured: accepts 1,500 to 1,700/s, drains 240 to 260/s. Without a job timeout a job is some 5 % cheaper; sparing RQ its
description of the call gained nothing. Pickle, its default serializer, takes the body as bytes.
"""

from __future__ import annotations

from redis import Redis
from rq import Queue, SimpleWorker

from benchmarks.peers import common

redis = Redis.from_url(common.REDIS_URL)
queue = Queue(connection=redis, default_timeout=-1)


async def accept(body: bytes) -> None:
    queue.enqueue(common.notification, body, result_ttl=0)


def load() -> None:
    for chunk in common.chunks(1000):
        queue.enqueue_many([Queue.prepare_data(common.notification, (body,), result_ttl=0) for body in chunk])


def work() -> None:
    SimpleWorker([queue], connection=redis).work(burst=True, logging_level="ERROR")


if __name__ == "__main__":
    common.run(serve=lambda: common.serve_aiohttp(accept), load=load, work=work)

"""RQ with its default Worker, which forks for each job.

Measured: drains 40 to 44/s, 20 ms of processor time for each job.
"""

from __future__ import annotations

from redis import Redis
from rq import Queue, Worker

from benchmarks.peers import common

redis = Redis.from_url(common.REDIS_URL)
queue = Queue(connection=redis, default_timeout=-1)


def load() -> None:
    for chunk in common.chunks(1000):
        queue.enqueue_many([Queue.prepare_data(common.notification_in_fork, (body,), result_ttl=0) for body in chunk])


def work() -> None:
    Worker([queue], connection=redis).work(burst=True, logging_level="ERROR")


if __name__ == "__main__":
    common.run(load=load, work=work)

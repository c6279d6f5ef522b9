"""No queue library: a list in Redis, taken 100 at a time and lost if the taker dies. The upper limit.

Measured: 342,000 notifications/s.
"""

from __future__ import annotations

from redis import Redis

from benchmarks.peers import common


def load() -> None:
    redis = Redis.from_url(common.REDIS_URL)
    for chunk in common.chunks(1000):
        pipeline = redis.pipeline(transaction=False)
        for body in chunk:
            pipeline.rpush("notifications", body)
        pipeline.execute()


def work() -> None:
    redis = Redis.from_url(common.REDIS_URL)
    while True:
        for body in redis.lpop("notifications", 100) or ():
            if common.counted(body):
                return


if __name__ == "__main__":
    common.run(load=load, work=work)

"""Dramatiq, without middleware and with orjson as its encoder.

Measured, accepts: 2,100 to 2,800/s when `async def` calls `send` (with the JSON encoder it comes with; with orjson only
seen while others used the machine, 1,600 to 1,750/s), 1,800/s from the thread pool or a `def` endpoint.
Drains with 8 threads: 5,100 to 9,800/s with a prefetch of 1,000, 3,400 to 5,600/s of 200, 2,100/s of 16 (the
default, which sleeps in between). With 1,000: 4,800 to 6,400/s with 1 thread; 6,700 to 7,300/s with 8 and the JSON
encoder it comes with.
"""

from __future__ import annotations

from threading import Event
from typing import Any

import dramatiq
import orjson
from dramatiq.brokers.redis import RedisBroker
from fastapi import FastAPI, Request, Response

from benchmarks.peers import common


class OrjsonEncoder(dramatiq.Encoder):
    def encode(self, data: dict[str, Any]) -> bytes:
        return orjson.dumps(data)

    def decode(self, data: bytes) -> dict[str, Any]:
        return orjson.loads(data)


broker = RedisBroker(url=common.REDIS_URL, middleware=[])
dramatiq.set_broker(broker)
dramatiq.set_encoder(OrjsonEncoder())
done = Event()


@dramatiq.actor
def notification(body: str) -> None:
    if common.counted(body):
        done.set()


def serve() -> None:
    app = FastAPI()

    @app.post("/webhook")
    async def webhook(request: Request) -> Response:
        notification.send((await request.body()).decode())
        return Response()

    common.serve_uvicorn(app)


def load() -> None:
    for body in common.bodies():
        notification.send(body.decode())


def work() -> None:
    worker = dramatiq.Worker(broker, worker_threads=8)
    worker.queue_prefetch = 1000  # what dramatiq_queue_prefetch in the environment sets
    worker.start()
    done.wait()
    worker.stop()


if __name__ == "__main__":
    common.run(serve=serve, load=load, work=work)

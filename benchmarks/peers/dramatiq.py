"""Dramatiq, without middleware and with orjson as its encoder.

FIGURES
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

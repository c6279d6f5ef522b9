"""Taskiq, with ListQueueBroker and orjson as its serializer.

Measured, accepts: 1,300 to 1,550/s, whatever the serializer and the broker; orjson, msgpack and pydantic's JSON
cost the same.
Drains: 1,900 to 2,750/s; RedisStreamBroker 2,000 to 2,700/s, but it never trims its stream and is slow to end. More
or fewer tasks at a time than 100, prefetching and unchecked parameters gained nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop
from fastapi import FastAPI, Request, Response
from taskiq.api import run_receiver_task
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import ListQueueBroker

from benchmarks.peers import common

broker = ListQueueBroker(common.REDIS_URL).with_serializer(ORJSONSerializer())
done = asyncio.Event()


@broker.task("notification")
async def notification(body: str) -> None:
    if common.counted(body):
        done.set()


@asynccontextmanager
async def started(_: FastAPI | None = None) -> AsyncIterator[None]:
    await broker.startup()
    yield
    await broker.shutdown()


def serve() -> None:
    app = FastAPI(lifespan=started)

    @app.post("/webhook")
    async def webhook(request: Request) -> Response:
        await notification.kiq((await request.body()).decode())
        return Response()

    common.serve_uvicorn(app)


async def load() -> None:
    async with started():
        for chunk in common.chunks(100):
            await asyncio.gather(*(notification.kiq(body.decode()) for body in chunk))


async def work() -> None:
    async with started():
        worker = asyncio.create_task(run_receiver_task(broker, max_async_tasks=100))
        await done.wait()
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


if __name__ == "__main__":
    common.run(serve=serve, load=lambda: uvloop.run(load()), work=lambda: uvloop.run(work()))

"""Celery, with its default delivery: tasks that a worker has taken go back when it dies (`ack_emulation`).

Measured, accepts: 880/s when `async def` calls `delay`, 740/s with it in the thread pool, 700/s from a `def`
endpoint. msgpack, task_publish_retry off and protocol 1 changed nothing outside the noise.
Drains: 840 to 1,000/s solo, 630/s prefork with 1 process, 620/s with 1 or 4 threads; prefetching changes nothing
with solo. Without `ack_emulation` solo drains 3,100/s, but then what a dying worker has taken is gone.
"""

from __future__ import annotations

import os
import signal

from celery import Celery
from fastapi import FastAPI, Request, Response

from benchmarks.peers import common

app = Celery(broker=common.REDIS_URL)
app.conf.update(
    task_ignore_result=True,
    broker_transport_options={"priority_steps": [0]},  # one list to look at instead of four
    worker_enable_remote_control=False,
    worker_prefetch_multiplier=0,
)


@app.task(name="notification")
def notification(body: str) -> None:
    if common.counted(body):
        os.kill(os.getpid(), signal.SIGTERM)


def serve() -> None:
    api = FastAPI()

    @api.post("/webhook")
    async def webhook(request: Request) -> Response:
        notification.delay((await request.body()).decode())
        return Response()

    common.serve_uvicorn(api)


def load() -> None:
    with app.producer_pool.acquire() as producer:
        for body in common.bodies():
            notification.apply_async((body.decode(),), producer=producer)


def work() -> None:
    silent = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR"]
    app.worker_main(["--quiet", "worker", "--pool", "solo", *silent])


if __name__ == "__main__":
    common.run(serve=serve, load=load, work=work)

"""Celery with what it comes with, but no results: its guide says to ignore those that nobody reads."""

from __future__ import annotations

from celery import Celery

from benchmarks.peers.waiting import common

app = Celery(broker=common.REDIS_URL)
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)


@app.task(name="notification")
def notification(body: str) -> None:
    common.block(body)


if __name__ == "__main__":
    with app.producer_pool.acquire() as producer:
        common.post(lambda body: notification.apply_async((body,), producer=producer))

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from rq.exceptions import DequeueTimeout

from ingest.settings import load
from ingest.store import keys
from ingest.store.pipelined import PipelinedConnection
from workers.engine.flow import Flow
from workers.engine.queue import BatchQueue, names_of, open_queues
from workers.handlers import Handlers


def _dequeue(redis: Redis, timeout: int | None, worker: str = "w1") -> Any:
    settings = load()
    names = names_of(redis, settings)
    handlers = Handlers()
    handlers.status()(print)
    flow = Flow(PipelinedConnection(redis), worker, handlers, settings, names, lambda: False)
    try:
        return BatchQueue.dequeue_any(open_queues(redis, names, flow), timeout, redis)
    finally:
        flow.close()


def test_gives_rq_a_job_and_its_queue(redis: Redis, commit: Callable[..., None], status: Callable[..., bytes]) -> None:
    """RQ's worker gets the job of the batch, ready to be performed, and the queue it came from."""
    commit(status())
    job, queue = _dequeue(redis, None)
    assert queue.name == "statuses"
    assert job.func_name == "workers.engine.batch.run"
    assert job.args == ["statuses", job.id]
    assert job.get_status().value == "queued"


def test_burst_does_not_wait(redis: Redis) -> None:
    """Without a time-out (burst) an empty queue answers None at once."""
    assert _dequeue(redis, None) is None


def test_times_out_as_rq_expects(redis: Redis) -> None:
    """With a time-out an empty queue raises DequeueTimeout after it."""
    began = time.monotonic()
    with pytest.raises(DequeueTimeout):
        _dequeue(redis, 1)
    assert 0.9 < time.monotonic() - began < 15


def test_woken_by_the_doorbell(redis: Redis, commit: Callable[..., None], status: Callable[..., bytes]) -> None:
    """An idle worker is woken by a commit, not by the end of its wait."""
    found: list[float] = []

    def wait() -> None:
        with Redis.from_url(load().redis_url.get_secret_value()) as own:  # type: ignore[union-attr]
            _dequeue(own, 60)
        found.append(time.monotonic())

    waiting = threading.Thread(target=wait)
    waiting.start()
    while not any(client["cmd"] == "blpop" for client in redis.client_list()):  # type: ignore[union-attr]
        time.sleep(0.01)
    committed = time.monotonic()
    commit(status())
    waiting.join(30)
    assert found[0] - committed < 2.5  # a wait ends by itself only after 5 s


def test_every_idle_worker_gets_its_batch(
    redis: Redis, commit: Callable[..., None], status: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One ring wakes as many idle workers as there is work for: each takes what it can begin, and passes it on."""
    monkeypatch.setenv("WA_THREADS", "1")
    found: list[str] = []

    def wait(n: int) -> None:
        with Redis.from_url(load().redis_url.get_secret_value()) as own:  # type: ignore[union-attr]
            job, _ = _dequeue(own, 60, f"w{n}")
        found.append(job.id)

    threads = [threading.Thread(target=wait, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    while sum(client["cmd"] == "blpop" for client in redis.client_list()) < 5:  # type: ignore[union-attr]
        time.sleep(0.01)
    began = time.monotonic()
    commit(*[status(str(n)) for n in range(5)], batch=1)
    for thread in threads:
        thread.join(30)
    assert len(set(found)) == 5
    assert time.monotonic() - began < 2.5


def test_wakes_when_a_retry_is_due(
    redis: Redis, commit: Callable[..., None], take: Callable[..., Any], status: Callable[..., bytes]
) -> None:
    """An idle worker waits until the next retry is due, not longer and not in small steps."""
    commit(status())
    queue, batch = take("w0")
    redis.hdel(keys.TAKEN, f"{queue}|{batch}")
    seconds, micros = redis.time()
    redis.zadd(keys.scheduled_key(queue), {batch: seconds + micros / 1e6 + 0.5})
    redis.config_resetstat()
    began = time.monotonic()
    job, _ = _dequeue(redis, 60)
    assert job.id == batch
    assert 0.4 < time.monotonic() - began < 4
    commands: Any = redis.info("commandstats")
    assert commands["cmdstat_evalsha"]["calls"] <= 5


def test_left_over_partitions_are_served(
    redis: Redis, commit: Callable[..., None], message: Callable[..., bytes]
) -> None:
    """After WA_PARTITIONS was lowered, what waits in the higher ones is still taken."""
    commit(*[message(str(n), sender=str(n)) for n in range(200)], partitions=16)
    names = names_of(redis, load(partitions=8))
    assert set(names) == {f"messages.{n}" for n in range(16)} | {"statuses", "other"}
    assert names[-2:] == ["statuses", "other"]


def test_lanes_of_a_worker(redis: Redis) -> None:
    """A worker of some lanes has only their queues, the most urgent first, whatever the order asked for."""
    names = names_of(redis, load(lanes="other,messages", partitions=2))
    assert names == ["messages.0", "messages.1", "other"]


def test_a_partition_that_comes_later(redis: Redis, commit: Callable[..., None], message: Callable[..., bytes]) -> None:
    """A partition that was not there at the start is taken from as soon as the flow knows of it, and has a queue of
    RQ's; one that is known already, or told of twice, is taken from once."""
    names, handlers = ["messages.0"], Handlers()
    handlers.message()(print)
    flow = Flow(PipelinedConnection(redis), "w1", handlers, load(), names, lambda: False)
    try:
        commit(*[message(str(n), sender=str(n)) for n in range(50)], partitions=2)
        queues = open_queues(redis, names, flow)
        taken = [BatchQueue.dequeue_any(queues, None, redis)]
        flow.take_from(["messages.0", "messages.1", "messages.1"])
        taken.append(BatchQueue.dequeue_any(queues, 60, redis))
        assert [queue.name for _, queue in taken] == ["messages.0", "messages.1"]  # type: ignore[misc]
        assert flow._taking._queues == {"messages": ["messages.0", "messages.1"]}
    finally:
        flow.close()
    flow.take_from(["messages.2"])  # its loop is closed: nobody asks any more

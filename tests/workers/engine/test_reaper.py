from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from ingest.store import keys
from workers.engine import reaper


@pytest.fixture
def forget(redis: Redis) -> Callable[..., None]:
    """Let a worker's last sign of life be long ago, and the reaper's pause be over."""

    def run(*workers: str) -> None:
        for worker in workers:
            redis.zadd(keys.ALIVE, {worker: 1})
        redis.zadd(keys.ALIVE, {"bystander": int(redis.time()[0]) * 1000})  # type: ignore[index]
        redis.delete(keys.REAPER)

    return run


def test_a_dead_workers_batch_goes_back_to_the_front(
    take: Callable[..., Any],
    commit: Callable[..., None],
    message: Callable[..., bytes],
    redis: Redis,
    forget: Callable[..., None],
) -> None:
    """What a dead worker held is first in its queue again, free of mark and lease."""
    reaper.heartbeat_and_reap(redis, "dying")
    commit(message("m1"))
    queue, batch = take("dying")
    commit(message("m2"))
    forget("dying")
    assert reaper.heartbeat_and_reap(redis, "other") == [f"{queue}|{batch}"]
    assert take("other") == (queue, batch)


def test_a_live_workers_batch_stays(
    take: Callable[..., Any],
    commit: Callable[..., None],
    status: Callable[..., bytes],
    redis: Redis,
    forget: Callable[..., None],
) -> None:
    """A worker that gives signs of life keeps its batch."""
    reaper.heartbeat_and_reap(redis, "w1")
    commit(status())
    take("w1")
    forget()
    assert reaper.heartbeat_and_reap(redis, "w2") == []
    assert redis.hlen(keys.TAKEN) == 1


def test_a_worker_that_never_lived_is_dead(
    take: Callable[..., Any], commit: Callable[..., None], status: Callable[..., bytes], redis: Redis
) -> None:
    """A mark of a worker without any sign of life (Redis lost it) does not hold a batch."""
    commit(status())
    taken = take("unknown")
    assert reaper.heartbeat_and_reap(redis, "w2") == ["|".join(taken)]


@pytest.mark.parametrize("lost", ["popped", "queue", "job and queue", "scheduled"])
def test_what_rq_lost_comes_back(
    lost: str,
    take: Callable[..., Any],
    commit: Callable[..., None],
    status: Callable[..., bytes],
    redis: Redis,
    forget: Callable[..., None],
) -> None:
    """What the ledger holds that is neither queued, scheduled nor taken goes back, the oldest first."""
    commit(status("a"), received_ms=1000)
    first = take("w1")
    redis.hdel(keys.TAKEN, "|".join(first))
    commit(status("b"), received_ms=2000)
    queue = keys.queue_key("statuses")
    if lost == "popped":
        redis.lpop(queue)
    elif lost == "scheduled":
        redis.zadd(keys.scheduled_key("statuses"), {first[1]: 1})
        redis.delete(queue, keys.scheduled_key("statuses"))
    else:
        redis.delete(queue, keys.RQ_QUEUES)
        if lost == "job and queue":
            redis.delete(*redis.keys(f"{keys.RQ}:job:*"))  # type: ignore[misc]
    assert len(reaper.heartbeat_and_reap(redis, "w2")) == 2
    assert take("w2") == first
    assert take("w2")[0] == "statuses"


def test_scheduled_work_stays_scheduled(
    take: Callable[..., Any], commit: Callable[..., None], status: Callable[..., bytes], redis: Redis
) -> None:
    """A retry batch that waits for its time is left alone."""
    commit(status())
    queue, batch = take("w1")
    redis.hdel(keys.TAKEN, f"{queue}|{batch}")
    redis.zadd(keys.scheduled_key(queue), {batch: 1 << 40})
    assert reaper.heartbeat_and_reap(redis, "w2") == []


def test_one_reaper_at_a_time(
    take: Callable[..., Any], commit: Callable[..., None], status: Callable[..., bytes], redis: Redis
) -> None:
    """Of all workers one looks for dead ones, and not again until three seconds later; each shows that it lives."""
    reaper.heartbeat_and_reap(redis, "w1")
    commit(status())
    take("unknown")
    assert reaper.heartbeat_and_reap(redis, "w2") == []
    assert redis.zcard(keys.ALIVE) == 2


def test_leaving_gives_back_at_once(
    take: Callable[..., Any],
    commit: Callable[..., None],
    status: Callable[..., bytes],
    redis: Redis,
) -> None:
    """A worker that leaves gives its batch back itself, without waiting for the reaper's turn."""
    reaper.heartbeat_and_reap(redis, "w1")
    commit(status())
    taken = take("w1")
    assert reaper.heartbeat_and_reap(redis, "w1", leaves=True) == ["|".join(taken)]
    assert redis.zscore(keys.ALIVE, "w1") is None
    assert redis.llen(keys.doorbell_key("statuses")) == 1
    assert take("w2") == taken


def test_after_redis_was_away_nobody_is_judged(
    take: Callable[..., Any], commit: Callable[..., None], status: Callable[..., bytes], redis: Redis
) -> None:
    """When no worker gave a sign of life, it was Redis that was silent: the first beat after that buries nobody."""
    reaper.heartbeat_and_reap(redis, "w1")
    commit(status())
    taken = take("w1")
    redis.zadd(keys.ALIVE, {"w1": 1})
    redis.delete(keys.REAPER)
    assert reaper.heartbeat_and_reap(redis, "w2") == []
    redis.delete(keys.REAPER)
    assert reaper.heartbeat_and_reap(redis, "w2") == ["|".join(taken)]  # w1 had its time and is still silent


def test_what_a_supervisor_saw_end_goes_back_at_once(
    take: Callable[..., Any], commit: Callable[..., None], message: Callable[..., bytes], redis: Redis
) -> None:
    """What an ended worker held goes back without waiting for silence, and counts as a death; others keep theirs."""
    batches = {}
    for worker, contact in (("ended", "1"), ("silent", "2")):
        reaper.heartbeat_and_reap(redis, worker)
        commit(message(contact, sender=contact))
        batches[worker] = "|".join(take(worker))
    redis.zadd(keys.ALIVE, {"silent": 1})
    assert reaper.heartbeat_and_reap(redis, "next", ended="ended") == [batches["ended"]]
    assert redis.hgetall(keys.DEATHS) == {batches["ended"].encode(): b"1"}
    assert redis.hkeys(keys.TAKEN) == [batches["silent"].encode()]
    assert reaper.heartbeat_and_reap(redis, "next", ended="ended") == []

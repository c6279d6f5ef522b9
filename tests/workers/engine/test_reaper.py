from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from ingest.store import keys
from ingest.store.constants import APART, SEARCH_COST
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
    assert redis.lrange(keys.queue_key(queue), 0, -1).count(batch.encode()) == 1  # type: ignore[union-attr]
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
    assert redis.hkeys(keys.DEATHS) == [batches["ended"].encode()]
    assert redis.hkeys(keys.TAKEN) == [batches["silent"].encode()]
    assert reaper.heartbeat_and_reap(redis, "next", ended="ended") == []


def _dies(redis: Redis, worker: str) -> list[str]:
    """A worker ends, as its supervisor sees. Returns what went back."""
    reaper.heartbeat_and_reap(redis, worker)
    return reaper.heartbeat_and_reap(redis, "next", ended=worker)


def test_neighbours_are_tried_apart(
    take: Any, commit: Callable[..., None], status: Callable[..., bytes], redis: Redis
) -> None:
    """After the first death a batch is divided, in order, and its parts go on together; after the second each record
    is given alone."""
    commit(*[status(str(n)) for n in range(100)])
    reaper.heartbeat_and_reap(redis, "w1")
    queue, batch = take("w1")
    whole = redis.lrange(keys.batch_key(batch), 0, -1)

    def records(batch: str) -> list[bytes]:
        found: Any = redis.lrange(keys.batch_key(batch), 0, -1)
        return list(found)

    assert 1 < len(_dies(redis, "w1")) <= APART
    reaper.heartbeat_and_reap(redis, "w2")
    parts = take.many("w2")
    assert take.last[2] == 0
    assert [record for _, part in parts for record in records(part)] == whole
    assert len(_dies(redis, "w2")) == 100
    alone: list[bytes] = []
    while given := take.many("w3"):
        ((_, part),) = given
        assert take.last[2] == 1
        alone += records(part)
        redis.delete(keys.batch_key(part))
        redis.zrem(keys.LEDGER, f"{queue}|{part}")
        redis.delete(keys.TAKEN)
    assert alone == whole


@pytest.mark.parametrize("minutes", [1, 40])
def test_a_death_is_judged_in_time(
    minutes: int,
    take: Any,
    commit: Callable[..., None],
    status: Callable[..., bytes],
    redis: Redis,
    dead: Callable[[str], list[dict[str, str]]],
) -> None:
    """Three deaths within an hour make poison; a record whose workers die now and then is never given up."""
    commit(status("a"))
    for deaths in range(1, 6):
        reaper.heartbeat_and_reap(redis, "w1")
        if not (taken := take.many("w1")):
            break
        assert len(_dies(redis, "w1")) == (0 if minutes == 1 and deaths == 3 else 1), taken
        for member, times in redis.hgetall(keys.DEATHS).items():  # type: ignore[union-attr]
            earlier = b" ".join(b"%d" % (int(time) - minutes * 60_000) for time in times.split())
            redis.hset(keys.DEATHS, member, earlier)
    assert [letter["reason"] for letter in dead("statuses")] == ["poison"] * (minutes == 1)
    assert redis.zcard(keys.LEDGER) == (minutes != 1)


@pytest.fixture
def many(redis: Redis) -> list[bytes]:
    """20,000 batches that wait for their next try, as members of the ledger, the oldest first."""
    members = [f"messages.{n % 8}|r{n:016d}" for n in range(20_000)]
    with redis.pipeline(transaction=False) as pipe:
        for n, member in enumerate(members):
            queue, id = member.split("|")
            pipe.zadd(keys.LEDGER, {member: n})
            pipe.zadd(keys.scheduled_key(queue), {id: 1 << 40})
        pipe.execute()
    return [member.encode() for member in members]


def _reap(redis: Redis) -> list[str]:
    redis.delete(keys.REAPER)
    return reaper.heartbeat_and_reap(redis, "w1")


def test_no_call_walks_all_that_is_parked(many: list[bytes], redis: Redis) -> None:
    """One reaping looks at a part of what waits, whose size does not depend on how much that is."""
    _reap(redis)
    for _ in range(3):
        redis.config_resetstat()
        _reap(redis)
        stats: Any = redis.info("commandstats")
        assert 0 < sum(stats[f"cmdstat_{name}"]["calls"] for name in ("zscore", "zrange")) <= SEARCH_COST + 100


def test_what_was_lost_is_found_wherever_it_is(many: list[bytes], redis: Redis) -> None:
    """The search goes on where the last one ended, past what was settled meanwhile, and comes round to the oldest."""
    lost = [many[0], *many[8_000:10_000], many[-1]]
    for member in lost:
        queue, id = member.decode().split("|")
        redis.zrem(keys.scheduled_key(queue), id)
    found = _reap(redis)
    while place := redis.get(keys.REAPED):
        redis.zrem(keys.LEDGER, place.split()[1])  # type: ignore[union-attr]
        found += _reap(redis)
    assert found == [member.decode() for member in reversed(lost)]


def test_a_long_queue_is_searched(many: list[bytes], redis: Redis) -> None:
    """What waits in a queue of thousands is not taken for lost, and what is missing there is found."""
    for n in range(8):
        redis.delete(keys.scheduled_key(f"messages.{n}"))
    ids = [member.decode().split("|")[1] for member in many if member.startswith(b"messages.0")]
    redis.rpush(keys.queue_key("messages.0"), *(id for id in ids if id != ids[-2]))
    for member in many:
        if not member.startswith(b"messages.0"):
            redis.zrem(keys.LEDGER, member)
    found = _reap(redis)
    while redis.exists(keys.REAPED):
        found += _reap(redis)
    assert found == [f"messages.0|{ids[-2]}"]

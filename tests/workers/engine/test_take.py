"""take.lua against a real Valkey."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from ingest.routing import partition_of
from ingest.state import controls
from ingest.store import keys


def test_nothing_to_take(take: Callable[..., Any], redis_url: str) -> None:
    """An empty Redis answers that no retry is due."""
    assert take() == -1


def test_pop_mark_and_lease_together(
    take: Callable[..., Any], commit: Callable[..., None], message: Callable[..., bytes], redis: Redis
) -> None:
    """What is taken is off the queue, marked with its worker, holds its partition, and can no longer be joined."""
    commit(message())
    queue, batch = take("w1")
    assert queue == f"messages.{partition_of('15550001', 8)}"
    assert redis.llen(keys.queue_key(queue)) == 0
    assert redis.hgetall(keys.TAKEN) == {f"{queue}|{batch}".encode(): b"w1#1"}
    assert redis.hgetall(keys.LEASES) == {queue.encode(): batch.encode()}
    commit(message("m2"))
    assert redis.llen(keys.batch_key(batch)) == 1
    assert redis.llen(keys.queue_key(queue)) == 1


def test_a_leased_partition_waits(
    take: Callable[..., Any], commit: Callable[..., None], message: Callable[..., bytes], status: Callable[..., bytes]
) -> None:
    """While one worker has a batch of a partition, no other batch of it is given out; other queues are."""
    commit(message("m1"))
    first = take("w1")
    commit(message("m2"), message("m3", sender="15550009"), status())
    others = {take("w2")[0], take("w3")[0]}
    assert first[0] not in others
    assert "statuses" in others
    assert take("w4") == -1


def test_statuses_are_not_leased(
    take: Callable[..., Any], commit: Callable[..., None], status: Callable[..., bytes]
) -> None:
    """Any number of workers may have batches of statuses."""
    commit(status("a"))
    assert take("w1")[0] == "statuses"
    commit(status("b"))
    assert take("w2")[0] == "statuses"


def test_urgent_first_and_a_tenth_for_the_others(
    take: Callable[..., Any],
    commit: Callable[..., None],
    message: Callable[..., bytes],
    status: Callable[..., bytes],
    redis: Redis,
) -> None:
    """With all lanes full, messages come first, and each lower lane keeps a tenth of the work, by its cost."""
    for n in range(60):
        commit(message(str(n), sender=str(n)), status(str(n)), b"{}", batch=1)
    cost = {"messages": 100, "statuses": 300, "other": 50}
    spent: Counter[str] = Counter()
    partitions = set()
    for n in range(60):
        queue, _ = take(f"w{n}")
        lane = queue.partition(".")[0]
        redis.hdel(keys.LEASES, queue)
        redis.hincrby(keys.SPENT, lane, cost[lane])
        spent[lane] += cost[lane]
        partitions.add(queue)
    assert 0.08 * spent.total() < spent["statuses"] < 0.2 * spent.total()
    assert 0.08 * spent.total() < spent["other"] < 0.2 * spent.total()
    assert len(partitions) == 10


def test_a_lane_that_waits_gets_one_try(
    take: Callable[..., Any], commit: Callable[..., None], status: Callable[..., bytes], redis: Redis
) -> None:
    """While a lane waits nothing of it is given out; then one batch, and no other until that one is settled."""
    commit(status("a"), status("b"), batch=1)
    now_ms = int(redis.time()[0]) * 1000  # type: ignore[index]
    redis.hset(keys.WAITS, "statuses", now_ms + 60_000)
    assert 50_000 < take("w1") <= 61_000
    redis.hset(keys.WAITS, "statuses", now_ms - 1)
    assert take("w1")[0] == "statuses"
    assert 50_000 < take("w2") <= 61_000


def test_only_the_lanes_asked_for(
    take: Callable[..., Any], commit: Callable[..., None], message: Callable[..., bytes], status: Callable[..., bytes]
) -> None:
    """A worker of some lanes takes nothing of the others."""
    commit(message(), status())
    assert take("w1", "statuses")[0] == "statuses"
    assert take("w2", "statuses") == -1


def test_a_worker_has_one_batch(
    take: Callable[..., Any], commit: Callable[..., None], message: Callable[..., bytes], redis: Redis
) -> None:
    """A worker that asks again, because the answer to its take was lost, gets the batch that it was given."""
    commit(message("m1"), message("m2", sender="15550009"))
    first = take("w1")
    assert take("w1") == first
    assert redis.hgetall(keys.TAKEN) == {"|".join(first).encode(): b"w1#2"}
    assert redis.hgetall(keys.LEASES) == {first[0].encode(): first[1].encode()}
    assert take("w2") != first


def test_suspended(
    take: Callable[..., Any], commit: Callable[..., None], status: Callable[..., bytes], redis: Redis
) -> None:
    """`rq suspend` stops giving work out, `rq resume` starts it again."""
    from rq.suspension import resume, suspend

    commit(status())
    suspend(redis)
    assert take() == -1
    resume(redis)
    assert take()[0] == "statuses"


def test_what_stands_twice_is_given_once(
    take: Callable[..., Any], commit: Callable[..., None], status: Callable[..., bytes], redis: Redis
) -> None:
    """A batch id that stands in the queue twice is not given to a second worker while the first works on it."""
    commit(status())
    redis.rpush(keys.queue_key("statuses"), redis.lindex(keys.queue_key("statuses"), 0))  # type: ignore[arg-type]
    assert take("w1")[0] == "statuses"
    assert take("w2") == -1


def test_what_is_settled_is_dropped(take: Callable[..., Any], redis: Redis) -> None:
    """An id that the ledger does not know is removed from the queue, with its job."""
    redis.rpush(keys.queue_key("statuses"), "ghost")
    redis.hset(f"{keys.RQ}:job:ghost", "status", "queued")
    assert take() == -1
    assert redis.keys("*ghost*") == []
    assert redis.llen(keys.queue_key("statuses")) == 0


def test_a_lost_job_is_written_again(
    take: Callable[..., Any], commit: Callable[..., None], status: Callable[..., bytes], redis: Redis
) -> None:
    """RQ may lose the job of a batch: taking writes it again, as it was."""
    commit(status())
    (key,) = redis.keys(f"{keys.RQ}:job:*")  # type: ignore[misc]
    before = Job.fetch(key.decode().rpartition(":")[2], redis, JSONSerializer)
    redis.delete(key)
    _, batch = take()
    after = Job.fetch(batch, redis, JSONSerializer)
    assert (after.func_name, after.args, after.timeout) == (before.func_name, before.args, -1)
    assert after.args == ["statuses", batch]


def test_due_retries_go_first(
    take: Callable[..., Any], commit: Callable[..., None], status: Callable[..., bytes], redis: Redis
) -> None:
    """A retry batch whose time has come is taken before what waits; one whose time has not says when it will."""
    commit(status("old"))
    queue, batch = take("w0")
    key = keys.scheduled_key(queue)
    redis.hdel(keys.TAKEN, f"{queue}|{batch}")
    commit(status("new"))
    now = int(redis.time()[0])  # type: ignore[index]
    redis.zadd(key, {batch: now - 1})
    assert take("w1") == (queue, batch)
    assert take("w2")[0] == "statuses"
    redis.hdel(keys.TAKEN, f"{queue}|{batch}")
    redis.zadd(key, {batch: now + 100})
    assert 90_000 < take("w3") <= 101_000


def test_the_doorbell_is_rung_while_there_is_more(
    take: Callable[..., Any], commit: Callable[..., None], status: Callable[..., bytes], redis: Redis
) -> None:
    """Taking leaves the doorbell rung as long as another worker could take something of that lane, and only then."""
    commit(status("a"), status("b"), batch=1)
    bell = keys.doorbell_key("statuses")
    assert redis.llen(bell) == 1
    redis.delete(bell)
    take("w1")
    assert redis.llen(bell) == 1
    take("w2")
    assert redis.llen(bell) == 0


def test_works_when_redis_is_full(
    take: Callable[..., Any], commit: Callable[..., None], status: Callable[..., bytes], redis: Redis
) -> None:
    """A Redis at its maxmemory still gives work out: that is what makes room."""
    commit(status())
    redis.config_set("maxmemory", 1)
    assert take()[0] == "statuses"


def test_a_paused_lane_gives_out_nothing(
    take: Callable[..., Any],
    commit: Callable[..., None],
    message: Callable[..., bytes],
    status: Callable[..., bytes],
    redis: Redis,
) -> None:
    """Nothing of a paused lane is given out, nobody is told when it may be, and other lanes go on."""
    commit(message(), status())
    commit(status("retry"), batch=1)
    controls.pause(redis, ["statuses"])
    assert take("w1")[0].startswith("messages")
    assert take("w2") == -1
    controls.resume(redis, ["statuses"])
    assert redis.llen(keys.doorbell_key("statuses")) == 1
    assert take("w2")[0] == "statuses"


def test_retries_of_a_paused_lane_wait(
    take: Callable[..., Any], commit: Callable[..., None], status: Callable[..., bytes], redis: Redis
) -> None:
    """They become due and wait at the front of their queue; until then no worker wakes for them."""
    commit(status())
    queue, batch = take("w0")
    redis.hdel(keys.TAKEN, f"{queue}|{batch}")
    now = int(redis.time()[0])  # type: ignore[index]
    controls.pause(redis, ["statuses"])
    redis.zadd(keys.scheduled_key(queue), {batch: now + 100})
    assert take() == -1
    redis.zadd(keys.scheduled_key(queue), {batch: now - 1})
    assert take() == -1
    assert redis.zcard(keys.scheduled_key(queue)) == 0
    controls.resume(redis, ["statuses"])
    assert take() == (queue, batch)


def test_what_a_worker_does_not_know_of_goes_back_when_the_lane_is_paused(
    take: Callable[..., Any], commit: Callable[..., None], message: Callable[..., bytes], redis: Redis
) -> None:
    """A batch whose answer was lost is not given again while its lane is paused, nor kept from others after that."""
    commit(message("m1"), message("m2"), batch=1)
    first = take("w1")
    controls.pause(redis, ["messages"])
    assert take("w1") == -1
    assert not redis.exists(keys.TAKEN, keys.LEASES)
    controls.resume(redis, ["messages"])
    assert take("w2") == first


def test_a_capped_lane_gives_out_what_there_are_tokens_for(
    take: Callable[..., Any], commit: Callable[..., None], status: Callable[..., bytes], redis: Redis
) -> None:
    """A batch comes with as many tokens as it has records, a quarter of a second's at most; then one has to wait."""
    commit(*[status(str(n)) for n in range(60)], batch=30)
    controls.limit(redis, "statuses", 0.02)
    assert take("w1")[0] == "statuses"
    assert 40_000 < take("w2") <= 50_000
    redis.delete(keys.CONTROLS)
    controls.limit(redis, "statuses", 80)
    redis.hdel(keys.TAKEN, *redis.hkeys(keys.TAKEN))  # type: ignore[arg-type]
    _, batch = take("w2")
    assert len(take.last[4]) == take.last[5] == 20  # type: ignore[attr-defined]
    assert redis.llen(keys.batch_key(batch)) == 30


def test_a_capped_lane_without_work_wakes_nobody(
    take: Callable[..., Any], commit: Callable[..., None], status: Callable[..., bytes], redis: Redis
) -> None:
    """A lane that is out of tokens counts as due only when there is something to take."""
    commit(status())
    controls.limit(redis, "statuses", 0.01)
    take("w1")
    assert take("w2") == -1
    commit(status("more"))
    assert 0 < take("w2") <= 100_000
    assert take("w3", "messages") == -1


def test_a_clock_that_was_set_back(
    take: Callable[..., Any], commit: Callable[..., None], status: Callable[..., bytes], redis: Redis
) -> None:
    """A bucket filled in the future fills from now on, not from then on."""
    commit(status("a"), status("b"), batch=1)
    controls.limit(redis, "statuses", 1000)
    redis.hset(keys.CONTROLS, mapping={"tokens.statuses": 249.5, "at.statuses": 1e11})
    assert take("w1")[0] == "statuses"
    assert float(redis.hget(keys.CONTROLS, "at.statuses") or 0) < 1e11  # type: ignore[arg-type]

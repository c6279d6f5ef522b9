"""take.lua against a real Valkey."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from ingest.routing import partition_of
from ingest.state import controls
from ingest.store import keys
from ingest.store.constants import FEW_OWED, LEAVE_MS
from workers import Handlers


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
    assert redis.hgetall(keys.LEASES) == {queue.encode(): b"w1|1"}
    commit(message("m2"))
    assert redis.llen(keys.batch_key(batch)) == 1
    assert redis.llen(keys.queue_key(queue)) == 1


def test_a_leased_partition_waits(
    take: Any, commit: Callable[..., None], message: Callable[..., bytes], status: Callable[..., bytes]
) -> None:
    """While a worker has batches of a partition, it alone is given more of it; other queues go to anybody."""
    commit(message("m1"))
    first = take("w1")
    commit(message("m2"), message("m3", sender="15550009"), status())
    others = {take("w2")[0], take("w3")[0]}
    assert first[0] not in others
    assert "statuses" in others
    assert take.many("w4") == []
    assert take("w1")[0] == first[0]


def test_a_lease_counts_its_batches(
    take: Any, commit: Callable[..., None], message: Callable[..., bytes], runner: Callable[..., Any], redis: Redis
) -> None:
    """The lease of a partition ends with the last of its batches that the worker has."""
    commit(message("m1"), message("m2"), message("m3"), batch=1)
    given = take.many("w1", "messages")
    queue = given[0][0].encode()
    assert redis.hgetall(keys.LEASES) == {queue: b"w1|3"}
    runner(Handlers()).run(given[0])
    assert redis.hgetall(keys.LEASES) == {queue: b"w1|2"}
    runner(Handlers()).run(*given[1:])
    assert not redis.exists(keys.LEASES, keys.TAKEN)


def test_what_is_more_than_there_is_room_for_is_divided(
    take: Any, commit: Callable[..., None], message: Callable[..., bytes], redis: Redis
) -> None:
    """A large batch is halved until a part fits: the worker gets the first records, the rest stays in order."""
    commit(*[message(f"m{n}") for n in range(100)])
    found: list[bytes] = []
    for room in (8, 8, 100, 100, 100):
        queue, batch = take("w1", "messages", room=room)
        records = take.last[4][0][3]
        assert len(records) <= 1.5 * room
        assert redis.llen(keys.batch_key(batch)) == len(records)
        found += records
    assert [b'"m%d"' % n in record for n, record in enumerate(found)] == [True] * 100
    assert redis.llen(keys.queue_key(queue)) == 0
    assert redis.zcard(keys.LEDGER) == redis.hlen(keys.TAKEN) == 5


def test_several_batches_in_one_call(
    take: Any, commit: Callable[..., None], message: Callable[..., bytes], status: Callable[..., bytes]
) -> None:
    """One call fills the room of every lane, the partitions of messages in turn."""
    for n in range(40):
        commit(message(f"m{n}", sender=str(n)), status(f"s{n}"), batch=1)
    given = take.many("w1", room=16)
    assert len([queue for queue, _ in given if queue == "statuses"]) == 16
    partitions = [queue for queue, _ in given if queue != "statuses"]
    assert len(partitions) == 16
    assert len(set(partitions[:8])) == 8
    assert take.last[3] == [b"messages", b"statuses"]


def test_a_worker_with_nothing_to_do_asks_for_a_part(
    take: Any, commit: Callable[..., None], message: Callable[..., bytes], redis: Redis
) -> None:
    """It looks again soon; the worker that has more than its part of the partitions learns how many are wanted."""
    for n in range(40):
        commit(message(f"m{n}", sender=str(n)), batch=1)
    take.many("w1", "messages", room=1000)
    assert redis.hlen(keys.LEASES) == 8
    redis.zadd(keys.ALIVE, {"w1": 1, "w2": 1})
    assert 0 < take("w2", "messages") <= 500
    take.many("w1", "messages")
    assert take.last[1] == 4
    assert not redis.exists(keys.WANTED)


def test_at_the_end_a_worker_without_messages_asks_one_that_has_two_more(
    take: Any, commit: Callable[..., None], message: Callable[..., bytes], redis: Redis
) -> None:
    """No worker has more than its part then; one that has a single partition is not asked, nor by one that has some."""
    for n in range(40):
        commit(message(f"m{n}", sender=str(n)), batch=1)
    take.many("w1", "messages", room=1000)
    held = [name.decode() for name in redis.hkeys(keys.LEASES)]
    redis.hdel(keys.LEASES, *held[2:])
    redis.zadd(keys.ALIVE, {"w1": 1, "w2": 1})
    redis.delete(*map(keys.queue_key, held))
    assert 0 < take("w2", "messages") <= 500
    assert redis.hgetall(keys.WANTED) == {b"w1": b"1"}
    redis.delete(keys.WANTED)
    redis.hset(keys.LEASES, held[0], "w2|1")
    assert take("w2", "messages") == -1
    assert not redis.exists(keys.WANTED)


def test_a_flood_that_begins_reaches_all_workers(
    take: Any, commit: Callable[..., None], message: Callable[..., bytes], redis: Redis
) -> None:
    """A call leases a worker's part of the partitions. It looks again soon, and may then have what others left."""
    redis.zadd(keys.ALIVE, {"w1": 1, "w2": 1, "w3": 1})
    for n in range(40):
        commit(message(f"m{n}", sender=str(n)), batch=1)
    first = take.many("w1", "messages", room=1000)
    assert len({queue for queue, _ in first}) == 3
    wait, _, _, more, _ = take.last
    assert 0 < wait <= LEAVE_MS
    assert more == []
    assert redis.exists(keys.doorbell_key("messages"))
    take.many("w1", "messages", room=1000)
    assert redis.hlen(keys.LEASES) == 6
    take.many("w1", "messages", room=1000)
    assert redis.hlen(keys.LEASES) == 8
    assert take.last[0] == -1


def test_a_ring_while_an_answer_is_under_way_counts(runner: Callable[..., Any]) -> None:
    """The answer may be from before the ring: the worker asks again, instead of listening for seconds."""
    taking = runner(Handlers(), "w1").flow._taking
    assert taking.send() is not None
    taking.took([-1, 0, 0, [], []])
    assert taking.send() is None
    taking.rung()
    assert taking.send() is not None
    taking.rung()
    taking.took([-1, 0, 0, [], []])
    assert taking.send() is not None


def test_a_batch_whose_workers_died_twice_is_given_alone(
    take: Any, commit: Callable[..., None], status: Callable[..., bytes], redis: Redis
) -> None:
    """Only a worker that holds nothing gets it, and nothing beside it: so the next death tells which batch kills. After
    one death it comes beside others: mostly the machine was at fault."""
    commit(status("a"), status("b"), batch=1)

    def given_back(deaths: str) -> tuple[str, str]:
        queue, batch = take("w1")
        redis.hdel(keys.TAKEN, f"{queue}|{batch}")
        redis.lpush(keys.queue_key(queue), batch)
        redis.hset(keys.DEATHS, f"{queue}|{batch}", deaths)
        return queue, batch

    suspect = given_back("1700000009000 1700000000000")
    assert take.many("w2", empty=False) == []
    assert take.last[2] == 1
    assert take.many("w2", empty=True) == [suspect]
    assert take.last[2] == 1
    once = given_back("1700000000000")
    commit(status("c"), batch=1)
    given = take.many("w2", empty=False)
    assert (given[0], len(given), take.last[2]) == (once, 2, 0)


def test_statuses_are_not_leased(
    take: Callable[..., Any], commit: Callable[..., None], status: Callable[..., bytes]
) -> None:
    """Any number of workers may have batches of statuses."""
    commit(status("a"))
    assert take("w1")[0] == "statuses"
    commit(status("b"))
    assert take("w2")[0] == "statuses"


def test_only_the_lanes_asked_for(
    take: Callable[..., Any], commit: Callable[..., None], message: Callable[..., bytes], status: Callable[..., bytes]
) -> None:
    """A worker of some lanes takes nothing of the others."""
    commit(message(), status())
    assert take("w1", "statuses")[0] == "statuses"
    assert take("w2", "statuses") == -1


def test_a_call_that_comes_twice(
    take: Any, commit: Callable[..., None], message: Callable[..., bytes], redis: Redis
) -> None:
    """A call that is sent again, because its answer was lost, gives what it gave; an older one gives nothing."""
    commit(message("m1"), message("m2", sender="15550009"))
    first = take("w1", "messages", number=7)
    before = redis.hgetall(keys.TAKEN), redis.hgetall(keys.LEASES)
    assert take("w1", "messages", number=7) == first
    assert take.many("w1", number=6) == []
    assert (redis.hgetall(keys.TAKEN), redis.hgetall(keys.LEASES)) == before
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


def test_few_batches_are_found_with_few_commands(
    take: Any, commit: Callable[..., None], message: Callable[..., bytes], redis: Redis
) -> None:
    """While few batches are owed, take asks for their queues alone: what one notification costs Redis does not
    grow with the number of partitions. When many are owed, each that waits is found, too.
    """

    def asked() -> int:
        return int(redis.info("commandstats").get("cmdstat_exists", {}).get("calls", 0))

    commit(message())
    before = asked()
    assert take("w1")
    assert asked() - before <= 3  # suspended; what is scheduled, and what waits, in its queue
    commit(*(message(f"n{n}", sender=f"1555{n:04}") for n in range(FEW_OWED + 10)), batch=1)
    assert sum(len(given) for given in iter(lambda: take.many("w1"), [])) == FEW_OWED + 10


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


def test_a_capped_lane_gives_out_what_there_are_tokens_for(
    take: Any, commit: Callable[..., None], status: Callable[..., bytes], redis: Redis
) -> None:
    """A batch comes with tokens, a quarter of a second's at most, and not many more records; then one has to wait."""
    commit(*[status(str(n)) for n in range(60)], batch=30)
    controls.limit(redis, "statuses", 0.02)
    assert take("w1")[0] == "statuses"
    assert len(take.last[4][0][3]) == take.last[4][0][4] == 1
    assert 40_000 < take("w2") <= 50_000
    redis.delete(keys.CONTROLS)
    controls.limit(redis, "statuses", 80)
    redis.hdel(keys.TAKEN, *redis.hkeys(keys.TAKEN))  # type: ignore[arg-type]
    take("w2")
    records, tokens = take.last[4][0][3:]
    assert tokens == len(records) <= 20


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

"""settle.lua against a real Valkey, called by a flow."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from ingest.state import controls
from ingest.store import keys
from tests.conftest import wait_for
from workers import Handlers


@pytest.fixture
def settle_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settle whatever is done at every turn."""
    monkeypatch.setattr("workers.engine.settle.SETTLE_SECONDS", 0.0)


def test_what_is_sent_twice_counts_once(
    settle_always: None, commit: Any, take: Any, runner: Any, status: Any, redis: Redis
) -> None:
    """A settle that redis-py sends again, or that a Redis that hung carries out late, takes nothing more away."""
    handlers, sent = Handlers(), []
    made = runner(handlers)
    send, other = made.flow._settling._settle.send, redis.client()

    def twice(keys_: list[str], args: list[Any]) -> Any:
        sent.append((keys_, args))
        call = send(keys_, args)
        made.flow._connection.answer(call)
        for again in reversed(sent):
            assert b"lost" not in made.flow._connection.answer(send(*again))
        return call

    made.flow._settling._settle.send = twice

    @handlers.status()
    def handle(event: Any) -> None:
        wait_for(lambda: other.llen(keys.batch_key(batch)) == 5 - int(event.id), what="the settle of those before")

    commit(*[status(str(n)) for n in range(5)])
    queue, batch = take()
    made.run(queue, batch)
    assert len(sent) >= 5
    assert redis.hgetall(keys.COUNTS) == {b"handled.status": b"5"}
    assert redis.zcard(keys.LEDGER) == 0


def test_many_batches_in_one_call(commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """What ends at about the same time is settled with one call; one that was lost takes nothing from others."""
    handlers, seen = Handlers(), []

    @handlers.status()
    def handle(event: Any) -> None:
        seen.append(event.id)
        if event.id == "3":
            redis.hset(keys.TAKEN, "|".join(given[3]), "somebody else")

    commit(*[status(str(n)) for n in range(8)], batch=1)
    given = take.many("w1", "statuses")
    made = runner(handlers)
    send, calls = made.flow._settling._settle.send, []
    made.flow._settling._settle.send = lambda *call: calls.append(call) or send(*call)
    made.run(*given)
    assert sorted(seen) == [str(n) for n in range(8)]
    assert len(calls) < 8
    assert redis.zrange(keys.LEDGER, 0, -1) == ["|".join(given[3]).encode()]
    assert redis.hgetall(keys.TAKEN) == {"|".join(given[3]).encode(): b"somebody else"}


@pytest.mark.parametrize("is_async", [False, True])
def test_a_pause_gives_back_what_has_not_begun(
    is_async: bool, settle_always: None, commit: Any, take: Any, runner: Any, message: Any, redis: Redis
) -> None:
    """All batches of a lane that is paused go back to the front, in their order, once what has begun has ended."""
    handlers, seen = Handlers(), []

    def handle(event: Any) -> None:
        seen.append(event.id)
        if event.id == "m1":
            controls.pause(redis, ["messages"])
            wait_for(lambda: any(hand.paused for hand in made.flow._hands), what="the settle that says so")

    async def handle_async(event: Any) -> None:
        import asyncio

        seen.append(event.id)
        if event.id == "m1":
            controls.pause(redis, ["messages"])
            while not any(hand.paused for hand in made.flow._hands):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    handlers.message()(handle_async if is_async else handle)
    commit(*[message(f"m{n}") for n in range(6)], batch=2)
    given = take.many("w1", "messages")
    made = runner(handlers)
    made.run(*given)
    assert seen == ["m0", "m1"]
    assert not redis.exists(keys.TAKEN, keys.LEASES)
    assert take.many("w2") == []
    controls.resume(redis, ["messages"])
    assert take.many("w3", "messages") == given[1:]


def test_what_others_want_goes_back_in_order(commit: Any, take: Any, runner: Any, message: Any, redis: Redis) -> None:
    """A worker whose slots are all busy gives partitions away: what has not begun goes back in its order."""
    handlers, seen = Handlers(), []

    @handlers.message()
    def handle(event: Any) -> None:
        seen.append(event.id)
        if len(seen) == 1:
            redis.hset(keys.WANTED, "w1", 1)
            wait_for(lambda: not redis.exists(keys.WANTED), what="the settle that reads it")

    for sender in ("15550001", "15550009"):
        commit(*[message(f"{sender}-{n}", sender=sender) for n in range(6)], batch=2)
    given = take.many("w1", "messages")
    made = runner(handlers)
    made.run(*given)
    (gone,) = {queue for queue, _ in given} & {key.decode().rpartition(":")[2] for key in redis.keys("rq:queue:*")}  # type: ignore[union-attr]
    assert not redis.exists(keys.TAKEN, keys.LEASES)
    assert take.many("w2", "messages") == [one for one in given if one[0] == gone]
    runner(handlers, worker="w2").run(*[one for one in given if one[0] == gone])
    for sender in ("15550001", "15550009"):
        assert [id for id in seen if id.startswith(sender)] == [f"{sender}-{n}" for n in range(6)]

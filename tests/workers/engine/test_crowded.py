"""A notification with very many events, or several that are settled together: bounded steps, and nothing twice."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from redis import Redis

from ingest.routing import partition_of
from ingest.state import controls
from ingest.store import keys
from ingest.store.records import Record, digest, unpack
from tests.conftest import wait_for
from workers import Handlers, RetryIn
from workers.archive import files
from workers.engine import batch_state, demand

JUNK = "x" * 3000


def _body(*ids: str, contacts: bool = False, senders: int = 7) -> bytes:
    value: dict[str, Any] = {"metadata": {"phone_number_id": "1"}, "relay": JUNK}
    value["messages"] = [{"from": f"1555{n % senders}", "id": each, "type": "text"} for n, each in enumerate(ids)]
    if contacts:
        value["contacts"] = [{"wa_id": f"1555{n}", "profile": {"name": f"P{n}"}} for n in range(7)]
    change = {"field": "messages", "value": value}
    return orjson.dumps({"entry": [{"id": "9", "changes": [change]}]})


def _ids(record: Record) -> list[str]:
    tree = orjson.loads(record.body)
    value = tree["entry"][0]["changes"][0]["value"] if "entry" in tree else tree
    return [each["id"] for each in value["messages"]]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than ten events are too many for a batch."""
    monkeypatch.setattr(demand, "MOST_READY", 10)
    monkeypatch.setattr(batch_state, "PART", 3)


def _records(redis: Redis) -> list[Any]:
    return [unpack(record) for key in redis.scan_iter("*batch:*") for record in redis.lrange(key, 0, -1)]  # type: ignore[union-attr]


def test_a_notification_of_many_events_is_divided(
    few: None, commit: Any, take: Any, runner: Any, message: Any, redis: Redis, nothing_left: Any
) -> None:
    """It goes back as records of a few events, before those that came later; each event keeps what is around it."""
    handlers, seen = Handlers(), []

    @handlers.message()
    def handle(event: Any) -> None:
        seen.append((event.id, event.business, event.name, event.notification))

    body = _body(*[f"m{n}" for n in range(20)], contacts=True)
    commit(body, message("after", sender="15550"), partitions=1)
    made = runner(handlers, partitions=1)
    made.run(*take())
    assert seen == []
    parts = _records(redis)
    assert [len(_ids(part)) for part in parts[:-1]] == [3, 3, 3, 3, 3, 3, 2]
    assert {part.body_digest for part in parts[:-1]} == {digest(body)}
    while isinstance(given := take(), tuple):
        made.run(*given)
    assert [id for id, *_ in seen if id in ("m0", "m7", "m14", "after")] == ["m0", "m7", "m14", "after"]
    of_it = sorted((int(id[1:]), business, name) for id, business, name, _ in seen if id != "after")
    assert of_it == [(n, "1", f"P{n % 7}") for n in range(20)]
    assert len({notification for id, *_, notification in seen if id != "after"}) == 1
    nothing_left()


def test_those_after_it_go_back_before_it(
    few: None, commit: Any, take: Any, runner: Any, message: Any, redis: Redis
) -> None:
    """Batches of the queue that the worker already has go back, too: a contact's messages stay in order."""
    handlers, seen = Handlers(), []

    @handlers.message()
    def handle(event: Any) -> None:
        seen.append(event.id)

    commit(message("first", sender="15550"), batch=1, partitions=1)
    commit(_body(*[f"m{n}" for n in range(20)]), batch=1, partitions=1)
    commit(*[message(f"later{n}", sender="15550") for n in range(2)], batch=1, partitions=1)
    made = runner(handlers, partitions=1)
    made.run(*take.many("w1", "messages"))
    assert seen == ["first"]
    while given := take.many("w1", "messages"):
        made.run(*given)
    assert [id for id in seen if id in ("first", "m0", "m14") or "later" in id] == [
        "first",
        "m0",
        "m14",
        "later0",
        "later1",
    ]
    assert len(seen) == 23


def test_it_is_archived_whole(few: None, commit: Any, take: Any, runner: Any, tmp_path: Any) -> None:
    """The archive has the notification as it came, once, and none of its parts."""
    handlers = Handlers()
    handlers.message()(lambda event: None)
    body = _body(*[f"m{n}" for n in range(20)])
    commit(body, partitions=1)
    made = runner(handlers, archive_dir=tmp_path, partitions=1)
    while isinstance(given := take(), tuple):
        made.run(*given)
    made.close()
    blocks = [block for path in tmp_path.rglob("*.zst") for block in files.blocks(path, print)]
    assert [kept for block in blocks for _, kept in files.records(block, print)] == [body]


def test_events_that_fail_together_are_written_together(commit: Any, take: Any, runner: Any, redis: Redis) -> None:
    """What is around them is stored once, and each is handled again with its own contact, in order."""
    handlers, seen = Handlers(), []

    @handlers.message()
    def handle(event: Any) -> None:
        seen.append((event.id, event.name, event.attempt))
        if event.attempt == 1:
            raise RetryIn(0.001)

    body = _body(*[f"m{n}" for n in range(200)], contacts=True)
    commit(body, partitions=1)
    made = runner(handlers, partitions=1)
    made.run(*take())
    assert sum(len(record.body) for record in _records(redis)) < 3 * len(body)
    for name in redis.scan_iter("*:scheduled:*"):
        for id in redis.zrange(name, 0, -1):
            redis.zadd(name, {id: 1})
    while isinstance(given := take(), tuple):
        made.run(*given)
    again = [(id, name) for id, name, attempt in seen if attempt == 2]
    assert sorted(again) == sorted((f"m{n}", f"P{n % 7}") for n in range(200))
    for contact in range(7):
        mine = [int(id[1:]) for id, name in again if name == f"P{contact}"]
        assert mine == sorted(mine)


def test_what_is_done_does_not_go_back(
    commit: Any, take: Any, runner: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that goes back keeps what is left of a notification: nothing counts as a copy, or is parsed again."""
    monkeypatch.setattr("workers.engine.settle.SETTLE_SECONDS", 0.0)
    handlers, seen = Handlers(), []

    @handlers.message()
    def handle(event: Any) -> None:
        seen.append(event.id)
        if event.id == "m4":
            controls.pause(redis, ["messages"])
            wait_for(lambda: any(hand.paused for hand in made.flow._hands), what="the settle that says so")

    commit(_body(*[f"m{n}" for n in range(9)], senders=1), partitions=1)
    made = runner(handlers, partitions=1)
    made.run(*take())
    assert seen == [f"m{n}" for n in range(5)]
    (record,) = _records(redis)
    assert _ids(record) == ["m5", "m6", "m7", "m8"]
    controls.resume(redis, ["messages"])
    made.run(*take())
    assert seen == [f"m{n}" for n in range(9)]
    assert redis.hgetall(keys.COUNTS) == {b"handled.message": b"9"}


def test_one_notification_breaks_no_handler(commit: Any, take: Any, runner: Any, message: Any, redis: Redis) -> None:
    """A handler that fails for each event of one notification has not broken down: others' events do not wait."""
    handlers, seen = Handlers(), []

    @handlers.message()
    def handle(event: Any) -> None:
        if event.id.startswith("m"):
            raise ValueError
        seen.append(event.id)

    commit(_body(*[f"m{n}" for n in range(50)]), *[message(f"other{n}", sender="1555") for n in range(3)], partitions=1)
    runner(handlers, partitions=1).run(*take())
    assert seen == ["other0", "other1", "other2"]
    assert redis.hgetall(keys.COUNTS) == {b"retried.message": b"50", b"handled.message": b"3"}


@pytest.mark.parametrize("why", ["it cannot be written", "it is of format 1"])
def test_what_cannot_be_divided_is_handled_whole(
    why: str, few: None, commit: Any, take: Any, runner: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is neither given back again and again nor the end of the worker."""
    handlers, seen = Handlers(), []

    @handlers.message()
    def handle(event: Any) -> None:
        seen.append(event.id)

    def broken(_: Any) -> bytes:
        raise KeyError

    commit(_body(*[f"m{n}" for n in range(20)], senders=1), partitions=1)
    if why == "it cannot be written":
        monkeypatch.setattr(batch_state, "body_of", broken)
    else:
        (key,) = redis.scan_iter("*batch:*")
        (record,) = redis.lrange(key, 0, -1)  # type: ignore[misc]
        partitions = next(n for n in range(2, 256) if partition_of("15550", n) == 0)
        redis.lset(key, 0, record[:7] + bytes([partitions]) + record[8:])
    runner(handlers, partitions=1).run(*take())
    assert sorted(seen) == sorted(f"m{n}" for n in range(20))

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from redis import Redis

from ingest.routing import route
from ingest.store import constants, keys
from ingest.store.records import pack, unpack
from tests.conftest import wait_for
from workers import Discard, Handlers, Reject, RetryIn
from workers.engine.batch import run as rq_function
from workers.engine.settle import Arguments


@pytest.fixture
def seen() -> list[Any]:
    return []


@pytest.fixture
def handlers(seen: list[Any]) -> Handlers:
    """Handlers that keep every event in `seen`."""
    made = Handlers()
    for decorator in (made.message(), made.status(), made.error(), made.change()):
        decorator(seen.append)
    return made


def _counts(redis: Redis) -> dict[str, int]:
    found: Any = redis.hgetall(keys.COUNTS)
    return {k.decode(): int(v) for k, v in found.items()}


def test_handled_and_gone(
    commit: Callable[..., None],
    take: Callable[..., Any],
    runner: Callable[..., Any],
    handlers: Handlers,
    seen: list[Any],
    message: Callable[..., bytes],
    status: Callable[..., bytes],
    redis: Redis,
    nothing_left: Callable[[], None],
) -> None:
    """A batch whose events were all handled leaves nothing behind but its counts."""
    commit(message(), status("a"), status("b"), received_ms=1_700_000_000_123)
    runner(handlers).run(*take())
    runner(handlers).run(*take())
    assert [event.id for event in seen] == ["m1", "a", "b"]
    assert seen[0].received_ms == 1_700_000_000_123
    assert _counts(redis) == {"handled.message": 1, "handled.status": 2}
    for key in redis.scan_iter(f"{keys.RQ}:job:*"):
        redis.delete(key)  # RQ deletes a job after its function returned
    nothing_left()


def test_a_failed_event_travels_alone(
    commit: Callable[..., None],
    take: Callable[..., Any],
    runner: Callable[..., Any],
    status: Callable[..., bytes],
    redis: Redis,
) -> None:
    """Of a batch, what failed becomes one retry batch with attempt 2, due after a backoff; the rest is done."""
    handlers, fails, seen = Handlers(), {"b", "d"}, []

    @handlers.status()
    def handle(event: Any) -> None:
        seen.append((event.id, event.attempt, event.received_ms))
        if event.id in fails:
            raise ValueError

    commit(*[status(id) for id in "abcde"])
    runner(handlers).run(*take())
    assert 3_000 < take() < 7_000
    ((member, score),) = redis.zrange(keys.LEDGER, 0, -1, withscores=True)  # type: ignore[misc]
    assert score == 1_700_000_000_000
    _, retry = member.decode().split("|")
    redis.zadd(keys.scheduled_key("statuses"), {retry: 1})
    fails.clear()
    seen.clear()
    assert take() == ("statuses", retry)
    runner(handlers).run("statuses", retry)
    assert seen == [("b", 2, 1_700_000_000_000), ("d", 2, 1_700_000_000_000)]
    assert redis.zcard(keys.LEDGER) == 0


def test_out_of_attempts(
    commit: Callable[..., None],
    take: Callable[..., Any],
    runner: Callable[..., Any],
    status: Callable[..., bytes],
    redis: Redis,
    dead: Callable[[str], list[dict[str, str]]],
) -> None:
    """After WA_MAX_ATTEMPTS tries an event is a dead letter that says why, and can be fed back as it is."""
    handlers = Handlers()

    @handlers.status()
    def fail(event: Any) -> None:
        raise KeyError(event.id)

    commit(status("a"))
    for _ in range(3):
        runner(handlers, max_attempts=3).run(*take())
        for retry, _ in redis.zscan_iter(keys.scheduled_key("statuses")):
            redis.zadd(keys.scheduled_key("statuses"), {retry: 1})
    (letter,) = dead("statuses")
    assert letter["reason"] == "failed"
    assert letter["kind"] == "status"
    assert letter["attempt"] == "3"
    assert letter["detail"].startswith("KeyError: 'a' (")
    assert orjson.loads(letter["body"]) == orjson.loads(status("a"))
    assert redis.zcard(keys.LEDGER) == 0
    assert _counts(redis) == {"retried.status": 2, "dead.status": 1}


def test_discard_reject_and_retry_in(
    commit: Callable[..., None],
    take: Callable[..., Any],
    runner: Callable[..., Any],
    status: Callable[..., bytes],
    redis: Redis,
    dead: Callable[[str], list[dict[str, str]]],
) -> None:
    """Discard leaves nothing, Reject a dead letter at once, RetryIn a retry batch for each delay asked for."""
    raises: dict[str, Exception] = {
        "a": Discard("no"),
        "b": Reject("bad"),
        "c": RetryIn(100),
        "d": RetryIn(50),
        "e": RetryIn(100),
    }
    handlers = Handlers()

    @handlers.status()
    def handle(event: Any) -> None:
        raise raises[event.id]

    commit(*[status(id) for id in raises])
    runner(handlers).run(*take())
    assert [(letter["reason"], letter["detail"]) for letter in dead("statuses")] == [("rejected", "bad")]
    due: Any = redis.zrange(keys.scheduled_key("statuses"), 0, -1, withscores=True)
    now = int(redis.time()[0])  # type: ignore[index]
    lengths = {round((score - now) / 50): redis.llen(keys.batch_key(id.decode())) for id, score in due}
    assert lengths == {1: 1, 2: 2}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "unreadable"),
        (b"nonsense", "unreadable"),
        (b"[]", "unreadable"),
        (b"\xff\xfe{", "unreadable"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "unreadable"),
        (b"{}", "unknown_form"),
        (b'{"wadebug_webhook_test":"test"}', "unknown_form"),
        (b'{"entry":[{}]}', "unknown_form"),
        (b'{"statuses":["x"]}', "malformed"),
    ],
    ids=["empty", "nonsense", "array", "utf8", "deep", "object", "wadebug", "entry", "element"],
)
def test_dead_letters_at_once(
    body: bytes,
    reason: str,
    commit: Callable[..., None],
    take: Callable[..., Any],
    runner: Callable[..., Any],
    handlers: Handlers,
    redis: Redis,
) -> None:
    """What cannot become an event is a dead letter at once, with its reason and its bytes, and is owed no more."""
    commit(body)
    queue, batch = take()
    runner(handlers).run(queue, batch)
    ((_, letter),) = redis.xrange(keys.dead_key(queue))  # type: ignore[misc]
    assert letter[b"reason"].decode() == reason
    assert letter[b"body"] == body
    assert redis.zcard(keys.LEDGER) == 0


def test_another_platform_is_counted(
    commit: Callable[..., None],
    take: Callable[..., Any],
    runner: Callable[..., Any],
    handlers: Handlers,
    redis: Redis,
) -> None:
    """What Instagram or a page sends to the same callback is counted, and is no dead letter."""
    commit(b'{"object":"instagram","entry":[{"changes":[{"field":"messages","value":{}}]}]}')
    queue, batch = take()
    runner(handlers).run(queue, batch)
    assert redis.hgetall(keys.COUNTS) == {b"foreign.notification": b"1"}
    assert redis.xlen(keys.dead_key(queue)) == redis.zcard(keys.LEDGER) == 0


def test_one_bad_element_costs_nobody(
    commit: Callable[..., None],
    take: Callable[..., Any],
    runner: Callable[..., Any],
    handlers: Handlers,
    seen: list[Any],
    dead: Callable[[str], list[dict[str, str]]],
) -> None:
    """Of 1,000 statuses and one broken element, 1,000 are handled and one is a dead letter."""
    elements: list[Any] = [{"id": str(n), "status": "read"} for n in range(1000)]
    elements.insert(500, "broken")
    commit(orjson.dumps({"statuses": elements}))
    runner(handlers).run(*take())
    assert [event.id for event in seen] == [str(n) for n in range(1000)]
    assert [letter["reason"] for letter in dead("statuses")] == ["malformed"]


def test_long_batches_settle_on_the_way(
    commit: Callable[..., None],
    take: Callable[..., Any],
    runner: Callable[..., Any],
    status: Callable[..., bytes],
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A batch that takes long settles what it has done meanwhile, so that a kill repeats only the rest."""
    monkeypatch.setattr("workers.engine.settle.SETTLE_SECONDS", 0.0)
    handlers = Handlers()

    @handlers.status()
    def handle(event: Any) -> None:
        wait_for(lambda: redis.llen(keys.batch_key(batch)) == 5 - int(event.id), what="the settle of those before")

    commit(*[status(str(n)) for n in range(5)])
    queue, batch = take()
    runner(handlers).run(queue, batch)
    assert redis.exists(keys.batch_key(batch)) == 0


def test_retries_of_one_batch_stay_together(
    commit: Callable[..., None],
    take: Callable[..., Any],
    runner: Callable[..., Any],
    status: Callable[..., bytes],
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Events that fail before and after a settle on the way wait in one batch."""
    monkeypatch.setattr("workers.engine.settle.SETTLE_SECONDS", 0.0)
    handlers = Handlers()

    @handlers.status()
    def fail(event: Any) -> None:
        if event.id not in ("0", "3"):
            raise RetryIn(100_000)

    commit(*[status(str(n)) for n in range(7)])
    runner(handlers).run(*take())
    ((retry, _),) = redis.zrange(keys.scheduled_key("statuses"), 0, -1, withscores=True)  # type: ignore[misc]
    assert redis.llen(keys.batch_key(retry.decode())) == 5


def test_an_unfinished_event_holds_its_record(
    commit: Callable[..., None],
    take: Callable[..., Any],
    runner: Callable[..., Any],
    message: Callable[..., bytes],
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With async handlers, a record leaves the batch only after all before it are done."""
    monkeypatch.setattr("workers.engine.settle.SETTLE_SECONDS", 0.0)
    handlers, lengths = Handlers(), []

    @handlers.message()
    async def handle(event: Any) -> None:
        if event.id == "1":
            while redis.llen(keys.batch_key(batch)) != 2:  # noqa: ASYNC110 - the first record has left
                await asyncio.sleep(0.01)
            for _ in range(5):
                await asyncio.sleep(0.1)
                lengths.append(redis.llen(keys.batch_key(batch)))

    bodies = [message(str(n), sender=sender) for n, sender in enumerate(("15550001", "15550001x8", "15550001x16"))]
    bodies = [b for b in bodies if route(b, 1) == route(bodies[0], 1)]
    commit(*bodies, partitions=1)
    queue, batch = take()
    runner(handlers).run(queue, batch)
    assert set(lengths) == {2}
    assert redis.exists(keys.batch_key(batch)) == 0


def test_stopped_half_way(
    commit: Callable[..., None],
    take: Callable[..., Any],
    runner: Callable[..., Any],
    status: Callable[..., bytes],
    redis: Redis,
) -> None:
    """At a stop what is done is settled, the rest stays in the batch and in the ledger."""
    handlers = Handlers()
    made: Any = None

    @handlers.status()
    def handle(event: Any) -> None:
        if event.id == "2":
            made.stop.set()

    commit(*[status(str(n)) for n in range(5)])
    queue, batch = take()
    made = runner(handlers)
    made.run(queue, batch)
    left: Any = redis.lrange(keys.batch_key(batch), 0, -1)
    assert [orjson.loads(unpack(r).body)["statuses"][0]["id"] for r in left] == ["3", "4"]
    assert redis.zscore(keys.LEDGER, f"{queue}|{batch}") is not None


def test_a_lost_batch_is_left_alone(
    commit: Callable[..., None],
    take: Callable[..., Any],
    runner: Callable[..., Any],
    status: Callable[..., bytes],
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker whose batch was given to another settles nothing and stops handling it."""
    monkeypatch.setattr("workers.engine.settle.SETTLE_SECONDS", 0.0)
    handlers, seen = Handlers(), []

    @handlers.status()
    def handle(event: Any) -> None:
        seen.append(event.id)
        redis.hset(keys.TAKEN, f"{queue}|{batch}", "somebody else")
        wait_for(lambda: made.flow.is_idle, what="the settle that finds out")
        time.sleep(0.02)  # a quick handler would have got the next ones already

    commit(*[status(str(n)) for n in range(5)])
    queue, batch = take("w1")
    made = runner(handlers, worker="w1")
    made.run(queue, batch)
    assert seen == ["0"]
    assert redis.llen(keys.batch_key(batch)) == 5
    assert redis.hlen(keys.COUNTS) == 0


def test_late_records_are_not_lost(
    commit: Callable[..., None],
    take: Callable[..., Any],
    runner: Callable[..., Any],
    handlers: Handlers,
    seen: list[Any],
    status: Callable[..., bytes],
    redis: Redis,
) -> None:
    """Records that reached a batch while it was in work (a commit sent twice) put it back instead of vanishing."""
    commit(status("a"))
    queue, batch = take()
    late = pack(status("late"), 1)
    handlers.status()(lambda e: redis.rpush(keys.batch_key(batch), late) if len(seen) == 1 else None)
    runner(handlers).run(queue, batch)
    assert take() == (queue, batch)
    runner(handlers).run(queue, batch)
    assert [event.id for event in seen] == ["a", "late"]
    assert redis.zcard(keys.LEDGER) == 0


def test_contacts_of_several_partitions(
    commit: Callable[..., None],
    take: Callable[..., Any],
    runner: Callable[..., Any],
    handlers: Handlers,
    seen: list[Any],
) -> None:
    """Of a notification with many contacts, each partition handles its own, and all else is handled once."""
    messages = [{"from": str(n), "id": f"m{n}", "type": "text"} for n in range(50)]
    commit(orjson.dumps({"messages": messages, "statuses": [{"id": "s"}], "errors": [{"code": 1}, "x"]}))
    taken = 0
    while isinstance(found := take(), tuple):
        runner(handlers).run(*found)
        taken += 1
    assert taken == 8
    assert sorted(e.id for e in seen if e.kind == "message") == sorted(m["id"] for m in messages)
    assert [e.kind for e in seen if e.kind != "message"].count("status") == 1
    assert [e.kind for e in seen if e.kind != "message"].count("error") == 1


def test_settles_when_redis_is_full(
    commit: Callable[..., None],
    take: Callable[..., Any],
    runner: Callable[..., Any],
    handlers: Handlers,
    status: Callable[..., bytes],
    redis: Redis,
) -> None:
    """A Redis at its maxmemory still lets a batch end: that is what makes room."""
    commit(status())
    found = take()
    redis.config_set("maxmemory", 1)
    runner(handlers).run(*found)
    assert redis.zcard(keys.LEDGER) == 0


def test_many_failures_in_one_settle(
    commit: Callable[..., None],
    take: Callable[..., Any],
    runner: Callable[..., Any],
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thousands of failed events fit into one settle (Lua's unpack takes some 8,000 values)."""
    handlers = Handlers()

    @handlers.status()
    def fail(event: Any) -> None:
        if event.id != "0":
            raise RetryIn(60)

    monkeypatch.setattr("workers.engine.settle.SETTLE_SECONDS", 1e9)
    commit(*[orjson.dumps({"statuses": [{"id": str(n)}]}) for n in range(8_501)], batch=10_000)
    runner(handlers).run(*take("w1", "statuses", room=10_000))
    parked: Any = redis.zrange(keys.scheduled_key("statuses"), 0, -1)
    sizes: list[Any] = [redis.llen(keys.batch_key(id.decode())) for id in parked]
    # Two settles; which of them has the handled event, and so one failure less, depends on the threads.
    assert sum(sizes) == 8_500
    assert max(sizes) == constants.PARKED_RECORDS
    assert len(sizes) <= 18


def test_a_stock_rq_worker_is_refused() -> None:
    """`rq worker` cannot run a batch, and says what can."""
    with pytest.raises(RuntimeError, match="wa-ingest work"):
        rq_function("statuses", "b1")


def test_backoff_grows() -> None:
    """The delay doubles from 5 s to an hour, a quarter more or less."""
    from workers.engine.retries import delay

    for attempt, middle in ((1, 5), (2, 10), (5, 80), (10, 2560), (11, 3600), (255, 3600)):
        delays = {delay(attempt) for _ in range(50)}
        assert 0.75 * middle <= min(delays) <= max(delays) <= 1.25 * middle
        assert len(delays) > 1


def test_a_flood_of_broken_parts_is_settled_in_portions(
    commit: Callable[..., None],
    take: Callable[..., Any],
    runner: Callable[..., Any],
    handlers: Handlers,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    nothing_left: Callable[[], None],
) -> None:
    """No call writes more than a thousand dead letters and those of one body: Redis is not held up, none is lost."""
    calls: list[int] = []
    build = Arguments.build

    def counted(self: Arguments, parts: Any, *more: Any) -> list[Any]:
        calls.append(sum(len(part.results.letters) for part in parts))
        return build(self, parts, *more)

    monkeypatch.setattr(Arguments, "build", counted)
    commit(*[orjson.dumps({"messages": [f"{n}" + 100 * "x"] * 200}) for n in range(40)])
    runner(handlers).run(*take())
    assert sum(calls) == redis.xlen(keys.dead_key("other")) == 40 * 101
    assert max(calls) <= 1101
    for key in redis.scan_iter(f"{keys.RQ}:job:*"):
        redis.delete(key)  # RQ deletes a job after its function returned
    nothing_left()

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis import Redis

from ingest.store import keys
from ingest.store.pipelined import PipelinedConnection
from ingest.store.records import pack
from workers import Handlers
from workers.engine import claims
from workers.events import Event, Message
from workers.events.parsing import parse


def _of(body: bytes, attempt: int = 1, received_ms: int = 1_700_000_000_000) -> claims.Claim:
    (event,) = parse(body, received_ms, attempt)
    assert isinstance(event, Event)
    return claims.of(event)


def _status(**fields: Any) -> bytes:
    return orjson.dumps({"statuses": [{"id": "s", "recipient_id": "1", "status": "sent", "timestamp": "5"} | fields]})


def _change(field: str = "account_update", value: Any = None, time: int = 1, account: str = "9") -> bytes:
    return orjson.dumps({"entry": [{"id": account, "time": time, "changes": [{"field": field, "value": value}]}]})


def _image(url: str, caption: str = "c") -> dict[str, str]:
    return {"id": "9", "sha256": "s", "url": url, "caption": caption}


def _cloud(phone: str, **message: Any) -> bytes:
    value = {"metadata": {"phone_number_id": phone}, "messages": [message]}
    return orjson.dumps({"entry": [{"id": "9", "changes": [{"field": "messages", "value": value}]}]})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (_cloud("p", id="m", type="text"), _cloud("p", type="text", id="m"), True),
        (_cloud("p", id="m"), _cloud("q", id="m"), False),
        (_cloud("p", id="m"), _cloud("p", id="n"), False),
        (_cloud("p", id="m", type="text"), _cloud("p", id="m", type="edit"), False),
        (_cloud("p", id="m", type=["image"]), _cloud("p", id="m", type=["image"]), True),
        (_status(), _status(), True),
        (_status(), _status(status="read"), False),
        (_cloud("p", id="m", **{"from": "1"}), _cloud("p", id="m", **{"from": "2"}), False),
        (_cloud("p", id="m", **{"from": "1"}), _cloud("p", id="m", **{"from": "1", "from_user_id": "US.1"}), True),
        (_cloud("p", id="m", text={"body": "a"}), _cloud("p", id="m", text={"body": "b"}), False),
        (_cloud("p", id="m", _vnd={"v1": {"unread": 1}}), _cloud("p", id="m", _vnd={"v1": {"unread": 2}}), True),
        (_cloud("p", id="m", type="image", image=_image("a")),
         _cloud("p", id="m", type="image", image=_image("b")), True),
        (_cloud("p", id="m", type="image", image=_image("a", "x")),
         _cloud("p", id="m", type="image", image=_image("a", "y")), False),
        (_cloud("p", id="m", type="edit", edit={"message": {"image": _image("a")}}),
         _cloud("p", id="m", type="edit", edit={"message": {"image": _image("b")}}), True),
        (_cloud("p", id="m", location={"url": "a"}), _cloud("p", id="m", location={"url": "b"}), False),
        (_status(), _status(recipient_user_id="US.1"), True),
        (_status(), _status(timestamp="6"), False),
        (_status(), _status(recipient_id="2"), False),
        (_status(recipient_participant_id="3"), _status(recipient_participant_id="4"), False),
        (_change(value={"a": 1}), _change(value={"a": 1}), True),
        (_change(value={"a": 1}), _change(value={"a": 2}), False),
        (_change(value={"a": 1}), _change(value={"a": 1}, time=2), False),
        (_change(value={"a": 1}), _change(value={"a": 1}, account="8"), False),
        (_change("calls", {"calls": [{"id": "c", "event": "connect"}]}),
         _change("calls", {"calls": [{"id": "c", "event": "terminate"}]}), False),
    ],
)  # fmt: skip
def test_what_makes_two_events_the_same(one: bytes, other: bytes, same: bool) -> None:
    """A copy has the id, the contact and the content in common, and the number or account. What relays count, the
    signed address of a picture and ids that are added make no difference, nor does the order of keys.
    """
    assert (_of(one).place == _of(other).place) is same


def test_a_later_attempt_is_another_claim() -> None:
    """The first attempt's claim does not stop the second, and the second has one of its own."""
    assert _of(_status(), attempt=1).place != _of(_status(), attempt=2).place


def test_errors_within_ten_minutes() -> None:
    """The same error is a duplicate within ten minutes, also across the edge of two slots, and news after twenty."""
    body = b'{"errors":[{"code":1,"title":"t"}]}'
    first = _of(body, received_ms=599_000)
    assert _of(body, received_ms=1000) == first
    bucket, member = first.place.split()
    assert _of(body, received_ms=601_000).also == int(member)
    later = _of(body, received_ms=1_200_001)
    assert later.place.startswith(f"{bucket} "), "both are looked for in one set"
    assert int(member) not in (int(later.place.split()[1]), later.also)


@pytest.fixture
def seen() -> list[str]:
    return []


@pytest.fixture
def handlers(seen: list[str]) -> Handlers:
    made = Handlers()
    for decorator in (made.message(), made.status(), made.error(), made.change()):
        decorator(lambda event: seen.append(event.id or event.kind))
    return made


def _ask(redis: Redis, member: str, asked: list[claims.Claim]) -> bytes:
    connection = PipelinedConnection(redis)
    calls = claims.Claims(connection).ask(member, asked)
    return b"".join(map(connection.answer, calls))


def _drain(take: Callable[..., Any], runner: Any) -> None:
    while isinstance(found := take(), tuple):
        runner.run(*found)


def test_sent_fifty_times(
    commit: Any, take: Any, runner: Any, handlers: Handlers, seen: list[str], message: Any, redis: Redis
) -> None:
    """The same body fifty times at once, in many batches, and again after they are settled, is one event."""
    commit(*[message("m1")] * 50, batch=7)
    _drain(take, runner(handlers))
    commit(message("m1"), message("m2"))
    _drain(take, runner(handlers))
    assert seen == ["m1", "m2"]
    counts: Any = redis.hgetall(keys.COUNTS)
    assert counts == {b"handled.message": b"2", b"duplicate.message": b"50"}


@pytest.mark.parametrize("kind", ["message", "status", "error", "change"])
def test_every_kind_once(
    kind: str, commit: Any, take: Any, runner: Any, handlers: Handlers, seen: list[str], redis: Redis
) -> None:
    """Whatever the kind, a second notification of the same event is dropped, and leaves no claim behind."""
    body = {
        "message": _cloud("p", id="m"),
        "status": _status(),
        "error": b'{"errors":[{"code":1}]}',
        "change": _change(value={"a": 1}),
    }[kind]
    commit(body, body, batch=1)
    _drain(take, runner(handlers))
    assert len(seen) == 1
    assert redis.hkeys(keys.CLAIMS) == [b""]  # what keeps it a table, see claim.lua


def test_a_copy_in_another_batch_waits_for_nobody(
    commit: Any, take: Any, runner: Any, handlers: Handlers, seen: list[str], redis: Redis
) -> None:
    """While one batch has claimed an event, another batch's copy is a duplicate: the first is still owed."""
    body = b'{"errors":[{"code":1}]}'
    commit(body, body, batch=1)
    first, second = take("w1"), take("w2")
    (event,) = parse(body, 1_700_000_000_000)
    assert _ask(redis, "|".join(first), [claims.of(event)]) == b"0"  # type: ignore[arg-type]
    runner(handlers, worker="w2").run(*second)
    assert seen == []
    runner(handlers, worker="w1").run(*first)
    assert seen == ["error"]


@pytest.mark.parametrize("same", [True, False], ids=["a copy", "another status"])
def test_two_statuses_of_one_message_in_two_workers(
    same: bool, commit: Any, take: Any, two_workers: Any, status: Any, redis: Redis
) -> None:
    """While a worker has a status of a message in work, another worker's status of it waits; then it is handled, unless
    it is a copy.
    """
    handlers, running, seen = Handlers(), threading.Lock(), []
    begun, go = threading.Event(), threading.Event()

    @handlers.status()
    def handle(event: Any) -> None:
        assert running.acquire(blocking=False)
        seen.append(event.status)
        begun.set()
        assert go.wait(30)
        running.release()

    commit(status("m", "sent"), status("m", "sent" if same else "read"), batch=1)
    first, second = take("w1"), take("w2")
    threads = two_workers(handlers, first, second, begun)
    assert seen == ["sent"]
    go.set()
    for thread in threads:
        thread.join(30)
    assert seen == (["sent"] if same else ["sent", "read"])
    assert redis.zcard(keys.LEDGER) == 0


def test_a_crash_turns_no_claim_into_a_loss(
    commit: Any, take: Any, runner: Any, handlers: Handlers, seen: list[str], status: Any, redis: Redis
) -> None:
    """A batch that crashed after claiming finds its own claims and goes on."""
    commit(status("a"))
    queue, batch = take("w1")
    (event,) = parse(status("a"), 0)
    _ask(redis, f"{queue}|{batch}", [claims.of(event)])  # type: ignore[arg-type]
    redis.hset(keys.TAKEN, f"{queue}|{batch}", "w2")
    runner(handlers, worker="w2").run(queue, batch)
    assert seen == ["a"]


def test_a_claim_of_a_batch_that_is_gone(
    commit: Any, take: Any, runner: Any, handlers: Handlers, seen: list[str], status: Any, redis: Redis
) -> None:
    """A claim of a batch that nobody is owed any more (Redis lost it) stops nobody."""
    (event,) = parse(status("a"), 0)
    _ask(redis, "statuses|gone", [claims.of(event)])  # type: ignore[arg-type]
    commit(status("a"))
    _drain(take, runner(handlers))
    assert seen == ["a"]


def test_settled_events_beyond_an_open_one_are_not_repeated(
    commit: Any, take: Any, runner: Any, message: Any, redis: Redis
) -> None:
    """After a crash only what was not settled is handled again, also when it lies before what was."""
    commit(*[message(str(n), sender="1") for n in range(3)], partitions=1)
    queue, batch = take("w1")
    events = [event for n in range(3) for event in parse(message(str(n), sender="1"), 0)]
    # As if the worker had settled the second event and died while the first was still in its handler.
    bucket, member = claims.of(events[1]).place.split()  # type: ignore[arg-type]
    redis.hset(keys.GENERATIONS, mapping={"1": 4, "1.born": int(redis.time()[0])})  # type: ignore[index]
    redis.sadd(f"{keys.WA}seen:1:{bucket[:4]}", member)
    seen: list[Any] = []
    handlers = Handlers()
    handlers.message()(lambda event: seen.append(event.id))
    runner(handlers).run(queue, batch)
    assert seen == ["0", "2"]


def test_again_means_again(
    commit: Any, take: Any, runner: Any, handlers: Handlers, seen: list[str], status: Any, redis: Redis
) -> None:
    """A record that somebody asked to be handled again is, though it was handled before."""
    commit(status("a"))
    _drain(take, runner(handlers))
    commit(status("b"))
    queue, batch = take()
    redis.rpush(keys.batch_key(batch), pack(status("a"), 1, force=True))
    runner(handlers).run(queue, batch)
    assert seen == ["a", "b", "a"]


def _sets(redis: Redis, generation: int) -> int:
    return len(redis.keys(f"{keys.WA}seen:{generation}:*"))  # type: ignore[arg-type]


def test_forgotten_after_the_window(
    commit: Any, take: Any, runner: Any, handlers: Handlers, seen: list[str], status: Any, redis: Redis
) -> None:
    """An event is remembered for WA_DEDUP_WINDOW, then it and its generation leave Redis."""
    made = runner(handlers, dedup_window="100s")
    commit(status("a"))
    _drain(take, made)
    born = int(redis.hget(keys.GENERATIONS, "1.born"))  # type: ignore[arg-type]
    redis.hset(keys.GENERATIONS, "1.born", born - 60)  # half the window is over: a new generation
    commit(status("b"), status("a"))
    _drain(take, made)
    assert seen == ["a", "b"]
    assert redis.hget(keys.GENERATIONS, "2") == b"3", "no more sets than it needs"
    redis.hset(keys.GENERATIONS, "2.born", born - 99)
    claims.forget(redis, 100)
    assert _sets(redis, 1) == 1, "it ended within the window"
    redis.hset(keys.GENERATIONS, "2.born", born - 110)
    claims.forget(redis, 100)
    assert (_sets(redis, 1), _sets(redis, 2)) == (0, 1)
    assert redis.hkeys(keys.GENERATIONS) == [b"2", b"2.born", b"2.count"]
    commit(status("a"), status("b"))
    _drain(take, made)
    assert seen == ["a", "b", "a"], "the first is news again, the second is remembered"


def test_forgets_bit_by_bit(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sets a generation has, one round removes a bounded number, and the next goes on from there."""
    monkeypatch.setattr(claims, "_PORTION", 100)
    monkeypatch.setattr(claims, "_PORTIONS", 3)
    redis.hset(keys.GENERATIONS, mapping={"7": 3, "7.born": 1, "7.count": 9, "8": 3, "8.born": 2, "8.count": 9})
    for n in range(512):
        redis.sadd(f"{keys.WA}seen:7:{n:03o}", 1)
        redis.sadd(f"{keys.WA}seen:8:{n:03o}", 1)
    left = []
    for _ in range(3):
        claims.forget(redis, 100)
        left.append(_sets(redis, 7))
    assert left == [212, 0, 0]
    assert _sets(redis, 8) == 512
    assert redis.hkeys(keys.GENERATIONS) == [b"8", b"8.born", b"8.count"]


def test_a_full_generation_makes_way(
    commit: Any, take: Any, runner: Any, handlers: Handlers, seen: list[str], status: Any, redis: Redis
) -> None:
    """A generation whose sets are full is followed by one of eight times as many, and still counts."""
    made = runner(handlers)
    commit(status("a"))
    _drain(take, made)
    redis.hset(keys.GENERATIONS, "1.count", 4096 * 400)
    commit(status("b"), status("a"))
    _drain(take, made)
    assert seen == ["a", "b"]
    assert redis.hget(keys.GENERATIONS, "2") == b"5"


def test_memory_of_a_million(runner: Any, take: Any, commit: Any, redis: Redis) -> None:
    """A remembered event takes at most 32 bytes of Redis."""
    handlers = Handlers()
    made = runner(handlers)
    commit(b'{"statuses":[{"id":"warm-up"}]}')
    _drain(take, made)
    before: int = redis.info("memory")["used_memory"]  # type: ignore[index]
    for start in range(0, 200_000, 10_000):
        elements = [{"id": f"s{n}"} for n in range(start, start + 10_000)]
        commit(orjson.dumps({"statuses": elements}))
        _drain(take, made)
    used: int = redis.info("memory")["used_memory"] - before  # type: ignore[index]
    assert used <= 32 * 200_000


@pytest.mark.parametrize(
    ("order", "flags"),
    [
        (["sent", "delivered", "read", "played"], [False, False, False, False]),
        (["read", "delivered", "sent"], [False, True, True]),
        (["played", "read"], [False, True]),
        (["read", "failed"], [False, False]),
        (["failed", "sent"], [False, True]),
        (["failed", "read", "delivered"], [False, True, True]),
        (["sent", "failed"], [False, False]),
        (["in_orbit", "sent"], [False, False]),
    ],
)
@pytest.mark.parametrize("size", [1, 10], ids=["batch each", "one batch"])
def test_status_never_goes_backwards(
    order: list[str], flags: list[bool], size: int, commit: Any, take: Any, runner: Any, status: Any
) -> None:
    """`superseded` is true when a later stage of the same message was handled, in this batch or an earlier one."""
    handlers, seen = Handlers(), []
    handlers.status()(lambda event: seen.append((event.id, event.status, event.superseded)))
    commit(*[status("m", name) for name in order], status("other", "sent"), batch=size)
    _drain(take, runner(handlers))
    assert [one for id, *one in seen if id == "m"] == [list(one) for one in zip(order, flags, strict=True)]
    assert [one for id, *one in seen if id == "other"] == [["sent", False]]


def test_superseded_statuses_can_be_dropped(commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """WA_STATUS_ORDER=drop: a superseded status is counted, not handled."""
    handlers, seen = Handlers(), []
    handlers.status()(lambda event: seen.append(event.status))
    commit(*[status("m", name) for name in ("read", "delivered", "sent")], batch=1)
    _drain(take, runner(handlers, status_order="drop"))
    assert seen == ["read"]
    assert redis.hget(keys.COUNTS, "superseded.status") == b"2"


CASES = Path(__file__).parents[4] / "shared" / "cases"


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here")
@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("live-T1-delivered-then-sent", ["delivered", "sent late"]),
        ("live-T1-failed-then-sent", ["failed", "sent late", "failed", "delivered late"]),
        ("live-T2-status-by-user-id-then-number", ["delivered", "sent late"]),
        ("live-T6-exact-copy", ["text"]),
        ("live-T6b-copy-with-fresh-media-url", ["image"]),
        ("live-T6c-copy-with-user-id-added", ["text"]),
        ("live-T11-copy-with-moved-counter", ["text"]),
    ],
)
def test_cases(name: str, seen: list[str], commit: Any, take: Any, runner: Any) -> None:
    """Copies that the field has met are handled once, and what comes too late for its message is known as such."""
    handlers, found = Handlers(), []
    handlers.message()(lambda event: found.append(event.type))
    handlers.status()(lambda event: found.append(f"{event.status} late" if event.superseded else event.status))
    for body in orjson.loads((CASES / f"{name}.json").read_bytes())["bodies"]:
        commit(orjson.dumps(body))
        _drain(take, runner(handlers))
    assert found == seen


def test_a_payment_is_no_stage_of_its_message(commit: Any, take: Any, runner: Any) -> None:
    """When a payment failed, the message that asked for it may still be delivered."""
    handlers, found = Handlers(), []
    handlers.status()(lambda event: found.append((event.subject, event.superseded)))
    commit(_status(status="failed", type="payment"), _status(status="delivered"), batch=1)
    _drain(take, runner(handlers))
    assert found == [("payment", False), ("delivered", False)]


def test_a_version_has_a_bucket_like_any_other(message: Callable[..., bytes]) -> None:
    """What a message leaves of its facts lies in a set that is forgotten in time: its bucket is ten octal digits."""
    (event,) = parse(message(), 1)
    assert isinstance(event, Message)
    for facts in range(50):
        assert re.fullmatch(r"[0-7]{10} -?[0-9]+", claims.version(event, bytes([facts])))

"""What waits for each handler, and why, as `status` reads it: from a flow on a real Valkey."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from ingest.state import backlog, causes, failures
from ingest.state.handlers import Handler
from ingest.store import constants, keys
from workers import Handlers, RetryIn
from workers.engine import reaper


@pytest.fixture
def bot() -> tuple[Handlers, list[str]]:
    """Two handlers of every status, `crm` and `log`; the list names those that fail."""
    handlers, fail = Handlers(), ["crm"]

    def made(name: str) -> Callable[[Any], None]:
        def handle(event: Any) -> None:
            if name in fail:
                raise KeyError("4915550001")

        handle.__module__, handle.__qualname__, handle.__name__ = "bot", name, name
        return handle

    for name in ("crm", "log"):
        handlers.status()(made(name))
    return handlers, fail


def _told(redis: Redis) -> dict[str, Handler]:
    return {one.name.partition(".")[2]: one for one in backlog.read(redis).handlers}


def _make_due(redis: Redis) -> None:
    for key in redis.scan_iter(f"{keys.RQ}:scheduled:*"):
        redis.zadd(key, dict.fromkeys(redis.zrange(key, 0, -1), 1))  # type: ignore[union-attr,arg-type]


def test_what_waits_for_a_handler(bot: Any, commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """Events that one handler failed at are owed to it alone, with their age and cause; once they end, to nobody."""
    handlers, fail = bot
    commit(*[status(f"s{n}") for n in range(5)], received_ms=int(time.time() - 300) * 1000)
    made = runner(handlers)
    made.run(*take.many("w1", "statuses"))
    crm = _told(redis)["crm"]
    assert (crm.owed, crm.retrying, crm.turns, round(crm.oldest_seconds, -1)) == (5, 5, 0, 300)
    assert "KeyError at" in (crm.error or "")
    assert "4915550001" not in (crm.error or "")
    assert _told(redis)["log"].owed == 0

    fail.append("log")  # what is owed to both counts for each
    commit(status("both"))
    made.run(*take.many("w1", "statuses"))
    found = _told(redis)
    assert (found["crm"].owed, found["log"].owed) == (6, 1)

    fail.clear()
    _make_due(redis)
    while given := take.many("w1", "statuses"):
        assert sum(one.owed for one in backlog.read(redis).handlers) <= 7  # what is in hand does not count twice
        made.run(*given)
    assert [one.owed for one in _told(redis).values()] == [0, 0]


def test_a_death_takes_nothing_away(bot: Any, commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """What a worker had in hand when it was killed is owed to the same handler as before."""
    handlers, _ = bot
    commit(*[status(f"s{n}") for n in range(30)])
    runner(handlers).run(*take.many("w1", "statuses"))
    before = _told(redis)["crm"].owed
    _make_due(redis)
    assert take.many("w2", "statuses")
    assert _told(redis).get("crm", Handler("crm")).owed < before
    reaper.heartbeat_and_reap(redis, "w1")
    assert _told(redis)["crm"].owed == before


def test_since_when_it_fails(bot: Any, commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """The first failure of a spell says since when; a spell ends when none came for some time."""
    handlers, _ = bot
    made = runner(handlers)

    def fails(id: str) -> failures.Failure:
        commit(status(id))
        made.run(*take.many("w1", "statuses"))
        (found,) = failures.parse(redis.hgetall(keys.FAILURES)).values()  # type: ignore[arg-type]
        return found

    def as_of(seconds: int) -> None:
        found = fails("s0")
        at = int(found.at) - seconds
        redis.hset(keys.FAILURES, "bot.crm", f"{at} {at - 60} {found.error}")

    as_of(constants.SPELL_SECONDS - 20)
    goes_on = fails("s1")
    assert goes_on.at - goes_on.since >= constants.SPELL_SECONDS + 40
    as_of(constants.SPELL_SECONDS + 20)
    begins = fails("s2")
    assert begins.at == begins.since


def test_what_is_long_over_is_forgotten(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures of yesterday, and names that no batch needs, when there are many of these."""
    now = int(redis.time()[0])  # type: ignore[index]
    redis.hset(keys.FAILURES, mapping={"old": f"{now - 90_000} 1 E", "new": f"{now} 1 E at a b.py:1"})
    redis.zadd(keys.LEDGER, {"statuses|r64h0a-1": 1})
    monkeypatch.setattr(failures, "_SETS_KEPT", 1)
    redis.hset(keys.OWED, mapping={"0a": "crm", "0b": "log"})
    failures.forget(redis)
    assert failures.parse(redis.hgetall(keys.FAILURES)) == {"new": ("E at a b.py:1", float(now), 1.0)}  # type: ignore[arg-type]
    assert redis.hkeys(keys.OWED) == [b"0a"]


def test_what_asks_for_a_retry_has_not_failed(commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """A handler that raised RetryIn is told by what waits for it, not by failures."""
    handlers = Handlers()

    @handlers.status()
    def asks(event: Any) -> None:
        raise RetryIn(60)

    commit(status("a"))
    runner(handlers).run(*take.many("w1", "statuses"))
    now = backlog.read(redis)
    (cause,) = causes.told(now, time.time())
    assert "asks is behind: 1 event waits for the next try, the oldest for" in cause.text
    assert "call failed" not in cause.text

"""What workers have in hand, as they tell and operators see: how long handlers have been at one event, what waits."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from typing import Any

import orjson
import pytest
from redis import Redis

from ingest.state import backlog, causes, health, in_work
from ingest.state.backlog import span
from ingest.state.failures import Failure, packed
from ingest.state.handlers import Owed
from ingest.state.holds import Hold
from ingest.state.in_work import Begun, Inside, Standing, Turn
from ingest.state.snapshot import Snapshot, workers
from ingest.store import keys


def tell(redis: Redis, worker: str, alive: bool = True, **seconds: float) -> None:
    """A worker tells how long its calls have taken, by lane."""
    calls = [Begun(lane, f"bot.{lane}", 1, time.time() - each) for lane, each in seconds.items()]
    if told := in_work.told(worker, Inside(calls)):
        redis.hset(keys.IN_WORK, mapping=told)
    redis.zadd(keys.ALIVE, {worker: time.time() * 1000 - (0 if alive else 60_000)})


def test_quick_calls_are_not_told() -> None:
    """What takes less than two seconds, or waits for less, is no news: a busy worker writes nothing."""
    now = time.time()
    lanes = {"messages": Standing(running=8)}
    inside = Inside([Begun("messages", "bot.answer", 8, now)], {"messages": now * 1000}, lanes=lanes)
    assert in_work.told("a", inside) == {}


def test_what_waits_in_a_hand_has_an_age(redis: Redis) -> None:
    """It is the lane's age though nothing waits in a queue: the oldest of all workers, without those that are dead."""
    now = time.time()
    for worker, alive, seconds in (("a", True, 40), ("b", True, 100), ("c", True, 20), ("dead", False, 9000)):
        waits = {"messages": (now - seconds) * 1000, "statuses": (now - 10) * 1000}
        redis.hset(keys.IN_WORK, mapping=in_work.told(worker, Inside([Begun("other", "bot.f", 1, now - 30)], waits)))
        redis.zadd(keys.ALIVE, {worker: now * 1000 - (0 if alive else 60_000)})
    assert not any(lane.oldest_seconds for lane in backlog.read(redis).lanes.values())  # by now all has ended
    for member in ("messages.0|b", "statuses|b"):
        redis.zadd(keys.LEDGER, {member: now * 1000})
        redis.hset(keys.TAKEN, member, "a#1")
    redis.rpush(keys.batch_key("b"), "record")
    lanes = backlog.read_all({"one": redis, "two": redis}).lanes
    assert {name: round(lane.oldest_seconds, -1) for name, lane in lanes.items()} == {
        "messages": 100,
        "statuses": 10,
        "other": 0,
    }
    assert len(backlog.read(redis).in_work) == 3


def test_the_longest_call_of_each_lane(redis: Redis) -> None:
    """It is the lane's figure; of several workers the longest counts, and those that are dead do not."""
    tell(redis, "a", messages=100, statuses=5)
    tell(redis, "b", messages=300)
    tell(redis, "dead", alive=False, messages=9000)
    now = backlog.read(redis)
    assert round(now.lanes["messages"].working_oldest_seconds, -1) == 300
    assert now.lanes["other"].working_oldest_seconds == 0
    assert 5 <= now.lanes["statuses"].working_oldest_seconds < 60
    calls = [(call.worker, call.lane) for call in now.in_work]
    assert calls == [("b", "messages"), ("a", "messages"), ("a", "statuses")]
    together = backlog.read_all({"one": redis, "two": redis})
    assert round(together.lanes["messages"].working_oldest_seconds, -1) == 300
    assert len(together.in_work) == 6


def test_a_finding_names_the_handler(redis: Redis) -> None:
    """All is not well while a handler hangs, though nothing waits: the page says which, once, and for how long."""
    tell(redis, "a", messages=100, statuses=9)
    tell(redis, "b", messages=7000)
    found = health.findings(Snapshot("r", time.time(), backlog=backlog.read(redis)))
    (one,) = [finding for finding in found if finding.about.startswith("long.")]
    assert (one.level, one.about, one.topic) == ("warning", "long.bot.messages", "a-handler-hangs")
    assert one.text == "Handler bot.messages: 2 calls under way, the longest for 1h56m"
    assert health.ALL_WELL not in found


@pytest.mark.parametrize(
    ("usual", "is_full", "seconds", "told"),
    [
        (0.1, True, 11, True),
        (0.1, True, 8, False),
        (0.1, False, 11, True),
        (5.0, False, 14, False),
        (5.0, False, 17, True),
        (5.0, True, 11, True),  # nothing else begins, whatever is usual
        (math.inf, False, 61, True),
    ],
)
def test_a_call_is_long_soon(redis: Redis, usual: float, is_full: bool, seconds: float, told: bool) -> None:
    """That is after ten seconds, while free slots are left after three times what is usual, a minute at most."""
    begun = Begun("messages", "crm", 8, time.time() - seconds, "no async slot is free" if is_full else "")
    redis.hset(keys.IN_WORK, mapping=in_work.told("a", Inside([begun])))
    redis.zadd(keys.ALIVE, {"a": time.time() * 1000})
    read = backlog.read(redis)
    read.calls = {"crm": Counter({str(usual): 10})}
    found = [cause.text for cause in causes.told(read, time.time())]
    free = "; no async slot is free" if is_full else ""
    assert found == ([f"Handler crm: 8 calls under way, the longest for {span(read.in_work[0].seconds)}{free}"] * told)


@pytest.mark.parametrize(("limit", "said"), [("2m", "past 2m (WA_HANDLER_TIMEOUT)"), (None, "past WA_HANDLER_TIMEOUT")])
def test_when_a_call_is_interrupted(redis: Redis, limit: str | None, said: str) -> None:
    """What is said of a long call names the time limit of its worker, if that tells it."""
    redis.hset(keys.IN_WORK, mapping=in_work.told("a", Inside([Begun("messages", "crm", 1, time.time() - 90)])))
    if limit:
        redis.hset(keys.IN_WORK, mapping=in_work.told_handlers("a", ["crm"], limit))
    redis.zadd(keys.ALIVE, {"a": time.time() * 1000})
    (cause,) = causes.told(backlog.read(redis), time.time())
    assert cause.remedy.startswith(f"It waits or hangs: {said}, ")


def test_where_all_stands(redis: Redis) -> None:
    """Each notification in work is told once: what workers say of it, and the rest; what waits for a slot is owed."""
    now = time.time()
    standing = Standing(running=8, ready=27, in_line=61)
    for worker in ("a", "b"):
        begun = Begun("messages", "crm", 8, now - 25, "no thread is free" if worker == "a" else "")
        ready = [Turn("messages", "crm", 27, (now - 24) * 1000, None)]
        inside = Inside([begun], ready=ready, lanes={"messages": standing})
        redis.hset(keys.IN_WORK, mapping=in_work.told(worker, inside))
        redis.zadd(keys.ALIVE, {worker: now * 1000})
    redis.zadd(keys.LEDGER, {"messages.0|b": now * 1000})
    redis.hset(keys.TAKEN, "messages.0|b", "a#1")
    redis.rpush(keys.batch_key("b"), *["record"] * 200)
    read = backlog.read(redis)
    assert causes.in_work(read.lanes["messages"]) == (
        "16 under way, 54 waiting for a free slot or thread, 122 waiting behind an earlier one of the same contact "
        "and 8 being taken up, or done behind one that is under way"
    )
    assert (read.handlers[0].owed, read.handlers[0].ready) == (54, 54)
    (cause,) = causes.told(read, now)
    assert cause.text.startswith("Handler crm: 16 calls under way, the longest for ")
    assert "; no thread is free in 1 of 2 worker processes; 54 events wait for a free slot or thread, " in cause.text
    redis.delete(keys.batch_key("b"))  # nearly all has ended since
    redis.rpush(keys.batch_key("b"), *["record"] * 20)
    assert causes.in_work(backlog.read(redis).lanes["messages"]) == (
        "16 under way and 4 waiting for a free slot or thread"
    )


def test_a_handler_that_is_gone(redis: Redis) -> None:
    """Once no worker has a handler, nothing is said of how it failed; only of what is still owed to it."""
    now = time.time()
    broken = orjson.dumps({"error": "KeyError", "next_try": now + 9, "since": now - 9, "worker": "before"})
    redis.hset(keys.BREAKDOWNS, mapping={"old": broken, "kept": broken.replace(b"before", b"a")})
    redis.hset(keys.FAILURES, mapping={"owed": packed(Failure("KeyError", now, now)), "old": f"{now:.0f} 0 KeyError"})
    redis.zadd(keys.ALIVE, {"a": now * 1000})
    redis.hset(keys.OWED, "d", "owed")
    redis.hset(keys.IN_WORK, mapping=in_work.told_handlers("a", ["kept"], "30s"))
    read = backlog.read(redis)
    read.calls = {name: Counter({"0.1": 9, "failed": 9}) for name in ("old", "kept", "owed")}
    read.owed = [Owed("owed", "messages", 3, 0, 60.0)]
    assert [one.name for one in read.handlers] == ["kept", "owed"]
    broken_one, gone = (cause.text for cause in causes.told(read, now))
    assert broken_one.startswith("Handler kept fails (KeyError)")
    assert gone == "Handler owed is gone, no worker has it: 3 events wait for the next try, the oldest for 1m00s"
    redis.zadd(keys.ALIVE, {"of an older version": now * 1000})
    assert backlog.read(redis).there is None
    redis.delete(keys.ALIVE)
    read = backlog.read(redis)
    read.calls = {"old": Counter({"0.1": 9, "failed": 9})}
    assert list(causes.told(read, now)) == []


@pytest.mark.parametrize(
    ("topic", "then", "then_alive"),
    [
        (
            in_work.CANNOT_LOAD,
            "then start workers: `wa-ingest work`; `up --reload` does so by itself",
            "then start the workers again; `up --reload` does so by itself",
        ),
        (
            in_work.STARTUP_FAILS,
            *["or what it needs; an `up` or `work` that runs tries again, with the settings of its start"] * 2,
        ),
    ],
)
def test_why_no_worker_starts(redis: Redis, topic: str, then: str, then_alive: str) -> None:
    """What the last worker said that could not start is told, with since when and what to mend: as critical while none
    is alive, as a warning while others go on with what they have.
    """

    def finding() -> health.Finding:
        return health.findings(Snapshot("r", time.time() + 60, backlog=backlog.read(redis)))[0]

    for error in ("ValueError at bot.py:4", "SyntaxError at bot.py:5"):  # of the first, the time is kept
        in_work.tell_unloadable(redis, in_work.Unloadable(error, "mend bot.py:5", topic))
    why = re.fullmatch(r"No worker is alive; for 1m0[0-9]s (none could start: .*)", finding().text)
    assert why is not None
    assert why[1] == "none could start: SyntaxError at bot.py:5"
    assert (finding().level, finding().remedy, finding().topic) == ("critical", f"Mend bot.py:5, {then}", topic)
    redis.zadd(keys.ALIVE, {"a": time.time() * 1000})
    assert finding().text.startswith("1 worker goes on with what was loaded before; for 1m0")
    assert finding().text.endswith(why[1])
    assert (finding().level, finding().remedy, finding().topic) == ("warning", f"Mend bot.py:5, {then_alive}", topic)
    redis.hdel(keys.IN_WORK, in_work.UNLOADABLE)
    assert finding() == health.ALL_WELL


def test_a_worker_of_the_page(redis: Redis) -> None:
    """Its row has the call that takes longest."""
    tell(redis, "a", messages=100, statuses=200)
    tell(redis, "b")
    rows: dict[str, Any] = {row.name: row for row in workers(redis)}
    assert (rows["a"].handler, round(rows["a"].seconds, -1)) == ("bot.statuses", 200)
    assert (rows["b"].handler, rows["b"].seconds) == (None, None)


def test_what_waits_for_its_turn(redis: Redis) -> None:
    """Told by the workers that are alive, added up: of the lane's work so much waits, and for which handlers."""
    now = time.time()
    for worker, alive, events in (("a", True, 30), ("b", True, 12), ("dead", False, 500)):
        arrived = (now - events) * 1000
        turns = [
            Turn("messages", "crm", events, arrived, arrived + 10_000),
            Turn("messages", "log", 1, now * 1000, None),
        ]
        holds = [Hold("crm", "rate", 50.0), Hold("log", "rate", 7.0), Hold("posts", "pace", 24.5, now - 9)]
        inside = Inside(turns=turns, held_back=holds, lanes={"messages": Standing(turns=events)})
        redis.hset(keys.IN_WORK, mapping=in_work.told(worker, inside))
        redis.zadd(keys.ALIVE, {worker: now * 1000 - (0 if alive else 60_000)})
    assert not backlog.read(redis).owed  # what has ended since they told it is owed no more
    redis.zadd(keys.LEDGER, {"messages.0|b": now * 1000})
    redis.hset(keys.TAKEN, "messages.0|b", "a#1")
    redis.rpush(keys.batch_key("b"), *["record"] * 50)
    for read in (backlog.read(redis), backlog.read_all({"one": redis})):
        lane = read.lanes["messages"]
        assert (lane.working, lane.turns, round(lane.oldest_seconds, -1)) == (50, 42, 20)  # it was never tried
        crm, posts = read.handlers  # what waits for a moment is no news
        assert (crm.name, crm.turns, crm.retrying, round(crm.oldest_seconds, -1)) == ("crm", 42, 0, 30)
        assert causes.of_lane(read, "messages") == "held up by handler crm"
        assert causes.of_lane(read, "statuses") == ""
        cause, other = causes.told(read, now)
        assert (cause.level, cause.about) == ("info", "lags.crm")
        assert cause.text.startswith(
            "Handler crm is behind: 42 events wait for their turn (its rate of 50/s), the oldest"
        )
        assert (posts.owed, other.about) == (0, "lags.posts")
        assert other.text.startswith("Handler posts is held back: held to 49/s since a 429 at ")

"""Handlers that an operator pauses or limits, in a flow and in real worker processes on a real Valkey."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from ingest.state import backlog, controls
from ingest.store import keys
from ingest.store.pipelined import PipelinedConnection
from ingest.store.records import unpack
from workers import Handlers, Message, Status
from workers.dispatch.rate_limits import RateLimits
from workers.dispatch.steering import Steering

HANDLERS = """
import json, os, time
from ingest.store.pipelined import PipelinedConnection
from workers import Handlers, Message, Status
from workers.dispatch.rate_limits import RateLimits
from workers.dispatch.steering import Steering

handlers = Handlers()
out = open(os.environ["SEEN"], "a", buffering=1)

def note(name, events):
    for event in events:
        out.write(json.dumps([name, event.id, event.attempt, time.monotonic()]) + "\\n")

@handlers.status()
def crm(status):
    note("crm", [status])

if os.environ.get("ARCHIVE"):
    @handlers.status()
    async def archive(status):
        note("archive", [status])

@handlers.message(bulk=10, linger=0.05)
def lists(messages):
    note("lists", messages)
"""
CRM, ARCHIVE, LISTS = (f"bot.{name}" for name in ("crm", "archive", "lists"))


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Any]]:
    """What a handler was called with so far: [id, attempt, when]."""
    (tmp_path / "bot.py").write_text(HANDLERS)
    path = tmp_path / "seen"
    path.touch()
    monkeypatch.setenv("SEEN", str(path))
    monkeypatch.setenv("ARCHIVE", "1")
    monkeypatch.setenv("WA_HANDLERS", "bot:handlers")

    def read(name: str) -> list[Any]:
        lines = map(json.loads, path.read_text().splitlines())
        return [rest for handler, *rest in lines if handler == name]

    return read


@pytest.fixture
def worker(run_module: Callable[..., Any], tmp_path: Path, redis_url: str) -> Callable[..., Any]:
    """Start a worker process."""
    return lambda *arguments: run_module("workers.engine.worker", *arguments, cwd=tmp_path)


def ids(seen: list[Any]) -> list[str]:
    return [id for id, *_ in seen]


def _parked(redis: Redis) -> list[Any]:
    found = []
    for key in redis.scan_iter(f"{keys.RQ}:scheduled:*"):
        for id in redis.zrange(key, 0, -1):  # type: ignore[union-attr]
            found += [unpack(record) for record in redis.lrange(keys.batch_key(id.decode()), 0, -1)]  # type: ignore[union-attr]
    return found


def test_a_paused_handler_waits_without_a_try(
    seen: Any, worker: Any, commit: Any, status: Any, redis: Redis, wait_for: Any
) -> None:
    """The other handler of its events is called meanwhile, and once; after `resume` it gets each once, as a first try,
    soon, though they had been put off for five seconds.
    """
    controls.pause(redis, [controls.handler(CRM)])
    commit(*[status(str(n)) for n in range(50)])
    worker()
    wait_for(lambda: len(seen("archive")) == 50 and len(_parked(redis)) == 50)
    assert seen("crm") == []
    assert {(record.attempt, record.waits, len(record.done)) for record in _parked(redis)} == {(1, 1, 1)}
    controls.resume(redis, [controls.handler(CRM)])
    began = time.monotonic()
    wait_for(lambda: len(seen("crm")) == 50 and not redis.exists(keys.LEDGER))
    assert time.monotonic() - began < 3
    assert sorted(ids(seen("crm"))) == sorted(map(str, range(50)))
    assert {attempt for _, attempt, _ in seen("crm")} == {1}
    assert len(seen("archive")) == 50


def test_a_pause_is_learnt_and_outlives_a_worker(
    seen: Any, worker: Any, commit: Any, status: Any, redis: Redis, wait_for: Any
) -> None:
    """An idle worker that is told of a pause keeps to it, and so does the next one."""
    first = worker()
    commit(status("before"))
    wait_for(lambda: seen("crm"))
    controls.pause(redis, [controls.handler(CRM)])
    time_of_pause = time.monotonic()
    wait_for(lambda: time.monotonic() > time_of_pause + 1)
    commit(status("paused"))
    wait_for(lambda: "paused" in ids(seen("archive")))
    first.kill()
    first.wait()
    worker()
    commit(status("later"))
    wait_for(lambda: "later" in ids(seen("archive")))
    wait_for(lambda: not redis.exists(keys.TAKEN))
    assert ids(seen("crm")) == ["before"]


def test_a_lane_whose_handlers_are_all_paused_stays_in_its_queue(
    seen: Any, worker: Any, commit: Any, status: Any, message: Any, redis: Redis, wait_for: Any, monkeypatch: Any
) -> None:
    """Nothing of it is taken and written anew; `--burst` ends; other lanes go on, and this one once it is resumed."""
    monkeypatch.delenv("ARCHIVE")
    controls.pause(redis, [controls.handler(CRM)])
    commit(*[status(str(n)) for n in range(50)], message("m"))
    assert worker("--burst").wait(60) == 0
    assert ids(seen("lists")) == ["m"]
    lane = backlog.read(redis).lanes["statuses"]
    assert (lane.waiting, lane.retrying, lane.working) == (50, 0, 0)
    worker()
    wait_for(lambda: backlog.read(redis).workers == 1)
    controls.resume(redis, [controls.handler(CRM)])
    wait_for(lambda: len(seen("crm")) == 50)


def test_a_paused_bulk_handler(
    seen: Any, worker: Any, commit: Any, message: Any, status: Any, redis: Redis, wait_for: Any
) -> None:
    """Its events wait, too, whether they were gathered before the pause or come later."""
    worker()
    commit(message("first"))
    wait_for(lambda: seen("lists"))
    controls.pause(redis, [controls.handler(LISTS)])
    wait_for(lambda: _is_left(redis, commit, message), 20)
    before = len(seen("lists"))
    controls.resume(redis, [controls.handler(LISTS)])
    wait_for(lambda: not redis.exists(keys.LEDGER))
    assert len(seen("lists")) > before


def _is_left(redis: Redis, commit: Any, message: Any) -> bool:
    """One more message waits and stays: the pause is known."""
    commit(message(f"m{time.monotonic_ns()}"))
    time.sleep(0.2)
    return backlog.read(redis).lanes["messages"].waiting > 0


def _busiest(times: list[float]) -> int:
    """The most in any second."""
    return max(sum(first <= t < first + 1 for t in times) for first in times)


def test_a_limit_by_handler_holds_over_all_workers(
    seen: Any, worker: Any, commit: Any, status: Any, message: Any, redis: Redis, wait_for: Any
) -> None:
    """Two workers together call it no more often than that; handlers of other events are not held up; another rate, and
    none, take effect while events wait."""
    controls.limit(redis, controls.handler(CRM), 50)
    commit(*[status(str(n)) for n in range(600)], *[message(str(n), sender=str(n)) for n in range(200)])
    for _ in range(2):
        worker()
    wait_for(lambda: len(seen("lists")) == 200)
    wait_for(lambda: len(seen("crm")) > 100, 30)
    times = [when for *_, when in seen("crm")]
    assert _busiest(times) <= 75
    controls.limit(redis, controls.handler(CRM), 0.001)
    wait_for(lambda: _stands_still(seen))
    before = len(seen("crm"))
    assert before < 600
    controls.limit(redis, controls.handler(CRM), None)
    began = time.monotonic()
    wait_for(lambda: not redis.exists(keys.LEDGER))
    assert time.monotonic() - began < 10
    assert sorted(ids(seen("crm"))) == sorted(map(str, range(600)))


def _stands_still(seen: Any) -> bool:
    before = len(seen("crm"))
    time.sleep(0.7)
    return len(seen("crm")) == before


def test_a_limit_of_lists(seen: Any, worker: Any, commit: Any, message: Any, redis: Redis, wait_for: Any) -> None:
    """The events of lists are counted, one by one."""
    controls.limit(redis, controls.handler(LISTS), 100)
    commit(*[message(str(n), sender=str(n)) for n in range(300)])
    worker()
    wait_for(lambda: len(seen("lists")) == 300, 30)
    assert _busiest([when for *_, when in seen("lists")]) <= 150


def test_a_limit_counts_all_handlers_of_a_name(redis: Redis) -> None:
    """Two registrations of one function share an operator's limit; a lower rate of its own holds beside it; a limit
    that is taken away holds up nothing.
    """
    handlers = Handlers()

    @handlers.status(rate="1/h")
    @handlers.message()
    def both(event: Message | Status) -> None: ...

    connection, steering = PipelinedConnection(redis), Steering()
    limits = RateLimits(connection, steering)
    of_messages, of_statuses = map(limits.of, handlers.registered)
    steering.learn(controls.Controls({}, {handlers.registered[0].name: 0.001}))
    assert of_messages.wait() == 0
    of_messages.begin()
    assert of_messages.wait() > 100
    assert of_statuses.wait() > 100
    steering.learn(controls.Controls({}, {}))
    assert of_messages.wait() == of_statuses.wait() == 0
    of_statuses.begin()
    steering.learn(controls.Controls({}, {handlers.registered[0].name: 1000}))
    assert of_messages.wait() < 1
    assert of_statuses.wait() > 100
    connection.hang_up()

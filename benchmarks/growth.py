"""How rates change with the backlog, the number of workers, the length of a body."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

from benchmarks import contenders, drain, machine, wrk
from benchmarks.bench import Bench
from benchmarks.handlers import EVERY
from benchmarks.names import OURS
from benchmarks.programs import Store, folder, valkey, wait_until
from ingest.store import keys

_UPDATES = (1, 100, 1000)


def run(bench: Bench) -> dict[str, Any]:
    """Rates with more and more waiting, with one and two workers, with longer and longer bodies."""
    sizes = (10_000, 100_000) if bench.quick else (10_000, 100_000, 1_000_000)
    with wrk.ready() as load:
        waiting = {str(size): _with_waiting(bench, load, size) for size in sizes}
    return {"waiting": waiting, "workers": _workers(bench), "updates": _updates(bench)}


def _with_waiting(bench: Bench, load: wrk.Wrk, size: int) -> dict[str, Any]:
    """Accept rate and drain rate of this backlog."""
    drains: list[float] = []
    drained, rounds = (50_000, 2) if bench.quick else (100_000, 3)
    bench.step(f"growth: {size:,} wait")
    with valkey("everysec") as store:
        contenders.load(OURS, store, size)
        with contenders.serving(OURS, store) as port:
            bench.step(f"growth: taking in while {size:,} wait")
            load.post(port, 1)
            accepted = load.post(port, 2 if bench.quick else 4).rate
        if size > drained:  # only a part is drained: the rate while so many wait. What came before is little beside it
            for number in range(1, rounds + 1):
                bench.step(f"growth: draining while {size:,} wait, part {number}")
                drains.append(_drain(store, drained // rounds))
    for number in range(1, rounds + 1 if not drains else 1):
        with valkey("everysec") as store:
            contenders.load(OURS, store, size)
            bench.step(f"growth: draining {size:,}, round {number}")
            drains.append(_drain(store, size))
    return {"accept": round(accepted, 1), "drain": round(median(drains), 1), "drains": [round(r, 1) for r in drains]}


def _drain(store: Store, count: int) -> float:
    """Events per second from a new worker's first call to the last thousandth one of `count`."""
    before = _handled(store)
    with folder() as handled:
        with contenders.worker(store, handled, machine.FRONT) as program:
            wait_until(lambda: _handled(store) - before >= count, 120.0, f"{count:,} handled events", program)
        (file,) = handled.glob("*.json")
        stamps = json.loads(file.read_text())["stamps"][: count // EVERY]
    return float((len(stamps) - 1) * EVERY / (stamps[-1] - stamps[0]))


def _handled(store: Store) -> int:
    return int(store.redis.hget(keys.COUNTS, "handled.message") or 0)


def _workers(bench: Bench) -> dict[str, float]:
    """Rates of one process and of two, in turn; the median of each."""
    count, rounds = (30_000, 1) if bench.quick else (100_000, 3)
    rates: dict[str, list[float]] = {"1": [], "2": []}
    for _ in range(rounds):
        for workers in rates:
            bench.step(f"growth: {workers} worker process{'es' if workers == '2' else ''}")
            rates[workers].append(drain.ours(count, "message", workers=int(workers)))
    return {workers: round(median(found), 1) for workers, found in rates.items()}


def _updates(bench: Bench) -> dict[str, float]:
    """Events per second by the number of statuses in a body."""
    events = 30_000 if bench.quick else 100_000
    found = {}
    for updates in _UPDATES:
        bench.step(f"growth: bodies of {updates:,} updates")
        found[str(updates)] = round(drain.ours(events // updates, "status", updates), 1)
    return found

"""How fast one worker process empties a backlog, handlers that do nothing included; and what a backlog takes in Redis.

Ours counts from the first handler call until the ledger is empty, so claims and settles are in it; a peer from its
first call to its last.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import Any

from benchmarks import contenders, machine
from benchmarks.bench import Bench, medians
from benchmarks.machine import BenchError
from benchmarks.names import OURS, TITLES, Contender
from benchmarks.programs import Program, Store, folder, valkey, wait_until
from ingest.store import keys

_SECONDS = 300.0


def run(bench: Bench) -> dict[str, Any]:
    """Events per second of each round, and their medians."""
    rounds = 2 if bench.quick else 3
    count = 30_000 if bench.quick else 100_000
    peers = contenders.chosen("work", "drain", bench.quick)
    own = {OURS: "message"} if bench.quick else {OURS: "message", "ours_statuses": "status"}
    rates: dict[str, list[float]] = {}
    for number in range(1, rounds + 1):
        turn = f"round {number} of {rounds}"
        for name, kind in own.items():
            bench.step(f"drain: {TITLES[name]}, {turn}")
            rates.setdefault(name, []).append(round(ours(count, kind), 1))
        for peer in peers:
            bench.step(f"drain: {peer.title}, {turn}")
            rates.setdefault(peer.name, []).append(round(_peer(peer, bench.quick), 1))
    return {"counts": {OURS: count} | {p.name: _count(p, bench.quick) for p in peers}} | {
        "rates": rates,
        "median": medians(rates),
    }


def memory(bench: Bench) -> dict[str, Any]:
    """Bytes in Redis per waiting notification, and as a multiple of the bodies."""
    counts = {OURS: 50_000 if bench.quick else 100_000}  # in small backlogs the batches at the ends are not full
    others = 10_000 if bench.quick else 20_000
    found: dict[str, Any] = {}
    for name in (OURS, *(peer.name for peer in contenders.chosen("load", "memory", bench.quick))):
        bench.step(f"memory: {TITLES[name]}")
        count = counts.get(name, others)
        with valkey("everysec") as store:
            before = _used(store)
            size = contenders.load(name, store, count)
            used = _used(store) - before
        found[name] = {"bytes": round(used / count, 1), "of_bodies": round(used / size, 3), "count": count}
    return found


def ours(count: int, kind: str, updates: int = 1, workers: int = 1) -> float:
    """Fill a backlog of `count` bodies, drain it, and return events per second."""
    with valkey("everysec") as store:
        contenders.load(OURS, store, count, kind, updates)
        with folder() as handled:
            with ExitStack() as stack:
                cores = [machine.FRONT, machine.SECOND][:workers]
                programs = [stack.enter_context(contenders.worker(store, handled, c, "--burst")) for c in cores]
                emptied = wait_until(lambda: _empty(store, programs), _SECONDS, "an empty ledger")
            for program in programs:
                if program.process.returncode:  # a fault, even though all was handled by then
                    print(f"{program.name} ended with {program.process.returncode}", file=sys.stderr)
            first = min(float(file.read_text()) for file in handled.glob("*.first"))
        _check(store, count * updates)
    return count * updates / (emptied - first)


def _peer(peer: Contender, quick: bool) -> float:
    with valkey("everysec") as store:
        count = _count(peer, quick)
        contenders.load(peer.name, store, count)
        return contenders.work(peer.name, store, count)


def _count(peer: Contender, quick: bool) -> int:
    return peer.backlog // 2 if quick else peer.backlog


def _empty(store: Store, programs: list[Program]) -> bool:
    for program in programs:
        program.check()
    return store.redis.zcard(keys.LEDGER) == 0


def _check(store: Store, events: int) -> None:
    """Check that each event was handled, none twice, none given up."""
    counts = {name.decode(): int(value) for name, value in _hash(store, keys.COUNTS).items()}
    handled = sum(value for name, value in counts.items() if name.startswith("handled."))
    if handled != events:
        raise BenchError(f"{events} events were waiting, and this became of them: {counts}")


def _hash(store: Store, key: str) -> dict[bytes, bytes]:
    found: dict[Any, Any] = store.redis.hgetall(key)
    return found


def _used(store: Store) -> int:
    """used_memory once clients are gone and the append-only file is written: the least of some readings."""
    time.sleep(1.0)
    readings = []
    for _ in range(5):
        readings.append(int(store.redis.info("memory")["used_memory"]))
        time.sleep(0.2)
    return min(readings)

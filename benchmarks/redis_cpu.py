"""What a notification costs Redis from commit to settle: its CPU time, in a backlog and one at a time."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from benchmarks import contenders, machine, sending
from benchmarks.bench import Bench
from benchmarks.names import OURS
from benchmarks.programs import Store, folder, valkey, wait_until
from ingest.store import keys

_KINDS = ("message", "status")
_RATE = 100  # a second: each is answered and handled before the next one comes
_EVERY = {"message": 1, "status": 1 << 30}
_SECONDS = 120.0


def run(bench: Bench) -> dict[str, Any]:
    """Microseconds per notification; all threads of the server count, those that write the append-only file, too."""
    count, seconds = (30_000, 5) if bench.quick else (100_000, 15)
    found: dict[str, Any] = {}
    for kind in _KINDS:
        bench.step(f"Redis' CPU: a backlog of {kind}s")
        found[f"{kind}_backlog"] = round(_backlog(count, kind), 1)
        bench.step(f"Redis' CPU: one {kind} at a time")
        found[f"{kind}_alone"] = round(_alone(_RATE * seconds, kind), 1)
    return found


def _backlog(count: int, kind: str) -> float:
    with valkey("everysec") as store:
        before = _used(store)
        contenders.load(OURS, store, count, kind)
        with folder() as seen, contenders.worker(store, seen, machine.ASIDE, "--burst") as program:
            wait_until(lambda: not store.redis.zcard(keys.LEDGER), _SECONDS, "an empty ledger", program, every=0.1)
        return (_used(store) - before) / count


def _alone(count: int, kind: str) -> float:
    with ExitStack() as stack:
        store, seen = stack.enter_context(valkey("everysec")), stack.enter_context(folder())
        port = stack.enter_context(contenders.serving(OURS, store))
        program = stack.enter_context(contenders.worker(store, seen, machine.ASIDE))
        wait_until(lambda: store.redis.zcard(keys.ALIVE), 30.0, "the worker", program)
        before = _used(store)
        sending.send(port, _RATE, count, every=_EVERY[kind])
        wait_until(lambda: not store.redis.zcard(keys.LEDGER), 10.0, "an empty ledger", program, every=0.1)
        return (_used(store) - before) / count


def _used(store: Store) -> float:
    """Microseconds of CPU that the server has used."""
    cpu = store.redis.info("cpu")
    return (float(cpu["used_cpu_sys"]) + float(cpu["used_cpu_user"])) * 1e6

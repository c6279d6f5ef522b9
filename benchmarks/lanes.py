"""How long an inbound message waits while statuses flood the pipeline."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from typing import Any

from benchmarks import contenders, machine, sending
from benchmarks.bench import Bench
from benchmarks.machine import BenchError
from benchmarks.names import OURS
from benchmarks.programs import Store, folder, valkey, wait_until
from ingest.state import backlog
from ingest.store import keys

RATE = 3020
EVERY = 151  # 20 messages and 3,000 statuses a second
_PATIENCE = 20.0


def run(bench: Bench) -> dict[str, Any]:
    """Answers of the receiver, and of the messages how long it took from the answer to the handler."""
    waiting, seconds = (50_000, 6) if bench.quick else (200_000, 20)
    count = RATE * seconds
    with folder() as seen:
        with ExitStack() as stack:
            store = stack.enter_context(valkey("everysec"))
            bench.step(f"lanes: {waiting:,} statuses wait")
            contenders.load(OURS, store, waiting, "status")
            port = stack.enter_context(contenders.serving(OURS, store))
            program = stack.enter_context(contenders.worker(store, seen, machine.ASIDE, keep=count))
            wait_until(lambda: store.redis.zcard(keys.ALIVE), 30.0, "the worker", program)
            bench.step("lanes: 3,000 statuses and 20 messages a second arrive")
            began = time.monotonic()
            sent = sending.send(port, RATE, count, every=EVERY)
            left = backlog.read(store.redis).lanes["statuses"]
            # Bounded: a worker that does not keep up shows as messages that are missing.
            with suppress(BenchError):
                wait_until(lambda: not _owed(store), _PATIENCE, "the last message", every=0.05)
            program.check()
            seconds_taken = time.monotonic() - began
        return {
            "statuses_before": waiting,
            "statuses_after": left.waiting + left.working,
            "seconds": round(seconds_taken, 1),
            "answers": sending.answers(sent),
            "to_handler": sending.handled(sent, seen, EVERY),
        }


def _owed(store: Store) -> bool:
    """Is any message not handled yet?"""
    ledger: list[Any] = store.redis.zrange(keys.LEDGER, 0, -1)
    return any(member.startswith(b"messages") for member in ledger)

"""How long a killed worker's batch waits: SIGKILL in the middle of a batch while another worker runs."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from statistics import median
from typing import Any

from benchmarks import contenders, machine
from benchmarks.bench import Bench
from benchmarks.names import OURS
from benchmarks.programs import Program, Store, folder, valkey, wait_until
from ingest.store import keys


def run(bench: Bench) -> dict[str, Any]:
    """Seconds from the kill until the batch that the dead worker held was settled by the other one, of each round."""
    rounds = 1 if bench.quick else 3
    seconds = [_once(bench, number) for number in range(1, rounds + 1)]
    return {"seconds": seconds, "median": median(seconds)}


def _once(bench: Bench, number: int) -> float:
    bench.step(f"recovery: a backlog, round {number}")
    with ExitStack() as stack:
        handled = stack.enter_context(folder())
        store = stack.enter_context(valkey("everysec"))
        contenders.load(OURS, store, 100_000, "status")
        doomed = stack.enter_context(contenders.worker(store, handled, machine.FRONT))
        wait_until(lambda: store.redis.zcard(keys.ALIVE), 30.0, "the first worker", doomed)
        name: Any = store.redis.zrange(keys.ALIVE, 0, 0)[0]
        other = stack.enter_context(contenders.worker(store, handled, machine.SECOND))
        wait_until(lambda: store.redis.zcard(keys.ALIVE) == 2, 30.0, "the second worker", other)
        bench.step(f"recovery: a worker is killed, round {number}")
        member = _kill_at_work(store, name, doomed)
        killed = time.monotonic()
        settled = wait_until(
            lambda: store.redis.zscore(keys.LEDGER, member) is None,
            60.0,
            "the end of the dead worker's batch",
            other,
        )
        return round(settled - killed, 2)


def _kill_at_work(store: Store, name: bytes, doomed: Program) -> bytes:
    """Kill the worker while it holds a batch, and return the batch's entry in the ledger."""
    held: list[bytes] = []

    def stopped_with_batch() -> bool:
        os.kill(doomed.process.pid, signal.SIGSTOP)  # it can neither settle nor take one while we look
        taken: dict[Any, Any] = store.redis.hgetall(keys.TAKEN)
        held[:] = [member for member, holder in taken.items() if holder.partition(b"#")[0] == name]
        if held:
            doomed.process.kill()
        else:
            os.kill(doomed.process.pid, signal.SIGCONT)
        return bool(held)

    wait_until(stopped_with_batch, 30.0, "a batch in the first worker's hands", every=0.003)
    return held[0]

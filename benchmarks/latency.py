"""How long an answer takes, and how long until the handler is called, with AOF always and senders that do not wait."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Any

from benchmarks import contenders, machine, sending
from benchmarks.bench import Bench
from benchmarks.machine import BenchError
from benchmarks.names import OURS
from benchmarks.programs import NO_STORE, folder, valkey, wait_until
from ingest.store import keys

# The senders' rule for one number that sends 1,000 messages a second: 3,000 statuses and 300 replies. One in 11.
RATES = (1000, 3300)
EVERY = 11
_IDLE_RATE, _IDLE_COUNT = 5, 30
_WARM = 1.0
_PATIENCE = 30.0


def run(bench: Bench) -> dict[str, Any]:
    """Per rate the answers of ours and of bare aiohttp, and the way to the handler; the same of an idle pipeline."""
    seconds = 3 if bench.quick else 10
    bare = any(peer.name == "bare_aiohttp" for peer in contenders.chosen("serve", "latency", bench.quick))
    found: dict[str, Any] = {"seconds": seconds}
    for rate in RATES:
        bench.step(f"latency: ours at {rate:,}/s")
        one = found[str(rate)] = ours(rate, rate * seconds)
        if bare:
            bench.step(f"latency: bare aiohttp at {rate:,}/s")
            one["bare_aiohttp"] = _bare(rate, rate * seconds)
    bench.step("latency: one message now and then")
    return found | {"idle": ours(_IDLE_RATE, _IDLE_COUNT, every=1)}


def ours(rate: float, count: int, every: int = EVERY) -> dict[str, Any]:
    """Receiver and worker at work: the answers; from the answers to the handler, all together and messages alone."""
    with folder() as seen:
        with ExitStack() as stack:
            store = stack.enter_context(valkey("always"))
            port = stack.enter_context(contenders.serving(OURS, store))
            keep = count + int(rate * _WARM) + 1
            program = stack.enter_context(
                contenders.worker(store, seen, machine.ASIDE, keep=keep, kinds="message,status")
            )
            wait_until(lambda: store.redis.zcard(keys.ALIVE), 30.0, "the worker", program)
            sent = sending.send(port, rate, count, every=every, warm=_WARM)
            # Bounded: a worker that does not keep up shows as events that are missing.
            with suppress(BenchError):
                wait_until(lambda: not store.redis.zcard(keys.LEDGER), _PATIENCE, "an empty ledger", program)
            program.check()
        return {
            "ours": sending.answers(sent),
            "to_handler": sending.handled(sent, seen),
            "messages_to_handler": sending.handled(sent, seen, every),
        }


def _bare(rate: float, count: int) -> dict[str, Any]:
    with contenders.serving("bare_aiohttp", NO_STORE) as port:
        return sending.answers(sending.send(port, rate, count, every=EVERY, warm=_WARM))

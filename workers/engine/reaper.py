"""A worker's heartbeat, and what happens to the batches of workers without one (reap.lua)."""

from __future__ import annotations

from collections import Counter

from redis import Redis

from ingest.loggers import get_logger
from ingest.state.in_work import ALIVE_MS
from ingest.store import keys, scripts

log = get_logger(__name__)

BEAT_SECONDS = 2.0
"""How often a worker sends a heartbeat; it counts as dead after missing five."""

SURE_SECONDS = ALIVE_MS / 1000 - 1.0
"""So long after a heartbeat a worker is sure that nobody has its batches."""

_REAP_MS = 3000
_SCRIPT = scripts.lua(__file__, "reap.lua")
_KEYS = [keys.LEDGER, keys.TAKEN, keys.LEASES, keys.ALIVE, keys.REAPER, keys.RQ_QUEUES, keys.DEATHS, keys.CLAIMS]
_KEYS += [keys.COUNTERS, keys.WANTED, keys.REAPED, keys.TURN, keys.HEADS]


def suspect(batch: str) -> bool:
    """True for a batch whose workers died twice. A single record becomes a dead letter after the next death."""
    return "_p" in batch


def heartbeat_and_reap(redis: Redis, worker: str, leaves: bool = False, ended: str = "") -> list[str]:
    """Send the heartbeat of `worker`; at most every three seconds, among all workers, also put back lost batches.

    With `leaves`, the batches that this worker holds go back at once. So do those of `ended`, a worker whose supervisor
    has seen it end. Returns the batches put back, as `QUEUE|BATCH`.
    """
    script = redis.register_script(_SCRIPT)
    back, letters = script(keys=_KEYS, args=[keys.RQ, keys.WA, worker, int(leaves), ALIVE_MS, _REAP_MS, ended])
    for lane, count in Counter(letters).items():
        log.warning("dead letters", lane=lane.decode(), reason="poison", count=count)
    return [member.decode() for member in back]

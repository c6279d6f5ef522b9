"""A worker's sign of life, and what happens to the work of those that give none (reap.lua)."""

from __future__ import annotations

from collections import Counter

import structlog
from redis import Redis

from ingest.state.backlog import ALIVE_MS
from ingest.store import keys, scripts

log = structlog.get_logger()

BEAT_SECONDS = 2.0
"""A sign of life this often; five may be missed before a worker counts as dead."""

_REAP_MS = 3000
_SCRIPT = scripts.lua(__file__, "reap.lua")
_KEYS = [keys.LEDGER, keys.TAKEN, keys.LEASES, keys.ALIVE, keys.REAPER, keys.RQ_QUEUES, keys.DEATHS, keys.CLAIMS]
_KEYS.append(keys.COUNTERS)


def suspect(batch: str) -> bool:
    """True when the workers of this batch's one record died twice. After the next death it is a dead letter."""
    return "_p" in batch


def heartbeat_and_reap(redis: Redis, worker: str, leaves: bool = False, ended: str = "") -> list[str]:
    """Show that `worker` lives, and put back what belongs to nobody, at most every three seconds of all workers.

    With `leaves`, what the worker holds goes back at once. So does what `ended` held, a worker whose supervisor has
    seen its end. Returns what was put back, as `QUEUE|BATCH`.
    """
    script = redis.register_script(_SCRIPT)
    back, letters = script(keys=_KEYS, args=[keys.RQ, keys.WA, worker, int(leaves), ALIVE_MS, _REAP_MS, ended])
    for lane, count in Counter(letters).items():
        log.warning("dead letters", lane=lane.decode(), reason="poison", count=count)
    return [member.decode() for member in back]

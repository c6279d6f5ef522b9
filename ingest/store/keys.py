"""The names in Redis.

| key (after the prefix) | type | holds |
|---|---|---|
| `batch:ID` | list | the records of a batch |
| `ledger` | sorted set | every unfinished batch, `QUEUE|ID`, by arrival of its first record (ms): what is still owed |
| `tails` | hash | per queue the batch at its end that may still be joined, and its bytes |
| `taken` | hash | `QUEUE|ID` → `WORKER#N`, the worker that has it; N rises with every batch given out |
| `leases` | hash | partition queue → the batch in work: one batch of a partition at a time |
| `flush:ID` | string | this flush was carried out; a minute |
| `calls:WORKER` | string | the number of the last settle that the worker sent |
| `claims`, `generations`, `seen:N:DIGITS` | hash, hash, set | which events were handled, see `workers/claims.py` |
| `profiles:G:N` | hash | what was last seen of contacts, see `workers/profiles.py` |
| `spent`, `failing`, `waits`, `deaths`, `turn` | | what take.lua, settle.lua and reap.lua remember |
| `alive` | sorted set | workers by their last sign of life (ms) |
| `doorbell:LANE` | list | at most one token; idle workers block on it |
| `dead:LANE` | stream | dead letters |
| `counts` | hash | what became of events, ever |
| `tally` | hash | what else workers count, see `ingest/tally.py` |
| `flow:T` | hash | notifications in and out per lane in the ten seconds T |
| `steering` | hash | what an operator said: lanes that are paused, caps, see `ingest/steering.py` |
| `rates` | hash | tokens of handlers with a rate, see `workers/turns.py` |
| `history`, `history.turn` | stream, string | the backlog over the last hour, see `ingest/history.py` |
"""

from __future__ import annotations

from rq.defaults import RQ_KEY_PREFIX

# Ours live under RQ's prefix, so that a {hash tag} in RQ_KEY_PREFIX puts all keys of a script into one Cluster slot.
RQ = RQ_KEY_PREFIX
WA = f"{RQ}:wa:"
LEDGER, TAILS, TAKEN, LEASES, ALIVE, COUNTS, COUNTERS = (
    WA + name for name in ("ledger", "tails", "taken", "leases", "alive", "counts", "tally")
)
FLOW = WA + "flow:"
RQ_QUEUES = f"{RQ}:queues"


def batch_key(batch: str) -> str:
    return f"{WA}batch:{batch}"


def dead_key(lane: str) -> str:
    return f"{WA}dead:{lane}"


def doorbell_key(lane: str) -> str:
    return f"{WA}doorbell:{lane}"


def queue_key(queue: str) -> str:
    return f"{RQ}:queue:{queue}"


def job_key(batch: str) -> str:
    """RQ's job of a batch."""
    return f"{RQ}:job:{batch}"


def scheduled_key(queue: str) -> str:
    """RQ's ScheduledJobRegistry: retry batches wait there until they are due."""
    return f"{RQ}:scheduled:{queue}"

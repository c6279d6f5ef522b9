"""The layout of what the receiver writes into Redis and the workers read: keys, records, the RQ job of a batch.

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

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple

import orjson
from redis import Redis
from rq.defaults import RQ_KEY_PREFIX
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

# Ours live under RQ's prefix, so that a {hash tag} in RQ_KEY_PREFIX puts all keys of a script into one Cluster slot.
RQ = RQ_KEY_PREFIX
WA = f"{RQ}:wa:"
LEDGER, TAILS, TAKEN, LEASES, ALIVE, COUNTS, TALLY = (
    WA + name for name in ("ledger", "tails", "taken", "leases", "alive", "counts", "tally")
)
FLOW = WA + "flow:"
RQ_QUEUES = f"{RQ}:queues"

BATCH_BYTES = 1 << 20
"""A batch takes no further notification when it would grow beyond this; a larger body is a batch of its own."""

FLOW_SECONDS = 10
"""Length of a `flow` bucket."""

RUN = "workers.batch.run"
"""The function of a batch's RQ job; a name only, the receiver never imports the workers."""

FAILURE_TTL = 3600
"""How long RQ shows a failed job. The ledger, not RQ, remembers what is owed."""

_HEADER = Struct(">Q")

_ORIGIN = 1
"""In place of a share, which would mean nothing: the digest of the original body stands between header and body."""
_ORIGIN_BYTES = 8


class Record(NamedTuple):
    """One notification in a batch.

    `attempt` counts from 1, to 127; 0 is the first try of what was fed back from the archive, and is there already.
    `share` is 0, or the number of partitions when only the contacts of this queue's partition count (see
    `ingest.routing.Place`). `again` is set when somebody asked for it to be handled once more, whether it was handled
    before or not. `origin` is empty, or the `digest` of the body as it was received, when this one holds a part of it:
    one event.
    """

    received_ms: int
    attempt: int
    share: int
    again: bool
    body: bytes
    origin: bytes = b""


def pack(
    body: bytes, received_ms: int, attempt: int = 1, share: int = 0, again: bool = False, origin: bytes = b""
) -> bytes:
    """A record as it lies in Redis: 6 bytes arrival time, 1 bit again, 7 attempt, 8 share, the body byte for byte.

    With an origin, which only a record without a share may have, the share is 1 and its 8 bytes stand before the body.
    """
    if origin:
        share = _ORIGIN
    return _HEADER.pack(received_ms << 16 | again << 15 | attempt << 8 | share) + origin + body


def unpack(record: bytes) -> Record:
    """The reverse of `pack`."""
    (header,) = _HEADER.unpack_from(record)
    share, origin, body = header & 255, b"", record[_HEADER.size :]
    if share == _ORIGIN:
        share, origin, body = 0, body[:_ORIGIN_BYTES], body[_ORIGIN_BYTES:]
    return Record(header >> 16, header >> 8 & 127, share, bool(header >> 15 & 1), body, origin)


def digest(body: bytes) -> bytes:
    """Eight bytes that tell a body from others that arrived in the same millisecond."""
    return blake2b(body, digest_size=_ORIGIN_BYTES).digest()


def notification(received_ms: int, origin: bytes) -> str:
    """The id of a notification, 32 hex digits: its arrival, then the digest of its body.

    Nobody has to carry it along: receiver and worker compute the same. It is in log lines and dead letters, and it is
    the id of the trace.
    """
    return f"{received_ms:016x}{origin.hex()}"


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


def rq_now() -> str:
    """The time as RQ writes it into a job."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


_GUARD = "redis.call('EXISTS', KEYS[1] .. ':') "


def lua(module_file: str, name: str) -> str:
    """The text of the Lua script that lies beside a module.

    While a slot of a cluster is moved key by key, a script would be ended by the first key that is not there. In a
    cluster each therefore begins with a key that never is: it is refused before it has written anything.
    """
    text = Path(module_file).with_name(name).read_text()
    return text.replace("\n", f"\n{_GUARD}", 1) if "{" in RQ else text


APPEND_KEYS = (LEDGER, TAILS, RQ_QUEUES)


def append_head(flush: str, template: str, batch: int) -> list[Any]:
    """The arguments of append.lua before the queues. `flush`: a name that no other call has; `batch`: WA_BATCH."""
    return [RQ, WA, flush, template, batch, BATCH_BYTES, rq_now()]


def append_arguments(head: list[Any], records: Mapping[str, list[bytes]]) -> list[Any]:
    """All of its arguments, for packed records by queue."""
    for queue, some in records.items():
        head += (queue, len(some), *some)
    return head


def job_template() -> str:
    """The fields of a batch's RQ job as a JSON array, with `_ID_`, `_QUEUE_` and `_NOW_` to be replaced by a script.

    RQ itself makes the fields (`Job.to_dict`). Its `data` is compressed there; `Job.restore` also takes it plain.
    The job holds the id of the batch, never a body. No time-out: events have their own.
    """
    job = Job.create(
        RUN,
        args=("_QUEUE_", "_ID_"),
        id="_ID_",
        origin="_QUEUE_",
        description="batch",
        timeout=-1,
        result_ttl=0,
        failure_ttl=FAILURE_TTL,
        status=JobStatus.QUEUED,
        serializer=JSONSerializer,
        connection=Redis(),  # Job insists on one; this one never connects
    )
    fields: dict[str, Any] = job.to_dict() | {
        "created_at": "_NOW_",
        "enqueued_at": "_NOW_",
        "data": job.data.decode(),
        "status": JobStatus.QUEUED.value,
    }
    return orjson.dumps([str(part) for pair in fields.items() for part in pair]).decode()

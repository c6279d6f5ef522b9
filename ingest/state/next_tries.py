"""What waits for its next try, and how it is made due now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from redis import Redis

from ingest.store import keys, scripts
from ingest.store.constants import REVIVED
from ingest.store.queues import Member, lane_of

_DUE_NOW = scripts.lua(__file__, "due_now.lua")


def waiting(redis: Redis) -> list[Member]:
    """The batches that wait until they are due."""
    seconds, micros = redis.time()
    known: Any = redis.smembers(keys.RQ_QUEUES)
    queues = sorted(map(keys.queue_of, known))
    with redis.pipeline(transaction=False) as pipe:
        for queue in queues:
            pipe.zrange(keys.scheduled_key(queue), f"({seconds + micros / 1_000_000}", "+inf", byscore=True)
        return [Member(queue, id.decode()) for queue, ids in zip(queues, pipe.execute(), strict=True) for id in ids]


def make_due(redis: Redis, batches: Sequence[Member]) -> Counter[str]:
    """Have these tried now, in order of arrival. Returns the number of events, by lane."""
    script = redis.register_script(_DUE_NOW)
    found = Counter[str]()
    for start in range(0, len(batches), REVIVED):
        some = batches[start : start + REVIVED]
        counts = script(keys=[keys.PARKED, keys.LEDGER], args=[keys.RQ, keys.WA, *map(str, some)])
        for member, count in zip(some, counts, strict=True):
            found[lane_of(member.queue)] += count
    return found

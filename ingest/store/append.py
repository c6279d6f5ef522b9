"""Adding notifications to batches in Redis: the arguments of append.lua."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from ingest.store import keys
from ingest.store.jobs import rq_now

BATCH_BYTES = 1 << 20
"""A batch takes no further notification when it would grow beyond this; a larger body is a batch of its own."""

APPEND_KEYS = (keys.LEDGER, keys.TAILS, keys.RQ_QUEUES)


def flush_ids() -> Iterator[str]:
    """Names for a receiver's calls, in ascending order, that nobody else gives."""
    return map("n{}-{:08x}".format, itertools.repeat(secrets.token_hex(5)), itertools.count())


def append_head(flush: str, template: str, batch: int) -> list[Any]:
    """The arguments of append.lua before the queues. `flush`: a name that no other call has; `batch`: WA_BATCH."""
    return [keys.RQ, keys.WA, flush, template, batch, BATCH_BYTES, rq_now()]


def append_arguments(head: list[Any], records: Mapping[str, list[bytes]]) -> list[Any]:
    """All of its arguments, for packed records by queue."""
    for queue, some in records.items():
        head += (queue, len(some), *some)
    return head

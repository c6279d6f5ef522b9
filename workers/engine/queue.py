"""RQ's queue with our dequeue: pop, in-flight mark and partition lease in one script, woken by a doorbell.

RQ 3.0.0 loses a job when a worker of several queues dies between BLPOP and its in-flight mark (rq#1716).
`dequeue_any` is the classmethod that RQ's worker calls for its next job.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from redis import Redis
from rq import Queue
from rq.exceptions import DequeueTimeout
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty

from ingest.settings import Settings
from ingest.store import keys, scripts
from ingest.store.jobs import job_template, rq_now
from ingest.store.pipelined import PipelinedConnection
from ingest.store.queues import LANES, MESSAGES, lane_of, queue_names

_LONGEST_BLOCK = 5.0
"""Seconds; a safety net, and how long `rq resume` may go unnoticed. Work is announced by the doorbell."""

_SOON_MS = 1000
"""With `--burst`, a worker still waits if a retry is due, or a capped lane has tokens, within this time."""

_KEYS = [keys.LEDGER, keys.TAKEN, keys.LEASES, keys.TAILS, keys.TURN, keys.SPENT, keys.WAITS, keys.CONTROLS]
_TEMPLATE = job_template()
_PARTS: list[str] = orjson.loads(_TEMPLATE)
_FIELDS = dict(zip(_PARTS[::2], _PARTS[1::2], strict=True))
_STATUSES = {status.value for status in JobStatus}
_PLACE = re.compile("_ID_|_QUEUE_|_NOW_")


class NoDeathPenalty(BaseDeathPenalty):
    """RQ's time-out of a whole job is not used: events have their own, and both would use SIGALRM."""

    def setup_death_penalty(self) -> None:
        pass

    def cancel_death_penalty(self) -> None:
        pass


@dataclass
class Consumer:
    """Who takes batches.

    `worker` is its name. `settling` is the batch, `QUEUE|ID`, whose last settle is not answered yet. `width` is how
    many records of a capped lane it gets at least. `idle` is called before it waits for work.
    """

    worker: str
    connection: PipelinedConnection
    settling: str = ""
    width: int = 1
    idle: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.take = self.connection.script(scripts.lua(__file__, "take.lua"))


class Delivery(NamedTuple):
    """What take.lua gave: whether it is the one try of a lane that waits, `worker#number`, the records, and for a
    capped lane how many events may begin.
    """

    probe: bool
    token: str
    records: list[bytes]
    allowance: int | None = None


class BatchJob(Job):
    """The RQ job of a batch. What it runs is never read from Redis: whoever can write there could name any function or
    callback in a job, or (with RQ's default serializer) pickle one.
    """

    def restore(self, raw_data: dict[Any, Any]) -> None:
        """RQ calls this with a job's fields from Redis. Only origin and status are used; the rest is made here."""
        origin, status = (raw_data.get(name, b"").decode("utf-8", "replace") for name in (b"origin", b"status"))
        words = {"_ID_": self.id, "_QUEUE_": origin, "_NOW_": rq_now()}
        fields = {name: _PLACE.sub(lambda found: words[found[0]], text) for name, text in _FIELDS.items()}
        if status in _STATUSES:
            fields["status"] = status
        super().restore({name: text.encode() for name, text in fields.items()})


class BatchQueue(Queue):
    """A queue of batches; `delivery` belongs to the batch taken last."""

    job_class = BatchJob
    consumer: Consumer
    delivery: Delivery

    @classmethod
    def dequeue_any(
        cls,
        queues: Iterable[Queue],
        timeout: int | None,
        connection: Redis,
        job_class: type[Job] | None = None,
        serializer: Any = None,
        death_penalty_class: type[BaseDeathPenalty] | None = None,
    ) -> tuple[Job, Queue] | None:
        """The next batch's job and its queue. None when `timeout` is None (burst) and nothing can be taken soon.

        Raises DequeueTimeout after `timeout` seconds, as RQ's worker expects.
        """
        by_name: dict[str, Any] = {queue.name: queue for queue in queues}
        consumer = next(iter(by_name.values())).consumer
        doorbells = [keys.doorbell_key(lane) for lane in dict.fromkeys(map(lane_of, by_name))]
        fixed = [keys.RQ, keys.WA, consumer.worker, _TEMPLATE]
        deadline = time.monotonic() + (timeout or 0)
        while True:
            # Sent ahead of the last batch's settle: Redis works on that while this worker begins the next batch.
            reply: Any = consumer.take.ask(_KEYS, [*fixed, rq_now(), consumer.settling, consumer.width, *by_name])
            if isinstance(reply, list):
                name, id_, probe, token, records, allowance = reply
                queue = by_name[name.decode()]
                queue.delivery = Delivery(probe == b"1", token.decode(), records, None if allowance < 0 else allowance)
                job = cls.job_class(id_.decode(), connection, JSONSerializer)
                job.restore({b"origin": name})
                return job, queue
            if consumer.connection.flush():
                continue  # a batch was settled meanwhile: its partition is free
            if timeout is None and not 0 <= reply <= _SOON_MS:
                return None
            left = _LONGEST_BLOCK if timeout is None else deadline - time.monotonic()
            if left <= 0:
                raise DequeueTimeout(timeout, list(by_name))
            consumer.idle()
            block = min(left, _LONGEST_BLOCK, reply / 1000 if reply >= 0 else _LONGEST_BLOCK)
            connection.blpop(doorbells, max(0.01, block))  # to BLPOP, 0 means for ever


def open_queues(connection: Redis, settings: Settings, consumer: Consumer) -> list[BatchQueue]:
    """The queues of the lanes in `settings`, most urgent first, with partitions left from a larger WA_PARTITIONS."""
    names = [name for lane in LANES if lane in settings.lanes for name in queue_names(lane, settings.partitions)]
    known: Any = connection.smembers(keys.RQ_QUEUES)
    for key in sorted(known):
        name = keys.queue_of(key)
        if lane_of(name) == MESSAGES and MESSAGES in settings.lanes and name not in names:
            names.insert(settings.partitions, name)
    queues = [
        BatchQueue(name, connection=connection, serializer=JSONSerializer, death_penalty_class=NoDeathPenalty)
        for name in names
    ]
    for queue in queues:
        queue.consumer = consumer
    return queues

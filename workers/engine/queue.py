"""RQ's queue with our dequeue: one script gives batches to the flow, which runs while RQ waits for the next one.

RQ 3.0.0 loses a job when a worker of several queues dies between BLPOP and its in-flight mark (rq#1716).
`dequeue_any` is the classmethod that RQ's worker calls for its next job.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import orjson
from redis import Redis
from rq import Queue
from rq.exceptions import DequeueTimeout, StopRequested
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty

from ingest.settings import Settings
from ingest.store import keys
from ingest.store.jobs import job_template, rq_now
from ingest.store.queues import LANES, MESSAGES, lane_of, queue_names
from workers.engine.flow import Flow, Stopped
from workers.engine.hand import Taken

_PARTS: list[str] = orjson.loads(job_template())
_FIELDS = dict(zip(_PARTS[::2], _PARTS[1::2], strict=True))
_STATUSES = {status.value for status in JobStatus}
_PLACE = re.compile("_ID_|_QUEUE_|_NOW_")


class NoDeathPenalty(BaseDeathPenalty):
    """RQ's time-out of a whole job is not used: events have their own, and both would use SIGALRM."""

    def setup_death_penalty(self) -> None:
        pass

    def cancel_death_penalty(self) -> None:
        pass


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
    """A queue of batches; `taken` is the batch that was taken last."""

    job_class = BatchJob
    flow: Flow
    taken: Taken

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
        """The next batch's job and its queue. Meanwhile the batches in hand go on.

        None when `timeout` is None (burst) and nothing is in hand and nothing can be taken soon. Raises DequeueTimeout
        after `timeout` seconds, as RQ's worker expects, and StopRequested, which ends its loop in order.
        """
        by_name: dict[str, Any] = {queue.name: queue for queue in queues}
        flow: Flow = next(iter(by_name.values())).flow
        try:
            taken = flow.next(timeout)
        except TimeoutError:
            raise DequeueTimeout(timeout, list(by_name)) from None
        except Stopped:
            raise StopRequested from None
        if taken is None:
            return None
        # RQ does not know of a partition that came since the start.
        queue = by_name.get(taken.queue) or open_queues(connection, [taken.queue], flow)[0]
        queue.taken = taken
        job = cls.job_class(taken.batch, connection, JSONSerializer)
        job.restore({b"origin": taken.queue.encode()})
        return job, queue


def names_of(connection: Redis, settings: Settings) -> list[str]:
    """The queues of the lanes in `settings`, most urgent first, with partitions left from a larger WA_PARTITIONS."""
    names = [name for lane in LANES if lane in settings.lanes for name in queue_names(lane, settings.partitions)]
    known: Any = connection.smembers(keys.RQ_QUEUES)
    for key in sorted(known):
        name = keys.queue_of(key)
        if lane_of(name) == MESSAGES and MESSAGES in settings.lanes and name not in names:
            names.insert(settings.partitions, name)
    return names


def open_queues(connection: Redis, names: Iterable[str], flow: Flow) -> list[BatchQueue]:
    """RQ's queues of these names, with the flow that takes from them."""
    queues = [
        BatchQueue(name, connection=connection, serializer=JSONSerializer, death_penalty_class=NoDeathPenalty)
        for name in names
    ]
    for queue in queues:
        queue.flow = flow
    return queues

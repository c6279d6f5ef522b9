"""The RQ job of a batch."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
from redis import Redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

RUN = "workers.engine.batch.run"
"""The function of a batch's RQ job; a name only, the receiver never imports the workers."""

FAILURE_TTL = 3600
"""How long RQ shows a failed job. The ledger, not RQ, remembers what is owed."""


def rq_now() -> str:
    """The time as RQ writes it into a job."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


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

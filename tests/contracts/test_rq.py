"""What the engine relies on inside RQ, beyond its documentation."""

from __future__ import annotations

from datetime import timedelta

import orjson
import pytest
from redis import Redis
from rq import Queue, SimpleWorker, suspension
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.registry import ScheduledJobRegistry
from rq.serializers import JSONSerializer
from rq.worker import WorkerStatus

from ingest.store import keys
from ingest.store.jobs import RUN, job_template, rq_now


@pytest.fixture
def queue(redis: Redis) -> Queue:
    return Queue("messages.0", connection=redis, serializer=JSONSerializer)


@pytest.fixture
def worker(queue: Queue) -> SimpleWorker:
    return SimpleWorker([queue], name="w", connection=queue.connection, serializer=JSONSerializer)


@pytest.fixture
def job(queue: Queue) -> Job:
    return Job.create(
        "m.f", id="1", origin=queue.name, timeout=-1, connection=queue.connection, serializer=JSONSerializer
    )


def test_state(worker: SimpleWorker, redis: Redis) -> None:
    """What a worker does is its `_state`, which `get_state` gives; that it is written is `set_state`'s doing alone."""
    worker.set_state(WorkerStatus.BUSY)
    worker._state = WorkerStatus.IDLE
    assert worker.get_state() == WorkerStatus.IDLE
    assert redis.hget(worker.key, "state") == b"busy"


def test_an_execution_keeps_its_job(redis: Redis, job: Job) -> None:
    """An `Execution` that was made for a job has that job, and does not fetch it."""
    with redis.pipeline(transaction=False) as pipe:
        execution = Execution.create(job, 60, pipeline=pipe, worker_name="w")
        pipe.reset()
    assert execution.job is job
    assert not redis.keys()


def test_bookkeeping_can_be_put_off(worker: SimpleWorker, redis: Redis, job: Job) -> None:
    """The steps around a job put commands on the pipeline that they are given and send none, so we send them later."""
    with redis.pipeline(transaction=False) as pipe:
        execution = Execution.create(job, 60, pipeline=pipe, worker_name=worker.name)
        worker.executions[execution.id] = execution
        for step in (
            lambda: worker.set_state(WorkerStatus.BUSY, pipeline=pipe),
            lambda: job.prepare_for_execution(worker.name, pipeline=pipe),
            lambda: worker.increment_successful_job_count(pipeline=pipe),
            lambda: worker.increment_total_working_time(timedelta(seconds=1), pipe),
            lambda: worker.cleanup_execution(job, pipeline=pipe, execution=execution),
        ):
            before = len(pipe.command_stack)
            step()
            assert len(pipe.command_stack) > before
        assert not redis.keys()
        assert all(isinstance(words, tuple) and isinstance(options, dict) for words, options in pipe.command_stack)
        pipe.execute()
    assert not worker.executions
    assert job.execution_registry.key == f"{keys.RQ}:executions:1"


def test_names_of_keys(queue: Queue, job: Job) -> None:
    """RQ's keys have the names that our scripts write."""
    assert queue.key == keys.queue_key(queue.name)
    assert Queue.redis_queues_keys == keys.RQ_QUEUES
    assert Job.key_for(job.id) == keys.job_key(job.id)
    assert ScheduledJobRegistry(queue=queue).key == keys.scheduled_key(queue.name)
    assert f"{keys.RQ}:suspended" == suspension.WORKERS_SUSPENDED
    assert (JobStatus.QUEUED.value, JobStatus.SCHEDULED.value) == ("queued", "scheduled")


def test_data_may_be_plain(redis: Redis) -> None:
    """A job can be read although its `data` is not compressed: our scripts write it so."""
    parts = orjson.loads(job_template().replace("_NOW_", rq_now()))
    job = Job("_ID_", connection=redis, serializer=JSONSerializer)
    job.restore({name.encode(): value.encode() for name, value in zip(parts[::2], parts[1::2], strict=True)})
    assert (job.func_name, job.args, job.timeout) == (RUN, ["_QUEUE_", "_ID_"], -1)

"""What the engine relies on inside RQ, beyond its documentation."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest
from redis import Redis
from rq import Queue, SimpleWorker, suspension
from rq.exceptions import DequeueTimeout, StopRequested
from rq.job import Job, JobStatus
from rq.registry import ScheduledJobRegistry
from rq.serializers import JSONSerializer
from rq.utils import now
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


def test_a_stop_is_asked_for(queue: Queue) -> None:
    """`_stop_requested` ends the loop before it asks for another job, and nothing of what ends it is written."""
    worker = _loop(queue.connection)
    worker._stop_requested = True
    worker.work()
    assert worker.calls == ["bootstrap", "check_for_suspension", "teardown"]


def test_a_second_stop_is_forced(worker: SimpleWorker) -> None:
    """`_shutdown_requested_date` tells `request_force_stop` when the first signal came: one within a second of that
    is the same signal, a later one raises SystemExit."""
    worker._shutdown_requested_date = now()
    worker.request_force_stop(15, None)
    worker._shutdown_requested_date = now() - timedelta(seconds=2)
    with pytest.raises(SystemExit):
        worker.request_force_stop(15, None)


class _Jobs(Queue):
    """Gives one job, then says that there is nothing left."""

    jobs: list[Job]

    @classmethod
    def dequeue_any(cls, queues: Any, *arguments: Any, **options: Any) -> Any:  # type: ignore[override]
        (queue,) = queues
        return (cls.jobs.pop(), queue) if cls.jobs else None


class _Loop(SimpleWorker):
    """Notes what RQ's loop calls."""

    queue_class = _Jobs
    should_run_maintenance_tasks = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.calls: list[Any] = []
        super().__init__(*arguments, **options)

    def bootstrap(self, *arguments: Any, **options: Any) -> None:
        self.calls.append("bootstrap")

    def _install_signal_handlers(self) -> None:
        """Those of pytest stay."""

    def check_for_suspension(self, burst: bool) -> None:
        self.calls.append("check_for_suspension")

    def run_maintenance_tasks(self) -> None:
        self.calls.append("run_maintenance_tasks")

    def get_redis_server_version(self) -> tuple[int, int, int]:
        self.calls.append("get_redis_server_version")
        return (9, 1, 0)

    def execute_job(self, job: Job, queue: Queue) -> None:
        self.calls.append(("execute_job", job, queue))

    def teardown(self) -> None:
        self.calls.append("teardown")


def _loop(redis: Redis) -> _Loop:
    queue = _Jobs("messages.0", connection=redis, serializer=JSONSerializer)
    return _Loop([queue], name="w", connection=redis, serializer=JSONSerializer)


def test_what_the_loop_does(queue: Queue, job: Job) -> None:
    """For each job RQ's loop asks whether it is suspended, dequeues and executes, whatever became of jobs before. The
    queue is the one that `dequeue_any` gave. Without `should_run_maintenance_tasks` it does no maintenance. Between the
    two it asks Redis for nothing but its version."""
    _Jobs.jobs = [job]
    worker = _loop(queue.connection)
    worker.work(burst=True)
    assert worker.calls == [
        "bootstrap",
        "check_for_suspension",
        "get_redis_server_version",
        ("execute_job", job, *worker.queues),
        "check_for_suspension",
        "teardown",
    ]


def test_the_version_is_asked_once(worker: SimpleWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """`get_redis_server_version` asks Redis the first time only, so that later it cannot fail."""
    version = worker.get_redis_server_version()  # type: ignore[no-untyped-call]
    monkeypatch.setattr(worker, "connection", object())
    assert worker.get_redis_server_version() == version  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("error", [StopRequested, DequeueTimeout(1, ["messages.0"])], ids=["stop", "time-out"])
def test_what_dequeue_any_may_raise(error: Any, queue: Queue) -> None:
    """StopRequested ends RQ's loop in order; after DequeueTimeout it asks again."""
    raised = iter([error, StopRequested])
    asked: list[Any] = []

    class Raising(_Jobs):
        @classmethod
        def dequeue_any(cls, *arguments: Any, **options: Any) -> Any:  # type: ignore[override]
            asked.append(next(raised))
            raise asked[-1]

    worker = _loop(queue.connection)
    worker.queue_class = Raising
    worker.work()
    assert len(asked) == (1 if error is StopRequested else 2)
    assert worker.calls == ["bootstrap", "check_for_suspension", "teardown"]


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

"""One worker process: RQ's worker, running batches in its own process. `python -m workers.engine.worker` is one."""

from __future__ import annotations

import functools
import gc
import logging
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import structlog
from redis.client import Pipeline
from redis.exceptions import RedisError, ResponseError
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import WorkerStatus

from ingest import child
from ingest.settings import Settings, SettingsError, load, redis_url
from ingest.state import counters, dead_letters
from ingest.store import connection, formats, keys
from ingest.store.pipelined import PipelinedConnection
from ingest.telemetry import logs, tracing
from ingest.telemetry.outage import Outage
from workers import loading
from workers.archive import files
from workers.engine import batch, claims, reaper
from workers.engine.queue import BatchJob, BatchQueue, Consumer, NoDeathPenalty, open_queues
from workers.handlers import Handlers

if TYPE_CHECKING:
    from ingest.telemetry.spans import Spans

log = structlog.get_logger()

_outage = Outage("Redis is away", "Redis is back")

_TTL = 20
"""RQ's worker_ttl, seconds: RQ waits 15 s less than this for a job; its socket time-out is 10 s more than that wait."""

_JOB_TTL = 60
"""How long RQ's in-flight mark of a job lives without a heartbeat."""

_RQ_BEAT_EVERY = 8  # of our beats: 16 s
_RQ_PAUSE = 1.0
"""Seconds. RQ's main loop sends a heartbeat, and looks for `rq suspend`, no more often than this."""

_TRIM_EVERY = 30  # of our beats: a minute
_TRIM_SECONDS = 50  # after one worker has trimmed, none does for this long


class BatchWorker(SimpleWorker):
    """Takes batches and runs them in this process.

    It differs from RQ's worker in: the queue class (take.lua), no job time-out (events have their own), a heartbeat in
    a thread (a SimpleWorker sends none while a job runs), what happens at a stop, and 3 round trips for each job
    instead of 20 (docs/performance.md).
    """

    death_penalty_class = NoDeathPenalty
    queue_class = BatchQueue
    job_class = BatchJob
    log_result_lifespan = False
    max_connection_wait_time = 5.0  # RQ would wait up to a minute before it looks for Redis again

    def __init__(self, settings: Settings, registry: Handlers, name: str, spans: Spans | None = None) -> None:
        redis = connection.for_worker(redis_url(settings))
        formats.agree(redis)
        self._consumer = Consumer(name, PipelinedConnection(redis), idle=self._idle)
        super().__init__(
            open_queues(redis, settings, self._consumer),
            name=name,
            connection=redis,
            serializer=JSONSerializer,
            worker_ttl=_TTL,
            log_job_description=False,
        )
        self.stopping = threading.Event()
        self._rq_beat_at = self._asked_at = 0.0
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._max_rss = settings.max_rss
        self._dead_age = settings.dead_age
        self._archive_dir, self._archive_age = settings.archive_dir, settings.archive_age
        self._dedup_window = settings.dedup_window
        self._spans = spans
        self._runner = batch.Runner(self._consumer, registry, settings, self.stopping.is_set, self.queue_names(), spans)

    def bootstrap(self, *arguments: Any, **options: Any) -> None:
        """RQ calls this once, before the first job. The heartbeat comes first: the reaper looks for it.

        The batches of the process that this one replaces go back with it.
        """
        _log_put_back(reaper.heartbeat_and_reap(self.connection, self.name, ended=child.replaces()))
        super().bootstrap(*arguments, **options)
        self._beats.start()
        log.info("worker started", queues=self.queue_names(), pid=os.getpid(), worker=self.name)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """RQ calls this for each job; `queue` is the one that `dequeue_any` returned with it."""
        batch.install(
            functools.partial(self._runner.run, delivery=queue.delivery if isinstance(queue, BatchQueue) else None)
        )
        super().execute_job(job, queue)
        if self._runner.crashed:
            # RQ has logged why. This process still holds the batch: the reaper puts it back, as after any death, and
            # splits it the second time.
            os._exit(1)
        if self._max_rss is not None and _resident() > self._max_rss:
            log.warning("worker is over WA_MAX_RSS, another takes over", pid=os.getpid(), worker=self.name)
            raise StopRequested  # RQ's loop ends in order, and our parent starts another process

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """RQ calls this five times a job, with three commands each. Its entry outlives a minute without."""
        if pipeline is not None or time.monotonic() - self._rq_beat_at >= _RQ_PAUSE:
            self._rq_beat_at = time.monotonic()
            super().heartbeat(timeout, pipeline)

    def check_for_suspension(self, burst: bool) -> None:
        """RQ looks for `rq suspend` before each job; take.lua does, too, and then gives out nothing."""
        if time.monotonic() - self._asked_at >= _RQ_PAUSE:
            self._asked_at = time.monotonic()
            # RQ stays in there while it is suspended, so nothing may be left to go out with the next take.
            self._consumer.connection.flush()
            super().check_for_suspension(burst)

    def set_state(self, state: str, pipeline: Pipeline | None = None) -> None:
        """RQ sets "idle" twice after each job. It is written only when there is nothing to take, see `_idle`."""
        if state == WorkerStatus.IDLE and pipeline is None:
            self._state = state
        else:
            super().set_state(state, pipeline)

    def _idle(self) -> None:
        super().set_state(WorkerStatus.IDLE)

    def prepare_execution(self, job: Job) -> Execution:
        """RQ's step of that name together with `prepare_job_execution`, sent with the next call."""
        with self.connection.pipeline(transaction=False) as pipe:
            execution = Execution.create(job, self.get_heartbeat_ttl(job), pipeline=pipe, worker_name=self.name)
            self.executions[execution.id] = execution
            self.set_state(WorkerStatus.BUSY, pipeline=pipe)
            job.prepare_for_execution(self.name, pipeline=pipe)
            self._later(pipe)
        return execution

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        """Done by `prepare_execution`."""

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:
        """Without the heartbeat that RQ sends here, for a job whose end it writes next."""
        job.ended_at = now()

    def handle_job_success(
        self, job: Job, queue: Queue, started_job_registry: StartedJobRegistry, execution: Execution
    ) -> None:
        """The part of RQ's step that a batch needs: add to the worker's totals and remove the execution.

        settle.lua has removed the job, or put it back. RQ also looks for dependents, repeats, results and rate limits,
        which a batch never has, in eight round trips; and if the connection breaks in the last of them, it fails on the
        job that it has just deleted.
        """
        with self.connection.pipeline(transaction=False) as pipe:
            self.increment_successful_job_count(pipeline=pipe)
            if job.started_at and job.ended_at:
                self.increment_total_working_time(job.ended_at - job.started_at, pipe)
            self.cleanup_execution(job, pipeline=pipe, execution=execution)
            pipe.delete(job.execution_registry.key)
            self._later(pipe)

    def _later(self, pipe: Pipeline) -> None:
        """Send RQ's bookkeeping with the next call: only the likes of `rq info` read it."""
        for command, _ in pipe.command_stack:
            self._consumer.connection.later(*command)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """SIGTERM, SIGINT: RQ ends after this job, and the job once its running handlers end or are interrupted."""
        self.stopping.set()
        self._runner.dispatcher.stop_soon()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """How long a job may be without a heartbeat; SimpleWorker would answer its time-out plus a minute."""
        return _JOB_TTL

    def teardown(self) -> None:
        """RQ calls this at the end, whatever ended it. What is not settled goes back to the front of its queue."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # RQ's handler would raise in the middle of this
        self._over.set()
        self._beats.join(timeout=reaper.BEAT_SECONDS)
        self._runner.dispatcher.close()
        try:
            self._consumer.connection.flush()  # the last settle, before what is still held is given back
            reaper.heartbeat_and_reap(self.connection, self.name, leaves=True)
            super().teardown()  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            # The other workers' reaper finds what this one held.
            log.warning("Redis is away at the end of this worker", reason=connection.reason(error))
        if self._spans is not None:
            self._spans.close()
        log.info("worker stopped", pid=os.getpid(), worker=self.name)

    def _beat(self) -> None:
        beats = 0
        while not self._over.wait(reaper.BEAT_SECONDS):
            beats += 1
            try:
                _log_put_back(reaper.heartbeat_and_reap(self.connection, self.name))
                if beats % _RQ_BEAT_EVERY == 0:
                    self._rq_heartbeat()
                if beats % _TRIM_EVERY == 0:
                    if self._archive_dir:  # each worker, because each machine may have a folder of its own
                        files.prune(self._archive_dir, self._archive_age)
                    self._trim()
            except (RedisError, OSError) as error:
                _outage.down(connection.reason(error))
            else:
                _outage.up()

    def _rq_heartbeat(self) -> None:
        """Keep RQ's in-flight mark and worker entry: `rq info` and rq-dashboard read them."""
        execution = next(iter(list(self.executions.values())), None)
        if execution is None:
            self.heartbeat()
        else:
            self.maintain_heartbeats(execution.job, execution)

    def _trim(self) -> None:
        """Remove old dead letters, remembered events and counters, unless another worker just did."""
        if self.connection.set(keys.TRIM, self.name, nx=True, ex=_TRIM_SECONDS):
            claims.forget(self.connection, self._dedup_window)
            counters.forget(self.connection)
            trimmed = dead_letters.trim(self.connection, self._dead_age)
            if trimmed:
                log.warning("dead letters older than WA_DEAD_AGE removed", **trimmed)


def _log_put_back(members: list[str]) -> None:
    for member in members:
        log.warning("batch that no worker holds goes back to its queue", batch=member)


def _resident() -> int:
    """Bytes of memory that this process holds now; without /proc, the most it ever held."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: in bytes


class _RedisAway(logging.Filter):
    """While Redis is away, RQ logs a traceback at each of its tries; one line says as much."""

    def filter(self, record: logging.LogRecord) -> bool:
        given = record.args if isinstance(record.args, tuple) else ()
        # RQ puts the error of a job into the text itself; then only sys.exc_info() still has it.
        places = (*(record.exc_info or ()), *given, sys.exc_info()[1])
        error = next((one for one in places if isinstance(one, Exception)), None)
        if isinstance(error, RedisError | OSError):
            if diagnosis := connection.config_error(error):
                record.exc_info = None
                record.msg, record.args = str(diagnosis), ()
            elif connection.refuses(error) or not isinstance(error, ResponseError):  # others are bugs
                _outage.down(connection.reason(error))
                return False
        return True


def main() -> None:
    """One worker process; `--burst` ends it when nothing can be taken any more."""
    logs.configure()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until RQ's loop begins and sets its own
    child.watch_parent()
    logging.getLogger("rq.worker").addFilter(_RedisAway())
    try:
        settings = load()
        registry = loading.load_or_exit(settings.handlers)
        spans = tracing.start("wa-ingest-worker")
        if spans is not None:
            spans.for_handlers()
    except SettingsError as error:
        print(f"wa-ingest: {error}", file=sys.stderr)
        sys.exit(child.GIVE_UP)
    # What exists now stays, and reference counts free what a batch makes: collecting cycles took a seventh of the time.
    gc.freeze()
    gc.set_threshold(50_000)
    try:
        worker = BatchWorker(settings, registry, child.name(), spans)
        worker.work(burst="--burst" in sys.argv, logging_level="WARNING")
    except (RedisError, OSError) as error:
        log.warning("Redis is away, trying again", reason=str(connection.diagnose(error)))
        sys.exit(1)
    except SettingsError as error:
        print(f"wa-ingest: {error}", file=sys.stderr)
        sys.exit(child.GIVE_UP)
    # RQ's loop also ends when Redis times out or after an unexpected error: then the parent starts another process.
    sys.exit(0 if worker.stopping.is_set() or "--burst" in sys.argv else 1)


if __name__ == "__main__":
    main()

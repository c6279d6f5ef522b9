"""One worker process: RQ's worker, running batches in its own process. `python -m workers.engine.worker` is one."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

from redis.client import Pipeline
from redis.exceptions import RedisError, ResponseError
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import WorkerStatus

from ingest import child, garbage, signs
from ingest.loggers import get_logger
from ingest.settings import Settings, SettingsError, load, redis_url
from ingest.state import breakdowns, counters, dead_letters, failures, in_work
from ingest.store import agreement, connection, formats, keys
from ingest.store.pipelined import PipelinedConnection
from ingest.store.queues import lane_of
from ingest.telemetry import logs, tracing
from ingest.terminal import aside
from workers import loading
from workers.engine import claims, reaper
from workers.engine.answers import outage
from workers.engine.flow import Flow
from workers.engine.queue import BatchJob, BatchQueue, NoDeathPenalty, names_of, open_queues
from workers.engine.telling import Telling
from workers.handlers import Handlers
from workers.places import place

if TYPE_CHECKING:
    from ingest.telemetry.spans import Spans

log = get_logger("workers.engine.worker")

_TTL = 20
"""RQ's worker_ttl, seconds: RQ waits 15 s less than this for a job; its socket time-out is 10 s more than that wait."""

_END_SECONDS = 4.0  # for threads of handlers once all is settled, and for what is called at exit, such as Sentry's

_LOOK_EVERY = 5  # of our beats: ten seconds
_TRIM_EVERY = 30  # a minute
_TRIM_SECONDS = 50  # after one worker has trimmed, none does for this long


class BatchWorker(SimpleWorker):
    """Takes batches and has their events handled in this process, several batches at a time.

    RQ's loop stays the one that asks for work. It differs from RQ's worker in: `dequeue_any`, where it waits, runs the
    flow; `execute_job` admits a batch, whose end is settled by the flow; no job time-out (handlers have their own); the
    heartbeat comes from a thread; and none of RQ's bookkeeping per job, which costs 20 round trips.
    """

    death_penalty_class = NoDeathPenalty
    queue_class = BatchQueue
    job_class = BatchJob
    log_result_lifespan = False
    should_run_maintenance_tasks = False  # of registries that stay empty: our reaper does it all

    def __init__(self, settings: Settings, registry: Handlers, name: str, spans: Spans | None = None) -> None:
        redis = connection.for_worker(redis_url(settings))
        formats.agree(redis)
        self._agreement = agreement.Agreement(redis, settings, agreement.OF_WORKERS)
        self._settings = settings
        self.stopping = threading.Event()
        names = names_of(redis, settings)
        pipelined = PipelinedConnection(redis)
        self.flow = Flow(pipelined, name, registry, settings, names, self.stopping.is_set, spans)
        super().__init__(
            open_queues(redis, names, self.flow),
            name=name,
            connection=redis,
            serializer=JSONSerializer,
            worker_ttl=_TTL,
            log_job_description=False,
        )
        self._telling = Telling(redis, name, self.flow.dispatcher, settings.max_attempts)
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._max_rss = settings.max_rss
        self._dead_age = settings.dead_age
        self._archive_dir, self._archive_age = settings.archive_dir, settings.archive_age
        self._dedup_window = settings.dedup_window
        self._spans = spans
        theirs = [one.name for one in registry.registered]
        self._handlers = in_work.told_handlers(name, theirs, settings.model_dump()["handler_timeout"])
        self._told: set[str] = set()  # fields of what is in hand

    def bootstrap(self, *arguments: Any, **options: Any) -> None:
        """RQ calls this once, before the first job. The heartbeat comes first: the reaper looks for it.

        The batches of the process that this one replaces go back with it.
        """
        self._heartbeat(ended=child.replaces())
        self.flow.revive()
        super().bootstrap(*arguments, **options)
        # RQ asks for it when it has its first job, and forgets that job if Redis does not answer.
        self.get_redis_server_version()  # type: ignore[no-untyped-call]
        self._tell()
        if self.flow.dispatcher.breakdowns is not None and (followed := child.follows()):
            down: Any = self.connection.hgetall(keys.BREAKDOWNS)
            self.flow.dispatcher.breakdowns.inherited.update(breakdowns.told_by(followed, down))
        self.connection.hdel(keys.IN_WORK, in_work.UNLOADABLE)
        self._telling.look()
        self._beats.start()
        self._agreement.say()
        log.info("worker started", queues=_Queues(self.queue_names()), pid=os.getpid(), worker=self.name)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """RQ calls this for each job; `queue` is the one that `dequeue_any` returned with it."""
        self.flow.admit(queue.taken)  # type: ignore[attr-defined]
        if self._max_rss is not None and garbage.resident() > self._max_rss:
            log.warning("worker is over WA_MAX_RSS, another takes over", pid=os.getpid(), worker=self.name)
            raise StopRequested  # RQ's loop ends in order, and our parent starts another process

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """RQ's loop sends one with each job, and would end the worker when Redis is away. The thread does it."""

    def check_for_suspension(self, burst: bool) -> None:
        """RQ would wait here while `rq suspend` holds, and no handler would go on. take.lua gives out nothing then."""

    def set_state(self, state: str, pipeline: Pipeline | None = None) -> None:
        """RQ sets "idle" whenever it asks for a job. The thread writes what is true, see `_rq_heartbeat`."""
        self._state = state

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """SIGTERM, SIGINT: the flow takes nothing more and ends RQ's loop."""
        self._shutdown_requested_date = now()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.request_force_stop)
        self.stopping.set()
        self._stop_requested = True
        self.flow.stop()

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """A second signal: what has begun gets no more time.

        RQ would raise SystemExit here, which would be the error of a handler that blocks the loop.
        """
        self.flow.stop_seconds = 0.0
        self.flow.stop()

    def teardown(self) -> None:
        """RQ calls this at the end, whatever ended it. What is not settled goes back to the front of its queue."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.request_force_stop)
        if self.flow.crashed:
            # RQ has logged why. This process still holds its batches: the reaper puts them back, as after any death,
            # and splits them the second time.
            os._exit(1)
        try:
            # Handlers may take long yet. Until they have ended the heart beats on, or others would call them, too.
            self.flow.leave()
            self._over.set()
            self._beats.join(timeout=reaper.BEAT_SECONDS)
            self._telling.close()
            reaper.heartbeat_and_reap(self.connection, self.name, leaves=True)
            if self._told:
                self.connection.hdel(keys.IN_WORK, *self._told)
            super().teardown()  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            # The other workers' reaper finds what this one held.
            log.warning("Redis is away at the end of this worker", reason=connection.reason(error))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # Python's end would set what kills
        if self._spans is not None:
            self._spans.close()
        log.info("worker stopped", pid=os.getpid(), worker=self.name)

    def _beat(self) -> None:
        beats = 0
        while not self._over.wait(reaper.BEAT_SECONDS):
            beats += 1
            try:
                self._heartbeat()
                self._tell()
                self._telling.look()
                if beats % _LOOK_EVERY == 0:  # a receiver with a larger WA_PARTITIONS may have come
                    self.flow.take_from(names_of(self.connection, self._settings))
                if beats % _TRIM_EVERY == 0:
                    self._agreement.say()
                    if self._archive_dir:  # each worker, because each machine may have a folder of its own
                        from workers.archive import files  # which the flow has loaded, with its libraries

                        files.prune(self._archive_dir, self._archive_age)
                    self._trim()
            except (RedisError, OSError) as error:
                outage.down(connection.reason(error))
            else:
                outage.up()

    def _heartbeat(self, ended: str = "") -> None:
        sent = time.monotonic()
        _log_put_back(reaper.heartbeat_and_reap(self.connection, self.name, ended=ended))
        self.flow.note_heartbeat(sent)

    def _tell(self) -> None:
        """Tell what is in hand, and keep RQ's entry of this worker: `rq info` and rq-dashboard read it."""
        told: dict[Any, bytes] = in_work.told(self.name, self.flow.inside()) | self._handlers
        if told:
            self.connection.hset(keys.IN_WORK, mapping=told)
        if over := self._told - told.keys():
            self.connection.hdel(keys.IN_WORK, *over)
        self._told = set(told)
        super().set_state(WorkerStatus.IDLE if self.flow.is_idle else WorkerStatus.BUSY)
        super().heartbeat()

    def _trim(self) -> None:
        """Remove old dead letters, remembered events and counters, unless another worker just did."""
        if self.connection.set(keys.TRIM, self.name, nx=True, ex=_TRIM_SECONDS):
            claims.forget(self.connection, self._dedup_window)
            counters.forget(self.connection)
            failures.forget(self.connection)
            in_hand: Any = self.connection.hkeys(keys.IN_WORK)
            for field in set(in_hand) - {in_work.UNLOADABLE.encode()}:  # of workers that were killed, too
                if self.connection.zscore(keys.ALIVE, in_work.of_worker(field)) is None:
                    self.connection.hdel(keys.IN_WORK, field)
            trimmed = dead_letters.trim(self.connection, self._dead_age)
            if trimmed:
                log.warning("dead letters older than WA_DEAD_AGE removed", **trimmed)


class _Queues(list[str]):
    """In a log line: each of them in JSON, on a terminal the lanes, and how many partitions one has."""

    def __repr__(self) -> str:
        count = Counter(map(lane_of, self))
        return ", ".join(f"{lane} ({each} partitions)" if each > 1 else lane for lane, each in count.items())


def _log_put_back(members: list[str]) -> None:
    if members:
        log.warning("what a worker that ended had in hand goes to others", batches=len(members))


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
                outage.down(connection.reason(error))
                return False
        return True


def _start_handlers(worker: BatchWorker) -> None:
    """Call the user's startup functions; one that fails ends the process, and the parent starts another."""
    try:
        worker.flow.dispatcher.start()
    except Exception as error:
        log.error("startup failed", error=f"{type(error).__name__}: {error}", place=place(error))
        with suppress(RedisError, OSError):  # it was logged
            in_work.tell_unloadable(worker.connection, loading.startup_failed(error))
        sys.exit(1)
    finally:
        logs.user_has_configured()


def _end_soon(status: int) -> None:
    """End this process shortly, also when a thread of a handler does not: Python would wait for it."""

    def end() -> None:
        time.sleep(_END_SECONDS)
        names = sorted({thread.name for thread in threading.enumerate() if not thread.daemon})
        log.warning("threads still run at the end of this worker: it ends without them", threads=names[:10])
        os._exit(status)

    threading.Thread(target=end, name="end", daemon=True).start()


def main() -> None:
    """One worker process; `--burst` ends it when nothing can be taken any more."""
    faulthandler.enable()  # on SIGABRT and on a crash of C code it prints what each thread was in
    signs.give_steadily()
    # Until RQ's loop begins and sets its own. Nothing is in hand yet; and a SystemExit would be lost, with a traceback
    # on the screen, if it was raised in a finalizer of some object.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    child.watch_parent()
    logging.getLogger("rq.worker").addFilter(_RedisAway())
    try:
        settings = load()
        logs.configure(settings.log_level)
        registry = loading.load_or_exit(settings.handlers, settings.destinations)
        spans = tracing.start("wa-ingest-worker")
        if spans is not None:
            spans.for_handlers()
    except SettingsError as error:
        aside(f"wa-ingest: {error}")
        sys.exit(child.GIVE_UP)
    garbage.start(garbage.OF_WORKER)
    try:
        worker = BatchWorker(settings, registry, child.name(), spans)
        _start_handlers(worker)
        worker.work(burst="--burst" in sys.argv, logging_level="WARNING")
    except (RedisError, OSError) as error:
        log.warning("Redis is away, trying again", reason=str(connection.diagnose(error)))
        sys.exit(1)
    except SettingsError as error:
        aside(f"wa-ingest: {error}")
        sys.exit(child.GIVE_UP)
    # RQ's loop also ends when Redis times out or after an unexpected error: then the parent starts another process.
    status = 0 if worker.stopping.is_set() or "--burst" in sys.argv else 1
    _end_soon(status)
    sys.exit(status)


if __name__ == "__main__":
    main()

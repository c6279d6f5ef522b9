"""One batch, from its records in Redis to its last settle. `run` is the function of a batch's RQ job."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

import orjson
import structlog
from redis import Redis

from ingest import batches
from ingest.routing import lane_of, partition_of, partitions_of
from ingest.settings import Settings
from workers import retries
from workers.dispatch import Dispatcher, Outcome
from workers.events import Broken, Event, Message
from workers.handlers import Handlers
from workers.parsing import parse

log = structlog.get_logger()

SETTLE_SECONDS = 1.0
"""A long batch settles what it has done at least this often, so that a kill repeats little."""

_DETAIL = 500  # characters of a dead letter's detail
_LOST, _ENDED = 0, 2  # replies of settle.lua


class Lost(Exception):
    """Another worker has the batch now: this one was silent for too long. Nothing more may be done with it."""


_run: Callable[[str, str], None] | None = None


def run(queue: str, batch: str) -> None:
    """Called by RQ, by name, with what the job holds. `install` says who does the work in this process."""
    if _run is None:
        raise RuntimeError(
            "this job needs `wa-ingest work`, not `rq worker`; nothing is lost, it goes back to its queue"
        )
    _run(queue, batch)


def install(runner: Runner) -> None:
    """Make `runner` the one that `run` uses: RQ calls functions by name, with nothing but the job's arguments."""
    global _run
    _run = runner.run


class Runner:
    """Runs batches for one worker process."""

    def __init__(
        self, redis: Redis, worker: str, handlers: Handlers, settings: Settings, stopping: Callable[[], bool]
    ) -> None:
        self._redis = redis
        self._worker = worker
        self._max_attempts = settings.max_attempts
        self._template = batches.job_template()
        self._settle = redis.register_script(batches.lua(__file__, "settle.lua"))
        self.dispatcher = Dispatcher(handlers, settings.concurrency, settings.handler_timeout, stopping)

    def run(self, queue: str, batch: str) -> None:
        """Handle what is left of a batch. Ends early when the worker is to stop, or lost the batch."""
        records: Any = self._redis.lrange(batches.batch_key(batch), 0, -1)
        opened = _OpenBatch(queue, batch, len(records), self._max_attempts)

        def tick() -> None:
            if opened.done and time.monotonic() - opened.settled_at >= SETTLE_SECONDS:
                self._write(opened)

        try:
            self.dispatcher.run(list(opened.take_apart(records)), opened.finish, tick)
            self._write(opened)
        except Lost:
            log.warning("another worker has this batch now", queue=queue, batch=batch)

    def _write(self, opened: _OpenBatch) -> None:
        """Settle what is done: records from the first on, up to one that still has an event in work."""
        results, ended = opened.collect()
        letters = [part for letter in results.letters for part in letter]
        groups: list[Any] = []
        for group, records in results.retries.items():
            groups += (group.id, group.delay, len(records), *records)
        lane = lane_of(opened.queue)
        reply = self._settle(
            keys=[
                batches.LEDGER,
                batches.TAKEN,
                batches.LEASES,
                batches.doorbell_key(lane),
                batches.COUNTS,
                batches.dead_key(lane),
            ],
            args=[
                batches.RQ,
                batches.WA,
                self._worker,
                opened.queue,
                opened.batch,
                results.records,
                int(ended),
                orjson.dumps(results.counts),
                self._template,
                datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                len(results.letters),
                *letters,
                len(results.retries),
                *groups,
            ],
        )
        if reply == _LOST:
            raise Lost
        if results.failed:
            log.warning("events failed", lane=lane, failed=results.failed, handler=results.handler, error=results.error)


class _RetryBatch(NamedTuple):
    """Where failed events of a batch go: one for all that wait for the same time."""

    id: str
    delay: float


class _Results:
    """What became of some records, as settle.lua takes it."""

    __slots__ = ("counts", "error", "failed", "handler", "letters", "records", "retries")

    def __init__(self) -> None:
        self.records = 0
        self.counts: Counter[str] = Counter()
        self.letters: list[tuple[Any, ...]] = []
        self.retries: dict[_RetryBatch, list[bytes]] = {}
        self.failed = 0
        self.handler = ""
        self.error = ""


class _OpenBatch:
    """A batch in work: which of its records are done, and what became of their events."""

    def __init__(self, queue: str, batch: str, records: int, max_attempts: int) -> None:
        self.queue = queue
        self.batch = batch
        self.settled_at = time.monotonic()
        self._left = [0] * records  # events of each record that are not finished
        self._ends: list[list[tuple[Event | Broken, Outcome | None]]] = [[] for _ in range(records)]
        self._retries: dict[tuple[int, float | None], _RetryBatch] = {}
        self._max_attempts = max_attempts
        self._first = 0  # record number of the first that is not settled

    @property
    def done(self) -> bool:
        """True when the first unsettled record is done."""
        return self._first < len(self._left) and self._left[self._first] == 0

    def take_apart(self, records: list[bytes]) -> Iterator[tuple[int, Event]]:
        """The events of all records, each with its record's number."""
        for index, packed in enumerate(records):
            record = batches.unpack(packed)
            for event in parse(record.body, record.received_ms, record.attempt):
                if record.share and not self._is_ours(event, record):
                    continue
                if isinstance(event, Broken):
                    self._ends[index].append((event, None))
                else:
                    self._left[index] += 1
                    yield index, event

    def _is_ours(self, event: Event | Broken, record: batches.Record) -> bool:
        """Of a notification that went to several partitions, each takes its own contacts, the first all else."""
        here = int(self.queue.rpartition(".")[2])
        if isinstance(event, Message):
            return partition_of(event.order_key, record.share) == here
        return min(partitions_of(orjson.loads(record.body), record.share)) == here

    def finish(self, index: int, event: Event, outcome: Outcome) -> None:
        """Note an event's end."""
        self._ends[index].append((event, outcome))
        self._left[index] -= 1

    def collect(self) -> tuple[_Results, bool]:
        """What is done since the last settle, and whether that is the rest of the batch."""
        results = _Results()
        upto = self._first
        while upto < len(self._left) and self._left[upto] == 0:
            for event, outcome in self._ends[upto]:
                if isinstance(event, Broken):
                    _letter(results, event.reason, event, event.detail)
                elif outcome is not None:
                    self._account(results, event, outcome)
            self._ends[upto] = []
            upto += 1
        results.records = upto - self._first
        self._first = upto
        self.settled_at = time.monotonic()
        return results, upto == len(self._left)

    def _account(self, results: _Results, event: Event, outcome: Outcome) -> None:
        if outcome.name not in ("failed", "rejected"):
            results.counts[f"{outcome.name}.{event.kind}"] += 1
            return
        results.failed += 1
        results.handler, results.error = outcome.handler, outcome.error or outcome.name
        if outcome.name == "rejected" or event.attempt >= self._max_attempts:
            _letter(results, outcome.name, event, outcome.detail)
            return
        results.counts[f"retried.{event.kind}"] += 1
        record = batches.pack(event.body(), event.received_ms, event.attempt + 1)
        results.retries.setdefault(self._retry_batch(event.attempt, outcome.delay), []).append(record)

    def _retry_batch(self, attempt: int, asked: float | None) -> _RetryBatch:
        """One for the events of the same attempt, and one for each delay that a handler asked for."""
        known = self._retries.get((attempt, asked))
        if known is None:
            delay = retries.delay(attempt) if asked is None else asked
            known = self._retries[attempt, asked] = _RetryBatch(f"r{uuid4().hex[:16]}", delay)
        return known


def _letter(results: _Results, reason: str, event: Event | Broken, detail: str) -> None:
    results.counts[f"dead.{event.kind}"] += 1
    body = event.body if isinstance(event, Broken) else event.body()
    results.letters.append((reason, event.kind, detail[:_DETAIL], event.attempt, event.received_ms, body))

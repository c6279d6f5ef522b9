"""One batch, from its records in Redis to its last settle. `run` is the function of a batch's RQ job."""

from __future__ import annotations

import functools
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from redis.exceptions import ConnectionError, TimeoutError

from ingest.settings import Settings
from ingest.store import keys, scripts
from ingest.store.jobs import job_template, rq_now
from ingest.store.queues import Member, lane_of
from ingest.store.records import unpack
from ingest.telemetry import logs
from workers.archive.files import Archive
from workers.dispatch.dispatcher import Account, Dispatcher, Outcome
from workers.dispatch.event_context import EventContext
from workers.dispatch.rate_limits import Buckets, Granted, RateLimits
from workers.engine import claims, reaper
from workers.engine.batch_state import BatchState, kept
from workers.engine.profiles import Profiles
from workers.engine.queue import Consumer, Delivery
from workers.events.types import Event, Status
from workers.handlers import Handlers

if TYPE_CHECKING:
    from ingest.telemetry.spans import Spans

log = structlog.get_logger()

SETTLE_SECONDS = 0.5
"""A long batch settles what it has done this often, so that a kill repeats little, and makes way for what is urgent."""

DUPLICATE = Outcome("duplicate")
SUPERSEDED = Outcome("superseded")


class Lost(Exception):
    """Another worker has the batch now: this one was silent for too long. Nothing more may be done with it."""


_run: Callable[[str, str], None] | None = None


def run(queue: str, batch: str) -> None:
    """Called by RQ, by name, with what the job holds. `install` says who does the work in this process."""
    if _run is None:
        raise RuntimeError("this job needs `wa-ingest work`, not `rq worker`; nothing is lost, it goes back")
    _run(queue, batch)


def install(runner: Callable[[str, str], None]) -> None:
    """Make `runner` the one that `run` uses: RQ calls functions by name, with nothing but the job's arguments."""
    global _run
    _run = runner


class Runner:
    """Runs batches for one worker process.

    `urgent` maps each queue to those of more urgent lanes that this worker takes from, too.
    """

    def __init__(
        self,
        consumer: Consumer,
        handlers: Handlers,
        settings: Settings,
        stopping: Callable[[], bool],
        queues: list[str],
        spans: Spans | None = None,
    ) -> None:
        self._consumer = consumer
        self._spans = spans
        self._settings = settings
        self._stopping = stopping
        self._template = job_template()
        self._script = consumer.connection.script(scripts.lua(__file__, "settle.lua"))
        self._buckets = Buckets(consumer.connection)
        self._calls = itertools.count(time.time_ns() // 1000)  # above those of any earlier Runner of this name
        self._claims = claims.Claims(consumer.connection)
        self._profiles = Profiles(consumer.connection) if handlers.wants_profiles else None
        self._archive = Archive(settings.archive_dir, consumer.worker) if settings.archive_dir else None
        lanes = list(dict.fromkeys(map(lane_of, queues)))
        self._urgent = {lane: [q for q in queues if lane_of(q) in lanes[:rank]] for rank, lane in enumerate(lanes)}
        self.crashed = False
        """True when a batch ended in a way that nobody foresaw."""
        # The end of what is given at a time waits for its last handler: that should not come often.
        consumer.width = 4 * settings.concurrency if handlers.any_async else 1
        rate_limits = RateLimits(consumer.connection)
        self.dispatcher = Dispatcher(handlers, settings.concurrency, settings.handler_timeout, stopping, rate_limits)

    def run(self, queue: str, batch: str, delivery: Delivery | None = None) -> None:
        """Handle what is left of a batch.

        Ends early, and what was not begun goes back to the front of its queue, when a more urgent lane waits, when
        everything fails, when the lane is paused or at its cap, or when this worker is to stop; ends without a trace
        when the batch is another worker's by now. Of a batch that is the try of a lane that waits, one event is tried
        before the others.

        `delivery` is what take.lua gave with it; then the last settle may still be on its way at the return: it goes
        out with the consumer's next call.
        """
        try:
            self._run(queue, batch, delivery)
        except (ConnectionError, TimeoutError):
            raise
        except BaseException:
            self.crashed = True
            raise

    def _run(self, queue: str, batch: str, delivery: Delivery | None) -> None:
        probe, token, records, allowance = delivery or self._look(queue, batch)
        if token.partition("#")[0] != self._consumer.worker:
            _lost(queue, batch)
            return
        if self._archive and reaper.suspect(batch):  # if this worker dies of it, too, no settle will keep it
            self._archive.keep(kept(map(unpack, records)), lambda: not self._stopping())
        opened = BatchState(queue, batch, records, self._settings.max_attempts, token)
        opened.allowance = allowance
        if self._profiles:
            self._profiles.ask(event for _, event in opened.events)
        todo = self._claim(opened)
        drops = self._settings.status_order == "drop"
        account = _Account(opened, self._settle, self._exchange, drops, EventContext(queue, self._spans))
        watched: Account = self._profiles.watch(account) if self._profiles else account
        try:
            if probe:
                opened.probing = True
                self.dispatcher.run(todo[:1], watched)
                account.settle("more")
                todo = todo[1:]
            self.dispatcher.run(todo, watched)
            self._settle(opened, "end" if opened.all_done else "back", may_wait=delivery is not None)
        except Lost:
            _lost(queue, batch)
        finally:
            logs.in_work.set(None)  # an event that was broken off has no end

    def _look(self, queue: str, batch: str) -> Delivery:
        with self._consumer.connection.redis.pipeline() as pipe:
            pipe.hexists(keys.WAITS, lane_of(queue))
            pipe.hget(keys.TAKEN, str(Member(queue, batch)))
            pipe.lrange(keys.batch_key(batch), 0, -1)
            probe, token, records = pipe.execute()
        return Delivery(probe, (token or b"").decode(), records)

    def _claim(self, opened: BatchState) -> list[tuple[int, Event]]:
        """The events that are to be handled: not duplicates of what is being handled or was."""
        mine: set[str] = set()
        asked: list[tuple[int, Event, claims.Claim]] = []
        todo: list[tuple[int, Event]] = []

        def first_ones() -> Iterator[claims.Claim]:
            for index, event in opened.events:
                if opened.force(index):
                    todo.append((index, event))
                    continue
                claim = claims.of(event)
                if claim.place in mine:
                    opened.finish(index, event, DUPLICATE)
                    continue
                mine.add(claim.place)
                asked.append((index, event, claim))
                yield claim

        replies = self._claims.take(str(Member(opened.queue, opened.batch)), first_ones())
        for (index, event, claim), reply in zip(asked, replies, strict=True):
            if reply == claims.DUPLICATE:
                opened.finish(index, event, DUPLICATE)
                continue
            opened.claimed(event, claim)
            if reply == claims.SUPERSEDED and isinstance(event, Status):
                event.superseded = True
            todo.append((index, event))
        return todo if len(asked) == len(opened.events) else sorted(todo, key=lambda one: one[0])

    def _exchange(self, opened: BatchState) -> Granted:
        return self._buckets.exchange(keys.CONTROLS, lane_of(opened.queue), unused=opened.allowance or 0)

    def _settle(self, opened: BatchState, how: str, may_wait: bool = False) -> str:
        """Settle what is done, as settle.lua describes, and return its reply. Raises Lost.

        With `may_wait` a batch that ends well is settled with the next call, and the answer is read when it comes.
        What leaves the batch is in the archive first. While that cannot be written, nothing is settled: no more events
        begin, and at the end of the batch this waits, until the worker is to stop.
        """
        if self._archive and not self._archive.keep(opened.leaving(), lambda: how != "more" and not self._stopping()):
            return "wait"
        if self._profiles:
            self._profiles.remember()
        results = opened.collect()
        lane = lane_of(opened.queue)
        head = {
            "rq": keys.RQ,
            "wa": keys.WA,
            "worker": self._consumer.worker,
            "token": opened.token,
            "queue": opened.queue,
            "batch": opened.batch,
            "now": rq_now(),
            "template": self._template,
            "call": next(self._calls),
            "how": how,
            "probe": opened.probing,
            "records": results.records,
            "counts": results.counts,
            "tally": results.tally | self.dispatcher.tally(),
            "fresh_failed": results.fresh_failed,
            "failed": results.failed,
            "succeeded": results.succeeded,
            "spent": results.spent_ms,
            "window": self._settings.dedup_window,
            "urgent": self._urgent.get(lane, []),
            "capped": opened.allowance is not None,
            "unused": 0 if how == "more" else opened.allowance or 0,
            "letters": len(results.letters),
            "retries": [(retry.id, retry.delay, len(records)) for retry, records in results.retries.items()],
        }
        script_keys = [
            keys.LEDGER,
            keys.TAKEN,
            keys.LEASES,
            keys.doorbell_key(lane),
            keys.COUNTS,
            keys.dead_key(lane),
            keys.CLAIMS,
            keys.GENERATIONS,
            keys.SPENT,
            keys.FAILING,
            keys.WAITS,
            keys.DEATHS,
            keys.CONTROLS,
            keys.COUNTERS,
        ]
        args = [
            orjson.dumps(head),
            *(part for letter in results.letters for part in letter),
            *(record for records in results.retries.values() for record in records),
            "\n".join(results.done),
        ]
        # What did not go well may make the lane wait: that is decided before the next batch is delivery.
        if may_wait and how == "end" and not results.failed and not results.letters:
            self._consumer.settling = str(Member(opened.queue, opened.batch))
            self._script.later(script_keys, args, functools.partial(self._settled, opened.queue, opened.batch))
            return how
        reply = self._script(keys=script_keys, args=args)
        if results.failed or results.succeeded:
            opened.probing = False
        answer: str = reply.decode()
        if answer == "lost":
            raise Lost
        if results.failed:
            log.warning("events failed", lane=lane, failed=results.failed, handler=results.handler, error=results.error)
        for reason, count in Counter(letter[0] for letter in results.letters).items():
            log.warning("dead letters", lane=lane, reason=reason, count=count)
        if answer == "wait":
            log.warning("everything fails, the lane waits", lane=lane)
        return answer

    def _settled(self, queue: str, batch: str, reply: Any) -> None:
        self._consumer.settling = ""
        if isinstance(reply, Exception):
            raise reply
        if reply == b"lost":
            _lost(queue, batch)


def _lost(queue: str, batch: str) -> None:
    log.warning("another worker has this batch now", queue=queue, batch=batch)


class _Account:
    """Settles a batch while its events are dispatched, and sees that a capped lane keeps to its rate."""

    def __init__(
        self,
        opened: BatchState,
        settle: Callable[[BatchState, str], str],
        exchange: Callable[[BatchState], Granted],
        drops: bool,
        context: EventContext,
    ) -> None:
        self._opened = opened
        self._settle = settle
        self._exchange = exchange
        self._drops = drops
        self._settled_at = time.monotonic()
        self._more_at = 0.0
        self._halted = False
        self._context = context

    def settle(self, how: str) -> None:
        """Settle now; halt when a more urgent lane waits, or this one has to."""
        self._halted |= self._settle(self._opened, how) in ("yield", "wait")
        self._settled_at = time.monotonic()
        if self._opened.allowance and not self._halted:
            self._ask_for_more()  # what was granted long ago would come on top of what others get now

    def tick(self, now: float) -> None:
        if not self._halted and now - self._settled_at >= SETTLE_SECONDS:
            self.settle("more")

    def halted(self) -> bool:
        return self._halted or (self._opened.allowance == 0 and not self._ask_for_more())

    def admit(self, event: Event) -> Outcome | None:
        """WA_STATUS_ORDER: a status that comes after a later stage of its message is marked, or dropped."""
        if isinstance(event, Status) and self._opened.is_superseded(event):
            event.superseded = True
            if self._drops:
                return SUPERSEDED
        if self._opened.allowance is not None:
            self._opened.allowance -= 1
        self._context.begin(event)
        return None

    def put_off(self) -> None:
        self._context.leave()
        if self._opened.allowance is not None:
            self._opened.allowance += 1

    def finish(self, index: int, event: Event, outcome: Outcome, now: float) -> None:
        self._context.end(outcome)
        self._opened.finish(index, event, outcome, now)

    def _ask_for_more(self) -> bool:
        """Give back what is left of a capped lane's allowance and get what there is now."""
        now = time.monotonic()
        if now >= self._more_at:
            self._opened.allowance, wait = self._exchange(self._opened)
            self._more_at = now + wait
        return self._opened.allowance != 0

"""One batch, from its records in Redis to its last settle. `run` is the function of a batch's RQ job."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import ConnectionError, TimeoutError

from ingest.settings import Settings
from ingest.store import keys, scripts
from ingest.store.queues import Member, lane_of
from ingest.store.records import unpack
from ingest.telemetry import logs
from workers.archive.files import Archive
from workers.dispatch.dispatcher import Account, Dispatcher, Outcome
from workers.dispatch.event_context import EventContext
from workers.dispatch.rate_limits import Buckets, Granted, RateLimits
from workers.engine import claims, hooks, reaper, settle
from workers.engine.batch_state import BatchState, Results, kept
from workers.engine.profiles import Profiles
from workers.engine.queue import Consumer, Delivery
from workers.events import Event, Status
from workers.handlers import Handlers

if TYPE_CHECKING:
    from ingest.telemetry.spans import Spans

log = structlog.get_logger()

DUPLICATE = Outcome("duplicate")


class Lost(Exception):
    """Another worker has the batch now, because this one was silent for too long. This one must leave it alone."""


_run: Callable[[str, str], None] | None = None


def run(queue: str, batch: str) -> None:
    """RQ calls this by name, with the job's arguments. `install` sets what it runs in this process."""
    if _run is None:
        raise RuntimeError("this job needs `wa-ingest work`, not `rq worker`; nothing is lost, its batch goes back")
    _run(queue, batch)


def install(runner: Callable[[str, str], None]) -> None:
    """Set what `run` runs: RQ passes it nothing but the job's arguments."""
    global _run
    _run = runner


class Runner:
    """Runs batches for one worker process, which takes from `queues`."""

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
        self._script = consumer.connection.script(scripts.lua(__file__, "settle.lua"))
        self._buckets = Buckets(consumer.connection)
        self._calls = settle.Calls(consumer.worker, queues, settings.dedup_window)
        self._claims = claims.Claims(consumer.connection)
        self._profiles = Profiles(consumer.connection) if handlers.wants_profiles else None
        self._archive = Archive(settings.archive_dir, consumer.worker) if settings.archive_dir else None
        self.crashed = False
        """True when a batch ended with an unexpected exception."""
        # A batch ends with its last handler. With few records in each, slots would often wait for that.
        consumer.width = 4 * settings.concurrency if handlers.any_async else 1
        rate_limits = RateLimits(consumer.connection)
        self.dispatcher = Dispatcher(handlers, settings.concurrency, settings.handler_timeout, stopping, rate_limits)

    def run(self, queue: str, batch: str, delivery: Delivery | None = None) -> None:
        """Handle what is left of a batch.

        It ends early, and events that have not begun go back to the front of the queue, when a more urgent lane waits,
        everything fails, the lane is paused or at its cap, or this worker is to stop. If another worker has the batch
        by now, nothing of it is settled. If the batch is the one try of a lane that waits, a single event is handled
        before the others.

        `delivery` is what take.lua gave with the batch. With it, the last settle may still be unsent on return: it
        goes out with the consumer's next call.
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
        if self._archive and reaper.suspect(batch):  # if it kills this worker too, no settle will archive it
            self._archive.keep(kept(map(unpack, records)), lambda: not self._stopping())
        opened = BatchState(queue, batch, records, self._settings.max_attempts, token)
        opened.allowance = allowance
        if self._profiles:
            self._profiles.ask(event for _, event in opened.events)
        todo = self._claim(opened)
        account = self._account(opened)
        try:
            if probe:
                opened.probing = True
                self.dispatcher.run(todo[:1], account)
                account.settle()
                todo = todo[1:]
            self.dispatcher.run(todo, account)
            self._settle(opened, "end" if opened.all_done else "back", may_wait=delivery is not None)
        except Lost:
            _lost(queue, batch)
        finally:
            logs.in_work.set(None)  # an interrupted event does not reset it

    def _look(self, queue: str, batch: str) -> Delivery:
        with self._consumer.connection.redis.pipeline() as pipe:
            pipe.hexists(keys.WAITS, lane_of(queue))
            pipe.hget(keys.TAKEN, str(Member(queue, batch)))
            pipe.lrange(keys.batch_key(batch), 0, -1)
            probe, token, records = pipe.execute()
        return Delivery(probe, (token or b"").decode(), records)

    def _claim(self, opened: BatchState) -> list[tuple[int, Event]]:
        """Claim the batch's events and return those to handle; copies of what is in work or was handled end here."""
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

    def _account(self, opened: BatchState) -> hooks.Settling:
        """The hooks around the batch's events, the innermost first."""
        account: Account = hooks.InContext(opened, EventContext(opened.queue, self._spans))
        renew = None
        if opened.allowance is not None:
            account = capped = hooks.Capped(account, opened, self._exchange)
            renew = capped.renew
        account = hooks.StatusOrder(account, opened, drops=self._settings.status_order == "drop")
        if self._profiles:
            account = self._profiles.watch(account)
        return hooks.Settling(account, lambda: self._settle(opened, "more"), renew)

    def _exchange(self, opened: BatchState) -> Granted:
        return self._buckets.exchange(keys.CONTROLS, lane_of(opened.queue), unused=opened.allowance or 0)

    def _settle(self, opened: BatchState, how: str, may_wait: bool = False) -> str:
        """Settle the events that are done (settle.lua) and return its reply. Raises Lost.

        With `may_wait`, the last settle of a batch without failures is sent with the next call, and its answer read
        when it comes. Notifications are archived before they leave the batch. While the archive cannot be written,
        nothing is settled and no more events begin; at the end of a batch this waits until it can be written, or the
        worker is to stop.
        """
        if not self._is_archived(opened, how):
            return "wait"
        if self._profiles:
            self._profiles.remember()
        results = opened.collect()
        call = self._calls.build(opened, results, self.dispatcher.tally(), how)
        # After failures settle.lua may make the lane wait, so it must run before the next batch is taken.
        if may_wait and how == "end" and not results.failed and not results.letters:
            self._send_later(opened, call)
            return how
        answer = self._send(call)
        if results.failed or results.succeeded:
            opened.probing = False
        _log_results(lane_of(opened.queue), results, answer)
        return answer

    def _is_archived(self, opened: BatchState, how: str) -> bool:
        if not self._archive:
            return True
        return self._archive.keep(opened.leaving(), lambda: how != "more" and not self._stopping())

    def _send(self, call: settle.Call) -> str:
        answer: str = self._script(keys=call.keys, args=call.args).decode()
        if answer == "lost":
            raise Lost
        return answer

    def _send_later(self, opened: BatchState, call: settle.Call) -> None:
        self._consumer.settling = str(Member(opened.queue, opened.batch))
        self._script.later(call.keys, call.args, functools.partial(self._settled, opened.queue, opened.batch))

    def _settled(self, queue: str, batch: str, reply: Any) -> None:
        self._consumer.settling = ""
        if isinstance(reply, Exception):
            raise reply
        if reply == b"lost":
            _lost(queue, batch)


def _lost(queue: str, batch: str) -> None:
    log.warning("another worker has this batch now", queue=queue, batch=batch)


def _log_results(lane: str, results: Results, answer: str) -> None:
    if results.failed:
        log.warning("events failed", lane=lane, failed=results.failed, handler=results.handler, error=results.error)
    if results.letters:
        for reason, count in Counter(letter[0] for letter in results.letters).items():
            log.warning("dead letters", lane=lane, reason=reason, count=count)
    if answer == "wait":
        log.warning("everything fails, the lane waits", lane=lane)

"""What a worker process does with its batches, from take to settle: several at a time, and its loop never waits.

RQ's loop asks for a batch (`next`) and hands it back to be run (`admit`). The flow runs while RQ waits for the next
one: it opens what was admitted, lets the dispatcher begin what there are slots for, settles what is done, and takes
again as soon as there is room.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import orjson
from redis.exceptions import RedisError

from ingest.garbage import Growth
from ingest.loggers import get_logger
from ingest.settings import Settings
from ingest.state import controls, failures
from ingest.state.failures import Failure
from ingest.state.in_work import Inside
from ingest.store import connection as connections
from ingest.store import keys, scripts
from ingest.store.pipelined import PipelinedConnection
from ingest.store.queues import lane_of
from workers.dispatch.breakdowns import Breakdown
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.rate_limits import Buckets, RateLimits
from workers.dispatch.steering import Steering
from workers.engine import inside, reaper
from workers.engine.answers import Answers
from workers.engine.caps import Caps
from workers.engine.demand import Demand
from workers.engine.doorbell import LISTEN_SECONDS, Doorbell
from workers.engine.hand import Hands, Taken
from workers.engine.opening import Opening
from workers.engine.profiles import Profiles
from workers.engine.settle import SETTLE_SECONDS, Settling
from workers.engine.take import Taking
from workers.events import Profile
from workers.handlers import Handlers

if TYPE_CHECKING:
    from pathlib import Path

    from ingest.telemetry.spans import Spans
    from workers.archive.files import Archive

log = get_logger(__name__)

_TURN_SECONDS = 0.003  # what ends within this time is settled together
_WATCH_SECONDS = 0.25
_STEER_SECONDS = 0.5  # between looks at what an operator says of handlers


class Stopped(Exception):
    """This worker takes nothing more."""


class Flow:
    """The batches of one worker process. Everything happens on the loop of its dispatcher.

    `queues` are all that it takes from, the most urgent lane first. `stopping` says whether it was told to stop.
    """

    def __init__(
        self,
        connection: PipelinedConnection,
        worker: str,
        handlers: Handlers,
        settings: Settings,
        queues: list[str],
        stopping: Callable[[], bool],
        spans: Spans | None = None,
    ) -> None:
        self._connection = connection
        self._worker = worker
        self._stopping = stopping
        by_lane: dict[str, list[str]] = {}
        for queue in queues:
            by_lane.setdefault(lane_of(queue), []).append(queue)
        self._steering = steering = Steering()
        self.rate_limits = RateLimits(connection, steering)
        self.dispatcher = Dispatcher(
            handlers,
            settings.concurrency,
            settings.threads,
            settings.handler_timeout,
            rate_limits=self.rate_limits,
            steering=steering,
            tell=self._tell,
            changed=self._changed,
            stopping=stopping,
            may_begin=self._is_sure,
            hung=self._give_up,
            one_by_one=settings.threads == 1,
            uvloop=settings.loop == "uvloop",
        )
        self._loop = self.dispatcher.loop
        self._revive = connection.script(scripts.lua(__file__, "revive.lua"))
        self._answers = Answers(connection, self._loop, stopping, self.dispatcher.watch)
        others = frozenset(handler.digest for handler in handlers.registered if handler.kind != Profile.kind)
        profiles = Profiles(connection, others=others) if handlers.wants_profiles else None
        archive = _archive(settings.archive_dir, worker) if settings.archive_dir else None
        self._hands = hands = Hands(self.dispatcher)
        self._caps = caps = Caps(Buckets(connection), self.dispatcher.closed)
        demand = Demand(self.dispatcher, hands, by_lane)
        self._taking = taking = Taking(connection, worker, by_lane, demand, hands, caps)
        self._opening = Opening(
            connection,
            self._answers,
            self.dispatcher,
            hands,
            demand,
            caps,
            settings,
            handlers,
            profiles,
            archive,
            spans,
        )
        self._settling = Settling(
            connection, worker, settings, self.dispatcher, hands, taking, demand, caps, profiles, archive
        )
        self._doorbell = Doorbell(connection.redis, list(by_lane), LISTEN_SECONDS, self._rung)
        self._garbage = Growth()
        self._wake = asyncio.Event()
        self._turn_at = self._steer_at = 0.0
        self._turn_soon = False
        self._revives = False
        self._revives_at = math.inf
        self._beat_at = math.inf  # the last heartbeat
        self._doubts = False  # others may have batches of this worker: it was silent for long
        self.stop_seconds = settings.stops_within
        """How long what has begun may take once the worker is told to stop; then it is interrupted."""
        self._stop_at = math.inf
        self.crashed = False
        """True when something went wrong beside the handlers."""

    # What RQ's loop calls

    def next(self, timeout: float | None) -> Taken | None:
        """Run the flow until a batch was taken. None when `timeout` is None (burst) and nothing is left to do.

        Raises TimeoutError after `timeout` seconds, and Stopped.
        """
        try:
            deadline = None if timeout is None else time.monotonic() + timeout
            return self.dispatcher.run_until_complete(self._next(deadline), self._go_on)
        except (TimeoutError, Stopped, SystemExit):
            raise
        except BaseException as error:
            if self._stopping() and isinstance(error, RedisError | OSError):
                raise Stopped from None
            self.crashed = True
            raise

    def revive(self) -> None:
        """Have what was put off tried again: this process may have better handlers. And once more a bit later, what has
        ended so, but was not settled yet.
        """
        self._revives = True
        self._revives_at = time.monotonic() + 1.5 * SETTLE_SECONDS

    def take_from(self, queues: list[str]) -> None:
        """Take from these queues from now on, of the lanes it has; another thread may call this."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._taking.take_from, queues)

    def admit(self, taken: Taken) -> None:
        """Have the events of a batch handled."""
        self._hands.admitted.append(taken)

    def finish(self) -> None:
        """Run the flow, without taking more, until what was admitted is settled."""
        self.dispatcher.run_until_complete(self._finish(), self._go_on)

    def leave(self) -> None:
        """Stop: wait for what has begun, then settle, and give back what has not ended."""
        self.dispatcher.run_until_complete(self._leave(), self._go_on)
        self.close()

    def close(self) -> None:
        """End the threads, the loop and the connections."""
        self.dispatcher.shut_down()
        self._doorbell.close()
        self._connection.hang_up()
        self.dispatcher.close()

    def stop(self) -> None:
        """The worker was told to stop: `leave` is called soon. A signal handler may call this."""
        self._stop_at = time.monotonic() + self.stop_seconds
        self.dispatcher.end_by(self._stop_at)
        self.wake()

    def wake(self) -> None:
        """Look again at once; may be called by a signal handler or another thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    def note_heartbeat(self, sent: float) -> None:
        """Redis has had a heartbeat, sent at that time by the monotonic clock; another thread may call this."""
        self._doubts |= sent - self._beat_at >= reaper.SURE_SECONDS
        self._beat_at = sent

    def _is_sure(self) -> bool:
        """False when others may have batches of this worker: their contacts' events are not to begin here."""
        return not self._doubts and time.monotonic() - self._beat_at < reaper.SURE_SECONDS

    @property
    def is_idle(self) -> bool:
        """True while nothing is in hand."""
        return not self._hands

    def inside(self) -> Inside:
        """What is in hand, for operators. Any thread may ask."""
        found = inside.of(self._hands, self.dispatcher)
        found.held_back = self.rate_limits.holds()
        return found

    # The flow

    async def _next(self, deadline: float | None) -> Taken | None:
        given = self._hands.given
        while True:
            if given:
                return given.popleft()
            if self.dispatcher.hangs:
                log.error("as many threads hang as WA_THREADS, this process is replaced", pid=os.getpid())
            if self._stopping() or self.dispatcher.hangs:
                raise Stopped
            await self._turn(takes=True)
            if given:
                continue
            if deadline is None and self.is_idle and self._taking.may_end:
                return None
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError
            await self._wait(deadline, takes=True)

    async def _go_on(self) -> None:
        """The main thread is still in a handler."""
        if self._stopping() or self.dispatcher.hangs:
            await self._leave()
            if self.dispatcher.in_flight or self.dispatcher.hangs:
                self._give_up()
        await self._turn(takes=False)
        await self._wait(time.monotonic() + _WATCH_SECONDS, takes=False)

    async def _finish(self) -> None:
        while not (self.is_idle or self._stopping()):
            await self._turn(takes=False)
            if self._hands:
                await self._wait(time.monotonic() + _WATCH_SECONDS, takes=False)

    async def _turn(self, takes: bool) -> None:
        """Do all that is due."""
        if self.dispatcher.crash is not None:
            raise self.dispatcher.crash
        self._turn_soon = False
        if time.monotonic() >= self._steer_at:
            await self._steer()
        await self._open_admitted()
        if self._revives or time.monotonic() >= self._revives_at:
            self._revives_at = self._revives_at if self._revives else math.inf
            self._revives = False
            reviving = self._revive.send([keys.PUT_OFF, keys.PARKED, keys.LEDGER], [keys.RQ, keys.WA])
            left = await self._answers.of(reviving)
            if left:
                self._revives = True
                self._wake.set()
        await self._opening.ask_again()
        self._renew_caps()
        self._hands.keep_what_takes_long()
        self.dispatcher.begin()
        doubts = self._doubts
        parts = self._settling.due(everything=doubts)
        settling = self._settling.send(parts) if parts else None
        taking = self._taking.send() if takes else None
        if settling is not None:
            self._hands.share(self._settling.settled(parts, await self._answers.of(settling)))
        if doubts and {part.one for part in parts}.issuperset(self._hands.batches):  # what was lost is known now
            self._doubts = False
        if taking is not None:
            self._hands.share(self._taking.took(await self._answers.of(taking)))
        self._turn_at = time.monotonic()
        self._garbage.look()

    async def _wait(self, deadline: float | None, takes: bool) -> None:
        """Until something ends, rings or is due; who does not take is not woken by what is due to be taken."""
        now = time.monotonic()
        until = [now + LISTEN_SECONDS if deadline is None else deadline, self._revives_at]
        if self._hands:
            until.append(now + _WATCH_SECONDS)
        if takes:
            until += self._taking.tries()
        if takes and (take_at := self._taking.next_at()) is not None:
            until.append(take_at)
            try:
                self._doorbell.listen()
            except (RedisError, OSError) as error:
                await self._answers.until_back(error)
        for wait in (self.dispatcher.begin(), self._renew_caps()):
            if wait is not None:
                until.append(now + wait)
        if self._settling.has_more:
            until.append(now)
        if self._steering.is_used:
            until.append(self._steer_at)
        if any(one.busy for one in self._hands.batches):
            until.append(self._opening.again_at)
        pause = max(0.0005, min(until) - time.monotonic())
        timer = self._loop.call_later(pause, self._wake.set)
        await self._wake.wait()
        timer.cancel()
        self._wake.clear()
        self.dispatcher.watch()

    def _changed(self) -> None:
        """Events have ended: soon, what has ended by then is settled together."""
        if not self._turn_soon:
            self._turn_soon = True
            self._loop.call_later(max(0.0, self._turn_at + _TURN_SECONDS - time.monotonic()), self._wake.set)

    def _rung(self) -> None:
        self._taking.rung()
        self._wake.set()

    async def _open_admitted(self) -> None:
        if self._hands.admitted:
            admitted, self._hands.admitted = self._hands.admitted, []
            await self._opening.open(admitted)

    async def _steer(self) -> None:
        """Read which handlers an operator has paused or limited."""
        found = await self._answers.of(self._connection.send("HGETALL", keys.CONTROLS))
        self._steer_at = time.monotonic() + _STEER_SECONDS
        # As RESP3 tells it, or RESP2.
        fields = found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))
        goes_on, asked = self._steering.learn(controls.of_handlers(fields))
        if asked and self.dispatcher.breakdowns is not None:
            self.dispatcher.breakdowns.try_now(asked)
        if goes_on or asked:
            self.revive()
            self._taking.rung()

    def _renew_caps(self) -> float | None:
        """Get tokens of capped lanes. What has to wait long for some goes back."""
        wait = self._caps.renew(self._hands.lanes)
        self._hands.give_back(self._caps.waits_long())
        return wait

    async def _leave(self) -> None:
        self._stop_at = min(self._stop_at, time.monotonic() + self.stop_seconds)
        try:
            # What was not opened goes back with the rest: the reaper would put it before older batches of its queue.
            self._hands.admitted += self._hands.given
            self._hands.given.clear()
            await self._open_admitted()
            while self.dispatcher.in_flight and time.monotonic() < self._stop_at:
                await self._turn(takes=False)
                await self._wait(min(self._stop_at, time.monotonic() + _WATCH_SECONDS), takes=False)
            await self.dispatcher.interrupt()
            if parts := self._settling.rest():
                self._settling.settled(parts, await self._answers.of(self._settling.send(parts)))
            await self.dispatcher.end_background(self._stop_at)
        except (RedisError, OSError) as error:
            # The other workers' reaper finds what this one held.
            log.warning("Redis is away at the end of this worker", reason=connections.reason(error))

    def _give_up(self) -> None:
        """End this process although a handler hangs in its main thread, with all that is done settled.

        That thread does nothing more, so its connection is free. If Redis is away, the others' reaper finds what this
        process held.
        """
        try:
            self._connection.flush()
            if parts := self._settling.rest():
                self._connection.answer(self._settling.send(parts))
            reaper.heartbeat_and_reap(self._connection.redis, self._worker, leaves=True)
        except (RedisError, OSError) as error:
            log.warning("Redis is away at the end of this worker", reason=connections.reason(error))
        finally:
            os._exit(1)

    def _tell(self, news: Breakdown | str) -> None:
        """A handler always fails, or works again: `status` and the page read it."""
        if isinstance(news, Breakdown):
            told = {"error": news.error, "next_try": news.next_try, "since": news.since, "worker": self._worker}
            self._connection.later("HSET", keys.BREAKDOWNS, news.handler, orjson.dumps(told))
            # Its events are put off and no try fails, so no settle tells of it: afterwards, an older error would stand.
            failure = Failure(news.error, time.time(), news.since)
            self._connection.later("HSET", keys.FAILURES, news.handler, failures.packed(failure))
        else:
            self._connection.later("HDEL", keys.BREAKDOWNS, news)
            self.revive()
        self._wake.set()


def _archive(folder: Path, worker: str) -> Archive:
    from workers.archive.files import Archive  # only where it is needed: with its libraries it takes 1.3 MiB

    return Archive(folder, worker)

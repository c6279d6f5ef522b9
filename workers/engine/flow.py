"""What a worker process does with its batches, from take to settle: several at a time, and its loop never waits.

RQ's loop asks for a batch (`next`) and hands it back to be run (`admit`). The flow runs while RQ waits for the next
one: it opens what was admitted, lets the dispatcher begin what there are slots for, settles what is done, and takes
again as soon as there is room.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from redis.exceptions import RedisError

from ingest.settings import Settings
from ingest.store import connection as connections
from ingest.store import keys, scripts
from ingest.store.jobs import job_template, rq_now
from ingest.store.pipelined import Call, PipelinedConnection
from ingest.store.queues import MESSAGES, lane_of
from workers.archive.files import Archive
from workers.dispatch.breakdowns import Breakdown
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.rate_limits import Buckets, RateLimits
from workers.engine import reaper, settle
from workers.engine.answers import Answers
from workers.engine.batch_state import Results
from workers.engine.caps import Caps
from workers.engine.demand import SOON_SECONDS, Demand
from workers.engine.doorbell import Doorbell
from workers.engine.hand import Hand, Open, Part, Taken, batches, going_back
from workers.engine.opening import Opening
from workers.engine.profiles import Profiles
from workers.handlers import Handlers

if TYPE_CHECKING:
    from ingest.telemetry.spans import Spans

log = structlog.get_logger()

SETTLE_SECONDS = 0.5
"""How often a batch settles what it has done, so that a kill repeats little."""

STOP_SECONDS = 6.0
"""How long running handlers may still take once the worker is told to stop; then they are interrupted."""

TAKE_KEYS = [keys.LEDGER, keys.TAKEN, keys.LEASES, keys.TAILS, keys.TURN, keys.CONTROLS, keys.DEATHS, keys.WANTED]
TAKE_KEYS.append(keys.ALIVE)

_TURN_SECONDS = 0.003  # what ends within this time is settled together
_WATCH_SECONDS = 0.25
_LISTEN_SECONDS = 5.0  # a safety net, and how long `rq resume` may go unnoticed
_RELEASE_SECONDS = 10.0  # a partition that others want is kept after all if its handlers take longer


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
        self._queues: dict[str, list[str]] = {}
        for queue in queues:
            self._queues.setdefault(lane_of(queue), []).append(queue)
        self.dispatcher = Dispatcher(
            handlers,
            settings.concurrency,
            settings.threads,
            settings.handler_timeout,
            rate_limits=RateLimits(connection),
            tell=self._tell,
            changed=self._changed,
            stopping=stopping,
            may_begin=self._is_sure,
            full_errors=settings.log_errors == "full",
        )
        self._loop = self.dispatcher.loop
        self._take = connection.script(scripts.lua(__file__, "take.lua"))
        self._settle = connection.script(scripts.lua(__file__, "settle.lua"))
        self._revive = connection.script(scripts.lua(__file__, "revive.lua"))
        self._calls = settle.Calls(worker, settings.dedup_window)
        self._hands: dict[str, Hand] = {}  # by queue
        self._caps = Caps(Buckets(connection), self.dispatcher.closed)
        self._profiles = Profiles(connection) if handlers.wants_profiles else None
        self._archive = Archive(settings.archive_dir, worker) if settings.archive_dir else None
        self._answers = Answers(connection, self._loop, stopping, self.dispatcher.watch)
        self._demand = Demand(self.dispatcher, self._hands, self._queues)
        self._opening = Opening(
            connection,
            self._answers,
            self.dispatcher,
            self._hands,
            self._caps,
            settings,
            self._profiles,
            self._archive,
            spans,
        )
        self._template = job_template()
        self._numbers = itertools.count(time.time_ns() // 1000)  # above those of any earlier process of this name
        self._doorbell = Doorbell(connection.redis, list(self._queues), _LISTEN_SECONDS, self._rung)
        self._wake = asyncio.Event()
        self._turn_at = 0.0
        self._turn_soon = False
        self._given: deque[Taken] = deque()
        self._admitted: list[Taken] = []
        self._not_before: dict[str, float] = {}  # queues that went to others
        self._careful = False  # a batch comes next, or is in hand, that may kill its worker: none beside it
        self._more = set(self._queues)  # lanes of which there may be more to take
        self._due_at = 0.0
        self._revives = False
        self._beat_at = math.inf  # the last heartbeat
        self._doubts = False  # others may have batches of this worker: it was silent for long
        self.stop_seconds = STOP_SECONDS
        self.crashed = False
        """True when something went wrong beside the handlers."""

    # What RQ's loop calls

    def next(self, timeout: float | None) -> Taken | None:
        """Run the flow until a batch was taken. None when `timeout` is None (burst) and nothing is left to do.

        Raises TimeoutError after `timeout` seconds, and Stopped.
        """
        try:
            deadline = None if timeout is None else time.monotonic() + timeout
            return self._loop.run_until_complete(self._next(deadline))
        except (TimeoutError, Stopped, SystemExit):
            raise
        except BaseException as error:
            if self._stopping() and isinstance(error, RedisError | OSError):
                raise Stopped from None
            self.crashed = True
            raise

    def revive(self) -> None:
        """Have what was put off tried again: this process may have better handlers."""
        self._revives = True

    def admit(self, taken: Taken) -> None:
        """Have the events of a batch handled."""
        self._admitted.append(taken)

    def finish(self) -> None:
        """Run the flow, without taking more, until what was admitted is settled."""
        self._loop.run_until_complete(self._finish())

    def leave(self) -> None:
        """Stop: wait for what has begun, then settle, and give back what has not ended."""
        self._loop.run_until_complete(self._leave())
        self.close()

    def close(self) -> None:
        """End the threads, the loop and the connections."""
        self.dispatcher.shut_down()
        self._doorbell.close()
        self._connection.hang_up()
        self.dispatcher.close()

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
        return not (self._hands or self._admitted or self._given)

    # The flow

    async def _next(self, deadline: float | None) -> Taken | None:
        while True:
            if self._given:
                return self._given.popleft()
            if self._stopping() or self.dispatcher.hangs:
                raise Stopped
            await self._turn(takes=True)
            if self._given:
                continue
            if deadline is None and self.is_idle and not self._more and not self._soon():
                return None
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError
            await self._wait(deadline)

    async def _finish(self) -> None:
        while not (self.is_idle or self._stopping()):
            await self._turn(takes=False)
            if self._hands:
                await self._wait(time.monotonic() + _WATCH_SECONDS)

    async def _turn(self, takes: bool) -> None:
        """Do all that is due."""
        if self.dispatcher.crash is not None:
            raise self.dispatcher.crash
        self._turn_soon = False
        if self._admitted:
            await self._open_admitted()
        if self._revives:
            self._revives = False
            await self._answers.of(self._revive.send([keys.RQ_QUEUES], [keys.RQ, keys.WA]))
        await self._opening.ask_again()
        self._renew_caps()
        self._keep_what_takes_long()
        self.dispatcher.begin()
        doubts = self._doubts
        parts = self._due()
        settling = self._send_settle(parts) if parts else None
        taking = self._send_take() if takes else None
        if settling is not None:
            self._settled(parts, await self._answers.of(settling))
        if doubts and {part.one for part in parts}.issuperset(batches(self._hands)):  # what was lost is known now
            self._doubts = False
        if taking is not None:
            self._took(await self._answers.of(taking))
        self._turn_at = time.monotonic()

    async def _wait(self, deadline: float | None) -> None:
        """Until something ends, rings or is due."""
        now = time.monotonic()
        until = [now + _LISTEN_SECONDS if deadline is None else deadline]
        if self._hands:
            until.append(now + _WATCH_SECONDS)
        rooms = self._wants()
        if any(rooms.values()):
            until.append(now if self._worth_asking(rooms) else self._due_at or now + _LISTEN_SECONDS)
            try:
                self._doorbell.listen()
            except (RedisError, OSError) as error:
                await self._answers.until_back(error)
        for wait in (self.dispatcher.begin(), self._renew_caps()):
            if wait is not None:
                until.append(now + wait)
        until += [now + wait for wait in self._demand.tries()]
        until += self._not_before.values()
        if any(one.busy for one in batches(self._hands)):
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
        self._more = set(self._queues)
        self._wake.set()

    # Take

    async def _open_admitted(self) -> None:
        admitted, self._admitted = self._admitted, []
        await self._opening.open(admitted)

    def _send_take(self) -> Call | None:
        now = time.monotonic()
        for queue in [queue for queue, at in self._not_before.items() if now >= at]:
            del self._not_before[queue]
            self._more.add(lane_of(queue))
        rooms = self._wants()
        if not self._worth_asking(rooms):
            return None
        args: list[Any] = [keys.RQ, keys.WA, self._worker, self._template, rq_now()]
        args += [next(self._numbers), int(self.is_idle)]
        for lane, queues in self._queues.items():
            free = [queue for queue in queues if self._may_take(queue)]
            args += [lane, rooms[lane], len(free), *free]
        return self._take.send(TAKE_KEYS, args)

    def _took(self, reply: Any) -> None:
        wait, share, careful, more, given = reply
        self._more = {lane.decode() for lane in more}
        self._due_at = time.monotonic() + wait / 1000 if wait >= 0 else 0.0
        self._careful = careful > 0
        for queue, batch, token, records, tokens in given:
            self._caps.grant(lane_of(queue.decode()), tokens)
            self._given.append(Taken(queue.decode(), batch.decode(), token.decode(), records, tokens))
        self._share(share)

    def _worth_asking(self, rooms: dict[str, int]) -> bool:
        """True when it is worth asking."""
        if any(room and lane in self._more for lane, room in rooms.items()):
            return True
        return any(rooms.values()) and self._is_due()

    def _is_due(self) -> bool:
        return time.monotonic() >= self._due_at > 0 or 0 in self._demand.tries()

    def _soon(self) -> bool:
        """With `--burst`, a worker still waits if a retry is due, or a capped lane has tokens, within a second."""
        return 0 < self._due_at <= time.monotonic() + 1.0

    def _wants(self) -> dict[str, int]:
        """How many records of each lane to take."""
        return dict.fromkeys(self._queues, 0) if self._careful and not self.is_idle else self._demand.rooms()

    def _may_take(self, queue: str) -> bool:
        hand = self._hands.get(queue)
        return (hand is None or hand.release_at is None) and queue not in self._not_before

    # Settle

    def _due(self) -> list[Part]:
        """What is to be settled now. Batches that end leave the hand with that."""
        due: list[tuple[Open, str]] = []
        told: set[str] = set()  # lanes that settle.lua is asked about
        now = time.monotonic()
        for hand in self._hands.values():
            if hand.release_at is not None and not hand.source.in_flight:
                due += going_back(hand)
                continue
            for one in hand.batches:
                if one.state.all_done:
                    due.append((one, "end"))
                elif self._doubts or (
                    now - one.settled_at >= SETTLE_SECONDS and (one.state.has_news or hand.lane not in told)
                ):
                    due.append((one, "more"))
                    told.add(hand.lane)
        return self._parts(due)

    def _parts(self, due: list[tuple[Open, str]]) -> list[Part]:
        """Collect what is due. First, what leaves its batch is archived: while that fails, nothing is settled and
        nothing begins.
        """
        # If the disk does not take all, it may take a part.
        if due and not self._archived(due) and not self._archived(due := due[:1]):
            self.dispatcher.held = True
            return []
        self.dispatcher.held = False
        return [self._part(one, how) for one, how in due]

    def _archived(self, due: list[tuple[Open, str]]) -> bool:
        if not self._archive:
            return True
        leaving = [record for one, _ in due for record in one.state.leaving()]
        return not leaving or self._archive.keep(leaving, lambda: False)

    def _part(self, one: Open, how: str) -> Part:
        one.settled_at = time.monotonic()
        if how == "back" and not one.hand.source.gone:
            one.hand.source.gone = True
            self.dispatcher.reopen(one.hand.source)  # what it held is in the way of what comes of these contacts later
            if not one.hand.paused:  # others want it
                self._not_before[one.hand.queue] = one.settled_at + SOON_SECONDS
        if how != "more":
            self._leaves(one)
        return Part(one, settle.Part(one.state, one.state.collect(), how))

    def _send_settle(self, parts: list[Part]) -> Call:
        if self._profiles:
            self._profiles.remember()
        left = {part.settled.opened.queue for part in parts}
        unused = self._caps.give_back({lane_of(queue) for queue in left} - {hand.lane for hand in self._hands.values()})
        ring = [MESSAGES] if self._demand.is_more_than_soon(MESSAGES) else []
        args = self._calls.build(
            [part.settled for part in parts], self.dispatcher.tally(), self.dispatcher.spent(), unused, ring
        )
        return self._settle.send(settle.KEYS, args)

    def _settled(self, parts: list[Part], reply: Any) -> None:
        share, paused, capped, *replies = reply
        for part, how in zip(parts, replies, strict=True):
            if how == b"lost":
                self._lost(part.one)
            else:
                _log_results(lane_of(part.one.state.queue), part.settled.results)
        in_hand = {hand.lane for hand in self._hands.values()}
        self._caps.learn({part.one.hand.lane for part in parts} & in_hand, [lane.decode() for lane in capped])
        self._give_back({lane.decode() for lane in paused})
        self._share(share)

    def _lost(self, one: Open) -> None:
        """Another worker has the batch, because this one was silent for too long: it must leave it alone."""
        log.warning("another worker has this batch now", queue=one.state.queue, batch=one.state.batch)
        one.state.lost = True
        if one in one.hand.batches:  # what ended or went back has left already
            self._leaves(one)

    def _leaves(self, one: Open) -> None:
        """The batch is not in hand any more."""
        one.hand.batches.remove(one)
        if not one.hand.batches:
            del self._hands[one.hand.queue]
        if self._profiles and one.asked:
            self._profiles.forget(one.asked)

    def _renew_caps(self) -> float | None:
        """Get tokens of capped lanes. What has to wait long for some goes back."""
        wait = self._caps.renew({hand.lane for hand in self._hands.values()})
        self._give_back(self._caps.waits_long())
        return wait

    def _give_back(self, lanes: Collection[str]) -> None:
        """Begin nothing more of these lanes, and give back what is in hand."""
        for hand in self._hands.values():
            if hand.lane in lanes and not hand.paused:
                hand.source.open, hand.release_at, hand.paused = False, time.monotonic(), True

    def _share(self, count: int) -> None:
        """Others have nothing to do: give them partitions of which events wait for a slot here."""
        if count <= 0 or not self.dispatcher.is_full:
            return
        hands = [hand for hand in self._hands.values() if hand.lane == MESSAGES and hand.release_at is None]
        for hand in sorted(hands, key=lambda one: one.source.in_flight)[:count]:
            hand.source.open, hand.release_at = False, time.monotonic()

    def _keep_what_takes_long(self) -> None:
        """A partition is not given away after all while an event of it goes on and on: others of it would wait."""
        for hand in self._hands.values():
            if hand.release_at is None or hand.paused or time.monotonic() - hand.release_at < _RELEASE_SECONDS:
                continue
            hand.release_at = None
            self.dispatcher.reopen(hand.source)

    async def _leave(self) -> None:
        deadline = time.monotonic() + self.stop_seconds
        try:
            # What was not opened goes back with the rest: the reaper would put it before older batches of its queue.
            self._admitted += self._given
            self._given.clear()
            await self._open_admitted()
            while self.dispatcher.in_flight and time.monotonic() < deadline:
                await self._turn(takes=False)
                await self._wait(min(deadline, time.monotonic() + _WATCH_SECONDS))
            await self.dispatcher.interrupt()
            parts = self._parts([one for hand in self._hands.values() for one in going_back(hand)])
            if parts:
                self._settled(parts, await self._answers.of(self._send_settle(parts)))
        except (RedisError, OSError) as error:
            # The other workers' reaper finds what this one held.
            log.warning("Redis is away at the end of this worker", reason=connections.reason(error))

    def _tell(self, news: Breakdown | str) -> None:
        """A handler always fails, or works again: `status` and the page read it."""
        if isinstance(news, Breakdown):
            value = orjson.dumps({"error": news.error, "next_try": news.next_try, "worker": self._worker})
            self._connection.later("HSET", keys.BREAKDOWNS, news.handler, value)
        else:
            self._connection.later("HDEL", keys.BREAKDOWNS, news)
            self._revives = True
        self._wake.set()


def _log_results(lane: str, results: Results) -> None:
    for (handler, error), count in results.errors.items():
        trace = results.traces.get((handler, error))
        more = {"traceback": trace} if trace else {}
        log.warning("events failed", lane=lane, failed=count, handler=handler, error=error, **more)
    for reason, count in Counter(letter[0] for letter in results.letters).items():
        log.warning("dead letters", lane=lane, reason=reason, count=count)

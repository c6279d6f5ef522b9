"""What a worker process does with its batches, from take to settle: several at a time, and its loop never waits.

RQ's loop asks for a batch (`next`) and hands it back to be run (`admit`). The flow runs while RQ waits for the next
one: it opens what was admitted, lets the dispatcher begin what there are slots for, settles what is done, and takes
again as soon as there is room.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import structlog
from redis.exceptions import ConnectionError, RedisError

from ingest.settings import Settings
from ingest.store import connection as connections
from ingest.store import keys, scripts
from ingest.store.jobs import job_template, rq_now
from ingest.store.pipelined import Call, PipelinedConnection
from ingest.store.queues import MESSAGES, Member, lane_of
from ingest.store.records import unpack
from ingest.telemetry.outage import Outage
from workers.archive.files import Archive
from workers.dispatch.breakdowns import Breakdown
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.event_context import EventContext
from workers.dispatch.outcomes import Outcome
from workers.dispatch.rate_limits import Buckets, RateLimits
from workers.dispatch.ready import Account, Source
from workers.engine import claims, hooks, reaper, settle
from workers.engine.batch_state import BatchState, Results, kept
from workers.engine.caps import Caps
from workers.engine.doorbell import Doorbell
from workers.engine.profiles import Asked, Profiles
from workers.events import Event, Status
from workers.handlers import Handlers

if TYPE_CHECKING:
    from ingest.telemetry.spans import Spans

log = structlog.get_logger()
outage = Outage("Redis is away", "Redis is back")

SETTLE_SECONDS = 0.5
"""How often a batch settles what it has done, so that a kill repeats little."""

STOP_SECONDS = 6.0
"""How long running handlers may still take once the worker is told to stop; then they are interrupted."""

SOON_SECONDS = 1.0
"""A worker takes what it can begin within this time, by its rate lately."""

MOST_READY = 2000
"""Events of a lane, at most, that are taken because they can begin soon."""

LEAST_MESSAGES = 500
"""Messages that are taken even if they cannot begin soon: so that businesses have their turn, whoever posts a flood."""

MOST_IN_HAND = 5000
"""Events of a lane in hand at most, with those that wait for an earlier one of their contact."""

MOST_BYTES = 16 * 1024 * 1024
"""Bytes of records in hand at most."""

_TURN_SECONDS = 0.003  # what ends within this time is settled together
_BUSY_SECONDS = 0.05  # until a status asks again whose message another worker has in work
_WATCH_SECONDS = 0.25
_LISTEN_SECONDS = 5.0  # a safety net, and how long `rq resume` may go unnoticed
_AWAY_SECONDS = 0.5  # between looks for a Redis that is away
_RELEASE_SECONDS = 10.0  # a partition that others want is kept after all if its handlers take longer
_KINDS = {MESSAGES: ("message", "profile"), "statuses": ("status",), "other": ("error", "change")}
TAKE_KEYS = [keys.LEDGER, keys.TAKEN, keys.LEASES, keys.TAILS, keys.TURN, keys.CONTROLS, keys.DEATHS, keys.WANTED]
TAKE_KEYS.append(keys.ALIVE)

DUPLICATE = Outcome("duplicate")


class Stopped(Exception):
    """This worker takes nothing more."""


class Taken(NamedTuple):
    """A batch as take.lua gives it."""

    queue: str
    batch: str
    token: str
    records: list[bytes]
    tokens: int


class _Hand:
    """A queue of which there are batches in hand, the oldest first."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.lane = lane_of(queue)
        self.source = Source(self.lane)
        self.batches: list[_Open] = []
        self.release_at: float | None = None  # since when it is to go back
        self.paused = False


class _Open:
    """A batch in hand."""

    def __init__(self, state: BatchState, hand: _Hand) -> None:
        self.state = state
        self.hand = hand
        self.settled_at = time.monotonic()
        self.asked: Asked | None = None
        self.account: Account  # set once the claims are known
        self.busy: list[tuple[int, Event, claims.Claim]] = []


class _Part(NamedTuple):
    """What is settled of a batch in hand."""

    one: _Open
    settled: settle.Part


_Todo = tuple[int, Event, claims.Claim | None]


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
        self._handlers = handlers
        self._settings = settings
        self._stopping = stopping
        self._spans = spans
        self._queues: dict[str, list[str]] = {}
        for queue in queues:
            self._queues.setdefault(lane_of(queue), []).append(queue)
        buckets = Buckets(connection)
        self.dispatcher = Dispatcher(
            handlers,
            settings.concurrency,
            settings.threads,
            settings.handler_timeout,
            rate_limits=RateLimits(connection),
            tell=self._tell,
            changed=self._changed,
            stopping=stopping,
            full_errors=settings.log_errors == "full",
        )
        self._loop = self.dispatcher.loop
        self._take = connection.script(scripts.lua(__file__, "take.lua"))
        self._settle = connection.script(scripts.lua(__file__, "settle.lua"))
        self._revive = connection.script(scripts.lua(__file__, "revive.lua"))
        self._claims = claims.Claims(connection)
        self._calls = settle.Calls(worker, settings.dedup_window)
        self._caps = Caps(buckets, self.dispatcher.closed)
        self._profiles = Profiles(connection) if handlers.wants_profiles else None
        self._archive = Archive(settings.archive_dir, worker) if settings.archive_dir else None
        self._template = job_template()
        self._numbers = itertools.count(time.time_ns() // 1000)  # above those of any earlier process of this name
        self._doorbell = Doorbell(connection.redis, list(self._queues), _LISTEN_SECONDS, self._rung)
        self._wake = asyncio.Event()
        self._turn_at = 0.0
        self._turn_soon = False
        self._given: deque[Taken] = deque()
        self._admitted: list[Taken] = []
        self._hands: dict[str, _Hand] = {}
        self._not_before: dict[str, float] = {}  # queues that went to others
        self._careful = False  # a batch comes next, or is in hand, that may kill its worker: none beside it
        self._more = set(self._queues)  # lanes of which there may be more to take
        self._due_at = 0.0
        self._busy_at = 0.0
        self._ended: Counter[str] = Counter()
        self._rates: Counter[str] = Counter()  # events a second lately, by lane
        self._rated_at = time.monotonic()
        self._revives = False
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
            await self._open()
        if self._revives:
            self._revives = False
            await self._answer(self._revive.send([keys.RQ_QUEUES], [keys.RQ, keys.WA]))
        await self._ask_again()
        self._renew_caps()
        self._keep_what_takes_long()
        self.dispatcher.begin()
        parts = self._due()
        settling = self._send_settle(parts) if parts else None
        taking = self._send_take() if takes else None
        if settling is not None:
            self._settled(parts, await self._answer(settling))
        if taking is not None:
            self._took(await self._answer(taking))
        self._turn_at = time.monotonic()

    async def _wait(self, deadline: float | None) -> None:
        """Until something ends, rings or is due."""
        now = time.monotonic()
        until = [now + _LISTEN_SECONDS if deadline is None else deadline]
        if self._hands:
            until.append(now + _WATCH_SECONDS)
        rooms = self._rooms()
        if any(rooms.values()):
            until.append(now if self._worth_asking(rooms) else self._due_at or now + _LISTEN_SECONDS)
            try:
                self._doorbell.listen()
            except (RedisError, OSError) as error:
                await self._until_back(error)
        for wait in (self.dispatcher.begin(), self._renew_caps()):
            if wait is not None:
                until.append(now + wait)
        until += [now + wait for wait in self._tries()]
        until += self._not_before.values()
        if any(one.busy for one in self._all()):
            until.append(self._busy_at)
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

    async def _answer(self, call: Call) -> Any:
        """The answer to a command. While Redis is away, handlers go on, and the command is sent again."""
        broke = False
        while True:
            try:
                if self._connection.has_answered(call):
                    reply = self._connection.answer(call)
                    outage.up()
                    return reply
                await self._readable(self._connection.await_answer())
            except (RedisError, OSError) as error:
                if call.is_answered and not connections.refuses(error):
                    raise
                if broke or call.is_answered or not isinstance(error, ConnectionError):
                    await self._until_back(error)
                broke = True  # a connection may end at any time: that alone is no outage
                if call.is_answered:
                    call = self._connection.send(*call.command)

    async def _readable(self, descriptor: int) -> None:
        ready = self._loop.create_future()
        self._loop.add_reader(descriptor, _resolve, ready)
        try:
            await asyncio.wait_for(ready, connections.WORKER_SECONDS)
        except TimeoutError:
            self._connection.hang_up()
            raise
        finally:
            self._loop.remove_reader(descriptor)

    async def _until_back(self, error: Exception) -> None:
        """Wait until Redis answers again, or some time has passed; raises at a stop."""
        diagnosed = connections.config_error(error) or connections.refuses(error)
        outage.down(str(connections.diagnose(error)) if diagnosed else connections.reason(error))
        while True:
            if self._stopping():
                raise error
            await asyncio.sleep(_AWAY_SECONDS)
            self.dispatcher.watch()
            try:
                await self._loop.run_in_executor(None, self._connection.redis.ping)
                return
            except (RedisError, OSError):
                continue

    # Take

    def _send_take(self) -> Call | None:
        now = time.monotonic()
        for queue in [queue for queue, at in self._not_before.items() if now >= at]:
            del self._not_before[queue]
            self._more.add(lane_of(queue))
        rooms = self._rooms()
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
        return time.monotonic() >= self._due_at > 0 or 0 in self._tries()

    def _tries(self) -> list[float]:
        """Of each lane whose handlers all fail, the seconds until one of them is tried again."""
        waits = (self.dispatcher.all_down(*_KINDS[lane]) for lane in self._queues)
        return [wait for wait in waits if wait is not None]

    def _soon(self) -> bool:
        """With `--burst`, a worker still waits if a retry is due, or a capped lane has tokens, within a second."""
        return 0 < self._due_at <= time.monotonic() + 1.0

    def _may_take(self, queue: str) -> bool:
        hand = self._hands.get(queue)
        return (hand is None or hand.release_at is None) and queue not in self._not_before

    def _rooms(self) -> dict[str, int]:
        """How many records of each lane to take: what can begin soon, within what may be in hand."""
        if self._careful and not self.is_idle:
            return dict.fromkeys(self._queues, 0)
        self._measure()
        size = sum(one.state.size for one in self._all())
        return {lane: self._room(lane) if size < MOST_BYTES else 0 for lane in self._queues}

    def _room(self, lane: str) -> int:
        if (wait := self.dispatcher.all_down(*_KINDS[lane])) is not None:
            return 0 if wait else 1
        ahead = self._ahead(lane)
        ready = self.dispatcher.ready(lane)
        if ready > ahead // 2:
            return 0
        in_hand = sum(hand.source.waiting for hand in self._hands.values() if hand.lane == lane)
        room = min(MOST_READY, self.dispatcher.free(*_KINDS[lane]) + ahead) - ready
        return max(0, min(room, MOST_IN_HAND - in_hand))

    def _ahead(self, lane: str) -> int:
        """How many events of a lane may wait for a slot here."""
        return max(round(self._rates[lane] * SOON_SECONDS), LEAST_MESSAGES if lane == MESSAGES else 0)

    def _measure(self) -> None:
        now = time.monotonic()
        seconds = now - self._rated_at
        if seconds < _WATCH_SECONDS:
            return
        for lane in self._queues:
            rate = (self.dispatcher.ended[lane] - self._ended[lane]) / seconds
            self._rates[lane] = round(rate if rate > self._rates[lane] else (self._rates[lane] + rate) / 2)
        self._ended = self.dispatcher.ended.copy()
        self._rated_at = now

    # Open

    async def _open(self) -> None:
        """Parse and claim what was admitted, and have it handled."""
        admitted, self._admitted = self._admitted, []
        asked = [self._parsed(taken) for taken in admitted]
        for one, todo, calls in asked:
            await self._claimed(one, todo, calls)
        self.dispatcher.begin()

    def _parsed(self, taken: Taken) -> tuple[_Open, list[_Todo], list[Call]]:
        if self._archive and reaper.suspect(taken.batch):  # if it kills this worker too, no settle will archive it
            self._archive.keep(kept(map(unpack, taken.records)), lambda: False)
        state = BatchState(taken.queue, taken.batch, taken.records, self._settings.max_attempts, taken.token)
        hand = self._hands.get(taken.queue)
        if hand is None:
            hand = self._hands[taken.queue] = _Hand(taken.queue)
        one = _Open(state, hand)
        hand.batches.append(one)
        if self._profiles:
            one.asked = self._profiles.ask(event for _, event in state.events)
        todo: list[_Todo] = []
        return one, todo, self._claims.ask(str(Member(taken.queue, taken.batch)), self._to_claim(state, todo))

    def _to_claim(self, state: BatchState, todo: list[_Todo]) -> Iterator[claims.Claim]:
        """The claims of a batch's events, and in `todo` those events; copies in the same batch end here."""
        mine: set[str] = set()
        for index, event in state.events:
            if state.force(index):
                todo.append((index, event, None))
                continue
            claim = claims.of(event, state.waits(index))
            if claim.place in mine:
                state.finish(index, event, DUPLICATE)
                continue
            mine.add(claim.place)
            todo.append((index, event, claim))
            yield claim

    async def _claimed(self, one: _Open, todo: list[_Todo], calls: list[Call]) -> None:
        replies = b"".join([await self._answer(call) for call in calls])
        account = self._account(one.state)
        if self._profiles and one.asked:
            for _, call in one.asked.calls:
                await self._answer(call)
            account = self._profiles.watch(account, one.asked)
        one.account = account
        self._add(one, todo, replies)

    def _add(self, one: _Open, todo: list[_Todo], replies: bytes) -> None:
        """Hand events to the dispatcher, except copies and those that have to ask again."""
        state, busy, reply = one.state, [], iter(replies)
        events: list[tuple[int, Event]] = []
        for index, event, claim in todo:
            if claim is not None:
                answer = next(reply)
                if answer == claims.BUSY:
                    busy.append((index, event, claim))
                    continue
                if answer == claims.DUPLICATE:
                    state.finish(index, event, DUPLICATE)
                    continue
                state.claimed(event, claim)
                if answer == claims.SUPERSEDED and isinstance(event, Status):
                    event.superseded = True
            events.append((index, event))
        one.busy = busy
        if busy:
            self._busy_at = time.monotonic() + _BUSY_SECONDS
        self.dispatcher.add(events, one.account, one.hand.source)

    async def _ask_again(self) -> None:
        """Claim statuses whose message another batch had in work."""
        waiting = [one for one in self._all() if one.busy]
        if not waiting or time.monotonic() < self._busy_at:
            return
        for one in waiting:
            todo: list[_Todo] = list(one.busy)
            member = str(Member(one.state.queue, one.state.batch))
            calls = self._claims.ask(member, [claim for _, _, claim in one.busy])
            self._add(one, todo, b"".join([await self._answer(call) for call in calls]))

    def _account(self, state: BatchState) -> Account:
        """The hooks around the batch's events, the innermost first."""
        account: Account = hooks.InContext(state, EventContext(state.queue, self._spans))
        account = hooks.Capped(account, lane_of(state.queue), self._caps)
        return hooks.StatusOrder(account, state, drops=self._settings.status_order == "drop")

    # Settle

    def _due(self) -> list[_Part]:
        """What is to be settled now. Batches that end leave the hand with that."""
        due: list[tuple[_Open, str]] = []
        told: set[str] = set()  # lanes that settle.lua is asked about
        now = time.monotonic()
        for hand in self._hands.values():
            if hand.release_at is not None and not hand.source.in_flight:
                due += _going_back(hand)
                continue
            for one in hand.batches:
                if one.state.all_done:
                    due.append((one, "end"))
                elif now - one.settled_at >= SETTLE_SECONDS and (one.state.has_news or hand.lane not in told):
                    due.append((one, "more"))
                    told.add(hand.lane)
        return self._parts(due)

    def _parts(self, due: list[tuple[_Open, str]]) -> list[_Part]:
        """Collect what is due. First, what leaves its batch is archived: while that fails, nothing is settled and
        nothing begins.
        """
        # If the disk does not take all, it may take a part.
        if due and not self._archived(due) and not self._archived(due := due[:1]):
            self.dispatcher.held = True
            return []
        self.dispatcher.held = False
        return [self._part(one, how) for one, how in due]

    def _archived(self, due: list[tuple[_Open, str]]) -> bool:
        if not self._archive:
            return True
        leaving = [record for one, _ in due for record in one.state.leaving()]
        return not leaving or self._archive.keep(leaving, lambda: False)

    def _part(self, one: _Open, how: str) -> _Part:
        one.settled_at = time.monotonic()
        if how == "back" and not one.hand.source.gone:
            one.hand.source.gone = True
            self.dispatcher.reopen(one.hand.source)  # what it held is in the way of what comes of these contacts later
            if not one.hand.paused:  # others want it
                self._not_before[one.hand.queue] = one.settled_at + SOON_SECONDS
        if how != "more":
            one.hand.batches = [other for other in one.hand.batches if other is not one]
            if not one.hand.batches:
                del self._hands[one.hand.queue]
            if self._profiles and one.asked:
                self._profiles.forget(one.asked)
        return _Part(one, settle.Part(one.state, one.state.collect(), how))

    def _send_settle(self, parts: list[_Part]) -> Call:
        if self._profiles:
            self._profiles.remember()
        left = {part.settled.opened.queue for part in parts}
        unused = self._caps.give_back({lane_of(queue) for queue in left} - {hand.lane for hand in self._hands.values()})
        ring = [MESSAGES] if self._could_share() else []
        args = self._calls.build(
            [part.settled for part in parts], self.dispatcher.tally(), self.dispatcher.spent(), unused, ring
        )
        return self._settle.send(settle.KEYS, args)

    def _settled(self, parts: list[_Part], reply: Any) -> None:
        share, paused, capped, *replies = reply
        for part, how in zip(parts, replies, strict=True):
            if how == b"lost":
                self._lost(part.one)
            else:
                _log_results(lane_of(part.one.state.queue), part.settled.results)
        self._caps.learn({part.one.hand.lane for part in parts}, [lane.decode() for lane in capped])
        self._give_back({lane.decode() for lane in paused})
        self._share(share)

    def _lost(self, one: _Open) -> None:
        """Another worker has the batch, because this one was silent for too long: it must leave it alone."""
        log.warning("another worker has this batch now", queue=one.state.queue, batch=one.state.batch)
        one.state.lost = True
        one.hand.batches = [other for other in one.hand.batches if other is not one]
        if not one.hand.batches:
            self._hands.pop(one.hand.queue, None)

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

    def _could_share(self) -> bool:
        """True when messages wait here longer than a second: a worker without work is woken, and asks for its part."""
        return self.dispatcher.is_full and self.dispatcher.ready(MESSAGES) > self._rates[MESSAGES] * SOON_SECONDS

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
            await self._open()
            while self.dispatcher.in_flight and time.monotonic() < deadline:
                await self._turn(takes=False)
                await self._wait(min(deadline, time.monotonic() + _WATCH_SECONDS))
            await self.dispatcher.interrupt()
            parts = self._parts([one for hand in self._hands.values() for one in _going_back(hand)])
            if parts:
                self._settled(parts, await self._answer(self._send_settle(parts)))
        except (RedisError, OSError) as error:
            # The other workers' reaper finds what this one held.
            log.warning("Redis is away at the end of this worker", reason=connections.reason(error))

    def _all(self) -> Iterator[_Open]:
        return (one for hand in self._hands.values() for one in hand.batches)

    def _tell(self, news: Breakdown | str) -> None:
        """A handler always fails, or works again: `status` and the page read it."""
        if isinstance(news, Breakdown):
            value = orjson.dumps({"error": news.error, "next_try": news.next_try, "worker": self._worker})
            self._connection.later("HSET", keys.BREAKDOWNS, news.handler, value)
        else:
            self._connection.later("HDEL", keys.BREAKDOWNS, news)
            self._revives = True
        self._wake.set()


def _going_back(hand: _Hand) -> list[tuple[_Open, str]]:
    """All batches of a queue go back. The youngest first: each goes to the front."""
    return [(one, "end" if one.state.all_done else "back") for one in reversed(hand.batches)]


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _log_results(lane: str, results: Results) -> None:
    for (handler, error), count in results.errors.items():
        trace = results.traces.get((handler, error))
        more = {"traceback": trace} if trace else {}
        log.warning("events failed", lane=lane, failed=count, handler=handler, error=error, **more)
    for reason, count in Counter(letter[0] for letter in results.letters).items():
        log.warning("dead letters", lane=lane, reason=reason, count=count)

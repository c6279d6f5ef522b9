"""Calls the handlers of events: async ones on the loop, plain ones in threads, each as soon as there is a slot.

Events with the same `order_key` (one contact's messages, one message's statuses) never overlap and keep their order;
several of them may be in one list for a bulk handler.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any

from ingest.store.queues import LANES
from workers.dispatch import loops, outcomes
from workers.dispatch.breakdowns import Breakdown, Breakdowns
from workers.dispatch.calls import Begun, BegunEvent, Calls, Result, Room
from workers.dispatch.company import Company
from workers.dispatch.gathering import Gathering
from workers.dispatch.lines import Lines
from workers.dispatch.lists import ListCall, Lists
from workers.dispatch.outcomes import BEHIND, HANDLED, LAGS, NOT_BEGUN, UNHANDLED, Ended, Outcome
from workers.dispatch.parked import Turns
from workers.dispatch.rate_limits import RateLimited, RateLimits
from workers.dispatch.ready import Account, Item, Ready, Shares, Source
from workers.dispatch.steering import Steering
from workers.dispatch.tally import Tally
from workers.events import Event, Profile
from workers.handler import Handler
from workers.handlers import Handlers

_NO_SLOT = 1 << 62  # events that no handler matches need none, nor do those that wait for company


class Dispatcher:
    """Runs events through handlers, for one process. Everything but the handlers in threads happens on its loop.

    `timeout` is in seconds for one call of a handler. Without `rate_limits`, handlers' own rate and concurrency have no
    effect; without `tell`, a handler that always fails is called all the same. `changed` is called when events have
    ended, `hung` in another thread when an async handler blocks the loop for good. With a `loop`, that one is used, and
    not closed; else uvloop's, unless `uvloop` is False or no handler is async. With `one_by_one` and plain handlers
    only, the caller's thread calls them, and signals are theirs. Once `stopping()`, no event begins; nor does one while
    `may_begin()` is False, or of a lane that is `closed`.
    """

    def __init__(
        self,
        handlers: Handlers,
        concurrency: int,
        threads: int,
        timeout: float,
        *,
        rate_limits: RateLimits | None = None,
        steering: Steering | None = None,
        tell: Callable[[Breakdown | str], None] | None = None,
        changed: Callable[[], None] = lambda: None,
        stopping: Callable[[], bool] = lambda: False,
        may_begin: Callable[[], bool] = lambda: True,
        hung: Callable[[], None] | None = None,
        one_by_one: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
        uvloop: bool = True,
    ) -> None:
        self._handlers = handlers
        self._rate_limits = rate_limits
        self._limits: RateLimits | None = None  # None while neither a handler nor an operator sets any
        self._changed = changed
        self._stopping = stopping
        self._may_begin = may_begin
        self.steering = steering or Steering()
        self.breakdowns = Breakdowns(tell, self.steering) if tell else None
        self.closed: set[str] = set()
        self.held = False
        """While True, no event begins."""
        self.watcher: Callable[[Event, Outcome, Sequence[Ended]], None] | None = None
        """Called with each event that has ended, and with the calls of its handlers."""
        self.loop = loop or loops.new_loop(uvloop and handlers.any_async, concurrency)
        self._owns_loop = loop is None
        self.in_main_thread = one_by_one and not handlers.any_async
        """True when handlers are called by the thread that calls `run_until_complete`."""
        self.hurried: set[str] = set()
        """Lanes of which events wait for no company that is not in hand, because no more of them may be in hand."""
        self._shares = Shares()
        self._no_slot, self._async, self._thread = self._rooms = [
            Room(free, Ready(self._shares, self.hurried)) for free in (_NO_SLOT, concurrency, threads)
        ]
        self._calls = Calls(
            self.loop,
            self._async,
            self._thread,
            timeout,
            handlers.on_errors,
            self._ended,
            self._not_begun,
            self.begin,
            stopping,
            hung,
            self.in_main_thread,
        )
        self.tally = Tally({one.name: one.answers for one in handlers.registered if one.answers is not None})
        self._lines = Lines(self._make_ready)
        self._company = Company(
            handlers,
            self._lines,
            self.closed,
            self._calls.new_context,
            self._calls_of,
            self._begun,
            self._finish,
        )
        self._lists = Lists(
            self._calls,
            timeout,
            self.tally,
            self.breakdowns,
            rate_limits,
            bool(handlers.on_errors),
            stopping,
            lambda item, ended: self._part_ended(item, [ended]),
            self._company.of,
            lambda late: self._turns.lag(late),
        )
        self._started = False
        self._own_tasks: set[asyncio.Task[object]] = set()  # that the user's startup functions began
        self._added = 0
        self._turns = Turns(
            lambda item, leaves_out: self._begin_now(item, item.room, leaves_out),
            self.closed,
            tell or (lambda _: None),
        )
        self.in_flight = 0
        self.ended: Counter[str] = Counter()
        """How many events ended, by lane; it only rises."""
        self.crash: BaseException | None = None
        """What went wrong beside the handlers, if something did."""

    def add(self, events: Iterable[tuple[int, Event]], account: Account, source: Source, due_ms: float = 0.0) -> None:
        """Have events handled, given with the number of their record, in this order for each order key. `due_ms`: see
        `Item`.
        """
        now = time.monotonic()
        for index, event in events:
            self._added += 1
            item = Item(index, event, account, source, self._added, now, due_ms)
            source.waiting[item] = None
            self._lines.enter(item)

    def reopen(self, source: Source) -> None:
        """What a source held may begin again."""
        source.open = True
        held, source.held = source.held, []
        for item in held:
            self._make_ready(item)

    def begin(self) -> float | None:
        """Begin what can begin. Returns the seconds until something that waits for its turn may, if anything does."""
        if self._stopping():
            self._lists.give_back()
            return None
        if self.held or not self._may_begin():
            return None
        try:
            self._shares.add(self.tally.lately())
            self._limits = self._rate_limits if self._handlers.any_throttled or self.steering.limits else None
            wait = self._turns.begin(self._limits, self._lists.limiters if self._handlers.any_bulk else ())
            for room in self._rooms:
                while room.free > 0 and (first := room.ready.next(self.closed)) is not None:
                    if isinstance(first, Gathering):
                        self._lists.begin(first, room)
                    elif self._limits is None:
                        self._begin_now(first, room)
                    else:
                        self._begin(first, room, self._limits)
            if self._handlers.any_bulk:
                wait = self._next_list(wait)
                if self._limits is not None and (leaves := self._lists.leave(self._limits)) is not None:
                    wait = leaves if wait is None else min(wait, leaves)
        except Exception as error:
            self._fail(error)
            return None
        return wait

    def note_end(self, lane: str, event: Event, outcome: Outcome, calls: Sequence[Ended] = ()) -> None:
        """Count an event that has ended, here or before it was added, and tell the watcher."""
        self.ended[lane] += 1
        if (watcher := self.watcher) is not None:  # another thread sets it
            watcher(event, outcome, calls)

    def watch(self) -> None:
        """To be called at least every quarter of a second: looks for calls that are over their time."""
        self._calls.watch()

    @property
    def hangs(self) -> bool:
        """True when as many threads hang for good as there should be."""
        return self._calls.hangs

    @property
    def is_full(self) -> bool:
        """True while events wait for a slot."""
        return any(room.free <= 0 and len(room.ready) for room in self._rooms)

    def calls(self) -> list[tuple[Begun, Handler, float]]:
        """What is called now, see `Calls.now`. Any thread may ask."""
        return list(self._calls.now())

    def full(self, handler: Handler) -> str:
        """What calls of this handler leave nothing of now, see `Calls.full`. Any thread may ask."""
        return self._calls.full(handler)

    def gathered(self) -> Iterator[tuple[Handler, list[Item]]]:
        """Of each list that waits for company, or for its turn, the events. Any thread may ask."""
        return ((one.handler, one.items) for room in self._rooms for one in room.ready.gathered())

    def turns(self) -> Iterator[tuple[str, list[Item]]]:
        """What waits until a handler may be called, by its name. Any thread may ask."""
        return itertools.chain(self._turns.waiting(), self._lists.waiting())

    def all_down(self, *kinds: str) -> float | None:
        """Seconds until a handler of these kinds is tried again, when all always fail or are paused; else None."""
        return self.breakdowns.all_down(self._handlers.of_kinds(*kinds)) if self.breakdowns else None

    def free(self, *kinds: str) -> int:
        """How many events of these kinds could begin now, if none waited."""
        found = self._handlers.of_kinds(*kinds)
        most: Counter[Room] = Counter()  # events that a slot takes at a time
        for handler in found:
            room = self._room_of(handler)
            most[room] = max(most[room], handler.bulk or 1)
        return max(0, sum(room.free * events for room, events in most.items())) if most else _NO_SLOT

    def ready(self, lane: str) -> int:
        """How many events of a lane may begin as soon as there is a slot, or wait for company."""
        return sum(room.ready.count(lane) for room in self._rooms)

    def run(self, events: Iterable[tuple[int, Event]], account: Account) -> None:
        """Handle these events and return when all have ended."""
        source = Source(LANES[0])
        self.hurried.update(LANES)
        self.add(events, account, source)
        self.loop.run_until_complete(self._until_done(source))

    async def _until_done(self, source: Source) -> None:
        while source.waiting or source.in_flight:
            wait = self.begin()
            self.watch()
            if self.crash is not None:
                raise self.crash
            if self._stopping() and not source.in_flight:
                return
            await asyncio.sleep(min(0.01 if wait is None else wait, 0.01))

    def end_by(self, deadline: float) -> None:
        """By this time by the monotonic clock, `interrupt` is to be called, whatever blocks the loop."""
        self._calls.end_by(deadline)

    async def interrupt(self) -> None:
        """Interrupt what has not ended: it counts as not begun, if it ends at all."""
        if self.in_flight:
            await self._calls.interrupt()

    def run_until_complete(
        self, coroutine: Coroutine[Any, Any, Result], meanwhile: Callable[[], Coroutine[Any, Any, None]]
    ) -> Result:
        """Run a coroutine on the loop; `meanwhile` is run after it while this thread is in a handler."""
        if self.in_main_thread:
            return self._calls.run_beside(coroutine, meanwhile)
        return self.loop.run_until_complete(coroutine)

    def start(self) -> None:
        """Call the user's `startup` functions. Raises what one of them raises."""
        loops.start(self.loop, self._handlers.startups)
        self._own_tasks = asyncio.all_tasks(self.loop)
        self._started = True

    async def end_background(self, deadline: float) -> None:
        """Wait, until `deadline` by the monotonic clock at most, for the tasks that handlers have left behind."""
        await loops.wait_for_tasks(self._own_tasks, deadline)

    def shut_down(self) -> None:
        """Call the user's `shutdown` functions; what one of them raises is logged."""
        if self._started:
            loops.shut_down(self.loop, self._handlers.shutdowns)
        self._started = False

    def close(self) -> None:
        """End the threads and the loop."""
        self._calls.close()
        if self._owns_loop:
            loops.close_loop(self.loop)

    def _make_ready(self, item: Item) -> None:
        try:
            item.handlers, needs = self._handlers.matching(item.event)
        except Exception as error:
            item.fault, needs = outcomes.of_fault(error, "choosing handlers"), None
        item.room = self._no_slot if needs is None else self._async if needs else self._thread
        item.room.ready.add(item)

    def _begin(self, item: Item, room: Room, limits: RateLimits) -> None:
        """Begin an event, unless its handlers may not be called now, or others wait for the same ones."""
        done = item.account.done_before(item.index)
        limiters = limits.of_all(one for one in item.handlers or () if one.bulk is None and one.digest not in done)
        if self._turns.must_wait(limiters):
            self._turns.park(limiters, item)
        else:
            self._begin_now(item, room)

    def _begin_now(self, item: Item, room: Room, leaves_out: bool = False) -> None:
        """Begin an event. With `leaves_out`, handlers that may not be called now get it later; no other one waits."""
        source = item.source
        if source.gone:
            self._lines.leave(item)
            return
        if not source.open:
            source.held.append(item)
            return
        context = self._calls.new_context()
        put_off: list[Ended] = []
        try:
            outcome = item.fault or context.run(item.account.admit, item.event)
            calls = [] if outcome else self._calls_of(item)
            if self.breakdowns is not None and (self.breakdowns.failing or self.steering.paused):
                put_off = self.breakdowns.put_off(handler for handler, _ in calls)
                waiting = {call.handler for call in put_off}
                calls = [call for call in calls if call[0] not in waiting]
            if leaves_out and (late := self._late(calls)):
                put_off += [Ended(handler, waits=LAGS) for handler in late]
                calls = [call for call in calls if call[0] not in late]
        except Exception as error:
            outcome = outcomes.of_fault(error, "beginning the event")
        if outcome is not None:
            self._begun(item)
            self._finish(item, outcome, time.monotonic())
            return
        lists = [call for call in calls if call[0].bulk] if self._handlers.any_bulk else []
        if lists:
            calls = [call for call in calls if not call[0].bulk]
        try:
            limits = self._limits
            limiters = limits.begin(calls) if limits else ()
        except RateLimited as turn:  # what its news is for has a rate of its own
            item.account.put_off(item.event)
            for handler, _ in calls:
                self._not_called(handler)
            self._turns.park(turn.limiters, item)
            return
        self._begun(item)
        parts = _apart(calls) if len(calls) > 1 and self._handlers.any_destination else ()
        if lists or parts:
            self._gather(item, lists, len(parts) or bool(calls), put_off)
        if parts:
            for part in parts:
                its = limits.of_all(handler for handler, _ in part) if limits else ()
                self._calls.begin(BegunEvent(item, part, context.copy(), [], its), room)
        elif calls:
            self._calls.begin(BegunEvent(item, calls, context, put_off, limiters), room)
        elif not lists:
            self._finish(item, self._outcome(item, put_off) if put_off else UNHANDLED, time.monotonic(), put_off)

    def _late(self, calls: Iterable[tuple[Handler, Event]]) -> list[Handler]:
        """The single handlers of these calls that may not begin now. For one of profiles all wait: its news would be
        none by the time at which the event comes again.
        """
        if (limits := self._limits) is None:
            return []
        single = [handler for handler, _ in calls if handler.bulk is None and handler.kind != Profile.kind]
        late = [handler for handler in single if limits.must_wait(handler)]
        for handler in late:
            self._not_called(handler)
        self._turns.lag(late)
        return late

    def _gather(self, item: Item, lists: list[tuple[Handler, Event]], others: int, put_off: list[Ended]) -> None:
        """Have an event that has begun wait for company. It has so many `others` to end beside its lists."""
        item.ended = put_off
        item.parts = len(lists) + others
        for handler, argument in lists:
            gathering = self._lists.gathering(handler, item.source.lane, self._room_of(handler))
            if gathering.add(item, argument) and item.parts == 1 and self._company.may_have(item.event):
                self._lines.gathered(item, gathering)

    def _next_list(self, wait: float | None) -> float | None:
        """Seconds until a list may begin, or until what was found before that, if anything may."""
        now = time.monotonic()
        waits = [seconds for room in self._rooms for seconds in room.ready.waits(now)]
        return min(waits if wait is None else [*waits, wait], default=None)

    def _calls_of(self, item: Item) -> list[tuple[Handler, Event]]:
        """The handlers that have not ended in an earlier try, and what each is called with."""
        calls = self._handlers.calls(item.event, item.handlers)
        if before := item.account.done_before(item.index):
            calls = [call for call in calls if call[0].digest not in before]
        return calls

    def _room_of(self, handler: Handler) -> Room:
        return self._async if handler.needs_loop else self._thread

    def _not_called(self, handler: Handler) -> None:
        if self.breakdowns is not None:
            self.breakdowns.not_called(handler)

    def _ended(self, begun: Begun) -> None:
        if not isinstance(begun, BegunEvent):
            self._lists.call_ended(begun)  # type: ignore[arg-type]  # there is no other sort
            return
        item, ended, breakdowns = begun.item, begun.ended, self.breakdowns
        for limiter in begun.limiters:
            limiter.end()
        for number, call in enumerate(ended):
            self.tally.note(item.source.lane, call)
            if breakdowns is not None and breakdowns.note(call, item.event):
                ended[number] = Ended(call.handler, waits=breakdowns.wait(call.handler) or 1.0)
        if item.parts:
            self._part_ended(item, ended)
            return
        ended = ended + begun.put_off if begun.put_off else ended
        self._finish(item, self._outcome(item, ended), time.monotonic(), ended)

    def _part_ended(self, item: Item, ended: list[Ended]) -> None:
        """A bulk handler of the event has ended, or its single ones."""
        self._lines.called(item)
        item.ended += ended
        item.parts -= 1
        if item.parts:
            return
        if any(call.waits == NOT_BEGUN for call in item.ended) and all(call.waits is not None for call in item.ended):
            self._leaves(item)
        else:
            self._finish(item, self._outcome(item, item.ended), time.monotonic(), item.ended)

    def _outcome(self, item: Item, ended: list[Ended]) -> Outcome:
        if len(ended) == 1 and ended[0].error is None and ended[0].waits is None:  # nearly always
            return HANDLED
        try:
            return outcomes.of_event(ended, item.account.done_before(item.index))
        except Exception as error:
            return outcomes.of_fault(error, "reading what its handlers raised")

    def _finish(self, item: Item, outcome: Outcome, now: float, calls: Sequence[Ended] = ()) -> None:
        self.in_flight -= 1
        item.source.in_flight -= 1
        order = self._held_up_by(item, outcome) if self._handlers.any_strict_order else None
        if order:
            outcome = outcome._replace(holds_up=True)
        self._end(item, outcome, now, calls)
        if order:
            self._hold_up(item, order, now)
        self._lines.leave(item)
        self._changed()

    def _end(self, item: Item, outcome: Outcome, now: float, calls: Sequence[Ended] = ()) -> None:
        try:
            item.account.finish(item.index, item.event, outcome, now)
        except Exception as error:
            self._fail(error)
        self.note_end(item.source.lane, item.event, outcome, calls)

    def _held_up_by(self, item: Item, outcome: Outcome) -> str | None:
        """The strict order of an event, if a handler that wants it is to be called again: then later ones wait."""
        if not outcome.comes_again:
            return None
        again = any(one.strict_order and one.digest not in outcome.done for one in item.handlers or ())
        return item.account.order(item.event) if again else None

    def _hold_up(self, item: Item, order: str, now: float) -> None:
        """What follows the event in this strict order ends as `behind`."""
        for one in self._lines.pull(item, lambda one: one.account.order(one.event) == order):
            del one.source.waiting[one]
            self._end(one, BEHIND, now)

    def _begun(self, item: Item) -> None:
        self.in_flight += 1
        item.source.in_flight += 1
        del item.source.waiting[item]

    def _not_begun(self, begun: Begun) -> None:
        if isinstance(begun, ListCall):
            self._lists.not_begun(begun)
        elif isinstance(begun, BegunEvent):
            self._event_not_begun(begun)

    def _event_not_begun(self, begun: BegunEvent) -> None:
        for limiter in begun.limiters:
            limiter.end()
        if begun.item.parts:
            self._part_ended(begun.item, [Ended(handler, waits=NOT_BEGUN) for handler, _ in begun.calls])
        else:
            self._leaves(begun.item)

    def _leaves(self, item: Item) -> None:
        """The event counts as not begun."""
        self.in_flight -= 1
        item.source.in_flight -= 1
        item.account.put_off(item.event)
        self._changed()

    def _fail(self, error: BaseException) -> None:
        self.crash = self.crash or error
        self._changed()


def _apart(calls: list[tuple[Handler, Event]]) -> list[list[tuple[Handler, Event]]]:
    """Those that are made one after another. Each destination's is by itself: none waits for another's answer."""
    own = [call for call in calls if call[0].answers is None]
    return [*([own] if own else []), *([call] for call in calls if call[0].answers is not None)]

"""A batch that was taken, up to the moment when its events may begin: parsed, and claimed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ingest.settings import Settings
from ingest.store.pipelined import Call, PipelinedConnection
from ingest.store.queues import Member, lane_of
from ingest.store.records import Record, unpack
from workers.dispatch import outcomes
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.event_context import EventContext
from workers.dispatch.outcomes import BEHIND, Outcome
from workers.dispatch.ready import Account
from workers.engine import claims, reaper
from workers.engine.account import DUPLICATE, BatchAccount
from workers.engine.answers import Answers
from workers.engine.batch_state import BatchState, kept
from workers.engine.caps import Caps
from workers.engine.demand import Demand
from workers.engine.hand import BUSY_SECONDS, Hands, Open, Taken, Todo
from workers.engine.orders import order_of
from workers.engine.profiles import Profiles
from workers.events import Event, Message, Status
from workers.handlers import Handlers

if TYPE_CHECKING:
    from ingest.telemetry.spans import Spans
    from workers.archive.files import Archive


class Opening:
    """Opens batches into the `hands`."""

    def __init__(
        self,
        connection: PipelinedConnection,
        answers: Answers,
        dispatcher: Dispatcher,
        hands: Hands,
        demand: Demand,
        caps: Caps,
        settings: Settings,
        handlers: Handlers,
        profiles: Profiles | None,
        archive: Archive | None,
        spans: Spans | None,
    ) -> None:
        self._handlers = handlers
        self._claims = claims.Claims(connection)
        self._answers = answers
        self._dispatcher = dispatcher
        self._hands = hands
        self._demand = demand
        self._caps = caps
        self._settings = settings
        self._profiles = profiles
        self._archive = archive
        self._spans = spans
        self.again_at = 0.0
        """When `ask_again` is to be called, if a batch has something `busy`."""

    async def open(self, admitted: list[Taken]) -> None:
        """Parse and claim these batches, and have their events handled."""
        asked = [self._parsed(taken) for taken in admitted]
        for one, todo, calls in asked:
            await self._claimed(one, todo, calls)
        self._dispatcher.begin()

    def _parsed(self, taken: Taken) -> tuple[Open, list[Todo], list[Call]]:
        if self._archive and reaper.suspect(taken.batch):  # if it kills this worker too, no settle will archive it
            self._archive.keep(kept(map(unpack, taken.records)), lambda: False)
        tries, age = self._settings.max_attempts, self._settings.max_age
        hand = self._hands.of(taken.queue)
        state = BatchState(taken.queue, taken.batch, taken.records, tries, age, taken.token, not hand.is_crowded)
        hand.is_crowded = hand.is_crowded or state.divide(self._caps.most(hand.lane) or self._demand.most(hand.lane))
        one = Open(state, hand, not hand.is_crowded)
        hand.batches.append(one)
        self._demand.weigh(hand.lane, *state.weight)
        if self._profiles:
            one.asked = self._profiles.ask(event for _, event in state.events)
        todo: list[Todo] = []
        return one, todo, self._ask(one, self._to_claim(one, todo))

    def _ask(self, one: Open, asked: Iterable[claims.Claim]) -> list[Call]:
        return self._claims.ask(str(Member(one.state.queue, one.state.batch)), asked)

    def _to_claim(self, one: Open, todo: list[Todo]) -> Iterator[claims.Claim]:
        """The claims of a batch's events, and in `todo` those events; copies in the same batch end here."""
        state = one.state
        mine: set[str] = set()
        for index, event in state.events:
            record = state.records[index]
            try:
                claim = self._claim_of(event, record, state)
            except Exception as error:
                self._end(state, index, event, outcomes.of_fault(error, "claiming the event"))
                continue
            if claim.place in mine:
                self._is_copy(one, index, event, claim, is_new=claim.version not in mine)
                mine.add(claim.version)
                continue
            mine.add(claim.place)
            if claim.version:
                mine.add(claim.version)
            todo.append((index, event, claim))
            yield claim

    def _claim_of(self, event: Event, record: Record, state: BatchState) -> claims.Claim:
        if record.replay:
            return claims.of_replayed(event, record.waits, record.replay)
        if record.force:
            return claims.of_forced(event, record.waits, record.done, state.batch)
        claim = claims.of(event, record.waits)
        if self._profiles and isinstance(event, Message):
            claim = claim._replace(version=claims.version(event, self._profiles.facts(event)))
        if self._handlers.any_strict_order:
            claim = claim._replace(order=order_of(event, state.queue, self._handlers, record.done))
        return claim

    async def _claimed(self, one: Open, todo: list[Todo], calls: list[Call]) -> None:
        if not one.is_opened:
            return
        replies = b"".join([await self._answers.of(call) for call in calls])
        account = self._account(one.state)
        if self._profiles and one.asked:
            for _, call in one.asked.calls:
                await self._answers.of(call)
            account = self._profiles.watch(account, one.asked)
        one.account = account
        self._add(one, todo, replies)
        if one.copies:
            await self._add_copies(one)

    def _add(self, one: Open, todo: Sequence[Todo], replies: bytes) -> None:
        """Hand events to the dispatcher, except copies and those that have to ask again."""
        state, busy, reply = one.state, [], iter(replies)
        events: list[tuple[int, Event]] = []
        untold = {order for other in one.hand.batches for order in other.state.untold}
        for index, event, claim in todo:
            answer = next(reply)
            if answer == claims.BUSY:
                busy.append((index, event, claim))
                continue
            if answer == claims.DUPLICATE:
                self._is_copy(one, index, event, claim)
                continue
            state.claimed(event, claim)
            # Redis does not know yet of what waits here, unless this batch is the next one of that order.
            if answer == claims.BEHIND or (claim.order in untold and answer != claims.NEXT):
                untold.add(claim.order)
                self._end(state, index, event, BEHIND)
                continue
            if answer == claims.SUPERSEDED and isinstance(event, Status):
                event.superseded = True
            events.append((index, event))
        one.busy = busy
        if busy:
            self.again_at = time.monotonic() + BUSY_SECONDS
        self._dispatcher.add(events, one.account, one.hand.source, one.due_ms)

    def _is_copy(self, one: Open, index: int, event: Event, claim: claims.Claim, is_new: bool = True) -> None:
        """The event was handled before, or is in work; what a new version of a message says of its contact may not."""
        if claim.version and is_new and isinstance(event, Message):
            one.copies.append((index, event, claim))
        else:
            self._end(one.state, index, event, DUPLICATE)

    async def _add_copies(self, one: Open) -> None:
        """Have the news of copies told, once for each version of a message."""
        copies, one.copies = one.copies, []
        versions = [claims.Claim(claim.version) for _, _, claim in copies]
        calls = self._ask(one, versions)
        replies = b"".join([await self._answers.of(call) for call in calls])
        events: list[tuple[int, Event]] = []
        for (index, event, _), claim, answer in zip(copies, versions, replies, strict=True):
            if answer == claims.GO:
                one.state.claimed(event, claim)
                events.append((index, event))
            else:
                self._end(one.state, index, event, DUPLICATE)
        if self._profiles:
            self._dispatcher.add(events, self._profiles.of_copies(one.account), one.hand.source, one.due_ms)

    async def ask_again(self) -> None:
        """Claim statuses whose message another batch had in work."""
        if time.monotonic() < self.again_at or not (waiting := [one for one in self._hands.batches if one.busy]):
            return
        asked = [(one, list(one.busy), self._ask(one, [claim for _, _, claim in one.busy])) for one in waiting]
        for one, busy, calls in asked:
            self._add(one, busy, b"".join([await self._answers.of(call) for call in calls]))

    def _end(self, state: BatchState, index: int, event: Event, outcome: Outcome) -> None:
        """An event ends without a handler."""
        state.finish(index, event, outcome)
        self._dispatcher.note_end(lane_of(state.queue), event, outcome)  # a flood of copies is taken as fast as it goes

    def _account(self, state: BatchState) -> Account:
        context, drops = EventContext(state.queue, self._spans), self._settings.status_order == "drop"
        return BatchAccount(state, lane_of(state.queue), context, self._caps, drops)

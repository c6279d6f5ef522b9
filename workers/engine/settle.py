"""Settling: what of the batches in hand is done, told to Redis in one call for all of them."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from ingest.loggers import get_logger
from ingest.settings import Settings
from ingest.store import keys, scripts
from ingest.store.jobs import job_template, rq_now
from ingest.store.pipelined import Call, PipelinedConnection
from ingest.store.queues import MESSAGES, is_head
from workers.dispatch.dispatcher import Dispatcher
from workers.engine import retries
from workers.engine.caps import Caps
from workers.engine.demand import SOON_SECONDS, Demand
from workers.engine.hand import BUSY_SECONDS, Hands, Open, Part, dividing, going_back, told_first
from workers.engine.profiles import Profiles
from workers.engine.results import Results
from workers.engine.take import Taking

if TYPE_CHECKING:
    from workers.archive.files import Archive

log = get_logger(__name__)

# What one call settles: done events, or dead letters, or bytes that it adds, or batches behind which others wait, or
# some of each.
_DONE = 10_000
_LETTERS = 1000
_RELEASES = 25
_BYTES = 4 * 1024 * 1024

SETTLE_SECONDS = 0.5
"""How often a batch settles what it has done, so that a kill repeats little."""

KEYS = [
    keys.LEDGER,
    keys.TAKEN,
    keys.LEASES,
    keys.COUNTS,
    keys.CLAIMS,
    keys.GENERATIONS,
    keys.SPENT,
    keys.DEATHS,
    keys.CONTROLS,
    keys.COUNTERS,
    keys.WANTED,
    keys.TURN,
    keys.PARKED,
    keys.PUT_OFF,
    keys.HEADS,
    keys.OWED,
    keys.FAILURES,
]


class Settling:
    """Of one worker. With an `archive`, nothing is settled that it has not kept."""

    def __init__(
        self,
        connection: PipelinedConnection,
        worker: str,
        settings: Settings,
        dispatcher: Dispatcher,
        hands: Hands,
        taking: Taking,
        demand: Demand,
        caps: Caps,
        profiles: Profiles | None,
        archive: Archive | None,
    ) -> None:
        self._values = settings.log_errors == "full"
        self._settle = connection.script(scripts.lua(__file__, "settle.lua"))
        self._arguments = Arguments(worker, settings.dedup_window)
        self._dispatcher = dispatcher
        self._hands = hands
        self._taking = taking
        self._demand = demand
        self._caps = caps
        self._profiles = profiles
        self._archive = archive
        self.has_more = False
        """True when more is due than the last call could hold."""

    def due(self, everything: bool) -> list[Part]:
        """What is to be settled now, or `everything`. Batches that end leave the hands with that."""
        due: list[tuple[Open, str]] = []
        told: set[str] = set()  # lanes that settle.lua is asked about
        now = time.monotonic()
        # What a status waits for may be done in another batch here, and is free once that is settled.
        pause = BUSY_SECONDS if any(one.busy for one in self._hands.batches) else SETTLE_SECONDS
        for hand in self._hands:
            due += told_first(hand)
            if hand.release_at is not None and not hand.source.in_flight:
                due += going_back(hand)
                continue
            if hand.is_crowded and not any(taken.queue == hand.queue for taken in self._hands.given):
                due += dividing(hand)
            for one in hand.batches:
                if not one.is_opened:
                    continue
                if one.state.all_done:
                    due.append((one, "end"))
                elif (
                    everything
                    or (now - one.settled_at >= pause and one.state.has_news)
                    or (now - one.settled_at >= SETTLE_SECONDS and hand.lane not in told)
                ):
                    due.append((one, "more"))
                    told.add(hand.lane)
        return self._parts(due)

    def rest(self) -> list[Part]:
        """All that is in hand: what has not ended goes back."""
        due = [one for hand in self._hands for one in (*told_first(hand), *going_back(hand))]
        return self._parts(due, all_at_once=True)

    def send(self, parts: list[Part]) -> Call:
        """Settle these, with one call."""
        if self._profiles:
            self._profiles.remember()
        left = {part.one.hand.lane for part in parts} - self._hands.lanes
        unused = self._caps.give_back(left)
        ring = [MESSAGES] if self._demand.is_more_than_soon(MESSAGES) else []
        counted = self._dispatcher.tally.fields(), self._dispatcher.tally.spent()
        return self._settle.send(KEYS, self._arguments.build(parts, *counted, unused, ring))

    def settled(self, parts: list[Part], reply: Any) -> int:
        """Read what became of them. Returns how many partitions other workers want of this one."""
        share, paused, capped, *replies = reply
        for part, how in zip(parts, replies, strict=True):
            if how == b"lost":
                self._lost(part.one)
            else:
                _log_results(part.one.hand.lane, part.results, self._values)
        lanes = {part.one.hand.lane for part in parts} & self._hands.lanes
        self._caps.learn(lanes, [lane.decode() for lane in capped])
        self._hands.give_back({lane.decode() for lane in paused})
        return int(share)

    def _parts(self, due: list[tuple[Open, str]], all_at_once: bool = False) -> list[Part]:
        """Collect what is due, as much as one call may hold. First, what leaves is archived: while that fails,
        nothing is settled and nothing begins.
        """
        # If the disk does not take all, it may take a part.
        if due and not self._archived(due) and not self._archived(due := due[:1]):
            self._dispatcher.held = True
            return []
        self._dispatcher.held = False
        parts: list[Part] = []
        cost = 0.0  # 1: Redis has work for some ten milliseconds
        for one, how in due:
            parts.append(self._part(one, how))
            cost += _cost(parts[-1])
            if (cost >= 1 or one.state.untold) and not all_at_once:
                break
        self.has_more = len(parts) < len(due) or any(part.one.is_large for part in parts)
        return parts

    def _archived(self, due: list[tuple[Open, str]]) -> bool:
        if not self._archive:
            return True
        leaving = [record for one, how in dict(due).items() for record in one.state.leaving(goes_back=how == "back")]
        return not leaving or self._archive.keep(leaving, lambda: False)

    def _part(self, one: Open, how: str) -> Part:
        one.settled_at = time.monotonic()
        if how == "back" and one.hand.release_at is not None and not one.hand.source.gone:
            one.hand.source.gone = True
            self._dispatcher.reopen(one.hand.source)  # what it held is in the way of what comes of these contacts later
            if not one.hand.paused:  # others want it
                self._taking.leave_to_others(one.hand.queue, one.settled_at + SOON_SECONDS)
        results = one.state.give_back() if how == "back" else one.state.collect()
        one.is_large = how == "end" and not one.state.is_collected
        if one.is_large:
            how = "more"
        if how != "more":
            self._leaves(one)
        return Part(one, results, how)

    def _lost(self, one: Open) -> None:
        """Another worker has the batch, because this one was silent for too long: it must leave it alone."""
        log.warning("another worker has this batch now", queue=one.state.queue, batch=one.state.batch)
        one.state.lost = True
        if one in one.hand.batches:  # what ended or went back has left already
            self._leaves(one)

    def _leaves(self, one: Open) -> None:
        self._hands.leaves(one)
        one.hand.is_crowded = one.hand.is_crowded and not all(other.is_opened for other in one.hand.batches)
        if self._profiles and one.asked:
            self._profiles.forget(one.asked)


class Arguments:
    """Builds the calls of one worker process, which remembers events for `window` seconds."""

    def __init__(self, worker: str, window: float) -> None:
        self._worker = worker
        self._window = window
        self._template = job_template()
        self._numbers = itertools.count(time.time_ns() // 1000)  # above those of any earlier process of this name

    def build(
        self,
        parts: Sequence[Part],
        tally: Mapping[str, int],
        spent: Mapping[str, int],
        unused: Mapping[str, int],
        ring: Sequence[str] = (),
    ) -> list[Any]:
        """The arguments of the next call, see settle.lua. `tally` is what was counted besides the parts."""
        counts: Counter[str] = Counter()
        totals = Counter(tally)
        for part in parts:
            counts.update(part.results.counts)
            totals.update(part.results.tally)
        again = any(part.results.retries or part.results.heads for part in parts)
        failures: dict[str, str] = {}
        owed: dict[str, str] = {}
        for part in parts:
            failures |= part.results.failures
            owed |= part.results.owed
        head = {
            "rq": keys.RQ,
            "wa": keys.WA,
            "worker": self._worker,
            "now": rq_now() if again else "",  # to write the time costs as much as all else here
            "template": self._template if again else "",
            "call": next(self._numbers),
            "counts": counts,
            "tally": totals,
            "owed": owed,
            "failures": failures,
            "window": self._window,
            "spent": spent,
            "unused": unused,
            "ring": ring,
            "batches": [_head(part) for part in parts],
        }
        return [orjson.dumps(head), *(value for part in parts for value in _values(part.results))]


def _cost(part: Part) -> float:
    results = part.results
    size = results.bytes + sum(map(len, results.parts))
    releases = part.how == "end" and is_head(part.one.state.batch)
    events = (len(results.done) + len(results.behind)) / _DONE
    return events + len(results.letters) / _LETTERS + size / _BYTES + releases / _RELEASES


def _head(part: Part) -> dict[str, Any]:
    opened, results = part.one.state, part.results
    return {
        "token": opened.token,
        "queue": opened.queue,
        "batch": opened.batch,
        "how": part.how,
        "records": results.left,
        "again": results.again,
        "ahead": results.ahead if part.how != "end" else 0,
        "parts": len(results.parts),
        "letters": len(results.letters),
        "retries": [
            (wait.sort, wait.delay, retries.step(wait.delay), wait.owed, len(records))
            for wait, records in results.retries.items()
        ],
        "heads": [
            (order, wait.sort, wait.delay, retries.step(wait.delay), wait.owed) for order, wait, _ in results.heads
        ],
        "behind": [order for order, _ in results.behind],
    }


def _values(results: Results) -> Iterator[Any]:
    for letter in results.letters:
        yield from letter
    for records in results.retries.values():
        yield from records
    for _, _, record in results.heads:
        yield record
    for _, record in results.behind:
        yield record
    yield from results.parts
    yield "\n".join(results.done)
    yield "\n".join(results.freed)


def _log_results(lane: str, results: Results, values: bool) -> None:
    """`values`: with what exceptions say, too. They are in the record in any case, for Sentry and its like."""
    for (handler, error), count in results.errors.items():
        raised = results.raised.get((handler, error))
        log.error(
            "events failed",
            lane=lane,
            failed=count,
            handler=handler,
            error=error,
            exc_info=raised,
            values=values,
        )
    for reason, count in Counter(letter[0] for letter in results.letters).items():
        log.warning("dead letters", lane=lane, reason=reason, count=count)

"""A batch in work: its events, which of them are done, and how they ended."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ingest import routing
from ingest.state import counters
from ingest.store.queues import lane_of, partition_number
from ingest.store.records import MOST_WAITS, Record, digest, pack, unpack
from workers.dispatch.outcomes import HANDLED, Outcome
from workers.engine import retries
from workers.engine.claims import Claim, of
from workers.events import Broken, Event, Message, Status
from workers.events.broken import FOREIGN
from workers.events.message import shares_of
from workers.events.parsing import parse

_LETTERS = 1000  # that are collected at a time, and those of one more record
_DETAIL = 500  # characters of a dead letter's detail


class Wait(NamedTuple):
    """How long events wait for their next try (seconds). `sort` is `w` for those that were put off because a handler
    always fails: they are due as soon as it works again. It is `r` for all others.
    """

    sort: str
    delay: float


class Results:
    """How events ended since the last settle, as settle.lua takes it."""

    __slots__ = ("counts", "done", "errors", "freed", "letters", "raised", "records", "retries", "tally")

    def __init__(self) -> None:
        self.records = 0
        self.counts: Counter[str] = Counter()
        self.tally: dict[str, int] = {}
        self.letters: list[tuple[Any, ...]] = []
        self.retries: dict[Wait, list[bytes]] = {}
        self.done: list[str] = []  # as settle.lua reads it
        self.freed: list[str] = []  # claims that end
        self.errors: Counter[tuple[str, str]] = Counter()  # handler and error of failed events
        self.raised: dict[tuple[str, str], BaseException] = {}  # one exception of each sort of `errors`


class BatchState:
    """Parses the records of a batch and keeps account of their events.

    A claimed event is settled as soon as it is done. An event without a claim (a broken element, or one that an
    operator had handled again) is settled when its record leaves the batch, so that a crash does not settle it twice.
    """

    def __init__(
        self, queue: str, batch: str, records: list[bytes], max_attempts: int, max_age: float, token: str
    ) -> None:
        self.queue = queue
        self.batch = batch
        self.token = token  # from `taken`, when the records were read; a settle with an old one has no effect
        self.size = sum(map(len, records))
        self.lost = False  # another worker has it
        self.events: list[tuple[int, Event]] = []
        self._records = [unpack(record) for record in records]
        self._max_attempts = max_attempts
        self._max_age = max_age  # seconds
        self._left = [0] * len(records)  # events of each record that are not done
        self._unclaimed: list[list[tuple[Event | Broken, int, Outcome | None]]] = [[] for _ in records]
        self._claims: dict[int, Claim] = {}  # by id() of the event
        self._holds: Counter[str] = Counter()  # statuses for which the claim of each message is held
        self._done: list[tuple[Event, int, Outcome]] = []
        self._waits: list[float] = []  # seconds of handled events, from arrival to end
        self._first = 0  # number of the first record that has not left the batch
        self._markers: set[int] = set()  # of stages that happened in this batch, see Claim
        self._delays: dict[tuple[Callable[[int], float], int], float] = {}
        self._clock = time.time() - time.monotonic()
        for index, record in enumerate(self._records):
            self._take_apart(index, record)
        self._undone = sum(self._left)

    def _take_apart(self, index: int, record: Record) -> None:
        for event in parse(record.body, record.received_ms, record.attempt or 1, record.body_digest, record.shares):
            if (record.shares or record.split) and not self._is_ours(event, record):
                continue
            if isinstance(event, Broken):
                self._unclaimed[index].append((event, index, None))
            else:
                self._left[index] += 1
                self.events.append((index, event))

    def _is_ours(self, event: Event | Broken, record: Record) -> bool:
        """If a notification went to several partitions, each handles its own contacts, and the first all else."""
        message = event if isinstance(event, Message) else None
        business, element = (message.business, message.raw) if message else (None, None)
        return routing.handles(partition_number(self.queue), record, business, element)

    def leaving(self) -> list[tuple[int, bytes]]:
        """What to archive of the notifications that the next `collect` takes out of the batch."""
        done = itertools.takewhile(lambda n: self._left[n] == 0, range(self._first, len(self._left)))
        return kept(map(self._records.__getitem__, done))

    def force(self, index: int) -> bool:
        """True when that record is handled even if it was handled before."""
        return self._records[index].force

    def waits(self, index: int) -> int:
        """How often the event of that record was snoozed or put off."""
        return self._records[index].waits

    def done_before(self, index: int) -> frozenset[bytes]:
        """The handlers that ended in an earlier try of the event of that record."""
        return self._records[index].done

    def claimed(self, event: Event, claim: Claim) -> None:
        """Note that this batch has claimed the event."""
        self._claims[id(event)] = claim
        if claim.message:
            self._holds[claim.message] += 1

    def is_superseded(self, status: Status) -> bool:
        """True when a later stage of the same message was handled, before this batch or in it."""
        return status.superseded or self._claim_of(status).later in self._markers

    def finish(self, index: int, event: Event, outcome: Outcome, now: float = 0.0) -> None:
        """Note how an event ended; `now` is the time by the monotonic clock, needed for handled events only."""
        self._left[index] -= 1
        self._undone -= 1
        if isinstance(event, Status) and outcome.happened:
            self._markers.update(self._claim_of(event).markers)
        if id(event) in self._claims or outcome.name == "duplicate":
            self._done.append((event, index, outcome))
            record = self._records[index]
            if outcome is HANDLED and record.attempt:  # 0: replayed, so its arrival says nothing of its wait
                self._waits.append(self._clock + now - record.received_ms / 1000)
        else:
            self._unclaimed[index].append((event, index, outcome))

    def _claim_of(self, event: Event) -> Claim:
        return self._claims.get(id(event)) or of(event)

    @property
    def all_done(self) -> bool:
        return self._undone == 0

    @property
    def has_news(self) -> bool:
        """True when something was done since the last `collect`."""
        return bool(self._done) or (self._first < len(self._left) and self._left[self._first] == 0)

    @property
    def is_collected(self) -> bool:
        """True when `collect` has told all there is."""
        return self._first == len(self._left) and not self._done

    def collect(self) -> Results:
        """What was done since the last call; of dead letters no more than a script writes in some milliseconds."""
        results = Results()
        upto = self._first
        while upto < len(self._left) and self._left[upto] == 0 and len(results.letters) < _LETTERS:
            for event, index, outcome in self._unclaimed[upto]:
                if isinstance(event, Broken) and event.reason == FOREIGN:
                    results.counts[f"{FOREIGN}.{event.kind}"] += 1
                elif isinstance(event, Broken):
                    body_digest = self._records[upto].body_digest or digest(self._records[upto].body)
                    _letter(results, event.reason, event, event.detail, body_digest)
                elif outcome is not None:
                    self._account(results, event, index, outcome)
            self._unclaimed[upto] = []
            upto += 1
        results.records = upto - self._first
        self._first = upto
        for event, index, outcome in self._done:
            self._account(results, event, index, outcome)
            claim = self._claims.pop(id(event), None)
            if claim is not None:
                results.done.append(claim.done(outcome.happened))
                self._free(results, claim)
        self._done = []
        if self._waits:
            results.tally = counters.observed(counters.WAIT, lane_of(self.queue), self._waits)
            self._waits = []
        return results

    def _free(self, results: Results, claim: Claim) -> None:
        """A claim ends with the event; that of a message with the last of its statuses."""
        if claim.message:
            self._holds[claim.message] -= 1
            if self._holds[claim.message]:
                return
            del self._holds[claim.message]
        results.freed.append(claim.field)

    def _account(self, results: Results, event: Event, index: int, outcome: Outcome) -> None:
        if outcome.name in ("failed", "rejected"):
            self._account_failure(results, event, index, outcome)
        elif outcome.name == "snoozed":
            self._again(results, event, index, outcome, Wait("r", outcome.delay or 0.0))
        elif outcome.name == "put_off":
            delay = max(outcome.delay or 0.0, self._delay(retries.put_off, self.waits(index)))
            self._again(results, event, index, outcome, Wait("w", delay))
        else:
            results.counts[f"{outcome.name}.{event.kind}"] += 1

    def _account_failure(self, results: Results, event: Event, index: int, outcome: Outcome) -> None:
        what = outcome.handler, outcome.error or outcome.name
        results.errors[what] += 1
        if outcome.raised is not None:
            results.raised.setdefault(what, outcome.raised)
        if outcome.name == "rejected" or event.attempt >= self._max_attempts:
            _letter(results, outcome.name, event, outcome.detail, event.body_digest)
            return
        delay = self._delay(retries.delay, event.attempt) if outcome.delay is None else outcome.delay
        self._again(results, event, index, outcome, Wait("r", max(delay, outcome.at_least)))

    def _again(self, results: Results, event: Event, index: int, outcome: Outcome, wait: Wait) -> None:
        """Have the event tried again after that time, unless it is too old by then."""
        failed = outcome.name == "failed"
        waits = 0 if failed else self.waits(index) + 1
        delay = retries.rounded(wait.delay)
        if time.time() + delay > event.received_ms / 1000 + self._max_age or waits > MOST_WAITS:
            why = outcome.detail or f"put off, {outcome.handler} always fails"
            _letter(results, "expired", event, f"older than WA_MAX_AGE at its next try: {why}", event.body_digest)
            return
        if outcome.name != "put_off":
            results.counts[f"{'retried' if failed else 'snoozed'}.{event.kind}"] += 1
        record = pack(
            event.body(),
            event.received_ms,
            event.attempt + failed,
            force=self.force(index),
            body_digest=event.body_digest,
            shares=shares_of(event),
            waits=waits,
            done=outcome.done,
        )
        results.retries.setdefault(wait._replace(delay=delay), []).append(record)

    def _delay(self, of: Callable[[int], float], number: int) -> float:
        """The same for all events of this batch that are tried for that time."""
        if (of, number) not in self._delays:
            self._delays[of, number] = of(number)
        return self._delays[of, number]


def kept(records: Iterable[Record]) -> list[tuple[int, bytes]]:
    """What to archive of these: arrival (ms) and body.

    A notification that went to several partitions is archived by each, because any of them may settle it first.
    Retries, and what an operator had handled again, are not archived.
    """
    return [(record.received_ms, record.body) for record in records if record.attempt == 1 and not record.force]


def _letter(results: Results, reason: str, event: Event | Broken, detail: str, body_digest: bytes) -> None:
    results.counts[f"dead.{event.kind}"] += 1
    body = event.body if isinstance(event, Broken) else event.body()
    results.letters.append(
        (reason, event.kind, detail[:_DETAIL], event.attempt, event.received_ms, body, body_digest.hex())
    )

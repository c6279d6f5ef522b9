"""What became of the events of a batch since the last settle, as settle.lua takes it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from ingest.state import totals
from ingest.state.failures import MOST_CHARACTERS
from ingest.store.headers import PART_BYTES, enclose, within
from ingest.store.records import MOST_WAITS, OWED_JOINT, Record, digest, pack
from workers import doubts
from workers.dispatch import outcomes
from workers.dispatch.outcomes import BEHIND, LAGS, UNHANDLED, Outcome
from workers.engine import retries
from workers.events import Broken, Event
from workers.events.chat import shares_of
from workers.events.together import body_of, headers_of, together

_DETAIL = 600  # characters of a dead letter's detail


PUT_OFF = "w"
"""How the names of batches begin whose events wait for a handler that always fails, or is paused."""

_OWED_DIGEST_BYTES = 4  # in the name of a parked batch they say which handlers its events are owed to


class Wait(NamedTuple):
    """How long events wait for their next try (seconds). `sort` is PUT_OFF for those that were put off because a
    handler always fails, or is paused: they are due as soon as it works again, or goes on. It is `r` for all others.
    `owed` is the digest of the handlers that they wait for (`keys.OWED`): so it is known how much waits for each.
    """

    sort: str
    delay: float
    owed: str = ""


class _Retry(NamedTuple):
    """What events have in common that are written together for their next try: they are of the same record."""

    wait: Wait
    number: int
    attempt: int
    waits: int
    done: tuple[bytes, ...]


class Limits:
    """How often an event is tried at most, and how old it may be then (seconds); and how long its retries wait."""

    def __init__(self, attempts: int, age: float) -> None:
        self.attempts = attempts
        self.age = age
        self._delays: dict[tuple[Callable[[int], float], int], float] = {}

    def delay(self, of: Callable[[int], float], number: int) -> float:
        """The same for all events of this batch that are tried for that time."""
        if (of, number) not in self._delays:
            self._delays[of, number] = of(number)
        return self._delays[of, number]


class Results:
    """Of a batch with these records.

    `left` records leave the front of the batch, `again` of them because something of them is tried again; `parts`
    take their place. `ahead` events of those that stay have been told. `bytes` is what dead letters and retries add.
    Events that fail together are written together: what is around them is stored once.
    """

    def __init__(self, records: Sequence[Record], limits: Limits) -> None:
        self._records = records
        self._limits = limits
        self._again: list[tuple[_Retry, list[Event]]] = []
        self._newest: dict[tuple[Wait, int], tuple[_Retry, list[Event]]] = {}
        self.left = self.again = self.ahead = 0
        self.comes_again: set[int] = set()  # numbers of records of which something is tried again
        self.parts: list[bytes] = []
        self.counts: Counter[str] = Counter()
        self.tally: dict[str, int] = {}
        self.letters: list[tuple[Any, ...]] = []
        self.retries: dict[Wait, list[bytes]] = {}
        self.heads: list[tuple[str, Wait, bytes]] = []  # retries for which others of this strict order wait
        self.behind: list[tuple[str, bytes]] = []  # records that wait behind such a one, with their order
        self.done: list[str] = []  # as settle.lua reads it
        self.freed: list[str] = []  # claims that end
        self.errors: Counter[tuple[str, str]] = Counter()  # handler and error of failed events
        self.failures: dict[str, str] = {}  # how the last event of each handler failed
        self.owed: dict[str, str] = {}  # the handlers of each digest of a Wait
        self.raised: dict[tuple[str, str], BaseException] = {}  # one exception of each sort of `errors`
        self.bytes = 0

    def letter(self, reason: str, event: Event | Broken, detail: str, index: int, outcome: Outcome = UNHANDLED) -> None:
        """Add a dead letter of an event of that record, which has ended so. The outcome knows which handlers ended, and
        whose it is.
        """
        self.counts[f"dead.{event.kind}"] += 1
        self._write_letter(reason, event, detail, index, outcome)

    def _write_letter(self, reason: str, event: Event | Broken, detail: str, index: int, outcome: Outcome) -> None:
        done = sorted(outcome.done or self._records[index].done)
        if isinstance(event, Broken):
            record = self._records[index]
            origin = record.body_digest or digest(record.body)
            is_whole = event.body is record.body
            body = enclose(event.body, record.headers if is_whole else within(record.headers, PART_BYTES))
        else:
            body, origin = enclose(event.body(), headers_of(event)), event.body_digest
        self.bytes += len(body)
        self.letters.append(
            (
                reason,
                event.kind,
                detail[:_DETAIL],
                event.attempt,
                event.received_ms,
                body,
                origin.hex(),
                OWED_JOINT.join(outcome.owed),
                b"".join(done).hex(),
            )
        )

    def tell(self, event: Event, index: int, outcome: Outcome, order: str = "") -> None:
        """Note how an event of that record ended; `order` is its strict order, if others wait for it or it waits."""
        try:
            self._account(event, index, outcome, order)
        except Exception as error:
            self._fault(event, index, error)

    def _fault(self, event: Event, index: int, error: Exception) -> None:
        """The event cannot be written: the dead letter holds the whole notification."""
        fault = outcomes.of_fault(error, "writing the event")
        self.errors[fault.handler, fault.error] += 1
        record = self._records[index]
        broken = Broken("fault", event.kind, record.body, fault.detail, record.received_ms, record.attempt or 1)
        self.letter(broken.reason, broken, broken.detail, index)

    def _account(self, event: Event, index: int, outcome: Outcome, order: str) -> None:
        if outcome.name in ("failed", "rejected", "fault"):
            self._account_failure(event, index, outcome, order)
        elif outcome.name == "snoozed":
            self._try_again(event, index, outcome, Wait("r", outcome.delay or 0.0), order)
        elif outcome.name == "put_off":
            delay, waits = outcome.delay or 0.0, self._records[index].waits
            if delay > LAGS or waits:
                delay = max(delay, self._limits.delay(retries.put_off, waits))
            self._try_again(event, index, outcome, Wait(PUT_OFF, delay), order)
        elif outcome is BEHIND:
            self._put_behind(event, index, order)
        else:
            self.counts[f"{outcome.name}.{event.kind}"] += 1
            if outcome is UNHANDLED:
                self.counts[f"{totals.BY_TYPE}.{event.kind}.{_type(event)}"] += 1
            if outcome.error:  # of a copy that brought news
                self._note_error(outcome)

    def _account_failure(self, event: Event, index: int, outcome: Outcome, order: str) -> None:
        self._note_error(outcome)
        if outcome.name == "failed" and outcome.raised is not None:  # a handler that asks for a retry has not failed
            self.failures[outcome.handler] = outcome.error[:MOST_CHARACTERS]
        if outcome.apart and event.attempt >= self._limits.attempts:
            # The tries of some handlers are used up; others were not called. The event goes on for these, so it has not
            # ended, and the dead letter is of the former alone.
            failed, rest = outcome.apart
            self._write_letter(failed.name, event, failed.detail, index, failed)
            self._account(event, index, rest, order)
            return
        if outcome.name != "failed" or event.attempt >= self._limits.attempts:
            self.letter(outcome.name, event, outcome.detail, index, outcome)
            return
        delay = self._limits.delay(retries.delay, event.attempt) if outcome.delay is None else outcome.delay
        self._try_again(event, index, outcome, Wait("r", max(delay, outcome.at_least)), order)

    def _note_error(self, outcome: Outcome) -> None:
        what = outcome.handler, outcome.error or outcome.name
        self.errors[what] += 1
        if outcome.raised is not None:
            self.raised.setdefault(what, outcome.raised)

    def _put_behind(self, event: Event, index: int, order: str) -> None:
        record = self._records[index]
        self.comes_again.add(index)
        # It is no copy of the event that it was before, as with a snooze.
        retry = _Retry(Wait("", 0.0), index, event.attempt, record.waits + 1, tuple(record.done))
        self.behind.append((order, self._packed(retry, record, [event])))

    def _try_again(self, event: Event, index: int, outcome: Outcome, wait: Wait, order: str) -> None:
        """Have the event tried again after that time, unless it is too old by then."""
        failed = outcome.name == "failed"
        waits = 0 if failed else self._records[index].waits + 1
        delay = retries.rounded(wait.delay)
        if time.time() + delay > event.received_ms / 1000 + self._limits.age or waits > MOST_WAITS:
            why = outcome.detail or f"put off, {outcome.handler} is paused, lags or always fails"
            self.letter("expired", event, f"older than WA_MAX_AGE at its next try: {why}", index, outcome)
            return
        if outcome.name != "put_off":
            self.counts[f"{'retried' if failed else 'snoozed'}.{event.kind}"] += 1
        self.comes_again.add(index)
        wait = wait._replace(delay=delay, owed=self._owed_to(outcome.owed))
        retry = _Retry(wait, index, event.attempt + failed, waits, outcome.done)
        if order:
            self.heads.append((order, wait, self._packed(retry, self._records[index], [event])))
            return
        # Only what comes next to each other is written together: a contact's events stay in order.
        newest = self._newest.get((wait, index))
        if newest is None or newest[0] != retry:
            newest = self._newest[wait, index] = (retry, [])
            self._again.append(newest)
        newest[1].append(event)

    def _owed_to(self, handlers: Sequence[str]) -> str:
        names = OWED_JOINT.join(handlers)
        found = blake2b(names.encode(), digest_size=_OWED_DIGEST_BYTES).hexdigest()
        self.owed[found] = names
        return found

    def write_retries(self) -> None:
        """To be called after the last `tell`."""
        again, self._again, self._newest = self._again, [], {}
        for retry, events in again:
            record = self._records[retry.number]
            for some in together(events):
                try:
                    self._write_retry(retry, record, some)
                except Exception:
                    for event in some:  # one of them is at fault
                        try:
                            self._write_retry(retry, record, [event])
                        except Exception as error:
                            self._fault(event, retry.number, error)

    def _write_retry(self, retry: _Retry, record: Record, events: Sequence[Event]) -> None:
        self.retries.setdefault(retry.wait, []).append(self._packed(retry, record, events))

    def _packed(self, retry: _Retry, record: Record, events: Sequence[Event]) -> bytes:
        packed = pack(
            body_of(events),
            record.received_ms,
            retry.attempt,
            force=record.force,
            body_digest=events[0].body_digest,
            shares=b"".join(dict.fromkeys(map(shares_of, events))),
            waits=retry.waits,
            done=retry.done,
            headers=headers_of(events[0]),
            replay=record.replay,
        )
        self.bytes += len(packed)
        return packed


def _type(event: Event) -> str:
    """What it is, as far as that is known, and where a message that no contact writes now comes from."""
    known = event.subject is not None and event.subject in doubts.KNOWN.get(event.kind, ())
    type = event.subject if known and event.subject else totals.OTHER_TYPE
    return type if event._way in ("", "in") else f"{type} {event._way}"

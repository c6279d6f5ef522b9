"""A batch in work: its events, which of them are done, and how they ended."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Sequence

from ingest import routing
from ingest.loggers import get_logger
from ingest.state import counters
from ingest.store.headers import enclose
from ingest.store.queues import lane_of, partition_number
from ingest.store.records import Record, digest, pack, unpack
from workers.dispatch import outcomes
from workers.dispatch.outcomes import BEHIND, HANDLED, Outcome
from workers.engine.claims import Claim, of
from workers.engine.results import Limits, Results
from workers.events import Broken, Event, Status
from workers.events.broken import FOREIGN
from workers.events.chat import ChatEvent, shares_of
from workers.events.parsing import parse
from workers.events.together import body_of, headers_of, together

log = get_logger(__name__)

# What one `collect` tells at most, so that no script takes long: dead letters, done events, and bytes of dead letters
# and retries. Those of one more record come on top.
_LETTERS = 1000
_DONE = 5000
_BYTES = 4 * 1024 * 1024

PART = 20
"""Events of a record that was made from one with too many (`divide`)."""


class BatchState:
    """Parses the records of a batch and keeps account of their events.

    A claimed event is settled as soon as it is done. What has no claim (a broken element, an event that could not be
    claimed) is settled when its record leaves the batch, so that a crash does not settle it twice.

    One that is not `opened` goes back as it is.
    """

    def __init__(
        self,
        queue: str,
        batch: str,
        records: list[bytes],
        max_attempts: int,
        max_age: float,
        token: str,
        opened: bool = True,
    ) -> None:
        self.queue = queue
        self.batch = batch
        self.token = token  # from `taken`, when the records were read; a settle with an old one has no effect
        self.size = sum(map(len, records))
        self.lost = False  # another worker has it
        self.events: list[tuple[int, Event]] = []
        self.untold: Counter[str] = Counter()
        """Events that later ones of their strict order wait for, or that wait themselves, until `collect` tells it."""
        self.records = [unpack(record) for record in records]
        self._limits = Limits(max_attempts, max_age)
        self._left = [0 if opened else 1] * len(records)  # events of each record that are not done
        self._untold = [0] * len(records)  # and those that are done, but were not collected
        self._unclaimed: list[list[tuple[Event | Broken, int, Outcome | None]]] = [[] for _ in records]
        self._claims: dict[int, Claim] = {}  # by id() of the event
        self._holds: dict[str, int] = {}  # statuses for which the claim of each message is held
        self._done: list[tuple[Event, int, Outcome]] = []
        self._waits: list[float] = []  # seconds of handled events, from arrival to end
        self._first = 0  # number of the first record that has not left the batch
        self._ahead = 0  # events that were told, of records from that one on
        self._markers: set[int] = set()  # of stages that happened in this batch, see Claim
        self._ended: set[int] = set()  # id() of events that are done, of records with several
        self._comes_again: set[int] = set()  # numbers of records of which something is tried again
        self._clock = time.time() - time.monotonic()
        self._divided: tuple[Results, list[Record]] | None = None  # see `divide`
        for index, record in enumerate(self.records if opened else ()):
            for event in self._parsed(record):
                if isinstance(event, Broken):
                    self._unclaimed[index].append((event, index, None))
                else:
                    self._left[index] += 1
                    self.events.append((index, event))
        self.undone = sum(self._left)
        """How many events are not done."""
        self._counts = self._left[:]

    def _parsed(self, record: Record) -> list[Event | Broken]:
        attempt = record.attempt or 1
        try:
            found = parse(record.body, record.received_ms, attempt, record.body_digest, record.shares, record.headers)
            if record.shares or record.split:
                return [event for event in found if self._is_ours(event, record)]
            return found
        except Exception as error:
            fault = outcomes.of_fault(error, "reading the notification")
            log.error("a notification cannot be read", error=fault.error)
            return [Broken("fault", "notification", record.body, fault.detail, record.received_ms, attempt)]

    def _is_ours(self, event: Event | Broken, record: Record) -> bool:
        """If a notification went to several partitions, each handles its own contacts, and the first all else."""
        partition = partition_number(self.queue)
        if isinstance(event, ChatEvent):
            return routing.handles(partition, record, event.business, event.raw, event.contact_id)
        return routing.handles(partition, record, None, None, None)

    def divide(self, most: int) -> bool:
        """If there are more than `most` events, have records of few take the place of those with many.

        True when that is to be done: then the batch goes back, and no event of it may begin before that. Nothing that a
        sender puts into one notification holds up others, or memory, for longer than a record of few events does.
        """
        if len(self.events) <= most or max(self._counts) <= PART:
            return False
        results, divided = Results(self.records, self._limits), []
        by_index = self._by_index(range(len(self.records)))
        for index, record in enumerate(self.records):
            parts = None
            if self._counts[index] > PART and not record.split and len(results.letters) < _LETTERS:
                parts = self._parts_of(record, by_index[index])
            if parts is None:
                results.parts.append(_packed(record))
                continue
            self._tell_unclaimed(results, index)
            results.parts += parts
            divided.append(record)
        if not divided:  # it would come back the same again and again
            return False
        results.left = len(self.records)
        self._divided = results, divided
        self.events, self._left, self.undone = [], [1] * len(self._left), len(self._left)
        return True

    @property
    def weight(self) -> tuple[int, int]:
        """How many records it has, or will have, and how many events."""
        if self._divided:
            parts = len(self._divided[0].parts)
            return parts, parts * PART
        return len(self.records), len(self.events)

    def leaving(self, goes_back: bool) -> list[tuple[int, bytes]]:
        """What to archive of the notifications that the next `collect`, or `give_back`, takes out of the batch."""
        if self._divided:
            return kept(self._divided[1])
        numbers = range(self._first, len(self._left))
        if goes_back:
            leaving = list(filter(self._has_ended_in_part, numbers))
        else:
            leaving = list(itertools.takewhile(lambda n: self._left[n] == 0, numbers))
        return kept(self.records[n] for n in leaving)

    def done_before(self, index: int) -> frozenset[bytes]:
        """The handlers that ended in an earlier try of the event of that record."""
        return self.records[index].done

    def order(self, event: Event) -> str | None:
        """The strict order of an event, if it belongs to one."""
        claim = self._claims.get(id(event))
        return claim.order if claim and claim.order else None

    def claimed(self, event: Event, claim: Claim) -> None:
        """Note that this batch has claimed the event."""
        self._claims[id(event)] = claim
        if claim.message:
            self._holds[claim.message] = self._holds.get(claim.message, 0) + 1

    def is_superseded(self, status: Status) -> bool:
        """True when a later stage of the same message was handled, before this batch or in it."""
        if status.superseded or not self._markers:
            return status.superseded
        return (self._claims.get(id(status)) or of(status)).later in self._markers

    def finish(self, index: int, event: Event, outcome: Outcome, now: float = 0.0) -> None:
        """Note how an event ended; `now` is the time by the monotonic clock, needed for handled events only."""
        self._left[index] -= 1
        self.undone -= 1
        if self._counts[index] > 1:
            self._ended.add(id(event))
        claim = self._claims.get(id(event))
        if claim is not None and claim.markers and outcome.happened:
            self._markers.update(claim.markers)
        if outcome is BEHIND or outcome.holds_up:
            self.untold[self._claims[id(event)].order] += 1
        if claim is not None or outcome.name == "duplicate":
            self._done.append((event, index, outcome))
            self._untold[index] += 1
            record = self.records[index]
            if outcome is HANDLED and record.attempt and not record.force:  # the arrival of others was long ago
                self._waits.append(self._clock + now - record.received_ms / 1000)
        else:
            self._unclaimed[index].append((event, index, outcome))

    @property
    def all_done(self) -> bool:
        return self.undone == 0

    @property
    def has_news(self) -> bool:
        """True when something was done since the last `collect`."""
        return bool(self._done) or (self._first < len(self._left) and self._left[self._first] == 0)

    @property
    def is_collected(self) -> bool:
        """True when `collect` has told all there is."""
        return self._first == len(self._left) and not self._done

    def collect(self) -> Results:
        """What was done since the last call, but no more than a script tells in some milliseconds."""
        results = Results(self.records, self._limits)
        self._collect(results, _DONE, _LETTERS)
        return results

    def give_back(self) -> Results:
        """All that was done since the last call, as the batch goes back.

        Where a part of a record is done, the rest takes its place, and what is done leaves, wherever it stands: nothing
        is parsed, claimed and counted twice.
        """
        if self._divided:
            return self._divided[0]
        results = Results(self.records, self._limits)
        self._collect(results, len(self._done), len(self.events) + _LETTERS)
        changed = list(filter(self._has_ended_in_part, range(self._first, len(self._left))))
        if not changed:
            return results
        upto = changed[-1] + 1
        rest = self._by_index(n for n in changed if self._left[n])
        for index in range(self._first, upto):
            record = self.records[index]
            parts = self._parts_of(record, rest.get(index, ())) if not self._left[index] or index in rest else None
            if parts is None:
                results.parts.append(_packed(record))
                continue
            self._tell_unclaimed(results, index)
            results.parts += parts
        results.write_retries()
        self._leave(results, upto)
        return results

    def _has_ended_in_part(self, index: int) -> bool:
        """True when a record is done, or a part of it is; those of format 1 cannot be written in parts."""
        left = self._left[index]
        return not left or (left < self._counts[index] and not self.records[index].split)

    def _by_index(self, indexes: Iterable[int]) -> dict[int, list[Event]]:
        """The events of these records that are not done."""
        found: dict[int, list[Event]] = {index: [] for index in indexes}
        for index, event in self.events:
            if index in found and id(event) not in self._ended:
                found[index].append(event)
        return found

    def _parts_of(self, record: Record, events: Sequence[Event]) -> list[bytes] | None:
        """Records of few events each, in place of one with these. None when they cannot be written: it stays whole."""
        body_digest, parts = record.body_digest or digest(record.body), []
        try:
            for some in together(events, PART):
                shares = b"".join(dict.fromkeys(map(shares_of, some)))
                part = record._replace(body=body_of(some), headers=headers_of(some[0]))
                parts.append(_packed(part._replace(body_digest=body_digest, shares=shares)))
        except Exception as error:
            log.error("a notification cannot be written in parts", error=outcomes.of_fault(error, "").error)
            return None
        return parts

    def _collect(self, results: Results, most_done: int, most_letters: int) -> None:
        done, self._done = self._done, []
        handled = Counter[str]()
        for number, (event, index, outcome) in enumerate(done):
            is_full = results.bytes and (len(results.letters) >= most_letters or results.bytes >= _BYTES)
            if number >= most_done or is_full:
                self._done = done[number:]
                break
            self._untold[index] -= 1
            claim = self._claims.pop(id(event), None)
            if outcome is HANDLED and claim is not None:  # nearly always
                handled[event.kind] += 1
                results.done.append(claim.done(True))
                self._free(results, claim)
                continue
            if outcome is BEHIND or outcome.holds_up:
                order = claim.order if claim else ""
                results.tell(event, index, outcome, order)
                self.untold -= Counter((order,))
            else:
                results.tell(event, index, outcome)
            if claim is not None:
                results.done.append(claim.done(outcome.happened))
                self._free(results, claim)
        results.counts.update({f"handled.{kind}": count for kind, count in handled.items()})
        self._ahead += len(done) - len(self._done)
        upto = self._first
        while upto < len(self._left) and self._left[upto] == self._untold[upto] == 0:
            if len(results.letters) >= most_letters:
                break
            if self._unclaimed[upto]:
                self._tell_unclaimed(results, upto)
            upto += 1
        results.write_retries()
        self._leave(results, upto)
        if self._waits:
            results.tally = counters.observed(counters.WAIT, lane_of(self.queue), self._waits)
            self._waits = []

    def _leave(self, results: Results, upto: int) -> None:
        """The records before `upto` leave the batch."""
        self._comes_again |= results.comes_again
        results.left += upto - self._first
        results.again += sum(self._first <= index < upto for index in self._comes_again)
        self._ahead -= sum(self._counts[self._first : upto])
        results.ahead = self._ahead
        self._first = upto

    def _tell_unclaimed(self, results: Results, index: int) -> None:
        for event, _, outcome in self._unclaimed[index]:
            if isinstance(event, Broken) and event.reason == FOREIGN:
                results.counts[f"{FOREIGN}.{event.kind}"] += 1
            elif isinstance(event, Broken):
                results.letter(event.reason, event, event.detail, index)
            elif outcome is not None:
                results.tell(event, index, outcome)
                self._ahead += 1
        self._unclaimed[index] = []

    def _free(self, results: Results, claim: Claim) -> None:
        """A claim ends with the event; that of a message with the last of its statuses."""
        if claim.message and (held := self._holds.pop(claim.message)) > 1:
            self._holds[claim.message] = held - 1
            return
        results.freed.append(claim.field)


def kept(records: Iterable[Record]) -> list[tuple[int, bytes]]:
    """What to archive of these: arrival (ms) and body as kept.

    A notification that went to several partitions is archived by each, because any of them may settle it first.
    Retries, parts, and what an operator had handled again, are not archived.
    """
    return [
        (record.received_ms, enclose(record.body, record.headers))
        for record in records
        if record.attempt == 1 and not record.force and not record.body_digest
    ]


def _packed(record: Record) -> bytes:
    return pack(
        record.body,
        record.received_ms,
        record.attempt,
        record.force,
        record.body_digest,
        record.shares,
        record.waits,
        record.done,
        record.headers,
        record.replay,
    )

"""What was last seen of each contact, and what is new about it.

A contact is found by its number and by its user id, separately for each business number. Redis keeps a digest: when the
message that it is from was received, and three bytes for each fact. It shows whether a fact changed, and nothing else.

The digests lie in hashes of generations. A worker looks in this generation and the one before, and writes to this one
what changed or was found only in the one before. So a contact is remembered for at least 30 days after the last
message, and at most 60. A generation has a fixed number of hashes with a bounded number of contacts each.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import blake2b
from typing import NamedTuple

from ingest.store import keys, scripts
from ingest.store.constants import PLACE_BYTES, PROFILE_BYTES
from ingest.store.pipelined import Call, PipelinedConnection
from workers.dispatch.outcomes import Outcome
from workers.dispatch.ready import Account
from workers.engine.account import DUPLICATE
from workers.events import Event, Message, Profile

GENERATION_SECONDS = 30 * 86_400

HASH_FIELDS = 128
"""Numbers and user ids in one hash at most; then a new one replaces a random one. Up to this size Redis stores a hash
as a list, at some 40 bytes each. Two bytes number the hashes, so there are 65,536: 300 MB a generation if all are full.
"""

_TIME = 6
_FACT = 3
_UNKNOWN = bytes(_FACT)
_FACTS = {
    name: slice(_TIME + n * _FACT, _TIME + (n + 1) * _FACT)
    for n, name in enumerate(("name", "username", "number", "user_id", "identity"))
}
_NOTHING = bytes(PROFILE_BYTES)
_LONGEST = 1000  # characters of a name that count: thousands of messages may be of one contact
_CHUNK = 500  # contacts a call: a millisecond of Redis


class Said(NamedTuple):
    """What a message says of its contact: the record, and its places: one for the number, one for the user id."""

    places: tuple[bytes, ...]
    record: bytes


def said(message: Message) -> Said:
    """Read a message; this never raises. Facts that are missing or make no sense count as unknown."""
    profile = Profile(message)
    facts = profile.facts
    business = message.business or ""
    places = tuple(_digest(PLACE_BYTES, f"{business}\0{kind}\0{value}") for kind, value in profile.aliases)
    received = message.received_ms.to_bytes(_TIME, "big")
    return Said(places, received + b"".join(_fact(facts.get(name)) for name in _FACTS))


def _fact(value: str | None) -> bytes:
    return _digest(_FACT, value).replace(_UNKNOWN, b"\0\0\1") if value else _UNKNOWN


def _digest(size: int, text: str) -> bytes:
    return blake2b(text[:_LONGEST].encode("utf-8", "surrogatepass"), digest_size=size).digest()


def differences(known: bytes, new: bytes) -> frozenset[str]:
    """The facts that both records have and that differ."""
    if known[_TIME:] == new[_TIME:]:
        return frozenset()
    return frozenset(
        name for name, at in _FACTS.items() if known[at] != new[at] and _UNKNOWN not in (known[at], new[at])
    )


def merged(known: bytes, new: bytes) -> bytes:
    """The newer record, with facts that it lacks taken from the older; the older when nothing is new."""
    facts = b"".join(known[at] if new[at] == _UNKNOWN else new[at] for at in _FACTS.values())
    return known if facts == known[_TIME:] else new[:_TIME] + facts


class Asked(NamedTuple):
    """What `Profiles.ask` asked for a batch: its messages by id(), their places, and the calls for those unknown."""

    messages: list[int]
    places: list[bytes]
    calls: list[tuple[list[bytes], Call]]


class Profiles:
    """The contacts of the batches in hand: call `ask` when a batch begins, then `watch`, and `forget` at its end."""

    def __init__(
        self,
        connection: PipelinedConnection,
        now: Callable[[], float] = time.time,
        others: frozenset[bytes] = frozenset(),
    ) -> None:
        self._others = others  # digests of the handlers that get no news
        self._recall = connection.script(scripts.lua(__file__, "recall.lua"))
        self._remember = connection.script(scripts.lua(__file__, "remember.lua"))
        self._now = now
        self._turns = itertools.count(1)
        self._generation = 0
        self._said: dict[int, Said] = {}  # by id() of the message
        self._batches: Counter[bytes] = Counter()  # places, by how many batches in hand speak of them
        self._known: dict[bytes, bytes] = {}  # records by place
        self._old: set[bytes] = set()  # places found only in the generation before
        self._noted: dict[bytes, int] = {}  # places noted lately, by turn
        self._unwritten: dict[bytes, bytes] = {}

    def ask(self, events: Iterable[Event]) -> Asked:
        """Ask Redis for the contacts of a batch's messages; it answers while the worker goes on."""
        self._generation = int(self._now() // GENERATION_SECONDS)
        found: dict[int, Said] = {}
        for event in events:
            if isinstance(event, Message):
                with suppress(Exception):  # then `news` fails, and that event alone with it
                    found[id(event)] = said(event)
        self._said |= found
        places = list(dict.fromkeys(place for one in found.values() for place in one.places))
        unknown = iter([place for place in places if place not in self._batches])
        self._batches.update(places)
        script_keys = [keys.profiles_prefix(self._generation), keys.profiles_prefix(self._generation - 1)]
        calls = []
        while chunk := list(itertools.islice(unknown, _CHUNK)):
            calls.append((chunk, self._recall.send(script_keys, [b"".join(chunk)])))
        return Asked(list(found), places, calls)

    def watch(self, account: Account, asked: Asked) -> Account:
        """Wrap the account of the batch, once Redis has answered: it sets each message's `news`, and notes what was
        handled.
        """
        for chunk, call in asked.calls:
            reply: bytes = self._recall.answer(call)
            for n, place in enumerate(chunk):
                found = reply[n * (PROFILE_BYTES + 1) : (n + 1) * (PROFILE_BYTES + 1)]
                if found[1:] != _NOTHING:
                    self._known[place] = found[1:]
                    if found[:1] == b"0":
                        self._old.add(place)
        return _Watching(self, account)

    def of_copies(self, account: Account) -> Account:
        """Wrap what `watch` returned for copies of messages: only news is told of them."""
        return _OfCopies(self, account, self._others)

    def forget(self, asked: Asked) -> None:
        """The batch has left. What it noted is with Redis, or goes there with the next `remember`."""
        for message in asked.messages:
            self._said.pop(message, None)
        for place in asked.places:
            self._batches[place] -= 1
            if not self._batches[place]:
                del self._batches[place]
                self._known.pop(place, None)
                self._old.discard(place)
                self._noted.pop(place, None)

    def facts(self, message: Message) -> bytes:
        """What it says of its contact."""
        return self._said[id(message)].record[_TIME:]

    def news(self, message: Message) -> frozenset[str]:
        """Which facts in this message differ from what was last seen. None for a contact seen for the first time, nor
        when a message received later was seen already."""
        places, record = self._said[id(message)]
        known = self._newest(places)
        return frozenset() if known is None or record[:_TIME] < known[:_TIME] else differences(known, record)

    def note(self, message: Message) -> None:
        """Note that this message was handled: its facts count as seen."""
        places, record = self._said[id(message)]
        known = self._newest(places)
        if known is not None:
            if record[:_TIME] < known[:_TIME]:
                return
            record = merged(known, record)
        turn = next(self._turns)
        for place in places:
            if self._known.get(place) != record or place in self._old:
                self._known[place] = self._unwritten[place] = record
                self._noted[place] = turn
                self._old.discard(place)

    def remember(self) -> None:
        """Write what was seen since the last call, together with the connection's next command."""
        entries, self._unwritten = iter(self._unwritten.items()), {}
        ends = (self._generation + 2) * GENERATION_SECONDS
        while chunk := b"".join(place + record for place, record in itertools.islice(entries, _CHUNK)):
            self._remember.later([keys.profiles_prefix(self._generation)], [ends, HASH_FIELDS, chunk], _raise)

    def _newest(self, places: tuple[bytes, ...]) -> bytes | None:
        found = [place for place in places if place in self._known]
        return self._known[max(found, key=self._age)] if found else None

    def _age(self, place: bytes) -> tuple[bytes, int]:
        # Messages of one notification were received in the same millisecond: the last one counts.
        return self._known[place][:_TIME], self._noted.get(place, 0)


def _raise(reply: object) -> None:
    if isinstance(reply, Exception):
        raise reply


class _Watching:
    """The account that `Profiles.watch` returns."""

    def __init__(self, profiles: Profiles, account: Account) -> None:
        self._profiles = profiles
        self._account = account
        self.put_off = account.put_off
        self.done_before = account.done_before
        self.order = account.order

    def admit(self, event: Event) -> Outcome | None:
        if isinstance(event, Message):
            event.news = self._profiles.news(event)
        return self._account.admit(event)

    def finish(self, index: int, event: Event, outcome: Outcome, now: float) -> None:
        if isinstance(event, Message) and outcome.happened:
            self._profiles.note(event)
        self._account.finish(index, event, outcome, now)


class _OfCopies:
    """The account that `Profiles.of_copies` returns. A copy ends as a copy, whatever became of its news: what a handler
    failed at was not seen, and comes again with the next message.
    """

    def __init__(self, profiles: Profiles, account: Account, others: frozenset[bytes]) -> None:
        self._profiles = profiles
        self._account = account
        self._others = others
        self.put_off = account.put_off
        self.order = account.order

    def done_before(self, index: int) -> frozenset[bytes]:
        return self._others

    def admit(self, event: Event) -> Outcome | None:
        if isinstance(event, Message) and not self._profiles.news(event):
            return DUPLICATE
        return self._account.admit(event)

    def finish(self, index: int, event: Event, outcome: Outcome, now: float) -> None:
        if isinstance(event, Message) and (outcome.happened or outcome is DUPLICATE):
            self._profiles.note(event)
        ended = outcome._replace(name=DUPLICATE.name, done=()) if outcome.error else DUPLICATE
        self._account.finish(index, event, ended, now)

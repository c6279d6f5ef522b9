"""Recognises copies: each event is handled once, whichever notification, lane or worker brings it.

An event's digest is claimed for its batch before it is handled (claim.lua) and remembered when it is settled
(settle.lua). A claim names its batch: when a batch is taken again after a crash it finds its own claims and goes on; a
copy in another batch is a duplicate while a worker has the first one. After that whichever is taken first goes on.

Of a status its message is claimed, so that no two statuses of one message are in work at a time, in whichever workers:
a batch that finds the message claimed by another one asks again until that one has settled.

Remembered digests lie in sets of 64-bit integers, which Redis stores as sorted arrays of 8 bytes each. The first octal
digits of an event's bucket name its set. Sets belong to generations. A new generation begins when half the window is
over or the last one is full; it has as many digits as keep each set between a few and some hundred integers. A
generation is forgotten one window after it ended (`forget`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from itertools import islice
from struct import Struct
from typing import Any, NamedTuple

import orjson
from redis import Redis

from ingest.store import keys, scripts
from ingest.store.pipelined import Call, PipelinedConnection
from workers.events import Change, Error, Event, Message, Status
from workers.events.copies import lasting, short
from workers.events.envelope import write_json

ERROR_MS = 600_000
"""Errors have no id: an equal one counts as a copy if it arrives in the same or the next slot of ten minutes."""

STAGES = {"sent": 1, "delivered": 2, "read": 3, "played": 4, "failed": 4}
"""Nothing comes after a message that failed or was played."""

_MARKERS = 3  # for each message: a stage after the first, the second or the third has happened
_KEYS = [keys.TAKEN, keys.CLAIMS, keys.GENERATIONS, keys.HEADS]
_CHUNK = 125  # events a call
_PORTION = 1000  # sets that one call forgets
_PORTIONS = 100  # portions that one round forgets at most
_DIGEST, _BUCKETS = Struct(">qI"), 8**10 - 1


class Claim(NamedTuple):
    """What an event is recognised by.

    `place` is a bucket (30 bits, which name the set) and a member (64 bits of the event's identity). `also` is an
    earlier member that means the same event. Of a status, `message` is what is claimed, `later` the marker that a later
    stage of the message leaves behind, and `markers` are those that it leaves itself, one for each earlier stage. All
    lie in one set, so Redis looks in one place. `version` is the place of a message with what it says of its contact,
    which its copies may have in another version; empty where nobody asks for news. `order` is the strict order that the
    event belongs to, if it does.
    """

    place: str
    also: int | None = None
    message: str = ""
    later: int | None = None
    markers: tuple[int, ...] = ()
    version: str = ""
    order: str = ""

    @property
    def asked(self) -> str:
        """As claim.lua reads it."""
        if self.message:
            return f"{self.place} of {self.message} {'-' if self.later is None else self.later}"
        if self.order:
            return f"{self.place} in {self.order}"
        return self.place if self.also is None else f"{self.place} also {self.also}"

    @property
    def field(self) -> str:
        """What is claimed: the event, or of a status its message."""
        return self.message or self.place.partition(" ")[2]

    def done(self, happened: bool) -> str:
        """As settle.lua reads it; `happened`: the status leaves its markers, the message its version."""
        if happened and self.version:
            return f"{self.place}\n{self.version}"
        return " ".join((self.place, *map(str, self.markers))) if happened and self.markers else self.place


GO, DUPLICATE, SUPERSEDED, BUSY, BEHIND, NEXT = b"012345"


def of(event: Event, waits: int = 0) -> Claim:
    """The claim of an event that was put off `waits` times.

    It is made from what lasts of the event (see `workers.events.copies`): what all its copies have in common. The
    attempt and `waits` are part of it, too: a retry is not a copy of the attempt before.
    """
    special = _SPECIAL.get(event.kind)
    return special(event, waits) if special else Claim(_place_of(_identity(event, waits)))


def of_forced(event: Event, waits: int, done: Iterable[bytes], batch: str) -> Claim:
    """The claim of an event whose dead letter is retried, so that it is handled even if it was handled before.

    It is handled once, since each time is another batch. It is known where its worker died: what becomes of a batch
    keeps what stands before the `_` of its name. A status waits for no other one, but leaves its markers.
    """
    claim = of(event, waits)
    bucket, _, other = claim.place.partition(" ")
    _, member = _digest((other, batch.partition("_")[0], b"".join(sorted(done)).hex()))
    return Claim(f"{bucket} {member}", markers=claim.markers, later=claim.later)


def of_replayed(event: Event, waits: int, replay: bytes) -> Claim:
    """The claim of an event that is handled once in this replay, even if it was handled before.

    What a replay remembers is its own, and lies in the same sets. So a status goes by the stages that were replayed; it
    leaves the markers of an ordinary one, too. What is claimed of its message is the same for all: no two of its
    statuses are in work at a time.
    """

    def own(member: int | str) -> int:
        return _digest((str(member), replay.hex()))[1]

    claim = of(event, waits)
    bucket, _, member = claim.place.partition(" ")
    return claim._replace(
        place=f"{bucket} {own(member)}",
        also=None if claim.also is None else own(claim.also),
        later=None if claim.later is None else own(claim.later),
        markers=(*map(own, claim.markers), *claim.markers),
    )


def _of_error(event: Error, waits: int) -> Claim:
    bucket, _ = _digest(_identity(event, waits))
    slot = event.received_ms // ERROR_MS
    (_, now), (_, before) = (_digest(_identity(event, waits, n)) for n in (slot, slot - 1))
    return Claim(_place(bucket, now), also=before)


def _of_change(event: Change, waits: int) -> Claim:
    time = event.time and event.time.timestamp()
    return Claim(_place_of(_identity(event, waits, short(event.account), time)))


def version(event: Message, facts: bytes) -> str:
    """The place of a message that says these facts of its contact, at whichever try it is handled."""
    return _place_of((*lasting(event), facts.hex()))


def _of_status(event: Status, waits: int) -> Claim:
    identity = _identity(event, waits)
    _, member = _digest(identity)
    business, id = identity[1], event.id
    # The message's bucket, so that a status and the markers of its message are in one set.
    bucket, message = _digest((business, id, event.participant))
    place = _place(bucket, member)
    if id is None:
        return Claim(place)
    name = f"{business}\0{id}".encode("utf-8", "surrogatepass")
    field = "m" + blake2b(name, digest_size=8).hexdigest()
    rank = STAGES.get(event.subject or "")
    if rank is None:
        return Claim(place, None, field)
    base = message & ~3
    later = base | rank if rank <= _MARKERS else None
    return Claim(place, None, field, later, tuple([base | earlier for earlier in range(1, rank)]))


_SPECIAL: dict[str, Callable[[Any, int], Claim]] = {"status": _of_status, "error": _of_error, "change": _of_change}


def _identity(event: Event, waits: int, *more: Any) -> tuple[Any, ...]:
    return (*lasting(event), event._envelope.notification.attempt | waits << 8, *more)


def _place_of(identity: tuple[Any, ...]) -> str:
    return _place(*_digest(identity))


def _place(bucket: int, member: int) -> str:
    return f"{bucket:010o} {member}"


def _digest(identity: tuple[Any, ...]) -> tuple[int, int]:
    """A bucket and a member."""
    try:
        text = orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # nested deeper than orjson writes, though it could read it
        text = write_json(list(identity))
    member, bucket = _DIGEST.unpack(blake2b(text, digest_size=_DIGEST.size).digest())
    return bucket & _BUCKETS, member


class Claims:
    """Claims events in Redis."""

    def __init__(self, connection: PipelinedConnection) -> None:
        self._script = connection.script(scripts.lua(__file__, "claim.lua"))

    def ask(self, member: str, claims: Iterable[Claim]) -> list[Call]:
        """Claim events for the batch `QUEUE|ID`. Redis works on the first ones while `claims` produces the next.

        The answers together have a byte for each event: GO, DUPLICATE, SUPERSEDED (go on; a later stage was handled),
        BUSY (another batch has a status of that message in work: ask again), BEHIND (an earlier event of its strict
        order is to be tried again) or NEXT (go on; later ones of its strict order wait for it).
        """
        calls, rest = [], iter(claims)
        while chunk := list(islice(rest, _CHUNK)):
            # One argument for all: the script splits a string faster than Redis reads hundreds of arguments.
            calls.append(self._script.send(_KEYS, [keys.WA, member, "\n".join(claim.asked for claim in chunk)]))
        return calls


def remembered(redis: Redis, asked: Sequence[Claim]) -> list[bool]:
    """Which of these were handled before, as far as this Redis remembers."""
    known: Any = redis.hgetall(keys.GENERATIONS)
    generations = [(name.decode(), int(digits)) for name, digits in known.items() if b"." not in name]
    with redis.pipeline(transaction=False) as pipe:
        for claim in asked:
            bucket, member = claim.place.split()
            members = [member] if claim.also is None else [member, claim.also]
            for name, digits in generations:
                pipe.smismember(keys.seen_key(name, bucket[:digits]), members)
        found = [any(answers) for answers in pipe.execute()]
    each = len(generations)
    return [any(found[n * each : (n + 1) * each]) for n in range(len(asked))]


def forget(redis: Redis, window: float) -> None:
    """Forget generations that ended more than `window` seconds ago; each call removes some more of their sets.

    The sets have no TTL: setting one would cost Redis a command for each event.
    """
    known: Any = redis.hgetall(keys.GENERATIONS)
    found = {name.decode(): int(value) for name, value in known.items()}
    now: Any = redis.time()
    for number in sorted(int(name) for name in found if name.isdigit()):
        ended = found.get(f"{number + 1}.born", now[0])
        if now[0] - ended <= window:
            break
        # In one step: from here on no script looks there, and Redis holds which sets are left to remove.
        with redis.pipeline() as pipe:
            pipe.hset(keys.GENERATIONS, f"{number}.left.{found[str(number)]}", 8 ** found[str(number)])
            pipe.hdel(keys.GENERATIONS, str(number), f"{number}.born", f"{number}.count")
            pipe.execute()
    forgotten: Any = redis.hscan_iter(keys.GENERATIONS, match="*.left.*")
    portions = _PORTIONS
    for name, value in forgotten:
        number, _, digits = name.decode().split(".")
        left = int(value)
        while left > 0 and portions > 0:
            portions -= 1
            upto, left = left, max(0, left - _PORTION)
            redis.unlink(*(keys.seen_key(number, f"{n:0{digits}o}") for n in range(left, upto)))
            redis.hset(keys.GENERATIONS, name, left)
        if left == 0:
            redis.hdel(keys.GENERATIONS, name)

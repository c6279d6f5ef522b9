"""Each event once, whichever notification, lane or worker brings it.

An event's digest is claimed for its batch before it is handled (claim.lua) and remembered when it is settled
(settle.lua). A claim names its batch: a batch that crashed finds its own claims and goes on, another batch's copy is a
duplicate, because the first is still owed.

What is remembered lies in sets of 64-bit integers, which Redis keeps as sorted arrays of 8 bytes each. They form
generations: a new one begins when half the window is over or the last one is full, with as many sets as keep each
between a few and some hundred digests; a generation is forgotten a window after it ended.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct
from typing import Any, NamedTuple

import orjson
from redis import Redis

from ingest import batches
from workers.events import Change, Event, Message, Status

CLAIMS = batches.WA + "claims"
GENERATIONS = batches.WA + "generations"

ERROR_MS = 600_000
"""Errors have no id: the same one again within ten minutes counts as sent twice."""

STAGES = {"sent": 1, "delivered": 2, "read": 3, "played": 4}
_CHUNK = 1000  # events a call, so that Redis is never held up for long
_DIGEST = Struct(">qI")


class Digest(NamedTuple):
    """96 bits of an event's identity: a member of a set of integers, and what chooses the set."""

    member: int
    bucket: int


class Claim(NamedTuple):
    """What an event is recognised by.

    `also`: an earlier digest that means the same. Of a status, `stage` says how far its message has come, and `later`
    are the stages that make it superseded.
    """

    digest: Digest
    also: Digest | None = None
    stage: Digest | None = None
    later: tuple[Digest, ...] = ()


GO, DUPLICATE, SUPERSEDED = b"012"


def of(event: Event) -> Claim:
    """The claim of an event: its business number, its element with the id in it, and its contact.

    A copy has all of them in common: senders repeat a notification byte for byte, to each subscribed app. The id alone
    would not do: senders' own samples, dashboards and mocks use an id again with other content, and that is no copy. A
    later attempt has a claim of its own; the first one's says that it was taken care of.
    """
    identity: tuple[Any, ...] = (event.kind, event.attempt, event.business, _text(event.raw))
    if isinstance(event, Message):
        return Claim(_digest(*identity, _text(event.contact)))
    if isinstance(event, Change):
        return Claim(_digest(*identity, event.account, event.time and event.time.timestamp()))
    if isinstance(event, Status):
        rank = STAGES.get(event.status or "")
        claim = _digest(*identity, _text(event.contact))
        if event.id is None or rank is None:
            return Claim(claim)
        message = (event.business, event.id, event.participant or event.recipient)
        stages = [_digest("stage", *message, n) for n in range(rank, len(STAGES) + 1)]
        return Claim(claim, stage=stages[0], later=tuple(stages[1:]))
    slot = event.received_ms // ERROR_MS
    return Claim(_digest(*identity, slot), also=_digest(*identity, slot - 1))


def _digest(*identity: Any) -> Digest:
    return Digest(*_DIGEST.unpack(blake2b(repr(identity).encode("utf-8", "surrogatepass"), digest_size=12).digest()))


def _text(value: Any) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # nested deeper than orjson writes, though it could read it
        return repr(value).encode()


class Claims:
    """Claims events in Redis."""

    def __init__(self, redis: Redis) -> None:
        self._script = redis.register_script(batches.lua(__file__, "claim.lua"))

    def take(self, member: str, claims: list[Claim]) -> bytes:
        """Claim for the batch `QUEUE|ID`: for each GO, DUPLICATE or SUPERSEDED (go on; a later stage was handled)."""
        replies = []
        for start in range(0, len(claims), _CHUNK):
            args: list[Any] = [batches.WA, member]
            for claim in claims[start : start + _CHUNK]:
                args += (*claim.digest, *(claim.also or ("", 0)), len(claim.later))
                for later in claim.later:
                    args += later
            replies.append(self._script(keys=[batches.LEDGER, CLAIMS, GENERATIONS], args=args))
        return b"".join(replies)

"""Which user id belongs to which contact: what a receiver process knows, and what it keeps in Redis for the others.

While WhatsApp introduces business-scoped user ids, messages of one contact name the number, both, or the user id alone.
A notification that names both links them. From then on a message with the user id alone counts as one of the number.

A receiver sends new links along with what it appends. When it appends a message whose user id it does not know, Redis
looks for the link (`ingest/commit/write.lua`), so a receiver need not hear of links before it needs them.

Links are held in generations, here and in Redis: this one and the one before. What is used moves to this one, so a
link lasts at least 15 days after its last use, unless there are too many.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import blake2b
from struct import Struct

from ingest.store.constants import LINK_DIGEST_BYTES

GENERATION_SECONDS = 15 * 86_400

MOST_HERE = 50_000
"""Links of a generation in a process: some 10 MB."""

MOST_SENT = 1000
"""Links that go with one call."""

BUSINESS_LENGTH = 64
"""So much of the id of a business number counts: it stands in a body once, and is hashed for each contact."""

_LINK = Struct(f">{LINK_DIGEST_BYTES}sI")


def digest_of(business: str, user: str) -> bytes:
    """What is kept instead of a user id. Ids are told apart by business number."""
    return blake2b(f"{business[:BUSINESS_LENGTH]}\0{user}".encode(), digest_size=LINK_DIGEST_BYTES).digest()


class Links:
    """The links that a process knows, from the digest of a user id to the key of its contact (see `ingest.routing`)."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._number = 0
        self._young: dict[bytes, int] = {}
        self._old: dict[bytes, int] = {}
        self._known: set[int] = set()  # hashes of what is in `_young`: they cost a tenth of a digest
        self._outboxes: list[dict[bytes, int]] = []

    def outbox(self) -> Outbox:
        """What is to be sent to a Redis, from now on."""
        outbox = Outbox()
        self._outboxes.append(outbox.links)
        return outbox

    def find(self, digest: bytes) -> int | None:
        """The key of the contact whose user id has that digest, when it is known."""
        self._make_room()
        key = self._young.get(digest)
        if key is None and (key := self._old.get(digest)) is not None:
            self._keep(digest, key)
        return key

    def learn(self, business: str, user: str, key: int) -> None:
        """Note that a notification names a user id together with its contact's number."""
        known = hash((business, user, key))
        if known in self._known and self._now() // GENERATION_SECONDS == self._number:
            return
        self._make_room()
        digest = digest_of(business, user)
        before = self._young.get(digest)
        if before != key:
            self._known.discard(hash((business, user, before)))
            self._keep(digest, key)
        self._known.add(known)

    def told(self, links: bytes) -> None:
        """Note links that Redis knows."""
        for digest, key in _LINK.iter_unpack(links):
            self._make_room()
            self._young[digest] = key

    def _keep(self, digest: bytes, key: int) -> None:
        self._young[digest] = key
        for links in self._outboxes:
            if len(links) < MOST_HERE:  # while Redis is away
                links[digest] = key

    def _make_room(self) -> None:
        number = int(self._now() // GENERATION_SECONDS)
        if number != self._number or len(self._young) >= MOST_HERE:
            self._number, self._old, self._young, self._known = number, self._young, {}, set()


class Outbox:
    """Links that one Redis does not have yet."""

    def __init__(self) -> None:
        self.links: dict[bytes, int] = {}

    def next(self) -> bytes:
        """Those that go with the next call."""
        return b"".join(_LINK.pack(*link) for link in list(self.links.items())[:MOST_SENT]) if self.links else b""

    def sent(self, links: bytes) -> None:
        """Forget what `next` gave and Redis now has."""
        for digest, key in _LINK.iter_unpack(links):
            if self.links.get(digest) == key:
                del self.links[digest]

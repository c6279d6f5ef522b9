"""Several Redis: every notification has a home among them. While its home is away, it goes to the next one.

All messages of a contact have the same home; so do copies of a notification, and the statuses of a message. While every
Redis is up, order and deduplication are therefore the same as with one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TypeVarTuple
from zlib import crc32

from ingest.commit.group_commit import GroupCommit
from ingest.commit.redis_writer import RedisWriter
from ingest.routing import Route, home
from ingest.spool.fallback import LONGEST_PROBE_SECONDS, PROBE_SECONDS, SpoolFallback
from ingest.store.records import unpack
from ingest.telemetry.outage import Outage

_Args = TypeVarTuple("_Args")


class ShardedWriter:
    """Writes packed records into several Redis. One that fails is left out until it answers a probe.

    `outage` logs when none of them can be used.
    """

    def __init__(self, writers: Sequence[RedisWriter], outage: Outage) -> None:
        self.writers = writers
        self._outage = outage
        self._away: dict[int, asyncio.Task[None]] = {}
        self._reason = ""

    async def write(
        self, records_by_queue: Mapping[str, list[bytes]], unknown: object, again: object, call: str
    ) -> str | None:
        """None when they are durable, each in its home or the next one, else the reason.

        Nothing is routed again here: what it would be for may lie in another Redis.
        """
        shares: dict[int, dict[str, list[bytes]]] = {}
        for queue, records in records_by_queue.items():
            for record in records:
                n = home(queue, unpack(record).body, len(self.writers))
                shares.setdefault(n, {}).setdefault(queue, []).append(record)
        writes = [writer.write for writer in self.writers]
        reason = await _all(self.in_turn(n, writes, share, (), None, _name(call, share)) for n, share in shares.items())
        self._outage.report(reason)
        return reason

    async def probe(self) -> str | None:
        """Why nothing could be written at this moment, or None when at least one Redis takes it."""
        reason = await self.in_turn(0, [writer.probe for writer in self.writers])
        self._outage.report(reason)
        return reason

    async def aclose(self) -> None:
        for task in self._away.values():
            task.cancel()
        await asyncio.gather(*self._away.values(), return_exceptions=True)
        for writer in self.writers:
            await writer.aclose()

    async def in_turn(
        self, first: int, attempts: Sequence[Callable[[*_Args], Awaitable[str | None]]], *args: *_Args
    ) -> str | None:
        """Try one Redis after another, beginning with `first`, until one succeeds. None, or why none did."""
        for n in self._usable(first):
            reason = await attempts[n](*args)
            if reason is None:
                return None
            self._leave_out(n, reason)
        return self._reason

    def _usable(self, first: int) -> list[int]:
        count = len(self.writers)
        return [n % count for n in range(first, first + count) if n % count not in self._away]

    def _leave_out(self, n: int, reason: str) -> None:
        self._reason = reason
        if n not in self._away:
            self._away[n] = asyncio.create_task(self._take_back(n))

    async def _take_back(self, n: int) -> None:
        wait = PROBE_SECONDS
        await asyncio.sleep(wait)
        while await self.writers[n].probe() is not None:
            wait = min(1.5 * wait, LONGEST_PROBE_SECONDS)
            await asyncio.sleep(wait)
        del self._away[n]


class ShardedCommit:
    """A group commit for each Redis, so that none waits for another, and a last one for what they did not keep.

    The last one tries Redis once more and then spools the whole notification. Without a spool it is not used.
    """

    def __init__(self, writer: ShardedWriter, fallback: SpoolFallback | None, outage: Outage) -> None:
        self._writer = writer
        self._fallback = fallback
        self._outage = outage
        self._commits = [GroupCommit(one).commit for one in writer.writers]
        self._last = GroupCommit(writer, fallback)

    async def commit(
        self, body: bytes, received_ms: int, routes: tuple[Route, ...], headers: bytes = b""
    ) -> str | None:
        """None when the notification is durable, else the reason."""
        if self._fallback is None or not self._fallback.in_use():
            shares = _by_home(body, routes, len(self._commits)).items()
            tries = [self._writer.in_turn(n, self._commits, body, received_ms, share, headers) for n, share in shares]
            reason = await (tries[0] if len(tries) == 1 else _all(tries))
            if reason is None or self._fallback is None:
                self._outage.report(reason)
                return reason
        return await self._last.commit(body, received_ms, routes, headers)


def _by_home(body: bytes, routes: tuple[Route, ...], count: int) -> dict[int, tuple[Route, ...]]:
    if len(routes) == 1:  # nearly all
        return {home(routes[0].queue, body, count): routes}
    shares: dict[int, tuple[Route, ...]] = {}
    for place in routes:
        n = home(place.queue, body, count)
        shares[n] = (*shares.get(n, ()), place)
    return shares


def _name(call: str, share: Mapping[str, list[bytes]]) -> str:
    """The name of a share of a call: two may go to the same Redis. It is that of this content alone, because a call may
    be divided otherwise when it is repeated, after a restart with other settings.
    """
    checksum = 0
    for record in chain.from_iterable(share.values()):
        checksum = crc32(record, checksum)
    return f"{call}-{checksum:08x}"


async def _all(attempts: Iterable[Awaitable[str | None]]) -> str | None:
    """None when all succeed, else one of the reasons."""
    return next(filter(None, await asyncio.gather(*attempts)), None)

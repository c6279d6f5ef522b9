"""Several Redis: every notification has a home among them, and goes to the next one while that cannot keep it.

A contact's messages have one home, and so have copies of a notification and the statuses of a message: with all Redis
there, order and the drop of copies are as with one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVarTuple

from ingest.commit.group_commit import GroupCommit
from ingest.commit.redis_writer import RedisWriter
from ingest.routing import Route, home
from ingest.spool.fallback import LONGEST_PROBE_SECONDS, PROBE_SECONDS, SpoolFallback
from ingest.store.records import unpack
from ingest.telemetry.outage import Outage

_Args = TypeVarTuple("_Args")


class ShardedWriter:
    """Writes packed records into several Redis. One that fails is left out until it answers a probe.

    `outage` says in the log when none of them is used.
    """

    def __init__(self, writers: Sequence[RedisWriter], outage: Outage) -> None:
        self.writers = writers
        self._outage = outage
        self._away: dict[int, asyncio.Task[None]] = {}
        self._reason = ""

    async def write(self, records_by_queue: Mapping[str, list[bytes]]) -> str | None:
        """None when they are durable, each in its home or the next one, else the reason."""
        shares: dict[int, dict[str, list[bytes]]] = {}
        for queue, records in records_by_queue.items():
            for record in records:
                n = home(queue, unpack(record).body, len(self.writers))
                shares.setdefault(n, {}).setdefault(queue, []).append(record)
        writes = [writer.write for writer in self.writers]
        reason = await _all(self.in_turn(n, writes, share) for n, share in shares.items())
        self._outage.report(reason)
        return reason

    async def probe(self) -> str | None:
        """Why nothing could be written at this moment, or None: one Redis that answers will do."""
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
        """Make the attempt of one Redis after another, from the home on, until one succeeds.

        None then, or the reason why none does.
        """
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
    """A group commit for each Redis, so that none waits for another, and a last one for what none of them keeps.

    The last one writes all of the notification once more, and then has the spool. Without a spool it is not asked.
    """

    def __init__(self, writer: ShardedWriter, fallback: SpoolFallback | None, outage: Outage) -> None:
        self._writer = writer
        self._fallback = fallback
        self._outage = outage
        self._commits = [GroupCommit(one).commit for one in writer.writers]
        self._last = GroupCommit(writer, fallback)

    async def commit(self, body: bytes, received_ms: int, routes: tuple[Route, ...]) -> str | None:
        """None when the notification is durable, else the reason."""
        if self._fallback is None or not self._fallback.in_use():
            shares = _by_home(body, routes, len(self._commits)).items()
            tries = [self._writer.in_turn(n, self._commits, body, received_ms, share) for n, share in shares]
            reason = await (tries[0] if len(tries) == 1 else _all(tries))
            if reason is None or self._fallback is None:
                self._outage.report(reason)
                return reason
        return await self._last.commit(body, received_ms, routes)


def _by_home(body: bytes, routes: tuple[Route, ...], count: int) -> dict[int, tuple[Route, ...]]:
    if len(routes) == 1:  # nearly all
        return {home(routes[0].queue, body, count): routes}
    shares: dict[int, tuple[Route, ...]] = {}
    for place in routes:
        n = home(place.queue, body, count)
        shares[n] = (*shares.get(n, ()), place)
    return shares


async def _all(attempts: Iterable[Awaitable[str | None]]) -> str | None:
    """None when all succeed, else one of the reasons."""
    return next(filter(None, await asyncio.gather(*attempts)), None)

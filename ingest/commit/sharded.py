"""Several Redis: every notification has a home among them, and goes to the next one while that cannot keep it.

A contact's messages have one home, and so have copies of a notification and the statuses of a message: with all Redis
there, order and the drop of copies are as with one.
"""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from ingest.commit.group_commit import Committer, NotDurable
from ingest.routing import Route, home
from ingest.settings import Settings, each_redis, redis_url
from ingest.spool.fallback import LONGEST_PROBE_SECONDS, PROBE_SECONDS
from ingest.spool.spool import Spool
from ingest.store import connection
from ingest.store.records import unpack
from ingest.store.urls import address
from ingest.telemetry.outage import Outage

_AWAY, _BACK = "a Redis is not used, another one is", "a Redis is used again"


def committer(settings: Settings, spool: Spool | None) -> Committer:
    """For one Redis or several, as WA_REDIS_URL says."""
    each = each_redis(settings)
    if len(each) == 1:
        return Committer(connection.for_receiver(redis_url(settings)), settings, spool)
    return ShardedWriter(
        {address(redis_url(one)): connection.for_receiver(redis_url(one)) for one in each}, settings, spool
    )


class ShardedWriter(Committer):
    """Makes notifications durable in one of several Redis, each with a group commit of its own.

    Its own group commit is for what none of them keeps: all once more, then the spool. One that fails is left out until
    it answers a probe.
    """

    def __init__(self, clients: dict[str, Redis], settings: Settings, spool: Spool | None) -> None:
        super().__init__(next(iter(clients.values())), settings, spool)
        self._each = [
            Committer(client, settings, outage=Outage(_AWAY, _BACK, redis=name)) for name, client in clients.items()
        ]
        self._away: dict[int, asyncio.Task[None]] = {}
        self._reason = ""

    async def commit(self, body: bytes, received_ms: int, routes: tuple[Route, ...]) -> None:
        """Return when the notification is durable. Raises NotDurable."""
        if self.fallback is None or not self.fallback.in_use():
            shares: dict[int, tuple[Route, ...]] = {}
            for place in routes:
                n = home(place.queue, body, len(self._each))
                shares[n] = (*shares.get(n, ()), place)
            kept = [self._commit_in_one(n, body, received_ms, some) for n, some in shares.items()]
            if all(await asyncio.gather(*kept) if len(kept) > 1 else [await kept[0]]):
                self._outage.up()
                return
            if self.fallback is None:
                self._outage.down(self._reason)
                raise NotDurable(self._reason)
        await super().commit(body, received_ms, routes)

    async def _commit_in_one(self, first: int, body: bytes, received_ms: int, routes: tuple[Route, ...]) -> bool:
        for n in self._usable(first):
            try:
                await self._each[n].commit(body, received_ms, routes)
            except NotDurable as error:
                self._leave_out(n, str(error))
            else:
                return True
        return False

    async def _try_to_write(self, records_by_queue: dict[str, list[bytes]]) -> str | None:
        """What the spool replays, or no Redis has kept so far. Of nothing, a probe: one that answers will do."""
        if not records_by_queue:
            return await self._write_in_one(0, {})
        shares: dict[int, dict[str, list[bytes]]] = {}
        for queue, records in records_by_queue.items():
            for record in records:
                n = home(queue, unpack(record).body, len(self._each))
                shares.setdefault(n, {}).setdefault(queue, []).append(record)
        reasons = await asyncio.gather(*(self._write_in_one(n, some) for n, some in shares.items()))
        return next(filter(None, reasons), None)

    async def _write_in_one(self, first: int, records_by_queue: dict[str, list[bytes]]) -> str | None:
        for n in self._usable(first):
            reason = await self._each[n]._write(records_by_queue)
            if reason is None:
                return None
            self._leave_out(n, reason)
        return self._reason

    def _usable(self, first: int) -> list[int]:
        count = len(self._each)
        return [n % count for n in range(first, first + count) if n % count not in self._away]

    def _leave_out(self, n: int, reason: str) -> None:
        self._reason = reason
        if n not in self._away:
            self._away[n] = asyncio.create_task(self._take_back(n))

    async def _take_back(self, n: int) -> None:
        wait = PROBE_SECONDS
        await asyncio.sleep(wait)
        while await self._each[n].probe() is not None:
            wait = min(1.5 * wait, LONGEST_PROBE_SECONDS)
            await asyncio.sleep(wait)
        del self._away[n]

    async def aclose(self) -> None:
        for task in self._away.values():
            task.cancel()
        await asyncio.gather(*self._away.values(), return_exceptions=True)
        for one in self._each:
            await one.aclose()

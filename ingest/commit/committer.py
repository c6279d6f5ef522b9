"""What the listeners commit with: one Redis or several, with or without a spool."""

from __future__ import annotations

from ingest.commit.group_commit import GroupCommit
from ingest.commit.redis_writer import RedisWriter
from ingest.commit.sharded import ShardedCommit, ShardedWriter
from ingest.routing import Route, Router
from ingest.settings import Settings, redis_url
from ingest.spool.fallback import SpoolFallback
from ingest.spool.spool import Spool
from ingest.store import connection
from ingest.store.links import Links
from ingest.store.urls import address, split
from ingest.telemetry.outage import Outage


class NotDurable(Exception):
    """The notification could not be kept; nothing was acknowledged. The message says why."""


class Committer:
    """Makes notifications durable, in Redis or else in the spool. `route` says in which queues.

    `fallback` is None without a spool.
    """

    def __init__(
        self,
        group: GroupCommit | ShardedCommit,
        writer: RedisWriter | ShardedWriter,
        router: Router,
        fallback: SpoolFallback | None = None,
    ) -> None:
        self.route = router
        self.fallback = fallback
        self._group = group
        self._writer = writer

    async def commit(self, body: bytes, received_ms: int, routes: tuple[Route, ...], headers: bytes = b"") -> None:
        """Return when the notification is durable, with these headers of its request. Raises NotDurable."""
        reason = await self._group.commit(body, received_ms, routes, headers)
        if reason is not None:
            raise NotDurable(reason)

    async def probe(self) -> str | None:
        """Why Redis would not take a notification at this moment, or None."""
        return await self._writer.probe()

    async def refused(self) -> str | None:
        """Why notifications do not go into Redis at this moment, or None."""
        if self.fallback is not None and self.fallback.in_use():
            return self.fallback.away
        return await self.probe()

    async def aclose(self) -> None:
        await self._writer.aclose()


def make_committer(settings: Settings, spool: Spool | None = None) -> Committer:
    """A committer for the one Redis or several that WA_REDIS_URL names."""
    instead = "notifications go to the disk spool" if spool else "senders get 503"
    outage = Outage(f"Redis is not used, {instead}", "Redis is used again")
    urls = split(redis_url(settings))
    return _of_one(urls[0], settings, spool, outage) if len(urls) == 1 else _of_several(urls, settings, spool, outage)


def _of_one(url: str, settings: Settings, spool: Spool | None, outage: Outage) -> Committer:
    links = Links()
    router = Router(settings.partitions, settings.business_partitions, links)
    writer = RedisWriter(connection.for_receiver(url), settings, outage, links)
    fallback = SpoolFallback(spool, writer, router) if spool else None
    return Committer(GroupCommit(writer, fallback, router), writer, router, fallback)


def _of_several(urls: list[str], settings: Settings, spool: Spool | None, outage: Outage) -> Committer:
    links = Links()
    router = Router(settings.partitions, settings.business_partitions, links)
    writers = [RedisWriter(connection.for_receiver(url), settings, _outage_of_one(url), links) for url in urls]
    writer = ShardedWriter(writers, outage)
    fallback = SpoolFallback(spool, writer, router) if spool else None
    return Committer(ShardedCommit(writer, fallback, outage), writer, router, fallback)


def _outage_of_one(url: str) -> Outage:
    return Outage(
        "a Redis is not used, another one takes its notifications", "a Redis is used again", redis=address(url)
    )

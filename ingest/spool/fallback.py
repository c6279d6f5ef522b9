"""Between Redis and the disk spool: when notifications go to the disk, and how they get from there into Redis.

They go to the disk once a flush has failed, and as long as any receiver process has something there, so that Redis gets
them in order of arrival. One process at a time replays for all.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Protocol

from ingest.loggers import get_logger
from ingest.routing import Router
from ingest.spool import spool
from ingest.store.records import pack_into
from ingest.store.segments import Segment, Spooled
from ingest.telemetry.outage import Outage

log = get_logger(__name__)

PROBE_SECONDS = 0.5
"""How often to probe Redis while it is away, at first, and how often to look for something to replay."""

LONGEST_PROBE_SECONDS = 2.0

CALL_BYTES = 8 << 20
"""A call takes no more once it holds this much. Replay outruns the arrivals only with few, large calls."""

CALL_RECORDS = 4000

FULL = "Redis refuses: it is full"
"""How the reason begins when a call did not fit into what is left of Redis' memory: a smaller one may."""

LAST_SECONDS = 0.2
"""After a round shorter than this little is left, so the next one replays it with appends stopped, and is the last."""


class Writer(Protocol):
    """Redis, as the spool needs it. Each answer is None, or the reason why not."""

    async def write(
        self,
        records_by_queue: Mapping[str, list[bytes]],
        unknown: Iterable[bytes],
        again: Callable[[], Mapping[str, list[bytes]]] | None,
        /,
    ) -> str | None:
        """Write packed records durably, or those that `again` makes if there are links of the `unknown` user ids."""

    async def probe(self) -> str | None:
        """Find out whether it could write."""


class SpoolFallback:
    """Spools notifications while Redis cannot keep them, and replays them when it can. Create it in the event loop."""

    def __init__(self, folder: spool.Spool, writer: Writer, router: Router) -> None:
        self._spool = folder
        self._writer = writer
        self._router = router
        self._outage = Outage("the spool cannot be used, senders get 503", "the spool can be used again")
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "spool")  # its own: senders must not wait for the admin listener
        self._stop = asyncio.Event()
        self._away: str | None = None
        self._replayed = 0
        self._replaying_since = 0.0
        self._most = CALL_RECORDS  # notifications in a call

    def in_use(self) -> bool:
        """Whether the next notifications go to the disk. Cost: one stat."""
        return self._away is not None or not self._spool.empty()

    @property
    def away(self) -> str | None:
        """Why the last attempt to reach Redis failed, for senders or for replay; None when it succeeded."""
        return self._away

    @property
    def reason(self) -> str | None:
        """Why Redis is not used, or None."""
        return self._away or (None if self._spool.empty() else "spooled notifications go first")

    async def keep(
        self, notifications: Sequence[tuple[int, bytes]], write: Callable[[], Awaitable[str | None]]
    ) -> str | None:
        """Return None when these, each (arrival in ms, body), are on the disk, or in Redis by `write`; else why not.

        After a failed `write`, none is tried until a probe succeeds.
        """
        try:
            if self.in_use() and await self._append(notifications):
                return None
            reason = await write()
            if reason is not None:
                self._away = reason
                await self._append(notifications)
        except OSError as error:
            reason = f"the spool is not writable: {error.strerror}"
            self._outage.down(reason)
            return reason
        return None

    async def _append(self, notifications: Sequence[tuple[int, bytes]]) -> bool:
        """False, with nothing kept, when Redis is there and has all that was spooled."""
        unless_empty = self._away is None
        kept = await self._loop.run_in_executor(self._thread, self._spool.append, notifications, unless_empty)
        self._outage.up()
        return kept

    def stop(self) -> None:
        """Make `run` return after the Redis call under way. What is not replayed stays for the next start."""
        self._stop.set()

    async def run(self) -> None:
        """Probe and replay while the spool is in use, until `stop`."""
        wait = PROBE_SECONDS
        while not self._stop.is_set():
            reason = await self._recover() if self.in_use() else None
            wait = PROBE_SECONDS if reason is None else min(1.5 * wait, LONGEST_PROBE_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), wait)

    async def _recover(self) -> str | None:
        reason = await self._writer.probe()
        if reason is None:
            self._away = None
            reason = await asyncio.to_thread(self._replay)
        if reason is not None:
            self._away = reason
        return reason

    def _replay(self) -> str | None:
        """Replay until nothing is left, unless another process is at it. Returns why it had to stop, or None."""
        try:
            with self._spool.replaying() as alone:
                return self._replay_alone() if alone else None
        except OSError as error:
            return f"the spool cannot be replayed: {error.strerror}"

    def _replay_alone(self) -> str | None:
        took = math.inf
        while not self._stop.is_set():
            began = time.monotonic()
            with self._spool.appends_stopped():
                left = self._spool.unreplayed()
                if took < LAST_SECONDS:
                    reason = self._send(left)
                    if reason is not None:
                        return reason
                    left = self._spool.unreplayed()
                if not left:
                    self._say_done()
                    return None
            reason = self._send(left)
            if reason is not None:
                return reason
            took = time.monotonic() - began
        return None

    def _send(self, segments: list[Segment]) -> str | None:
        """Send what is left in these segments to Redis, call by call, until `stop`.

        A call that a full Redis refuses is sent again in halves, down to single notifications: its memory must hold the
        call itself, too. As long as they succeed, calls grow again, slowly: each that is refused is a line in the log.
        """
        items = spool.read(segments)
        while not self._stop.is_set():
            some, records, unknown = self._next_call(items)
            if not some:
                spool.note_read(segments)
                return None
            again = partial(routed, [(item.received_ms, item.body) for item in some], self._router)
            write = self._writer.write(records, unknown, again)
            reason = asyncio.run_coroutine_threadsafe(write, self._loop).result()
            if reason is not None and reason.startswith(FULL) and len(some) > 1:
                self._most = len(some) // 2
                items = spool.read(segments)  # from what was noted last
                continue
            if reason is not None:
                return reason
            spool.note_replayed(some)
            self._most = min(CALL_RECORDS, self._most + self._most // 8 + 1)
            self._replaying_since = self._replaying_since or time.monotonic()
            self._replayed += len(some)
        return None

    def _next_call(self, items: Iterator[Spooled]) -> tuple[list[Spooled], dict[str, list[bytes]], set[bytes]]:
        """The notifications of one call, their records by queue, for the partitions of today, and the user ids in them
        of which no link is known.
        """
        some: list[Spooled] = []
        records: dict[str, list[bytes]] = {}
        unknown: set[bytes] = set()
        count = size = 0
        for item in items:
            some.append(item)
            routes = self._router(item.body)
            unknown.update(routes[0].unknown)
            size += pack_into(records, routes, item.body, item.received_ms)
            count += len(routes)
            if count >= CALL_RECORDS or size >= CALL_BYTES or len(some) >= self._most:
                break
        return some, records, unknown

    def _say_done(self) -> None:
        if self._replayed:
            seconds = round(time.monotonic() - self._replaying_since, 3)
            log.info("Redis has all that was spooled", notifications=self._replayed, seconds=seconds)
        self._replayed, self._replaying_since = 0, 0.0


def routed(notifications: Iterable[tuple[int, bytes]], router: Router) -> dict[str, list[bytes]]:
    """The records of notifications, each (arrival in ms, body), by queue."""
    records: dict[str, list[bytes]] = {}
    for received_ms, body in notifications:
        pack_into(records, router(body), body, received_ms)
    return records

"""Between Redis and the disk spool: when notifications go to the disk, and how they get from there into Redis.

They go to the disk once a flush has failed, and as long as any receiver process has something there, so that Redis gets
them in order of arrival. One process at a time replays for all.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Protocol

from ingest.loggers import get_logger
from ingest.routing import Router
from ingest.spool import calls, spool
from ingest.store.append import flush_ids
from ingest.store.headers import disclose
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
        call: str,
        /,
    ) -> str | None:
        """Write packed records durably, or those that `again` makes if there are links of the `unknown` user ids.

        `call` names this call: what comes again under a name that was carried out is not written a second time.
        """

    async def probe(self) -> str | None:
        """Find out whether it could write."""


class _Call:
    """Spooled notifications that go to Redis together, and their records by queue, for the partitions of today."""

    __slots__ = ("bytes", "count", "records", "some", "unknown")

    def __init__(self) -> None:
        self.some: list[Spooled] = []
        self.records: dict[str, list[bytes]] = {}
        self.unknown: set[bytes] = set()  # user ids in them of which no link is known
        self.count = 0
        self.bytes = 0

    def add(self, item: Spooled, router: Router) -> None:
        body, headers = disclose(item.kept)
        routes = router(body)
        self.some.append(item)
        self.bytes += pack_into(self.records, routes, body, item.received_ms, headers=headers)
        self.count += len(routes)
        self.unknown.update(routes[0].unknown)


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
        self._names = flush_ids()
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
        self, notifications: Sequence[tuple[int, bytes]], write: Callable[[], Awaitable[str | None]], call: str
    ) -> str | None:
        """Return None when these, each (arrival in ms, body as kept), are on the disk or by `write` in Redis; else why.

        After a failed `write`, none is tried until a probe succeeds. `call` is the name under which it sends them.
        """
        try:
            if self.in_use() and await self._append(notifications):
                return None
            reason = await write()
            if reason is not None:
                self._away = reason
                await self._append(notifications, call)
        except OSError as error:
            reason = f"the spool is not writable: {error.strerror}"
            self._outage.down(reason)
            return reason
        return None

    async def _append(self, notifications: Sequence[tuple[int, bytes]], call: str = "") -> bool:
        """False, with nothing kept, when Redis is there and has all that was spooled."""
        unless_empty = self._away is None
        kept = await self._loop.run_in_executor(self._thread, self._spool.append, notifications, unless_empty, call)
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
        """Send what is left in these segments to Redis, call by call, until `stop`. First the calls that Redis may have
        carried out, each as it was.

        A call that a full Redis refuses is sent again in halves, down to single notifications: its memory must hold the
        call itself, too. As long as they succeed, calls grow again, slowly: each that is refused is a line in the log.
        """
        for name, some in calls.noted(self._spool.folder, segments):
            reason = self._finish(name, self._call_of(some))
            if reason is not None and not reason.startswith(FULL):
                return reason
            if self._stop.is_set():
                return None
        items = spool.read(segments)
        while not self._stop.is_set():
            call = self._call_of(items, self._most)
            if not call.some:
                spool.note_read(segments)
                return None
            name = next(self._names)
            calls.note(self._spool.folder, name, calls.parts_of(call.some))
            reason = self._finish(name, call)
            if reason is not None and reason.startswith(FULL) and len(call.some) > 1:
                self._most = len(call.some) // 2
                items = spool.read(segments)  # from what was noted last
                continue
            if reason is not None:
                return reason
            self._most = min(CALL_RECORDS, self._most + self._most // 8 + 1)
        return None

    def _call_of(self, items: Iterable[Spooled], most: int | None = None) -> _Call:
        """A call of the next of these, `most` at most and no more than a call holds; without `most` all of them."""
        call = _Call()
        for item in items:
            call.add(item, self._router)
            if most is not None and (len(call.some) >= most or call.count >= CALL_RECORDS or call.bytes >= CALL_BYTES):
                break
        return call

    def _finish(self, name: str, call: _Call) -> str | None:
        """Send a call, and note that Redis has what is in it; else return why it has not."""
        again = partial(routed, [(item.received_ms, item.kept) for item in call.some], self._router)
        write = self._writer.write(call.records, call.unknown, again, name)
        reason = asyncio.run_coroutine_threadsafe(write, self._loop).result()
        if reason is None:
            spool.note_replayed(call.some)
            self._replaying_since = self._replaying_since or time.monotonic()
            self._replayed += len(call.some)
        if reason is None or reason.startswith(FULL):
            calls.forget(self._spool.folder, name)
        return reason

    def _say_done(self) -> None:
        if self._replayed:
            seconds = round(time.monotonic() - self._replaying_since, 3)
            log.info("Redis has all that was spooled", notifications=self._replayed, seconds=seconds)
        self._replayed, self._replaying_since = 0, 0.0


def routed(notifications: Iterable[tuple[int, bytes]], router: Router) -> dict[str, list[bytes]]:
    """The records of notifications, each (arrival in ms, body as kept), by queue."""
    records: dict[str, list[bytes]] = {}
    for received_ms, kept in notifications:
        body, headers = disclose(kept)
        pack_into(records, router(body), body, received_ms, headers=headers)
    return records

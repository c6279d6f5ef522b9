"""`POST /actions/tail`: passes on to a listener what workers tell it, from every Redis.

Lines of JSON, as `ingest.state.following` gives them, and empty ones, which show that the stream goes on.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from contextlib import suppress

import orjson
from aiohttp import web

from ingest.loggers import get_logger
from ingest.settings import Settings, redis_url
from ingest.state import following
from ingest.state.listeners import Wanted
from ingest.store import urls

log = get_logger(__name__)

LISTENERS = 8
"""Most listeners at a time of a receiver process; one more is answered 503."""

MOST_BYTES = 2 * 1024 * 1024
"""So much may wait for a listener that reads slowly; what is beyond it is counted."""

_QUIET_SECONDS = 5.0  # without news for so long, an empty line: it shows whether the listener is still there


class TooMany(Exception):
    """There are as many listeners as there may be."""


class Tail:
    """Answers listeners. One that reads slowly misses events; one that does not read is cut off by the `Listener`."""

    def __init__(self, settings: Settings) -> None:
        self._urls = urls.split(redis_url(settings))
        self._waiting: set[_Lines] = set()
        self._over = False

    async def stream(self, request: web.BaseRequest, response: web.StreamResponse, wanted: Wanted) -> None:
        """Tell one listener, until it or the receiver ends that. Raises TooMany."""
        if len(self._waiting) >= LISTENERS or self._over:
            raise TooMany(f"{LISTENERS} listen already" if not self._over else "the receiver stops")
        lines, name = _Lines(), secrets.token_hex(8)
        self._waiting.add(lines)
        tasks = [asyncio.create_task(following.follow(url, name, wanted, lines.put)) for url in self._urls]
        log.info("somebody listens to what workers handle", personal=wanted.personal, bodies=wanted.body)
        try:
            await response.prepare(request)
            while not self._over:
                await response.write(await lines.take() or b"\n")
        except ConnectionError:
            pass  # the listener has gone
        finally:
            self._waiting.discard(lines)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """End all streams."""
        self._over = True
        for lines in self._waiting:
            lines.wake()


class _Lines:
    """What waits for one listener."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._news = asyncio.Event()
        self._news.set()  # its first line is an empty one

    def put(self, line: bytes) -> None:
        """Have a line written, if there is room; else its events are counted."""
        if self._bytes + len(line) > MOST_BYTES:
            told = orjson.loads(line)
            self._dropped += len(told.get("events", ())) + told.get("dropped", 0)
        else:
            self._lines.append(line + b"\n")
            self._bytes += len(line)
        self.wake()

    async def take(self) -> bytes:
        """All that waits; nothing when nothing came for some seconds, or `wake` was called."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_QUIET_SECONDS):
                await self._news.wait()
        self._news.clear()
        if self._dropped:
            self._lines.append(orjson.dumps({"dropped": self._dropped}) + b"\n")
        found = b"".join(self._lines)
        self._lines.clear()
        self._bytes = self._dropped = 0
        return found

    def wake(self) -> None:
        self._news.set()

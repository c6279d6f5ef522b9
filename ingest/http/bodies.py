"""Reads the bodies of requests, with a bound on each one's size and time, and on the memory of all.

Bodies that are still arriving may together hold half of WA_MAX_PENDING. When they need more, the one that has been
arriving for longest is given up, if that is over a second, so that stalled senders cannot keep others out. Otherwise
the youngest is, so that the earlier ones are read to their end. Nearly all bodies arrive together with their head, and
are not concerned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from aiohttp import ClientError, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from ingest.http.answers import Refused, unavailable
from ingest.http.compressed import unpacked
from ingest.settings import Settings

PATIENCE = 1.0
"""Seconds of arriving after which the oldest body is given up rather than the youngest."""


class _Arrival:
    """A body that has arrived in part."""

    __slots__ = ("began", "deadline", "refusal", "size")

    def __init__(self, began: float, seconds: float) -> None:
        self.began = began
        self.deadline = asyncio.timeout_at(began + seconds)
        # What makes it, not the exception itself: its traceback would hold this, and with it the body, until Python
        # looks for cycles, which it seldom does here.
        self.refusal: Callable[[], Exception] = partial(Refused, 408, "slow")
        self.size = 0


class PendingBytes:
    """Memory that bodies hold until they are answered: `held` bytes of at most `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def reserve(self, size: int) -> bool:
        """Take `size` bytes; False when that would pass the limit."""
        if self.held + size > self._limit:
            return False
        self.held += size
        return True

    def release(self, size: int) -> None:
        self.held -= size


class Bodies:
    """Reads bodies; what it returns counts as pending until `release`."""

    def __init__(self, settings: Settings) -> None:
        self._max = int(settings.max_body)
        self._seconds = settings.body_timeout
        self._pending = PendingBytes(int(settings.max_pending))
        self._limit = max(int(settings.max_pending) // 2, self._max)
        self._arriving = 0
        self._arrivals: dict[_Arrival, None] = {}  # in the order in which they began

    async def read(self, request: web.BaseRequest) -> bytes:
        """The body as it came. Raises Refused."""
        if (request.content_length or 0) > self._max:
            raise Refused(413, "size")
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        try:
            if not request.content.is_eof():
                return await self._arrive(request.content)
            body = request.content.read_nowait()
        except (ClientError, HttpProcessingError, web.RequestPayloadError, ConnectionError, RuntimeError):
            # Or the sender has gone and reads no answer: then aiohttp sometimes raises a RuntimeError.
            raise Refused(400, "broken") from None
        if len(body) > self._max:
            raise Refused(413, "size")
        if not self._pending.reserve(len(body)):
            raise unavailable("pending")
        return body

    def unpack(self, body: bytes, encoding: str) -> bytes:
        """A body that `read` returned, without compression; it counts from now on as large as it is. Raises Refused."""
        plain = unpacked(body, encoding, self._max)
        if not self._pending.reserve(len(plain) - len(body)):
            raise unavailable("pending")
        return plain

    def release(self, body: bytes) -> None:
        """Free the memory of a body that `read` or `unpack` returned."""
        self._pending.release(len(body))

    async def _arrive(self, content: StreamReader) -> bytes:
        arrival = _Arrival(asyncio.get_running_loop().time(), self._seconds)
        self._arrivals[arrival] = None
        chunks: list[bytes] = []
        try:
            async with arrival.deadline:
                async for chunk in content.iter_any():
                    self._grow(arrival, len(chunk))
                    chunks.append(chunk)
            self._take(arrival)
            return b"".join(chunks)
        except TimeoutError:
            raise arrival.refusal() from None
        finally:
            self._give_up(arrival)

    def _grow(self, arrival: _Arrival, size: int) -> None:
        if arrival.size + size > self._max:
            raise Refused(413, "size")
        while arrival in self._arrivals and self._is_full(size):
            self._make_room()
        if arrival not in self._arrivals:
            raise arrival.refusal()
        self._arriving += size
        arrival.size += size

    def _is_full(self, size: int) -> bool:
        return self._arriving + size > self._limit or not self._pending.reserve(size)

    def _make_room(self) -> None:
        now = asyncio.get_running_loop().time()
        oldest, youngest = next(iter(self._arrivals)), next(reversed(self._arrivals))
        victim = oldest if now - oldest.began > PATIENCE else youngest
        if victim is youngest:
            victim.refusal = partial(unavailable, "pending")
        self._give_up(victim)
        if not victim.deadline.expired():  # its own time may just have run out
            victim.deadline.reschedule(now)

    def _take(self, arrival: _Arrival) -> None:
        """It is complete; its memory stays reserved until `release`."""
        if arrival not in self._arrivals:
            raise arrival.refusal()
        del self._arrivals[arrival]
        self._arriving -= arrival.size

    def _give_up(self, arrival: _Arrival) -> None:
        if arrival in self._arrivals:
            self._take(arrival)
            self._pending.release(arrival.size)

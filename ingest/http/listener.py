"""A listening socket and its connections, each with a bound on what it can hold up.

aiohttp reads the requests of a connection one after another, and bounds the size of a line and how many requests wait.
This adds bounds on the time for a first head, the number of connections, unread answers, and bytes that take its parser
far longer than their sender; and error answers that quote nothing. docs/security.md has the figures.
"""

from __future__ import annotations

import asyncio
import re
import resource
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import StreamReader, web

from ingest import metrics
from ingest.http.answers import Answer
from ingest.settings import Settings, cannot_listen

HEAD_SECONDS = 10.0
"""How long a connection may take for its TLS handshake, for its first head, and to read answers that pile up."""

_LINGER = 2.0
"""Seconds in which the rest of a refused body is read and thrown away, so that the sender reads the answer."""

_LARGE = 16 << 10
"""A read of more bytes is checked before it is parsed. No head is as long, and fewer bytes are parsed quickly."""

_TINY_CHUNK = re.compile(rb"\r\n[0-9A-Fa-f]{1,2}(?:;[^\r\n]*)?\r\n")
_MAX_TINY_CHUNKS = 500
"""More chunks of less than 256 bytes in one read are an attack: each costs aiohttp some microseconds. So is a chunked
body that takes, framing included, more than twice WA_MAX_BODY.
"""

_STOP_SECONDS = 1.0
_BACKLOG = 1024
_RESERVED_FILES = 64  # for Redis, the spool, the admin listener, Python's own

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Listener:
    """Serves `handler` on the address that the setting `field` holds. `open` before use."""

    def __init__(self, settings: Settings, field: str, handler: Handler, limit: int) -> None:
        self._settings = settings
        self._field = field
        self._name = "admin" if field == "admin_listen" else "public"
        self._handler = handler
        self._limit = limit
        self._max_body = int(settings.max_body)
        self._connections: dict[_Connection, None] = {}

    async def open(self, context: ssl.SSLContext | None, share_port: bool) -> None:
        """Start to accept. Raises SettingsError when it cannot listen on the address."""
        host, port = getattr(self._settings, self._field)
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self._server = _Server(self, self._handler, self._max_body, self._settings.keepalive)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if share_port:  # only among processes of one receiver, so that a second receiver, started by mistake, fails
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._socket.bind((host, port))
            self._accepting = await self._accept(context)
        except OSError as error:
            self._socket.close()
            raise cannot_listen(self._field, (host, port), error) from None

    async def renew(self, context: ssl.SSLContext | None) -> None:
        """Use another context for new connections; open ones keep theirs."""
        before = self._accepting
        self._accepting = await self._accept(context)
        before.close()

    def stop_accepting(self) -> None:
        self._accepting.close()
        self._socket.close()

    async def close(self) -> None:
        """End all connections at once."""
        self.stop_accepting()
        await asyncio.sleep(0)  # let connections accepted just now begin
        self._server.pre_shutdown()
        await self._server.shutdown(_STOP_SECONDS)

    async def _accept(self, context: ssl.SSLContext | None) -> asyncio.Server:
        # A copy of the socket has the same accept queue, so closing the old server turns nobody away.
        return await asyncio.get_running_loop().create_server(
            self._server,
            sock=self._socket.dup(),
            ssl=context,
            backlog=_BACKLOG,
            ssl_handshake_timeout=HEAD_SECONDS if context else None,
        )

    def opened(self, connection: _Connection) -> None:
        """A connection begins."""
        metrics.connections(self._name, 1)
        self._connections[connection] = None
        if len(self._connections) > self._limit:
            self._make_room(connection)

    def ended(self, connection: _Connection) -> None:
        """A connection has ended; one whose handshake failed never began."""
        if connection in self._connections:
            metrics.connections(self._name, -1)
            del self._connections[connection]

    def _make_room(self, newest: _Connection) -> None:
        """End the connections that have waited for longest in the larger group: those that never sent a request, or
        those between two requests. Ends several at a time, because finding them takes time. The newest, if none waits.
        """
        waiting = [connection for connection in self._connections if connection.waits_until is not None]
        silent = [connection for connection in waiting if connection.body is None]
        idle = [connection for connection in waiting if connection.body is not None]
        larger = silent if len(silent) > len(idle) else idle
        larger.sort(key=lambda connection: connection.waits_until or 0.0)
        for connection in larger[: max(1, self._limit // 50)] or [newest]:
            connection.cut("limit")


class _Server(web.Server):
    """Makes our connections instead of aiohttp's."""

    def __init__(self, listener: Listener, handler: Handler, max_body: int, keepalive: float) -> None:
        self._listener = listener
        self._max_body = max_body
        self._keepalive = keepalive
        loop = asyncio.get_running_loop()

        def make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            protocol.body, protocol.chunked, protocol.framed = payload, message.chunked, 0
            return web.BaseRequest(message, payload, protocol, writer, task, loop)

        super().__init__(handler, request_factory=make_request)

    def __call__(self) -> web.RequestHandler:
        return _Connection(self._listener, self, self._max_body, self._keepalive)


class _Connection(web.RequestHandler):
    __slots__ = ("_first_head", "_listener", "_max_framed", "_unread", "body", "chunked", "framed")

    def __init__(self, listener: Listener, server: _Server, max_body: int, keepalive: float) -> None:
        self._listener = listener
        self._first_head: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self.body: StreamReader | None = None  # of the last request
        self.chunked = False
        self.framed = 0  # bytes of a chunked body, framing included
        self._max_framed = 2 * max_body
        # A body is kept, counted and signed as it came, so nothing is decompressed here.
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type] # None: no log
            auto_decompress=False,
            keepalive_timeout=keepalive,
            lingering_time=_LINGER,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._first_head = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._is_late)
        self._listener.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        for timer in (self._first_head, self._unread):
            if timer is not None:
                timer.cancel()
        self._listener.ended(self)

    @property
    def waits_until(self) -> float | None:
        """When it will have waited too long for a request, by the loop's clock; None while it is at work."""
        return None if self._waiter is None else self._next_keepalive_close_time

    def _is_late(self) -> None:
        if self.body is None:
            self.cut("slow_head")

    def data_received(self, data: bytes) -> None:
        if len(data) > _LARGE and (reason := self._costly(data)):
            self.cut(reason)
        else:
            super().data_received(data)

    def _costly(self, data: bytes) -> str | None:
        body, chunked = self.body, self.chunked
        if self._messages:  # heads that aiohttp has parsed and will handle next
            message, body = self._messages[-1]
            chunked = getattr(message, "chunked", False)
        if body is None or body.is_eof():  # a head begins here
            end = data.find(b"\r\n\r\n", 0, _LARGE)
            if end < 0:
                return "endless_head"
            chunked = b"chunked" in data[:end].lower()
        if not chunked:
            return None
        self.framed += len(data)
        too_much = self.framed > self._max_framed or len(_TINY_CHUNK.findall(data)) > _MAX_TINY_CHUNKS
        return "tiny_chunks" if too_much else None

    def pause_writing(self) -> None:
        """64 KiB of answers wait to be read."""
        super().pause_writing()
        self._unread = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.cut, "unread_answers")

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def cut(self, reason: str) -> None:
        """End it at once, whatever it is doing."""
        metrics.cut(reason)
        transport = self.transport
        self.force_close()
        if transport is not None:
            transport.abort()

    def log_exception(self, *arguments: Any, **more: Any) -> None:
        """Log nothing about a sender that has gone, which aiohttp sometimes takes for an error."""
        if self.connected:
            super().log_exception(*arguments, **more)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to bytes that are not HTTP, or when our code failed. aiohttp's own page quotes the request."""
        if status == 500:
            self.log_exception("request failed", exc_info=exc)
        metrics.refused(status, "broken" if status == 400 else "failed", 0.0)
        response = Answer(status)
        response.force_close()
        return response


def connection_limit(settings: Settings) -> int:
    """WA_MAX_CONNECTIONS, or fewer where the system allows fewer open files; raises our soft limit for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + _RESERVED_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(1, wanted - _RESERVED_FILES)

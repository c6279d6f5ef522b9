"""A listening socket and the connections that came through it, each with a bound on what it may hold up.

aiohttp reads the requests of a connection one after another, with bounds on the size of a line and on how many requests
wait. Added here: the time for a first head, the number of connections, answers that nobody reads, bytes that would cost
its parser much more time than sending them, and error answers that quote nothing. docs/security.md has the figures.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import StreamReader, web

from ingest import metrics
from ingest.http.answers import Answer
from ingest.settings import Settings, SettingsError, variable

HEAD_SECONDS = 10.0
"""How long a new connection may take for its first head and for the handshake of TLS, and any to read its answers."""

IDLE_SECONDS = 150.0
"""How long a connection is kept for its next request: longer than proxies keep theirs (Caddy: two minutes)."""

_LINGER = 2.0
"""Seconds in which the rest of a refused body is read and thrown away, so that the sender reads the answer."""

_LARGE = 16 << 10
"""A read of more bytes is looked at before it is parsed. No head is as long, and smaller ones cannot hold up much."""

_CRUMB = re.compile(rb"\r\n[0-9A-Fa-f]{1,2}(?:;[^\r\n]*)?\r\n")
_CRUMBS = 500
"""So many chunks of less than 256 bytes in one read are no way to send a body: each costs aiohttp some microseconds.
Nor is more around the chunks than in them.
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
        """Start to accept. Raises SettingsError when the address cannot be had."""
        host, port = getattr(self._settings, self._field)
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self._server = _Server(self, self._handler, self._max_body)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if share_port:  # only for processes of one receiver, so that a second receiver by mistake is noticed
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._socket.bind((host, port))
            self._accepting = await self._accept(context)
        except OSError as error:
            self._socket.close()
            why = os.strerror(error.errno) if error.errno else str(error)
            raise SettingsError(f"{variable(self._field)}: cannot listen on {host}:{port}: {why}") from None

    async def renew(self, context: ssl.SSLContext | None) -> None:
        """Use another context for new connections; those that are open go on with theirs."""
        before = self._accepting
        self._accepting = await self._accept(context)
        before.close()

    def stop_accepting(self) -> None:
        self._accepting.close()
        self._socket.close()

    async def close(self) -> None:
        """End everything, at once."""
        self.stop_accepting()
        await asyncio.sleep(0)  # what was accepted a moment ago begins
        self._server.pre_shutdown()
        await self._server.shutdown(_STOP_SECONDS)

    async def _accept(self, context: ssl.SSLContext | None) -> asyncio.Server:
        # A copy of the socket: both wait at the same queue, so nobody is turned away when one is closed.
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
        """End those that have waited for longest of whichever are the crowd: those that never sent a request, or those
        between two. Some at a time, because looking for them takes its time. The newest, when nobody waits.
        """
        waiting = [connection for connection in self._connections if connection.waits_until is not None]
        silent = [connection for connection in waiting if connection.body is None]
        idle = [connection for connection in waiting if connection.body is not None]
        crowd = silent if len(silent) > len(idle) else idle
        crowd.sort(key=lambda connection: connection.waits_until or 0.0)
        for connection in crowd[: max(1, self._limit // 50)] or [newest]:
            connection.cut("limit")


class _Server(web.Server):
    """Makes our connections instead of aiohttp's."""

    def __init__(self, listener: Listener, handler: Handler, max_body: int) -> None:
        self._listener = listener
        self._max_body = max_body
        loop = asyncio.get_running_loop()

        def make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            protocol.body, protocol.chunked, protocol.framed = payload, message.chunked, 0
            return web.BaseRequest(message, payload, protocol, writer, task, loop)

        super().__init__(handler, request_factory=make_request)

    def __call__(self) -> web.RequestHandler:
        return _Connection(self._listener, self, self._max_body)


class _Connection(web.RequestHandler):
    __slots__ = ("_first_head", "_listener", "_most_framed", "_unread", "body", "chunked", "framed")

    def __init__(self, listener: Listener, server: _Server, max_body: int) -> None:
        self._listener = listener
        self._first_head: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self.body: StreamReader | None = None  # of the last request
        self.chunked = False
        self.framed = 0  # bytes of a body in chunks, with what is around them
        self._most_framed = 2 * max_body
        # A body is kept, counted and signed as it came, so nothing is decompressed here.
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type] # it means none
            auto_decompress=False,
            keepalive_timeout=IDLE_SECONDS,
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
        too_much = self.framed > self._most_framed or len(_CRUMB.findall(data)) > _CRUMBS
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
        """End it, whatever it does."""
        metrics.cut(reason)
        transport = self.transport
        self.force_close()
        if transport is not None:
            transport.abort()

    def log_exception(self, *arguments: Any, **more: Any) -> None:
        """Nothing about a sender that is gone, which aiohttp takes for an error in some places."""
        if self.connected:
            super().log_exception(*arguments, **more)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is no HTTP, or to a request that broke us. aiohttp's own page quotes the request."""
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

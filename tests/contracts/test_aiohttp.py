"""What ingest/http relies on inside aiohttp, beyond its documentation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

Handler = Callable[[web.BaseRequest], Awaitable[Any]]


class Keeping(web.Server):
    """Keeps the one connection, whose keep-alive time is an hour."""

    connection: web.RequestHandler

    def __call__(self) -> web.RequestHandler:
        self.connection = web.RequestHandler(self, loop=asyncio.get_running_loop(), keepalive_timeout=3600)
        return self.connection


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - aiohttp tells nobody of it
            await asyncio.sleep(0.001)


@asynccontextmanager
async def connected(
    handler: Handler, **options: Any
) -> AsyncIterator[tuple[Keeping, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A server, and a client's ends of a connection that it has accepted."""
    server = Keeping(handler, **options)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
    try:
        await until(lambda: bool(server.connections))
        yield server, reader, writer
    finally:
        writer.close()
        listening.close()
        await server.shutdown(1.0)


async def plain(request: web.BaseRequest) -> web.Response:
    return web.Response()


def test_waiter() -> None:
    """`RequestHandler._waiter` is None while a request is handled, and not while the connection waits for one."""

    async def run() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def handler(request: web.BaseRequest) -> web.Response:
            begun.set()
            await go_on.wait()
            return web.Response()

        async with connected(handler) as (server, reader, writer):
            await until(lambda: server.connection._waiter is not None)
            writer.write(GET)
            await begun.wait()
            assert server.connection._waiter is None
            go_on.set()
            await reader.readuntil(b"\r\n\r\n")
            await until(lambda: server.connection._waiter is not None)

    asyncio.run(run())


def test_next_keepalive_close_time() -> None:
    """`RequestHandler._next_keepalive_close_time` is when an idle connection is closed, by the loop's clock: its
    keep-alive time after it was made, and again after each request."""

    async def run() -> None:
        now = asyncio.get_running_loop().time
        before = now()
        async with connected(plain) as (server, reader, writer):
            made = server.connection._next_keepalive_close_time
            assert before <= made - 3600 <= now()
            writer.write(GET)
            await reader.readuntil(b"\r\n\r\n")
            await until(lambda: server.connection._next_keepalive_close_time > made)
            assert server.connection._next_keepalive_close_time - 3600 <= now()

    asyncio.run(run())


def test_messages() -> None:
    """`RequestHandler._messages` holds heads that are parsed and not yet handled, each with its body's stream; the last
    is that whose body comes next; a head says whether its body is chunked."""

    async def run() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def handler(request: web.BaseRequest) -> web.Response:
            begun.set()
            await go_on.wait()
            return web.Response()

        async with connected(handler) as (server, _, writer):
            writer.write(GET)
            await begun.wait()
            assert not server.connection._messages
            writer.write(GET + CHUNKED)
            await until(lambda: len(server.connection._messages) == 2)
            (first, no_body), (last, body) = server.connection._messages
            assert (first.chunked, no_body.is_eof()) == (False, True)  # type: ignore[union-attr]
            assert (last.chunked, body.is_eof()) == (True, False)  # type: ignore[union-attr]
            writer.write(b"2\r\nab\r\n0\r\n\r\n")
            await until(body.is_eof)
            go_on.set()

    asyncio.run(run())


def test_request_factory() -> None:
    """A server's `request_factory` gets head, body, connection, writer and task, and what it makes is handled."""

    async def run() -> None:
        got: list[Any] = []

        def make(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            got[:] = message.chunked, payload.is_eof(), protocol
            return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop())

        async with connected(plain, request_factory=make) as (server, reader, writer):
            writer.write(CHUNKED + b"0\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            assert got == [True, True, server.connection]

    asyncio.run(run())


def test_an_answer_is_prepared_and_ended() -> None:
    """Of what a handler returns aiohttp calls `prepare` and `write_eof` and reads `keep_alive`, and nothing else: one
    object may answer any number of requests."""

    class Ready:
        keep_alive = True

        async def prepare(self, request: web.BaseRequest) -> None:
            assert request.transport is not None
            request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        async def write_eof(self) -> None:
            pass

    ready = Ready()

    async def handler(request: web.BaseRequest) -> Ready:
        return ready

    async def run() -> None:
        async with connected(handler) as (_, reader, writer):
            for _ in range(3):
                writer.write(GET)
                assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    asyncio.run(run())

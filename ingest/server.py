"""The receiver: two listeners, one committer, a clean stop. `python -m ingest.server` is one receiver process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.client import HTTPConnection, HTTPException
from typing import Any

import orjson
import structlog
import uvloop
from aiohttp import web
from redis.exceptions import RedisError

from ingest import connection, logs, processes
from ingest.admin import Admin
from ingest.committer import Committer
from ingest.replay import Standby
from ingest.settings import Settings, SettingsError, load, variable
from ingest.spool import Spool
from ingest.webhook import Webhook

log = structlog.get_logger()

_LINGER = 2.0
"""Seconds in which the rest of a refused body is read and thrown away, so that the sender reads the answer."""


async def run(settings: Settings, spool: Spool | None, share_ports: bool) -> None:
    """Serve until SIGTERM or SIGINT, then stop accepting, commit what was read, answer, and return."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    redis = connection.for_receiver(settings)
    committer = Committer(redis, settings, spool)
    webhook = Webhook(settings, committer)
    public = await _listen(settings, "listen", webhook, share_ports)
    admin = await _listen(settings, "admin_listen", Admin(settings, committer), share_ports)
    log.info("receiver started", listen=settings.listen, path=settings.path, pid=os.getpid())
    try:
        async with _replaying(committer.standby, stop):
            await stop.wait()
        for site in public.sites:
            await site.stop()
        await webhook.drain(settings.body_timeout + connection.COMMAND_SECONDS)
    finally:
        await public.cleanup()
        await admin.cleanup()
        await redis.aclose()
    log.info("receiver stopped", pid=os.getpid())


@asynccontextmanager
async def _replaying(standby: Standby | None, stop: asyncio.Event) -> AsyncIterator[None]:
    """Replay in the background. Should that end by itself, which is an error, the receiver stops: others go on."""
    if standby is None:
        yield
        return
    task = asyncio.create_task(standby.run())
    task.add_done_callback(lambda _: stop.set())
    try:
        yield
    finally:
        standby.stop()
        await task


async def _listen(settings: Settings, field: str, handler: Webhook | Admin, share_port: bool) -> web.ServerRunner:
    """Open the listener whose address that setting holds. The low-level server is used: two paths need no router."""
    loop = asyncio.get_running_loop()

    def make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=int(settings.max_body))

    # A body is kept, counted and signed as it came, so nothing is decompressed here.
    server = web.Server(
        handler, request_factory=make_request, lingering_time=_LINGER, access_log=None, auto_decompress=False
    )
    runner = web.ServerRunner(server, shutdown_timeout=1.0)
    await runner.setup()
    host, port = getattr(settings, field)
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share_port:  # only for processes of one receiver, so that a second receiver by mistake is noticed
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        await web.SockSite(runner, listener, backlog=1024).start()
    except OSError as error:
        listener.close()
        why = os.strerror(error.errno) if error.errno else str(error)
        raise SettingsError(f"{variable(field)}: cannot listen on {host}:{port}: {why}") from None
    return runner


def kind(settings: Settings, count: int) -> processes.Kind:
    """Receiver processes as children; ready when the admin listener of one of them answers."""
    host, port = settings.admin_listen
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    receivers = processes.Kind("receiver", "ingest.server", ("--share-ports",) if count > 1 else (), count)

    def ready() -> bool:
        # By its pid: on a port that is in use, somebody else answers.
        return _pid_of(here, port) in {child.process.pid for child in receivers.children}

    receivers.ready = ready
    return receivers


def _pid_of(host: str, port: int) -> int | None:
    """The process behind an admin listener, or None."""
    client = HTTPConnection(host, port, timeout=1.0)
    try:
        client.request("GET", "/healthz")
        answer = orjson.loads(client.getresponse().read())
        return answer.get("pid") if isinstance(answer, dict) else None
    except (OSError, HTTPException, orjson.JSONDecodeError):
        return None
    finally:
        client.close()


def _open_spool(settings: Settings) -> Spool | None:
    if settings.spool_dir is None:
        return None
    try:
        return Spool(settings.spool_dir)
    except OSError as error:
        raise SettingsError(f"WA_SPOOL_DIR: cannot write to {settings.spool_dir}: {error.strerror}") from None


def main() -> None:
    """One receiver process."""
    logs.configure()
    processes.watch_parent()
    try:
        settings = load()
        spool = _open_spool(settings)
        tools = connection.for_tools(settings, connection.COMMAND_SECONDS)
        try:
            connection.check_version(tools, settings)
        except (RedisError, OSError) as error:
            # Not fatal: until Redis is there, notifications are spooled or senders get 503.
            log.warning("Redis is away", reason=str(connection.trouble(error)), spool=spool is not None)
        finally:
            tools.close()
        uvloop.run(run(settings, spool, share_ports="--share-ports" in sys.argv))
    except SettingsError as error:
        print(f"wa-ingest: {error}", file=sys.stderr)
        sys.exit(processes.GIVE_UP)


if __name__ == "__main__":
    main()

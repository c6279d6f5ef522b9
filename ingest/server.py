"""The receiver: two listeners, one committer, a clean stop. `python -m ingest.server` is one receiver process."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from ingest import child, garbage, metrics
from ingest.admin.alerts import Alerts
from ingest.admin.app import Admin
from ingest.admin.event_stream import EventStream
from ingest.commit.committer import Committer, make_committer
from ingest.commit.group_commit import FLUSH_BYTES
from ingest.http.listener import Listener, connection_limit
from ingest.http.refusals import Refusals
from ingest.http.webhook import Webhook
from ingest.loggers import get_logger
from ingest.settings import SET_A_GUARD, Settings, SettingsError, host_port, load, redis_url, tls
from ingest.spool.fallback import SpoolFallback
from ingest.spool.spool import Spool
from ingest.state import history, refusals
from ingest.store import agreement, connection, formats
from ingest.telemetry import logs, tracing
from ingest.terminal import aside

log = get_logger("ingest.server")

_ADMIN_CONNECTIONS = 100
_TELL_SECONDS = 2.0
_LOOK_SECONDS = 1.0  # how often certificate files are checked for changes


async def run(settings: Settings, spool: Spool | None, share_ports: bool) -> None:
    """Serve until SIGTERM or SIGINT, then stop accepting, commit what was read, answer, and return."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    spans = tracing.start("wa-ingest-receiver")
    committer = make_committer(settings, spool)
    webhook = Webhook(settings, committer, spans)
    public = Listener(settings, "listen", webhook, connection_limit(settings))
    pages = Admin(settings, committer)
    admin = Listener(settings, "admin_listen", pages, _ADMIN_CONNECTIONS)
    await public.open(_tls(settings), share_ports)
    await admin.open(None, share_ports)
    if not settings.guards:
        log.warning("anybody who reaches the port may post", remedy=SET_A_GUARD)
    garbage.start(garbage.OF_RECEIVER)
    log.info(
        "receiver started",
        listen=host_port(*settings.listen),
        path=settings.path,
        tls=bool(settings.tls_cert),
        guards=settings.guards,
        keeps_headers=settings.keep_headers,
        pid=os.getpid(),
    )
    try:
        async with (
            _replaying(committer.fallback, stop),
            _renewing(settings, public),
            _sampling(pages.events),
            _alerting(settings, committer),
            _telling(settings, partial(_say_settings, settings)),
            _telling(settings, partial(_say_refusals, webhook.refusals)),
        ):
            await stop.wait()
        public.stop_accepting()
        await webhook.drain(settings.body_timeout + connection.seconds_for(FLUSH_BYTES))
    finally:
        pages.close()
        await public.close()
        await admin.close()
        await committer.aclose()
        if spans is not None:
            spans.close()
    log.info("receiver stopped", pid=os.getpid())


@asynccontextmanager
async def _replaying(fallback: SpoolFallback | None, stop: asyncio.Event) -> AsyncIterator[None]:
    """Replay in the background. If that fails, this receiver process stops, and leaves replaying to the others."""
    if fallback is None:
        yield
        return
    task = asyncio.create_task(fallback.run())
    task.add_done_callback(lambda _: stop.set())
    try:
        yield
    finally:
        fallback.stop()
        await task


def _tls(settings: Settings) -> ssl.SSLContext | None:
    context = tls.context(settings)
    if context is not None:
        for use, end in tls.ends(settings).items():
            metrics.certificate(use, end)
    return context


@asynccontextmanager
async def _renewing(settings: Settings, public: Listener) -> AsyncIterator[None]:
    """Use new certificates when their files change. While they cannot be used, the old ones stay in use."""

    async def look() -> None:
        used = tls.version(settings)
        complained: object = None
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = tls.version(settings)
            if now in ((), used):
                continue
            try:
                await public.renew(_tls(settings))
            except (SettingsError, OSError) as error:
                if now != complained:
                    log.warning("the new certificate cannot be used, the old one stays", reason=str(error))
                complained = now
            else:
                used = now
                log.info("new certificate in use")

    task = asyncio.create_task(look()) if settings.tls_cert else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _sampling(live: EventStream) -> AsyncIterator[None]:
    """Take samples for the page's plots, whether anybody watches or not."""

    async def samples() -> None:
        while True:
            await asyncio.sleep(history.STEP_SECONDS)
            await live.sample()

    task = asyncio.create_task(samples())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _alerting(settings: Settings, committer: Committer) -> AsyncIterator[None]:
    """Meanwhile, post what is found wrong, if somebody wants it."""
    if settings.alert_url is None:
        yield
        return
    clients = connection.all_for_tools(redis_url(settings), connection.COMMAND_SECONDS)
    task = asyncio.create_task(Alerts(settings.alert_url.get_secret_value(), settings, clients, committer).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for client in clients.values():
            client.close()


def _new_loop(settings: Settings) -> Callable[[], asyncio.AbstractEventLoop]:
    if settings.loop == "asyncio":
        return asyncio.new_event_loop
    import uvloop  # only where it is wanted

    return uvloop.new_event_loop


@asynccontextmanager
async def _telling(
    settings: Settings, say: Callable[[Iterable[Redis]], Coroutine[Any, Any, None]]
) -> AsyncIterator[None]:
    """Meanwhile, tell every Redis something again and again: `say` does so until it is cancelled."""
    clients = connection.all_for_tools(redis_url(settings), connection.COMMAND_SECONDS).values()
    task = asyncio.create_task(say(clients))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for client in clients:
            client.close()


async def _say_settings(settings: Settings, clients: Iterable[Redis]) -> None:
    """With which settings this receiver runs, for others that must have the same."""
    agreements = [agreement.Agreement(client, settings, agreement.OF_RECEIVERS) for client in clients]
    while True:
        for one in agreements:
            with suppress(RedisError, OSError):  # others say that Redis is away
                await asyncio.to_thread(one.say)
        await asyncio.sleep(agreement.SAY_SECONDS)


async def _say_refusals(counted: Refusals, clients: Iterable[Redis]) -> None:
    """What is refused, for the page and the commands; in the first that answers."""

    def say(counts: dict[str, int]) -> None:
        for client in clients:
            with suppress(RedisError, OSError):
                refusals.note(client, counts)
                return

    while True:
        await asyncio.sleep(_TELL_SECONDS)
        if counts := counted.take():
            await asyncio.to_thread(say, counts)


def _open_spool(settings: Settings) -> Spool | None:
    if settings.spool_dir is None:
        return None
    try:
        return Spool(settings.spool_dir)
    except OSError as error:
        raise SettingsError(f"WA_SPOOL_DIR: cannot write to {settings.spool_dir}: {error.strerror}") from None


def main() -> None:
    """One receiver process."""
    child.watch_parent()
    try:
        settings = load()
        logs.configure(settings.log_level)
        spool = _open_spool(settings)
        for tools in connection.all_for_tools(redis_url(settings), connection.COMMAND_SECONDS).values():
            try:
                connection.check_version(tools, settings.durability)
                formats.agree(tools)
            except (RedisError, OSError) as error:
                # Not fatal: until Redis is there, notifications are spooled or senders get 503.
                log.warning("Redis is away", reason=str(connection.diagnose(error)), spool=spool is not None)
            finally:
                tools.close()
        with asyncio.Runner(loop_factory=_new_loop(settings)) as runner:
            runner.run(run(settings, spool, share_ports="--share-ports" in sys.argv))
    except SettingsError as error:
        aside(f"wa-ingest: {error}")
        sys.exit(child.GIVE_UP)


if __name__ == "__main__":
    main()

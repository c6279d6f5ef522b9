"""The child processes of the commands: receivers, workers, the embedded server."""

from __future__ import annotations

import time
from pathlib import Path

from ingest import signs
from ingest.settings import Settings, each_redis, redis_url
from ingest.store import local
from ingest.store.urls import ONLY, address
from ingest.supervisor import ProcessSpec
from workers import loading
from workers.cli import env_file
from workers.dispatch.outcomes import GRACE_SECONDS

STOP_MARGIN = 10.0
"""What a worker may take to stop beyond WA_STOP_SECONDS, in seconds, before it is killed: it settles, and ends."""

_LAUNCHER = "ingest.without_rich"
_READY = "workers.cli.ready"
_READ = (str(env_file.FILE),)
"""What the command has read for all that it starts, and what these do not read again."""

_METRICS = "workers"
"""Where workers' metrics are served apart, they are kept apart from the receiver's."""


def receivers(settings: Settings, count: int) -> ProcessSpec:
    """Receiver processes as children; ready when the admin listener of one of them answers."""
    host, port = settings.admin_listen
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    ready = (_READY, "receiver", here, str(port))
    arguments = ("ingest.server", *(("--share-ports",) if count > 1 else ()))
    return ProcessSpec("receiver", _LAUNCHER, arguments, count, ready=ready, reads=_READ)


def up(settings: Settings, reload: bool) -> list[ProcessSpec]:
    """The receiver, and workers that are ready when each has registered with its Redis; `reload`: again and again."""
    registered = (_READY, "worker")
    ready_workers = [spec._replace(ready=registered, renewed=reload) for spec in workers(settings)]
    if reload:  # then the reloader says more of a changed file
        ready_workers = [spec._replace(reads=()) for spec in ready_workers]
    return [receivers(settings, 1), *ready_workers, *worker_metrics(settings)]


def reloader(settings: Settings) -> ProcessSpec:
    """What has workers started again when files of the handlers change, from now on."""
    arguments = (str(time.time_ns()), *loading.arguments(settings.handlers, settings.destinations))
    return ProcessSpec("reloader", "workers.cli.reloader", arguments)


def console(personal: bool) -> ProcessSpec:
    """What prints the events that workers handle; ready when it listens, so that none is missed."""
    arguments = ("--personal",) if personal else ()
    return ProcessSpec("console", "workers.cli.console", arguments, ready=(_READY, "console"))


def workers(settings: Settings, burst: bool = False, output: int | None = None) -> list[ProcessSpec]:
    """WA_PROCESSES workers for each Redis: one serves one. `output`: see `ProcessSpec`."""
    each = each_redis(settings)
    return [
        ProcessSpec(
            "worker",
            _LAUNCHER,
            ("workers.engine.worker", *(("--burst",) if burst else ())),
            settings.processes,
            ends=burst,
            stop_seconds=settings.stops_within + STOP_MARGIN,
            # A handler that hangs is ended before that, by the process itself, if any Python code still runs there.
            silent_seconds=settings.handler_timeout + GRACE_SECONDS + signs.SILENT_SECONDS,
            output=output,
            env={ONLY: address(redis_url(one))} if len(each) > 1 else {},
            metrics=_METRICS if settings.worker_metrics_listen else "",
            reads=(*_READ, *((str(settings.destinations),) if settings.destinations else ())),
        )
        for one in each
    ]


def worker_metrics(settings: Settings) -> list[ProcessSpec]:
    """What serves the user's own metrics of the workers, if WA_WORKER_METRICS_LISTEN is set."""
    if settings.worker_metrics_listen is None:
        return []
    host, port = settings.worker_metrics_listen
    return [ProcessSpec("worker metrics", "workers.cli.worker_metrics", (host, str(port)), metrics=_METRICS)]


def valkey(folder: Path) -> ProcessSpec:
    """The server as a child process; ready when it has read its data and answers."""
    path = local.socket_path(folder)
    arguments = (str(folder.resolve()), str(path))
    return ProcessSpec("valkey", "workers.cli.embedded", arguments, ready=(_READY, "valkey", str(path)))

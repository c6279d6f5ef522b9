"""The child processes of the commands: receivers, workers, the embedded server."""

from __future__ import annotations

import functools
import socket
from collections.abc import Collection
from dataclasses import replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import orjson
from redis import Redis
from redis.exceptions import RedisError
from rq import Worker

from ingest.settings import Settings, each_redis, redis_url
from ingest.store import connection, local
from workers.cli import embedded
from workers.cli.supervisor import ProcessSpec


def receivers(settings: Settings, count: int) -> ProcessSpec:
    """Receiver processes as children; ready when the admin listener of one of them answers."""
    host, port = settings.admin_listen
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound

    def ready(pids: Collection[int]) -> bool:
        return _pid_of(here, port) in pids  # on a port that is in use, somebody else answers

    return ProcessSpec("receiver", "ingest.server", ("--share-ports",) if count > 1 else (), count, ready=ready)


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


def up(settings: Settings) -> list[ProcessSpec]:
    """The receiver, and workers that are ready when each has registered with its Redis."""
    clients = [connection.for_tools(redis_url(one), connection.COMMAND_SECONDS) for one in each_redis(settings)]
    return [
        receivers(settings, 1),
        *(
            replace(spec, ready=functools.partial(_registered, redis))
            for spec, redis in zip(workers(settings), clients, strict=True)
        ),
    ]


def _registered(redis: Redis, pids: Collection[int]) -> bool:
    """True when RQ knows each of these workers."""
    try:
        known = {(worker.hostname, worker.pid) for worker in Worker.all(connection=redis)}
    except (RedisError, OSError):
        return False
    return known >= {(socket.gethostname(), pid) for pid in pids}


def workers(settings: Settings, burst: bool = False, output: int | None = None) -> list[ProcessSpec]:
    """WA_PROCESSES workers for each Redis: one serves one. `output`: see `ProcessSpec`."""
    each = each_redis(settings)
    return [
        ProcessSpec(
            "worker",
            "workers.engine.worker",
            ("--burst",) if burst else (),
            settings.processes,
            ends=burst,
            output=output,
            env={"WA_REDIS_URL": redis_url(one)} if len(each) > 1 else {},
        )
        for one in each
    ]


def valkey(folder: Path) -> ProcessSpec:
    """The server as a child process; ready when it has read its data and answers."""
    path = local.socket_path(folder)
    arguments = (str(folder.resolve()), str(path))
    return ProcessSpec("valkey", "workers.cli.embedded", arguments, ready=lambda pids: embedded.answers(path))

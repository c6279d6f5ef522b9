"""Ends when child processes are ready: `python -m workers.cli.ready receiver HOST PORT PID…`, for example.

A process of its own, because what it must import for that would stay in the one that supervises.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from ingest import child
from ingest.store import local

_BEGAN = time.monotonic()
_CONSOLE_SECONDS = 5.0


def receiver(host: str, port: str, *pids: str) -> bool:
    """True when the admin listener of one of them answers; on a port that is in use, somebody else does."""
    client = HTTPConnection(host, int(port), timeout=1.0)
    try:
        client.request("GET", "/healthz")
        answer = json.loads(client.getresponse().read())
        return isinstance(answer, dict) and str(answer.get("pid")) in pids
    except (OSError, HTTPException, ValueError):
        return False
    finally:
        client.close()


def worker(*pids: str) -> bool:
    """True when RQ knows each of these workers."""
    # Only here: the others are asked for sooner without.
    from redis.exceptions import RedisError
    from rq import Worker

    from ingest.settings import load, redis_url
    from ingest.store import connection

    here = socket.gethostname()
    try:
        with connection.for_tools(redis_url(load()), connection.COMMAND_SECONDS) as redis:
            known = {str(one.pid) for one in Worker.all(connection=redis) if one.hostname == here}
    except (RedisError, OSError):
        return False
    return known.issuperset(pids)


def console(pid: str) -> bool:
    """True when it has announced in each Redis that it listens, or does not succeed: then the rest runs without it."""
    from redis.exceptions import RedisError

    from ingest.settings import load, redis_url
    from ingest.state import listeners
    from ingest.store import connection

    if time.monotonic() - _BEGAN > _CONSOLE_SECONDS:
        return True
    try:
        for redis in connection.all_for_tools(redis_url(load()), connection.COMMAND_SECONDS).values():
            with redis:
                if listeners.named(pid) not in listeners.read(redis):
                    return False
    except (RedisError, OSError):
        return False
    return True


def valkey(path: str, *pids: str) -> bool:
    """True when the server has read its data and answers."""
    return local.answers(Path(path))


KINDS: dict[str, Callable[..., bool]] = {
    "receiver": receiver,
    "worker": worker,
    "console": console,
    "valkey": valkey,
}


def main() -> None:
    """Ask until it is so."""
    child.watch_parent()
    ready = KINDS[sys.argv[1]]
    while not ready(*sys.argv[2:]):
        time.sleep(0.05)


if __name__ == "__main__":
    main()

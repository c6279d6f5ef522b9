"""Finds the primary at every connect, by asking sentinels or the nodes of a cluster.

All keys, ours and RQ's, lie in one slot of a cluster (`RQ_KEY_PREFIX={wa}`), so the node that has this slot is a Redis
like any other. redis-py's pools for sentinels connect to it: they take any object with `discover_master`.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.cluster import parse_cluster_slots
from redis.connection import parse_url
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from ingest.errors import SettingsError
from ingest.store import keys, urls
from ingest.store.allow_oom import AllowOom

_USER = r"(?P<user>(?P<username>[^:@/]*):(?P<password>[^@/]*)@)?"
_SENTINELS = re.compile(
    rf"redis\+sentinel://{_USER}(?P<hosts>[^@/?#\s]+)/(?P<service>[^/?#\s]+)(?:/(?P<db>\d+))?", re.ASCII
)
_CLUSTER = re.compile(rf"(?P<scheme>rediss?)\+cluster://{_USER}(?P<hosts>[^@/?#\s]+)(?:/0?)?(?P<options>\?\S*)?")
_TAGGED = re.compile(r"[^{]*\{[^}]+\}")
_SENTINEL_PORT = 26379
_LOST = (RedisConnectionError,)
_ASK: dict[str, Any] = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}  # if one is away, the next is asked


def client(url: str, **options: Any) -> redis.Redis | None:
    """A client of the primary. None for a URL of another scheme, which redis-py reads itself.

    Raises ValueError for a wrong URL, SettingsError when the keys would not lie in one slot of the cluster.
    """
    match url.partition(":")[0]:
        case "redis+sentinel":
            found = _parts(_SENTINELS, url)
            sentinel = _Sentinel(_hosts(found), sentinel_kwargs=_ASK | {"retry": Retry(NoBackoff(), 1, _LOST)})
            return sentinel.master_for(  # type: ignore[no-any-return, no-untyped-call]
                unquote(found["service"]), AllowOom, **_server(found), **options
            )
        case "redis+cluster" | "rediss+cluster":
            nodes = _Nodes(url)
            return AllowOom.from_pool(
                redis.sentinel.SentinelConnectionPool(  # type: ignore[no-untyped-call]
                    "the slot", nodes, ssl=nodes.tls, **nodes.server, **options
                )
            )
    return None


def async_client(url: str, **options: Any) -> redis.asyncio.Redis | None:
    """The same for asyncio."""
    match url.partition(":")[0]:
        case "redis+sentinel":
            found = _parts(_SENTINELS, url)
            ask = _ASK | {"retry": AsyncRetry(NoBackoff(), 1, _LOST)}
            sentinel = redis.asyncio.sentinel.Sentinel(_hosts(found), sentinel_kwargs=ask)  # type: ignore[no-untyped-call]
            return sentinel.master_for(unquote(found["service"]), **_server(found), **options)  # type: ignore[no-any-return]
        case "redis+cluster" | "rediss+cluster":
            nodes = _AsyncNodes(url)
            return redis.asyncio.Redis.from_pool(
                redis.asyncio.sentinel.SentinelConnectionPool(  # type: ignore[no-untyped-call]
                    "the slot", nodes, ssl=nodes.tls, **nodes.server, **options
                )
            )
    return None


def remembered_replicas(client: redis.Redis) -> int | None:
    """How many replicas the sentinels of its URL remember, those that are gone, too; None without sentinels.

    Raises RedisError when none of them answers.
    """
    pool: Any = client.connection_pool
    manager = getattr(pool, "sentinel_manager", None)
    if not isinstance(manager, _Sentinel):
        return None
    problem: RedisError = RedisConnectionError()
    for sentinel in manager.sentinels:
        try:
            return len(sentinel.sentinel_slaves(pool.service_name))
        except RedisError as error:
            problem = error
    raise problem


def _parts(form: re.Pattern[str], url: str) -> re.Match[str]:
    parts = form.fullmatch(url)
    if parts is None:
        raise ValueError
    return parts


def _hosts(parts: re.Match[str]) -> list[tuple[str, int]]:
    hosts = [urlsplit(f"//{host}") for host in parts["hosts"].split(",")]
    if not all(host.hostname for host in hosts):
        raise ValueError
    return [(str(host.hostname), host.port or _SENTINEL_PORT) for host in hosts]


def _server(parts: re.Match[str]) -> dict[str, Any]:
    """Options for the primary that sentinels watch."""
    return {n: unquote(parts[n]) for n in ("username", "password") if parts[n]} | {"db": int(parts["db"] or 0)}


class _Sentinel(redis.sentinel.Sentinel):
    """Asked by one thread at a time. redis-py moves the sentinel that answered to the front of its list; when several
    threads of a worker do that together, after a failover, they may drop a sentinel from the list for good.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]
        self._one = threading.Lock()

    def discover_master(self, service_name: str) -> tuple[str, int]:
        with self._one:
            return super().discover_master(service_name)  # type: ignore[no-any-return, no-untyped-call]


class _Cluster:
    """What is known of a cluster: the nodes that the URL names, and those that the last answer named.

    `server` are the options for each of them, as redis-py reads them from a URL.
    """

    def __init__(self, url: str) -> None:
        parts = _parts(_CLUSTER, url)
        if not _TAGGED.match(keys.RQ):
            raise SettingsError(
                "RQ_KEY_PREFIX must hold a {hash tag} for a Redis Cluster, so that all keys lie in one slot: set "
                "RQ_KEY_PREFIX={wa}, the same for the receiver, the workers and the tools"
            )
        self._slot = key_slot(keys.RQ.encode())
        self._given = url
        self._url = f"{parts['scheme']}://{{}}/0{parts['options'] or ''}"
        hosts = [f"{parts['user'] or ''}{host}" for host in parts["hosts"].split(",")]
        read = [parse_url(self._url.format(host)) for host in hosts]  # type: ignore[no-untyped-call]
        if not all("host" in one for one in read):
            raise ValueError
        self.tls = parts["scheme"] == "rediss"
        self.server: dict[str, Any] = {
            k: v for k, v in read[0].items() if k not in ("host", "port", "connection_class")
        }
        self._named = [(one["host"], one.get("port", 6379)) for one in read]
        self._seen: list[tuple[str, int]] = []
        self._asked = itertools.count()

    def _nodes(self) -> Iterator[tuple[str, str]]:
        """The nodes to ask, host and URL, beginning with another one each time: a node that is cut off from the others
        keeps giving its old answer.
        """
        nodes = list(dict.fromkeys([*self._named, *self._seen]))
        first = next(self._asked) % len(nodes)
        for host, port in nodes[first:] + nodes[:first]:
            yield host, self._url.format(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    def _ask(self) -> dict[str, Any]:
        """Options for a client that asks one of them."""
        username, password = urls.credentials(urls.as_now(self._given))
        return _ASK | {"username": username, "password": password}

    def _primary(self, slots: Any, asked: str) -> tuple[str, int]:
        """Read a node's answer to CLUSTER SLOTS."""
        ranges = parse_cluster_slots(slots, current_host=asked)
        self._seen = [node for found in ranges.values() for node in (found["primary"], *found["replicas"])]
        for (first, last), found in ranges.items():
            if first <= self._slot <= last:
                host, port = found["primary"]
                return host, port
        raise RedisConnectionError(f"no node of the cluster has slot {self._slot}")


class _Nodes(_Cluster):
    def discover_master(self, _: str) -> tuple[str, int]:
        problem: RedisError = RedisConnectionError()
        for host, url in self._nodes():
            try:
                with redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **self._ask()) as node:
                    return self._primary(node.execute_command("CLUSTER SLOTS"), host)
            except RedisError as error:
                problem = error
        raise problem


class _AsyncNodes(_Cluster):
    async def discover_master(self, _: str) -> tuple[str, int]:
        problem: RedisError = RedisConnectionError()
        for host, url in self._nodes():
            try:
                async with redis.asyncio.Redis.from_url(url, retry=AsyncRetry(NoBackoff(), 0), **self._ask()) as node:
                    return self._primary(await node.execute_command("CLUSTER SLOTS"), host)  # type: ignore[no-untyped-call]
            except RedisError as error:
                problem = error
        raise problem
